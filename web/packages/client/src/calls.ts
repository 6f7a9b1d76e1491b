// The calls that a page with a conversation in it makes. The client's handles add what programs like to have besides.

import { randomId, type Backoff } from "./environment.js";
import { NotFoundError } from "./errors.js";
import type {
  ClaimedCall,
  Conversation,
  ConversationPage,
  CreateConversation,
  DecideApproval,
  GiveFeedback,
  MessagePage,
  RunClientTool,
  Turn,
  UpdateConversation,
} from "./schema.js";
import { follow, type CopilotdEvent, type Start, type StreamOptions } from "./stream.js";
import type { Transport } from "./transport.js";

/** What may come with every call. */
export interface CallOptions {
  /** Ends the call; it rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface CreateOptions extends CallOptions {
  /** Made if missing. Give one if the same creation may be asked for again, such as after a reload. */
  idempotencyKey?: string | undefined;
}

export interface PageOptions extends CallOptions {
  limit?: number | undefined;
  cursor?: string | null | undefined;
}

export interface ListOptions extends PageOptions {
  /**
   * Only conversations with these words in their title or in one of their messages. Such a page may be short, even
   * empty: there is more as long as it has a `next_cursor`.
   */
  q?: string | undefined;
}

export interface DecisionOptions extends CallOptions {
  /** Told to the model, and recorded. */
  reason?: string;
}

export function createConversation(
  transport: Transport,
  body: CreateConversation = {},
  { idempotencyKey, signal }: CreateOptions = {},
): Promise<Conversation> {
  return transport.json("POST", "/v1/conversations", { body, key: idempotencyKey ?? randomId(), signal });
}

/** A page of the caller's own conversations, newest first. */
export function listConversations(
  transport: Transport,
  { limit, cursor, q, signal }: ListOptions = {},
): Promise<ConversationPage> {
  return transport.json("GET", `/v1/conversations${query({ limit, cursor, q })}`, { signal });
}

/** One conversation. */
export class ConversationCalls {
  protected readonly transport: Transport;
  protected readonly path: string;

  constructor(
    transport: Transport,
    readonly id: string,
  ) {
    this.transport = transport;
    this.path = `/v1/conversations/${encodeURIComponent(id)}`;
  }

  /** The waits after failures. */
  get backoff(): Backoff {
    return this.transport.backoff;
  }

  update(body: UpdateConversation, { signal }: CallOptions = {}): Promise<Conversation> {
    return this.transport.json("PATCH", this.path, { body, signal });
  }

  /** Erases the conversation everywhere. A conversation that is gone already counts as erased. */
  delete({ signal }: CallOptions = {}): Promise<void> {
    return erase(this.transport, this.path, signal);
  }

  /** A page of messages with their turns; the oldest first unless `order` says otherwise. */
  messages({ limit, cursor, order, signal }: PageOptions & { order?: "asc" | "desc" } = {}): Promise<MessagePage> {
    return this.transport.json("GET", `${this.path}/messages${query({ limit, cursor, order })}`, { signal });
  }

  /** The conversation's events behind a position, over all turns, until it is erased. */
  events(options: StreamOptions & Start = {}): AsyncIterableIterator<CopilotdEvent, undefined> {
    return follow(this.transport, `${this.path}/events`, options, isErased);
  }
}

/** One turn. */
export class TurnCalls {
  protected readonly transport: Transport;
  protected readonly path: string;

  constructor(
    transport: Transport,
    readonly id: string,
  ) {
    this.transport = transport;
    this.path = `/v1/turns/${encodeURIComponent(id)}`;
  }

  /** Stops the turn. Stopping one that has ended changes nothing. */
  cancel({ signal }: CallOptions = {}): Promise<Turn> {
    return this.#post("cancel", undefined, signal);
  }

  /** Lets a tool call run, with other arguments if some are given. */
  approve(
    callId: string,
    { arguments: edited, reason, signal }: DecisionOptions & { arguments?: Record<string, unknown> } = {},
  ): Promise<Turn> {
    return this.#decide(callId, { decision: "approve", arguments: edited, reason }, signal);
  }

  /** Refuses a tool call. The turn goes on without it. */
  reject(callId: string, { reason, signal }: DecisionOptions = {}): Promise<Turn> {
    return this.#decide(callId, { decision: "reject", reason }, signal);
  }

  #decide(callId: string, body: DecideApproval, signal: AbortSignal | undefined): Promise<Turn> {
    return this.#post(`approvals/${encodeURIComponent(callId)}`, body, signal);
  }

  /** Claims a call of a client tool; `NotWaitingError` if another page has it, or if it is too late. */
  claim(callId: string, { idempotencyKey, signal }: CreateOptions = {}): Promise<ClaimedCall> {
    return this.#clientTool(callId, { claim: true }, signal, idempotencyKey ?? randomId());
  }

  /** Answers a call that was claimed. The same answer may be sent again. */
  answer(
    callId: string,
    claim: string,
    answer: { result: unknown } | { error: string },
    { signal }: CallOptions = {},
  ): Promise<Turn> {
    return this.#clientTool(callId, { claim, ...answer }, signal);
  }

  #clientTool<T>(
    callId: string,
    // The schema's "anything" is narrower in the generated types.
    body: Omit<RunClientTool, "result"> & { result?: unknown },
    signal: AbortSignal | undefined,
    key?: string,
  ): Promise<T> {
    return this.#post(`client-tools/${encodeURIComponent(callId)}`, body, signal, key);
  }

  feedback(rating: GiveFeedback["rating"], { comment, signal }: CallOptions & { comment?: string } = {}): Promise<void> {
    return this.#post("feedback", { rating, comment }, signal);
  }

  #post<T>(what: string, body: unknown, signal: AbortSignal | undefined, key?: string): Promise<T> {
    return this.transport.json("POST", `${this.path}/${what}`, { body, key, signal });
  }
}

/** Deletes what a path names. What is gone already counts as deleted: a repetition whose first answer was lost. */
export async function erase(transport: Transport, path: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    await transport.json("DELETE", path, { signal });
  } catch (error) {
    if (!(error instanceof NotFoundError)) throw error;
  }
}

const isErased = (event: CopilotdEvent): boolean => event.type === "conversation.erased";

/** The query of an address, of what is given. */
export function query(parameters: Record<string, string | number | null | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value != null) search.set(name, String(value));
  return `?${search}`;
}
