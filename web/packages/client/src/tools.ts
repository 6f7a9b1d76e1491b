// Client tools: functions of this page that the model may call. Two open tabs run a call once, and a reload runs none
// again.

import type { TurnCalls } from "./calls.js";
import type { ConversationHandle } from "./client.js";
import { backOff, randomId } from "./environment.js";
import { CopilotdError, isTransient, NotResumableError, NotWaitingError } from "./errors.js";
import type { SubmitTurn } from "./schema.js";
import type { ToolItem } from "./state.js";

/** A function that the model may call. */
export interface ClientTool {
  /** What it does and when to call it, for the model. */
  description: string;
  /** JSON Schema of its arguments, with `type: "object"`. The server has checked every call by it. */
  parameters: Record<string, unknown>;
  /** Runs a call. The model gets what it returns as the result, and what it throws as the error. */
  run: (args: any, call: ClientToolCall) => unknown;
}

/** About a call that is run. */
export interface ClientToolCall {
  readonly callId: string;
  readonly turnId: string;
  /** Until when the server takes the result. */
  readonly expiresAt: string;
}

/** The functions of a page by name. */
export type ClientTools = Readonly<Record<string, ClientTool>>;

/** Remembers calls across a reload of this tab, such as `sessionStorage`. Never one that tabs share. */
export interface CallStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

export interface RunToolsOptions {
  /** Ends it, like `close`. */
  signal?: AbortSignal;
  /** By default the tab's `sessionStorage`; without one, a reload forgets the calls that it interrupts. */
  storage?: CallStorage | undefined;
  /** Hears why a call could not be claimed or answered, and why no more calls come. */
  onError?: (error: unknown) => void;
}

/** Runs the calls of a conversation. */
export interface ToolRunner {
  /** Takes no more calls. Those that run are finished and answered. */
  close(): void;
  /** Resolves when no more calls come and all have been answered. */
  readonly ended: Promise<void>;
}

/** The tools as `send` takes them: `conversation.send(input, { clientTools: offersOf(tools) })`. */
export const offersOf = (tools: ClientTools): NonNullable<SubmitTurn["client_tools"]> =>
  Object.entries(tools).map(([name, { description, parameters }]) => ({ name, description, parameters }));

/**
 * Runs the calls of these tools in a conversation, until it is closed or the conversation is erased. Call it when the
 * page is loaded: it takes what is open by then, too.
 */
export function runTools(conversation: ConversationHandle, tools: ClientTools, options: RunToolsOptions = {}): ToolRunner {
  return new Runner(conversation, tools, options);
}

/** What is remembered of a call. Written before each step, so that a reload knows how far it came. */
interface Known {
  /** The idempotency key of the claim: whoever has it may ask again for an answer that was lost. */
  key: string;
  claim?: string;
  /** The function was started: it must not run again. */
  isStarted?: true;
  answer?: Answer;
}

type Answer = { result: unknown } | { error: string };

/** What the server takes. */
const MAX_RESULT = 60_000;
const MAX_ERROR = 4000;

class Runner implements ToolRunner {
  readonly ended: Promise<void>;
  readonly #conversation: ConversationHandle;
  readonly #calls: CallRunner;
  readonly #onError: (error: unknown) => void;
  readonly #closed = new AbortController();

  constructor(conversation: ConversationHandle, tools: ClientTools, { signal, storage, onError }: RunToolsOptions) {
    this.#conversation = conversation;
    this.#onError = onError ?? (() => {});
    this.#calls = new CallRunner((id) => conversation.turn(id), () => tools, this.#onError, storage);
    if (signal?.aborted) this.close();
    signal?.addEventListener("abort", () => this.close(), { once: true });
    this.ended = this.#watch();
  }

  close(): void {
    this.#closed.abort(new Error("the tools were closed"));
  }

  async #watch(): Promise<void> {
    const { signal } = this.#closed;
    for (let failures = 0; !signal.aborted; ) {
      try {
        const page = await this.#conversation.messages({ order: "desc", limit: 100, signal });
        failures = 0;
        for (const { id, tool_calls } of page.turns) {
          for (const call of tool_calls) this.#calls.take(id, { ...call, expiresAt: call.expires_at });
        }
        for await (const event of this.#conversation.events({ after: page.last_seq, signal })) {
          if (event.type !== "client_tool.requested") continue;
          const { turn_id, call_id: id, name, expires_at: expiresAt } = event;
          this.#calls.take(turn_id, { id, name, status: "proposed", expiresAt });
        }
        break;
      } catch (error) {
        if (signal.aborted) break;
        if (!isTransient(error) && !(error instanceof NotResumableError)) {
          this.#onError(error);
          break;
        }
        const wait = error instanceof CopilotdError ? error.retryAfter : undefined;
        await backOff(failures++, this.#conversation.backoff, wait, signal).catch(() => {});
      }
    }
    await this.#calls.idle();
  }
}

/** Runs each reported call once. */
export class CallRunner {
  readonly #turnOf: (id: string) => TurnCalls;
  readonly #tools: () => ClientTools;
  readonly #onError: (error: unknown) => void;
  readonly #storage: CallStorage | undefined;
  readonly #running = new Map<string, Promise<void>>();
  /** Calls that this page is done with. */
  readonly #done = new Set<string>();

  /** `tools` returns what the page offers now. */
  constructor(
    turnOf: (id: string) => TurnCalls,
    tools: () => ClientTools,
    onError: (error: unknown) => void,
    storage: CallStorage | undefined = sessionOf(),
  ) {
    this.#turnOf = turnOf;
    this.#tools = tools;
    this.#onError = onError;
    this.#storage = storage;
  }

  /**
   * Runs a call if it waits for a page, or if this tab has begun it before a reload. Does nothing if it runs already, or
   * if the page has no such function. It may be told of a call as often as one likes.
   */
  take(turnId: string, { id, name, status, expiresAt }: Pick<ToolItem, "id" | "name" | "status" | "expiresAt">): void {
    // A proposed call of another tool has no such time.
    const isOffered = status === "proposed" && expiresAt !== undefined;
    if (!isOffered && !(status === "running" && this.#read(id))) return;
    const tools = this.#tools();
    if (this.#running.has(id) || this.#done.has(id) || !Object.hasOwn(tools, name)) return;
    const run = () => this.#run(this.#turnOf(turnId), id, tools[name]!);
    const ended = alone(`copilotd ${id}`, run).then(
      () => void this.#done.add(id),
      (error: unknown) => {
        // A call that the network prevented may be tried again when it is reported again.
        if (!isTransient(error)) this.#done.add(id);
        this.#onError(error);
      },
    );
    this.#running.set(id, ended.finally(() => this.#running.delete(id)));
  }

  /** Resolves when all that was taken has been answered. */
  async idle(): Promise<void> {
    await Promise.all(this.#running.values());
  }

  async #run(turn: TurnCalls, callId: string, tool: ClientTool): Promise<void> {
    let known: Known = this.#read(callId) ?? { key: randomId() };
    try {
      // A reload interrupted the function: whether it took effect is not known, and the server will say so.
      if (known.isStarted && !known.answer) return this.#forget(callId);
      if (!known.answer) {
        this.#write(callId, known);
        const { arguments: args, claim, expires_at } = await turn.claim(callId, { idempotencyKey: known.key });
        known = { ...known, claim, isStarted: true };
        this.#write(callId, known);
        known = { ...known, answer: await answerOf(() => tool.run(args, { callId, turnId: turn.id, expiresAt: expires_at })) };
        this.#write(callId, known);
      }
      await turn.answer(callId, known.claim!, known.answer!);
      this.#forget(callId);
    } catch (error) {
      // Another tab has it, or it is too late.
      if (!(error instanceof NotWaitingError)) throw error;
      this.#forget(callId);
      if (known.isStarted) throw error;
    }
  }

  #read(callId: string): Known | undefined {
    try {
      return JSON.parse(this.#storage?.getItem(PREFIX + callId) ?? "null") ?? undefined;
    } catch {
      return undefined;
    }
  }

  #write(callId: string, known: Known): void {
    try {
      this.#storage?.setItem(PREFIX + callId, JSON.stringify(known));
    } catch {
      // A full storage costs what it would have remembered, nothing else.
    }
  }

  #forget(callId: string): void {
    this.#storage?.removeItem(PREFIX + callId);
  }
}

const PREFIX = "copilotd.call.";

/** Runs a function and turns whatever comes of it into something that the server takes. */
async function answerOf(run: () => unknown): Promise<Answer> {
  try {
    const json = JSON.stringify((await run()) ?? null) ?? "null";
    if (new TextEncoder().encode(json).length > MAX_RESULT) return { error: `the result is larger than ${MAX_RESULT} bytes` };
    return { result: JSON.parse(json) };
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    return { error: said.slice(0, MAX_ERROR) || "the function failed" };
  }
}

/**
 * Runs what no other tab of this browser runs at the same time. A tab that was duplicated has the storage of the first
 * one, and with it the key of a claim that is under way.
 */
async function alone(name: string, run: () => Promise<void>): Promise<void> {
  const locks = (globalThis.navigator as Partial<Navigator> | undefined)?.locks;
  if (!locks) return run();
  await locks.request(name, { ifAvailable: true }, (lock) => (lock ? run() : undefined));
}

function sessionOf(): CallStorage | undefined {
  try {
    return (globalThis as { sessionStorage?: CallStorage }).sessionStorage;
  } catch {
    // Pages whose storage is blocked throw.
    return undefined;
  }
}
