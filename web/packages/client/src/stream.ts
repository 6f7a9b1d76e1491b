// Event streams that go on after every interruption, at the very byte.

import { backOff, linkSignals, onWake } from "./environment.js";
import { ConnectionError, CopilotdError, isTransient, UnexpectedAnswerError } from "./errors.js";
import type { EventData } from "./schema.js";
import { SseParser, type SseMessage } from "./sse.js";
import type { Transport } from "./transport.js";

/**
 * An event of a stream: its type, the reader's position behind it, and its data. A server that is newer than this
 * client may send types that are not listed here; they are passed on.
 */
export type CopilotdEvent = {
  [Type in keyof EventData]: {
    type: Type;
    /** The reader's whole position: pass it as `after` to go on behind this event. */
    position: string;
  } & EventData[Type];
}[keyof EventData];

/** `connecting` at first, `live` while the stream is open, `reconnecting` after an interruption. */
export type StreamStatus = "connecting" | "live" | "reconnecting";

export interface StreamOptions {
  /** Position to go on behind: an event's `position`, or a page's `last_seq`. */
  after?: string | number | undefined;
  /** Ends the stream; the iterator throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Hears whether the stream is open, and why not. */
  onStatus?: (status: StreamStatus, error?: CopilotdError) => void;
  /** Silence after which the connection counts as lost, in milliseconds: 45,000, three heartbeats. */
  silence?: number | undefined;
}

/** Where a stream without a position begins; asked once. Without it, the server begins where it likes. */
export interface Start {
  start?: ((signal: AbortSignal) => Promise<number>) | undefined;
}

const TERMINAL = new Set(["turn.completed", "turn.failed", "turn.cancelled"]);

/** Whether a turn's stream ends with it. */
export const isTerminal = (event: { type: string }): boolean => TERMINAL.has(event.type);

/**
 * The server beats at least every 15 s. A connection that was silent for longer when the page wakes up is taken for
 * dead, and sooner when the network was away: to connect again costs little.
 */
const WAKE_SILENCE = 20_000;
const NETWORK_SILENCE = 2_000;

/**
 * Reads a stream and connects again after every interruption that may pass, without limit; waits in between. Ends
 * with the event that is the last one (`isLast`), or when the server says that there is no more. Throws what does not
 * pass: a conversation that was erased, a position that the server does not know, a token that it refuses twice.
 *
 * Bytes are read only when an event is asked for: a slow reader slows the server down, and nothing piles up here. When
 * events are asked for as fast as they come, the connection is watched for silence.
 */
export function follow(
  transport: Transport,
  path: string,
  options: StreamOptions & Start,
  isLast: (event: CopilotdEvent) => boolean,
): AsyncIterableIterator<CopilotdEvent, undefined> {
  const controller = new AbortController();
  const unlink = linkSignals(controller, options.signal);
  const events = generate(transport, path, options, isLast, controller.signal, unlink);
  return {
    next: () => events.next(),
    // A generator that waits for the network would finish that wait first.
    return: () => {
      controller.abort(ENDED);
      unlink();
      return events.return(undefined);
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

const ENDED = new Error("the stream was ended");

async function* generate(
  transport: Transport,
  path: string,
  { after, start, onStatus, silence = 45_000 }: StreamOptions & Start,
  isLast: (event: CopilotdEvent) => boolean,
  signal: AbortSignal,
  unlink: () => void,
): AsyncGenerator<CopilotdEvent, undefined> {
  let position = String(after ?? "");
  let failures = 0;
  let { backoff } = transport;
  onStatus?.("connecting");
  try {
    for (;;) {
      let problem: CopilotdError | undefined;
      const connection = new AbortController();
      const close = [linkSignals(connection, signal)];
      try {
        // A stream that is cut before its first event has no position to go on from, unless it began with one.
        if (!position && start) position = String(await start(signal));
        const reader = await open(transport, path, position, connection, close);
        if (!reader) return undefined;
        onStatus?.("live");
        const parser = new SseParser();
        for (let piece; (piece = await read(reader, connection, silence)); ) {
          // Whatever arrives shows that the server is well.
          failures = 0;
          for (const message of parser.push(piece)) {
            const event = decode(message);
            if (!event) continue;
            yield event;
            if (isLast(event)) return undefined;
          }
          position = parser.id || position;
          backoff = { ...backoff, base: Math.min(parser.retry ?? backoff.base, backoff.cap) };
        }
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (!isTransient(error)) throw error;
        problem = error;
      } finally {
        connection.abort(ENDED);
        for (const end of close) end();
      }
      onStatus?.("reconnecting", problem);
      await backOff(failures++, backoff, problem?.retryAfter, signal);
    }
  } catch (error) {
    if (error !== ENDED) throw error;
    return undefined;
  } finally {
    unlink();
  }
}

/** Opens a connection; nothing if the server says that nothing more comes. */
async function open(
  transport: Transport,
  path: string,
  position: string,
  connection: AbortController,
  close: (() => void)[],
): Promise<ReadableStreamDefaultReader<Uint8Array> | undefined> {
  const { signal } = connection;
  const headers = { accept: "text/event-stream", ...(position && { "last-event-id": position }) };
  const { response, arrived, done } = await transport.open("GET", path, { headers, signal });
  close.push(done);
  arrived();
  if (response.status === 204) return undefined;
  const type = response.headers.get("content-type");
  if (!response.body || !type?.startsWith("text/event-stream")) {
    throw new UnexpectedAnswerError(`Not an event stream: ${type}`, { status: response.status });
  }
  const reader = response.body.getReader();
  // A `fetch` that ignores the signal must not keep a read waiting.
  signal.addEventListener("abort", () => void reader.cancel().catch(() => {}));
  return reader;
}

/** The next bytes; nothing at the end. */
async function read(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  connection: AbortController,
  silence: number,
): Promise<Uint8Array | undefined> {
  const since = Date.now();
  const lose = () => connection.abort(new ConnectionError("the stream fell silent"));
  const timer = setTimeout(lose, silence);
  // After a sleep the timers are late, and the connection is often dead without a word.
  const stopWaking = onWake((isNetwork) => {
    if (Date.now() - since > (isNetwork ? NETWORK_SILENCE : WAKE_SILENCE)) lose();
  });
  try {
    return (await reader.read()).value;
  } catch (error) {
    throw new ConnectionError("the stream broke off", error);
  } finally {
    clearTimeout(timer);
    stopWaking();
    connection.signal.throwIfAborted();
  }
}

function decode({ event, data, id }: SseMessage): CopilotdEvent | undefined {
  if (!data) return undefined;
  try {
    return { ...JSON.parse(data), type: event, position: id };
  } catch (cause) {
    throw new UnexpectedAnswerError("An event is not JSON", {}, cause);
  }
}
