// A conversation that stays true: its messages and the stream behind them, as one value to show.

import type { ConversationCalls } from "./calls.js";
import { backOff } from "./environment.js";
import { CopilotdError, isTransient, NotResumableError } from "./errors.js";
import type { MessagePage } from "./schema.js";
import { addPage, apply, emptyState, type ConversationState } from "./state.js";
import type { StreamStatus } from "./stream.js";

export interface ViewOptions {
  /** Messages of one page; 50 by default. */
  pageSize?: number;
  /** Milliseconds for which changes are gathered before listeners hear of them; 16 by default. */
  gather?: number;
  /** Silence after which the connection counts as lost, in milliseconds. */
  silence?: number;
}

/** What a user interface shows. A new object with each change; what did not change inside it stays the same object. */
export interface Snapshot extends ConversationState {
  /** `failed`: `error` says why, and nothing more comes. */
  readonly status: StreamStatus | "failed" | "closed";
  /** Why the stream is not open. */
  readonly error: CopilotdError | null;
}

/** Follows a conversation as a value that a user interface can show. */
export const openView = (conversation: ConversationCalls, options?: ViewOptions): ConversationView =>
  new ConversationView(conversation, options);

/**
 * Reads the newest page of a conversation, then follows its stream. After every interruption it goes on where it was;
 * if the server does not know the position any more, it reads the page again.
 */
export class ConversationView {
  readonly #conversation: ConversationCalls;
  readonly #pageSize: number;
  readonly #gather: number;
  readonly #silence: number | undefined;
  readonly #listeners = new Set<() => void>();
  readonly #closed = new AbortController();
  #snapshot: Snapshot = { ...emptyState, status: "connecting", error: null };
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** What listeners were told last. */
  #shown: Snapshot = this.#snapshot;
  #earlier: Promise<void> | undefined;
  /** Counts the times that all was read anew. */
  #generation = 0;

  constructor(conversation: ConversationCalls, { pageSize = 50, gather = 16, silence }: ViewOptions = {}) {
    this.#conversation = conversation;
    this.#pageSize = pageSize;
    this.#gather = gather;
    this.#silence = silence;
    void this.#run();
  }

  /** The present value. The same object until listeners are called. */
  readonly getSnapshot = (): Snapshot => this.#shown;

  /** Calls back after changes. Returns a function that ends this. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  /** Reads the page before what is known, and shows it. Does nothing at the conversation's beginning. */
  loadEarlier(): Promise<void> {
    this.#earlier ??= this.#readEarlier().finally(() => (this.#earlier = undefined));
    return this.#earlier;
  }

  /** Ends the stream. */
  close(): void {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort(new Error("the view was closed"));
    if (this.#snapshot.status !== "failed") this.#set({ status: "closed", error: null });
    this.#show();
  }

  async #run(): Promise<void> {
    const { signal } = this.#closed;
    for (let failures = 0; !signal.aborted; ) {
      try {
        await this.#readNewest(signal);
        failures = 0;
        const after = this.#snapshot.position ?? undefined;
        const onStatus = (status: StreamStatus, error?: CopilotdError) => this.#set({ status, error: error ?? null });
        for await (const event of this.#conversation.events({ after, signal, onStatus, silence: this.#silence })) {
          this.#set(apply(this.#snapshot, event));
        }
        this.#set({ status: "closed", error: null });
        return;
      } catch (error) {
        if (signal.aborted) return;
        const problem = error instanceof CopilotdError ? error : undefined;
        const isPassing = isTransient(error) || error instanceof NotResumableError;
        this.#set({ status: isPassing ? "reconnecting" : "failed", error: problem ?? null });
        if (!isPassing) {
          if (!problem) reportError(error);
          return;
        }
        await backOff(failures++, this.#conversation.backoff, problem?.retryAfter, signal).catch(() => {});
      }
    }
  }

  /** Reads the newest page; and on until at least one turn is whole. */
  async #readNewest(signal: AbortSignal): Promise<void> {
    let state = emptyState;
    do state = addPage(state, await this.#page(state, signal));
    while (!state.turns.length && state.cursor);
    this.#generation++;
    // Pages have no title.
    this.#set({ ...state, title: this.#snapshot.title });
  }

  async #readEarlier(): Promise<void> {
    const { signal } = this.#closed;
    const generation = this.#generation;
    let state: ConversationState = this.#snapshot;
    const known = state.turns.length;
    const pages: MessagePage[] = [];
    while (state.cursor && state.turns.length === known) {
      const page = await this.#page(state, signal);
      pages.push(page);
      state = addPage(state, page);
    }
    // Events came meanwhile: the pages are added to what is known now.
    if (generation === this.#generation) this.#set(pages.reduce(addPage, this.#snapshot as ConversationState));
    this.#show();
  }

  #page({ cursor }: ConversationState, signal: AbortSignal): Promise<MessagePage> {
    return this.#conversation.messages({ order: "desc", limit: this.#pageSize, cursor, signal });
  }

  #set(change: Partial<Snapshot>): void {
    this.#snapshot = { ...this.#snapshot, ...change };
    if (this.#gather <= 0) this.#show();
    else this.#timer ??= setTimeout(() => this.#show(), this.#gather);
  }

  #show(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#shown = this.#snapshot;
    for (const listener of [...this.#listeners]) listener();
  }
}
