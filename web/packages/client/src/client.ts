// The client: what an application calls.

import {
  ConversationCalls,
  createConversation,
  listConversations,
  query,
  TurnCalls,
  type CallOptions,
  type CreateOptions,
  type ListOptions,
} from "./calls.js";
import { randomId } from "./environment.js";
import { NotFoundError, TurnFailedError } from "./errors.js";
import { Outbox, type OutboxOptions } from "./outbox.js";
import { Files } from "./files.js";
import type {
  Conversation,
  ConversationPage,
  CreateConversation,
  Feedback,
  StreamTicket,
  SubmitTurn,
  Turn,
} from "./schema.js";
import { follow, isTerminal, type CopilotdEvent, type StreamOptions } from "./stream.js";
import { Transport, type TransportOptions } from "./transport.js";

export interface ClientOptions extends TransportOptions {
  outbox?: OutboxOptions;
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

  async create(body: CreateConversation = {}, options: CreateOptions = {}): Promise<ConversationHandle> {
    const made = await createConversation(this.#transport, body, options);
    return new ConversationHandle(this.#transport, made.id, made);
  }

  /** A page, newest first. */
  list(options?: ListOptions): Promise<ConversationPage> {
    return listConversations(this.#transport, options);
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
export class ConversationHandle extends ConversationCalls {
  constructor(
    transport: Transport,
    id: string,
    /** As it was when it was created here. */
    readonly created?: Conversation,
  ) {
    super(transport, id);
  }

  get({ signal }: CallOptions = {}): Promise<Conversation> {
    return this.transport.json("GET", this.path, { signal });
  }

  rename(title: string, options?: CallOptions): Promise<Conversation> {
    return this.update({ title }, options);
  }

  /**
   * Submits a turn. When it resolves, the server has stored the turn and will end it, whatever happens. Sent again
   * under one idempotency key until there is an answer or the retries are used up.
   */
  async send(input: SubmitTurn["input"], options: SendOptions = {}): Promise<TurnHandle> {
    const body = submission(input, options);
    const key = options.idempotencyKey ?? randomId();
    const turn = await this.transport.json<Turn>("POST", `${this.path}/turns`, { body, key, signal: options.signal });
    return new TurnHandle(this.transport, turn.id, turn);
  }

  /** A turn of this conversation. Nothing is sent yet. */
  turn(id: string): TurnHandle {
    return new TurnHandle(this.transport, id);
  }

  /** The conversation's events, over all turns, until it is erased. Without `after`, from now on. */
  override events(options: StreamOptions = {}): AsyncIterableIterator<CopilotdEvent, undefined> {
    const start = async (signal: AbortSignal) => (await this.get({ signal })).last_seq;
    return super.events({ ...options, start });
  }

  /** A ticket for `EventSource`; see `streamUrl`. */
  ticket({ signal }: CallOptions = {}): Promise<StreamTicket> {
    return this.transport.json("POST", "/v1/stream-tickets", { body: { conversation_id: this.id }, signal });
  }

  /** The address of the conversation's stream for an `EventSource`, with a new ticket: open it within 60 s. */
  async streamUrl({ after, signal }: CallOptions & { after?: string | number } = {}): Promise<string> {
    const { ticket } = await this.ticket({ signal });
    return this.transport.url(`${this.path}/events${query({ after, ticket })}`);
  }
}

/** One turn. */
export class TurnHandle extends TurnCalls {
  constructor(
    transport: Transport,
    id: string,
    /** As it was when it was accepted here. */
    readonly accepted?: Turn,
  ) {
    super(transport, id);
  }

  get({ signal }: CallOptions = {}): Promise<Turn> {
    return this.transport.json("GET", this.path, { signal });
  }

  /** The turn's events from its first one, until its end. */
  events(options: StreamOptions = {}): AsyncIterableIterator<CopilotdEvent, undefined> {
    return follow(this.transport, `${this.path}/events`, options, isTerminal);
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

  /**
   * Submits a turn in place of this one, which must be the conversation's last and have ended: an edited prompt, or the
   * same again for another answer.
   */
  async replace(input: SubmitTurn["input"], options: Omit<SendOptions, "replaces"> = {}): Promise<TurnHandle> {
    const { conversation_id } = this.accepted ?? (await this.get({ signal: options.signal }));
    return new ConversationHandle(this.transport, conversation_id).send(input, { ...options, replaces: this.id });
  }

  /** The feedback that this user gave last; null if there is none. */
  async givenFeedback({ signal }: CallOptions = {}): Promise<Feedback | null> {
    try {
      return await this.transport.json("GET", `${this.path}/feedback`, { signal });
    } catch (error) {
      if (error instanceof NotFoundError) return null;
      throw error;
    }
  }
}

/** The body of a turn, for `send` and for the outbox. */
export function submission(input: SubmitTurn["input"], options: SendOptions = {}): SubmitTurn {
  const { whenBusy, metadata, responseSchema, replaces, clientTools } = options;
  const tools = { client_tools: clientTools };
  return { input, when_busy: whenBusy, metadata, response_schema: responseSchema, replaces, ...tools };
}
