// The client: what an application calls.

import { randomId, type Backoff } from "./environment.js";
import { NotFoundError, TurnFailedError } from "./errors.js";
import { Outbox, type OutboxOptions } from "./outbox.js";
import { Files } from "./files.js";
import type {
  ClaimedCall,
  Conversation,
  ConversationPage,
  CreateConversation,
  DecideApproval,
  Feedback,
  GiveFeedback,
  MessagePage,
  RunClientTool,
  StreamTicket,
  SubmitTurn,
  Turn,
  UpdateConversation,
} from "./schema.js";
import { follow, isTerminal, type CopilotdEvent, type StreamOptions } from "./stream.js";
import { Transport, type TransportOptions } from "./transport.js";

export interface ClientOptions extends TransportOptions {
  outbox?: OutboxOptions;
}

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

export interface SendOptions extends CreateOptions {
  /** What to do while another turn is running; `enqueue` by default. */
  whenBusy?: NonNullable<SubmitTurn["when_busy"]>;
  metadata?: NonNullable<SubmitTurn["metadata"]>;
  /** JSON Schema that the answer must satisfy. */
  responseSchema?: NonNullable<SubmitTurn["response_schema"]>;
  /** The conversation's last turn, which has ended: this one takes its place. */
  replaces?: NonNullable<SubmitTurn["replaces"]>;
  /** Functions of the page that the model may call; see `@copilotd/client/tools`. */
  clientTools?: NonNullable<SubmitTurn["client_tools"]>;
}

export interface DecisionOptions extends CallOptions {
  /** Told to the model, and recorded. */
  reason?: string;
}

/** Makes a client for one user. */
export function createClient(options: ClientOptions): Client {
  return new Client(options);
}

/** One user's conversations. */
export class Client {
  readonly conversations: Conversations;
  readonly files: Files;
  readonly #transport: Transport;
  readonly #outboxOptions: OutboxOptions | undefined;
  #outbox: Outbox | undefined;

  constructor(options: ClientOptions) {
    this.#transport = new Transport(options);
    this.#outboxOptions = options.outbox;
    this.conversations = new Conversations(this.#transport);
    this.files = new Files(this.#transport);
    // What an earlier page has left is sent without being asked for.
    if (options.outbox) void this.outbox;
  }

  /** A conversation that exists. Nothing is sent yet. */
  conversation(id: string): ConversationHandle {
    return new ConversationHandle(this.#transport, id);
  }

  /** A turn that exists. Nothing is sent yet. */
  turn(id: string): TurnHandle {
    return new TurnHandle(this.#transport, id);
  }

  /** Messages that are sent exactly once, also when they are written offline. */
  get outbox(): Outbox {
    return (this.#outbox ??= new Outbox(this.#transport, this.#outboxOptions));
  }

  /** Stops the outbox. What it has stored stays stored. */
  close(): void {
    this.#outbox?.close();
  }
}

/** The caller's own conversations. */
export class Conversations {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  async create(body: CreateConversation = {}, { idempotencyKey, signal }: CreateOptions = {}): Promise<ConversationHandle> {
    const key = idempotencyKey ?? randomId();
    const made = await this.#transport.json<Conversation>("POST", "/v1/conversations", { body, key, signal });
    return new ConversationHandle(this.#transport, made.id, made);
  }

  /** A page, newest first. */
  list({ limit, cursor, q, signal }: ListOptions = {}): Promise<ConversationPage> {
    return this.#transport.json("GET", `/v1/conversations${query({ limit, cursor, q })}`, { signal });
  }

  /** Every conversation, newest first, read page by page as they are asked for. */
  async *all({ limit = 100, q, signal }: Omit<ListOptions, "cursor"> = {}): AsyncGenerator<Conversation, undefined> {
    let cursor: string | null | undefined;
    do {
      const page: ConversationPage = await this.list({ limit, cursor, q, signal });
      yield* page.data;
      cursor = page.next_cursor;
    } while (cursor);
    return undefined;
  }
}

/** One conversation. */
export class ConversationHandle {
  readonly #transport: Transport;
  readonly #path: string;

  constructor(
    transport: Transport,
    readonly id: string,
    /** As it was when it was created here. */
    readonly created?: Conversation,
  ) {
    this.#transport = transport;
    this.#path = `/v1/conversations/${encodeURIComponent(id)}`;
  }

  /** The waits after failures. */
  get backoff(): Backoff {
    return this.#transport.backoff;
  }

  get({ signal }: CallOptions = {}): Promise<Conversation> {
    return this.#transport.json("GET", this.#path, { signal });
  }

  update(body: UpdateConversation, { signal }: CallOptions = {}): Promise<Conversation> {
    return this.#transport.json("PATCH", this.#path, { body, signal });
  }

  rename(title: string, options?: CallOptions): Promise<Conversation> {
    return this.update({ title }, options);
  }

  /** Erases the conversation everywhere. A conversation that is gone already counts as erased. */
  async delete({ signal }: CallOptions = {}): Promise<void> {
    try {
      await this.#transport.json("DELETE", this.#path, { signal });
    } catch (error) {
      // A repetition whose first answer was lost.
      if (!(error instanceof NotFoundError)) throw error;
    }
  }

  /** A page of messages with their turns; the oldest first unless `order` says otherwise. */
  messages({ limit, cursor, order, signal }: PageOptions & { order?: "asc" | "desc" } = {}): Promise<MessagePage> {
    return this.#transport.json("GET", `${this.#path}/messages${query({ limit, cursor, order })}`, { signal });
  }

  /**
   * Submits a turn. When it resolves, the server has stored the turn and will end it, whatever happens. Sent again
   * under one idempotency key until there is an answer or the retries are used up.
   */
  async send(input: SubmitTurn["input"], options: SendOptions = {}): Promise<TurnHandle> {
    const body = submission(input, options);
    const key = options.idempotencyKey ?? randomId();
    const turn = await this.#transport.json<Turn>("POST", `${this.#path}/turns`, { body, key, signal: options.signal });
    return new TurnHandle(this.#transport, turn.id, turn);
  }

  /** A turn of this conversation. Nothing is sent yet. */
  turn(id: string): TurnHandle {
    return new TurnHandle(this.#transport, id);
  }

  /** The conversation's events, over all turns, until it is erased. Without `after`, from now on. */
  events(options: StreamOptions = {}): AsyncIterableIterator<CopilotdEvent, undefined> {
    const start = async (signal: AbortSignal) => (await this.get({ signal })).last_seq;
    return follow(this.#transport, `${this.#path}/events`, { ...options, start }, isErased);
  }

  /** A ticket for `EventSource`; see `streamUrl`. */
  ticket({ signal }: CallOptions = {}): Promise<StreamTicket> {
    return this.#transport.json("POST", "/v1/stream-tickets", { body: { conversation_id: this.id }, signal });
  }

  /** The address of the conversation's stream for an `EventSource`, with a new ticket: open it within 60 s. */
  async streamUrl({ after, signal }: CallOptions & { after?: string | number } = {}): Promise<string> {
    const { ticket } = await this.ticket({ signal });
    return this.#transport.url(`${this.#path}/events${query({ after, ticket })}`);
  }
}

/** One turn. */
export class TurnHandle {
  readonly #transport: Transport;
  readonly #path: string;

  constructor(
    transport: Transport,
    readonly id: string,
    /** As it was when it was accepted here. */
    readonly accepted?: Turn,
  ) {
    this.#transport = transport;
    this.#path = `/v1/turns/${encodeURIComponent(id)}`;
  }

  get({ signal }: CallOptions = {}): Promise<Turn> {
    return this.#transport.json("GET", this.#path, { signal });
  }

  /** The turn's events from its first one, until its end. */
  events(options: StreamOptions = {}): AsyncIterableIterator<CopilotdEvent, undefined> {
    return follow(this.#transport, `${this.#path}/events`, options, isTerminal);
  }

  /** Waits for the turn's end and returns it. */
  async done({ signal }: CallOptions = {}): Promise<Turn> {
    // Only the end matters, so what came before is read and dropped.
    for await (const _ of this.events({ signal }));
    return this.get({ signal });
  }

  /** Waits for the answer. Throws `TurnFailedError` if there is none. */
  async text(options: CallOptions = {}): Promise<string> {
    const { status, error, output } = await this.done(options);
    if (status === "completed") return output?.text ?? "";
    const code = error?.code ?? status;
    throw new TurnFailedError({ code, title: `The turn ${status}`, detail: error?.message });
  }

  /** Stops the turn. Stopping one that has ended changes nothing. */
  cancel({ signal }: CallOptions = {}): Promise<Turn> {
    return this.#transport.json("POST", `${this.#path}/cancel`, { signal });
  }

  /**
   * Submits a turn in place of this one, which must be the conversation's last and have ended: an edited prompt, or the
   * same again for another answer.
   */
  async replace(input: SubmitTurn["input"], options: Omit<SendOptions, "replaces"> = {}): Promise<TurnHandle> {
    const { conversation_id } = this.accepted ?? (await this.get({ signal: options.signal }));
    return new ConversationHandle(this.#transport, conversation_id).send(input, { ...options, replaces: this.id });
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
    return this.#transport.json("POST", `${this.#path}/approvals/${encodeURIComponent(callId)}`, { body, signal });
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
    const path = `${this.#path}/client-tools/${encodeURIComponent(callId)}`;
    return this.#transport.json("POST", path, { body, signal, ...(key !== undefined && { key }) });
  }

  async feedback(rating: GiveFeedback["rating"], { comment, signal }: CallOptions & { comment?: string } = {}): Promise<void> {
    await this.#transport.json("POST", `${this.#path}/feedback`, { body: { rating, comment }, signal });
  }

  /** The feedback that this user gave last; null if there is none. */
  async givenFeedback({ signal }: CallOptions = {}): Promise<Feedback | null> {
    try {
      return await this.#transport.json("GET", `${this.#path}/feedback`, { signal });
    } catch (error) {
      if (error instanceof NotFoundError) return null;
      throw error;
    }
  }
}

const isErased = (event: CopilotdEvent): boolean => event.type === "conversation.erased";

/** The body of a turn, for `send` and for the outbox. */
export function submission(input: SubmitTurn["input"], options: SendOptions = {}): SubmitTurn {
  const { whenBusy, metadata, responseSchema, replaces, clientTools } = options;
  const tools = { client_tools: clientTools };
  return { input, when_busy: whenBusy, metadata, response_schema: responseSchema, replaces, ...tools };
}

function query(parameters: Record<string, string | number | null | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value != null) search.set(name, String(value));
  return `?${search}`;
}
