// Messages on their way: stored before they are sent, and sent until the server has answered.
//
// Invariant: a message never becomes two turns. Its idempotency key is made once and stored with it, so that every
// attempt, also after a reload or from another tab, is the same request to the server.

import { backOff, onWake, randomId } from "./environment.js";
import { CopilotdError, isTransient, OutboxFullError } from "./errors.js";
import type { Conversation, CreateConversation, SubmitTurn, Turn } from "./schema.js";
import type { Transport } from "./transport.js";

/** Where the outbox keeps messages. Methods may be asynchronous. `webStorage(localStorage)` makes one. */
export interface OutboxStorage {
  keys(): string[] | Promise<string[]>;
  getItem(key: string): string | null | Promise<string | null>;
  setItem(key: string, value: string): void | Promise<void>;
  removeItem(key: string): void | Promise<void>;
}

/** Keeps messages in `localStorage` (all tabs, also after the browser was closed) or `sessionStorage` (one tab). */
export function webStorage(storage: Storage): OutboxStorage {
  return {
    keys: () => Array.from({ length: storage.length }, (_, index) => storage.key(index) ?? ""),
    getItem: (key) => storage.getItem(key),
    setItem: (key, value) => storage.setItem(key, value),
    removeItem: (key) => storage.removeItem(key),
  };
}

/** Keeps messages as long as the page lives. */
export function memoryStorage(): OutboxStorage {
  const map = new Map<string, string>();
  return {
    keys: () => [...map.keys()],
    getItem: (key) => map.get(key) ?? null,
    setItem: (key, value) => void map.set(key, value),
    removeItem: (key) => void map.delete(key),
  };
}

export interface OutboxOptions {
  /** Memory by default. */
  storage?: OutboxStorage;
  /**
   * Who the messages are from, such as `acme/ada`. Needed with a storage that outlives the page: what one user typed
   * must not be sent as another who signs in later.
   */
  user?: string;
  /** How many messages may wait; 100 by default. */
  limit?: number;
}

/** A conversation that begins with a message: it is created when the message is sent. */
export interface Draft {
  /** Idempotency key of the creation. Messages with the same draft go to the same conversation. */
  key: string;
  body: CreateConversation;
}

/**
 * `queued`: stored, and sent as soon as possible; with an `error` it was tried already. `sending`: on its way. `sent`:
 * the server has promised the turn. `failed`: refused; `retry` or `discard` it.
 */
export type OutboxStatus = "queued" | "sending" | "sent" | "failed";

export interface OutboxEntry {
  readonly key: string;
  readonly status: OutboxStatus;
  /** Null until the conversation of a draft is created. */
  readonly conversationId: string | null;
  readonly draft: Draft | null;
  readonly body: SubmitTurn;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  /** Attempts that failed. */
  readonly failures: number;
  /** Why it failed, or why the last attempt did. */
  readonly error: { readonly code: string; readonly detail: string } | null;
  /** The turn, once it is sent. */
  readonly turnId: string | null;
}

/** What is stored. `lane` orders: entries of a lane are sent one after the other. */
interface Stored extends Omit<OutboxEntry, "status" | "turnId"> {
  lane: string;
  firstAttemptAt: number | null;
  isFailed: boolean;
}

/** The server remembers keys for 24 hours. A message that may have arrived is not sent again close to that. */
const KEY_LIFE = 23 * 60 * 60 * 1000;
const NEEDS_NEW_KEY = new Set(["outcome_unknown", "idempotency_key_reused"]);
/** Sent messages that are remembered until somebody settles them. */
const SENT_LIMIT = 100;

/** Sends messages in order and each exactly once. */
export class Outbox {
  readonly #transport: Transport;
  readonly #storage: OutboxStorage;
  readonly #prefix: string;
  readonly #limit: number;
  readonly #listeners = new Set<() => void>();
  readonly #lanes = new Set<string>();
  readonly #channel: BroadcastChannel | undefined;
  readonly #closed = new AbortController();
  readonly #stopWaking: () => void;
  #stored: readonly Stored[] = [];
  readonly #sending = new Set<string>();
  #sent: readonly OutboxEntry[] = [];
  #entries: readonly OutboxEntry[] = [];
  /** Reads and writes of the storage, one after the other. */
  #queue: Promise<unknown> = Promise.resolve();

  constructor(transport: Transport, options: OutboxOptions = {}) {
    if (options.storage && !options.user) throw new TypeError("outbox.user is needed with outbox.storage");
    this.#transport = transport;
    this.#storage = options.storage ?? memoryStorage();
    this.#prefix = `copilotd.outbox/${encodeURIComponent(options.user ?? "")}/`;
    this.#limit = options.limit ?? 100;
    // A storage that fails now is read again later.
    const reload = () => void this.#update().catch(() => {});
    if (options.storage && typeof BroadcastChannel === "function") {
      this.#channel = new BroadcastChannel(this.#prefix);
      this.#channel.onmessage = reload;
      // In Node an open channel would keep the process alive.
      (this.#channel as { unref?: () => void }).unref?.();
    }
    this.#stopWaking = onWake(reload);
    reload();
  }

  /** The messages by age, in their present state. The same array until something changes. */
  entries(): readonly OutboxEntry[] {
    return this.#entries;
  }

  /** Calls back after each change. Returns a function that ends this. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Stores a message and sends it as soon as possible. Resolves once it is stored. With a draft in place of a
   * conversation's id, the conversation is created first. Throws `OutboxFullError`, and what the storage throws.
   */
  async add(to: string | Draft, body: SubmitTurn): Promise<OutboxEntry> {
    const key = randomId();
    await this.#update(async (stored) => {
      if (stored.length >= this.#limit) throw new OutboxFullError();
      const isDraft = typeof to !== "string";
      // Behind what began the same conversation.
      const lane = isDraft ? to.key : (stored.find((entry) => entry.conversationId === to)?.lane ?? to);
      const entry: Stored = {
        key,
        lane,
        conversationId: isDraft ? null : to,
        draft: isDraft ? to : null,
        body,
        // Behind everything that waits, also if it was written in the same millisecond.
        createdAt: Math.max(Date.now(), (stored.at(-1)?.createdAt ?? 0) + 1),
        firstAttemptAt: null,
        failures: 0,
        error: null,
        isFailed: false,
      };
      await this.#write(entry);
      return [...stored, entry];
    });
    return this.#entries.find((entry) => entry.key === key)!;
  }

  /**
   * Sends a failed message again, under its own key: if an earlier attempt arrived without an answer, there is still
   * one turn. Only where the server can know the key no more it gets a new one (`outcome_unknown`: check the
   * conversation first).
   */
  retry(key: string): Promise<void> {
    return this.#change(key, async (entry) => {
      if (!entry.isFailed) return entry;
      const again = { ...entry, isFailed: false, error: null, failures: 0 };
      if (!NEEDS_NEW_KEY.has(entry.error?.code ?? "")) return again;
      await this.#storage.removeItem(this.#nameOf(entry));
      return { ...again, key: randomId(), firstAttemptAt: null };
    });
  }

  /**
   * Forgets a message. What is being sent at this moment is not stopped. What was tried before (`failures`) may have
   * arrived without an answer.
   */
  discard(key: string): Promise<void> {
    this.#sent = this.#sent.filter((entry) => entry.key !== key);
    return this.#change(key, (entry) => (this.#sending.has(key) ? entry : undefined));
  }

  /** Forgets sent messages whose turns are shown by now. */
  settle(turnIds: ReadonlySet<string>): void {
    const sent = this.#sent.filter(({ turnId }) => turnId === null || !turnIds.has(turnId));
    if (sent.length === this.#sent.length) return;
    this.#sent = sent;
    this.#show(this.#stored);
  }

  /** Stops sending. What is stored stays stored. */
  close(): void {
    this.#closed.abort(CLOSED);
    this.#stopWaking();
    this.#channel?.close();
  }

  #nameOf({ createdAt, key }: Stored): string {
    return `${this.#prefix}${String(createdAt).padStart(15, "0")}/${key}`;
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => {});
    return result;
  }

  #write(entry: Stored): Promise<void> | void {
    return this.#storage.setItem(this.#nameOf(entry), JSON.stringify(entry));
  }

  /** One name for each message, never a list: two tabs that write at the same time would lose one's message. */
  async #read(): Promise<Stored[]> {
    const names = (await this.#storage.keys()).filter((name) => name.startsWith(this.#prefix)).sort();
    const values = await Promise.all(names.map((name) => this.#storage.getItem(name)));
    // What is not ours, or not under its own name, could not be changed or removed.
    return values.flatMap(parse).filter((entry) => names.includes(this.#nameOf(entry)));
  }

  /** Reads, changes and shows what is stored, and sends what there is to send. Tells the other tabs of a change. */
  #update(change?: (stored: Stored[]) => Stored[] | Promise<Stored[]>): Promise<void> {
    return this.#exclusive(async () => {
      this.#closed.signal.throwIfAborted();
      let stored = await this.#read();
      if (change) stored = await change(stored);
      this.#show(stored);
      if (change) this.#channel?.postMessage(0);
      for (const entry of stored) if (!entry.isFailed) this.#drain(entry.lane);
    });
  }

  /** Replaces an entry, or removes it. */
  #change(key: string, change: (entry: Stored) => Stored | undefined | Promise<Stored | undefined>): Promise<void> {
    return this.#update(async (stored) => {
      const result: Stored[] = [];
      for (const entry of stored) {
        const next = entry.key === key ? await change(entry) : entry;
        if (next && next !== entry) await this.#write(next);
        if (next) result.push(next);
        else await this.#storage.removeItem(this.#nameOf(entry));
      }
      return result;
    });
  }

  #show(stored: readonly Stored[]): void {
    this.#stored = stored;
    const waiting = stored.map((entry): OutboxEntry => {
      return this.#sending.has(entry.key) ? { ...shown(entry), status: "sending" } : shown(entry);
    });
    this.#entries = [...this.#sent, ...waiting].sort((a, b) => a.createdAt - b.createdAt);
    for (const listener of [...this.#listeners]) listener();
  }

  /** Sends a lane's messages, unless it is being sent already. */
  #drain(lane: string): void {
    if (this.#lanes.has(lane) || this.#closed.signal.aborted) return;
    this.#lanes.add(lane);
    void this.#sendAll(lane).catch(() => {});
  }

  async #sendAll(lane: string): Promise<void> {
    const { signal } = this.#closed;
    const { backoff } = this.#transport;
    // One tab sends; the others wait for their turn and then find nothing left, or what a closed tab has left. While a
    // tab waits for the network it holds no lock, which would keep it from being put aside.
    const locks = this.#channel && typeof navigator !== "undefined" ? navigator.locks : undefined;
    for (let broken = 0; ; ) {
      try {
        const work = () => this.#attempt(lane);
        const wait = await (locks ? locks.request(this.#prefix + lane, { signal }, work) : work());
        broken = 0;
        if (!wait) return;
        if (wait.failures) await backOff(wait.failures - 1, backoff, wait.retryAfter, signal);
      } catch (error) {
        signal.throwIfAborted();
        // The storage failed. What it holds stays there.
        await backOff(++broken, backoff, undefined, signal);
      }
    }
  }

  /**
   * Sends the oldest message of a lane once. Returns whether to wait before the next attempt (`failures` is 0 if not),
   * or nothing if the lane is empty.
   */
  async #attempt(lane: string): Promise<{ failures: number; retryAfter?: number | undefined } | undefined> {
    const { signal } = this.#closed;
    const entry = await this.#exclusive(async () => {
      signal.throwIfAborted();
      const stored = await this.#read();
      const first = stored.find((other) => other.lane === lane && !other.isFailed);
      if (first) {
        this.#sending.add(first.key);
        first.firstAttemptAt ??= Date.now();
        await this.#write(first);
      } else this.#lanes.delete(lane);
      this.#show(stored);
      return first;
    });
    if (!entry) return undefined;
    const { key } = entry;
    try {
      if (Date.now() - entry.firstAttemptAt! > KEY_LIFE) throw tooOld();
      let { conversationId } = entry;
      if (conversationId === null) {
        const { key, body } = entry.draft!;
        const request = { body, key, signal, retries: 0 };
        conversationId = (await this.#transport.json<Conversation>("POST", "/v1/conversations", request)).id;
        const id = conversationId;
        await this.#change(entry.key, (stored) => ({ ...stored, conversationId: id }));
      }
      const path = `/v1/conversations/${encodeURIComponent(conversationId)}/turns`;
      const turn = await this.#transport.json<Turn>("POST", path, { body: entry.body, key, signal, retries: 0 });
      await this.#change(key, (stored) => {
        this.#sending.delete(key);
        const sent: OutboxEntry = { ...shown(stored), status: "sent", error: null, turnId: turn.id };
        this.#sent = [...this.#sent, sent].slice(-SENT_LIMIT);
        return undefined;
      });
      return { failures: 0 };
    } catch (error) {
      signal.throwIfAborted();
      this.#sending.delete(key);
      if (!(error instanceof CopilotdError)) throw error;
      // A token that is refused may be a session that ends: the message waits for the next one.
      const isFailed = error.status !== 401 && !isTransient(error);
      const failures = entry.failures + 1;
      const { code, message: detail } = error;
      await this.#change(key, (stored) => ({ ...stored, isFailed, failures, error: { code, detail } }));
      return isFailed ? { failures: 0 } : { failures, retryAfter: error.retryAfter };
    }
  }
}

function shown({ lane: _lane, firstAttemptAt: _first, isFailed, ...rest }: Stored): OutboxEntry {
  return { ...rest, status: isFailed ? "failed" : "queued", turnId: null };
}

/** Reads an entry; nothing if somebody else wrote under its name. */
function parse(value: string | null): Stored[] {
  try {
    const entry = JSON.parse(value ?? "null") as Stored | null;
    return typeof entry?.key === "string" && typeof entry.lane === "string" ? [entry] : [];
  } catch {
    return [];
  }
}

const CLOSED = new Error("the outbox was closed");

const tooOld = () =>
  new CopilotdError({
    code: "outcome_unknown",
    title: "Whether this message of yesterday was sent cannot be determined any more",
  });
