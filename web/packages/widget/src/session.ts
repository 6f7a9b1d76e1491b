// One user's chat: the conversation that is shown, the messages on their way, and what the user can do. It knows
// nothing of how it looks.

import {
  CallRunner,
  ConversationCalls,
  createConversation,
  Files,
  isEnded,
  listConversations,
  offersOf,
  openView,
  Outbox,
  Transport,
  TurnCalls,
  webStorage,
  wordsOf,
  type ClientTools,
  type Conversation,
  type ConversationPage,
  type ConversationView,
  type Draft,
  type Item,
  type OutboxEntry,
  type Snapshot,
  type SubmitTurn,
  type TurnState,
} from "@copilotd/client/parts";

import { Announcer, type Announcement } from "./announce.js";
import { Attachments, type Attachment } from "./attachments.js";
import type { TokenSource } from "./contract.js";
import type { Current, Keep } from "./keep.js";
import { isBusy, outgoingOf, REF, refOf, rowsOf, type Row } from "./rows.js";

export interface SessionOptions {
  baseUrl: string;
  token: TokenSource;
  /** Used in place of the global `fetch`. */
  fetch?: typeof fetch;
  /** Which copilot answers; the tenant's first one if null. */
  copilot: string | null;
  /** Facts of the page, kept with each turn. Read when a message is sent. */
  metadata: () => Record<string, unknown> | null;
  /** Functions of the page that the model may call. Read when a message is sent, and when a call comes. */
  tools: () => ClientTools;
  keep: Keep;
  /** Under which name messages wait in `localStorage`; null where nothing may be kept. */
  user: string | null;
  onAnnounce: (announcement: Announcement) => void;
  onMessage: (detail: { role: "user" | "assistant"; conversationId: string; turnId: string; text: string }) => void;
  onApproval: (detail: { turnId: string; callId: string; name: string; arguments: unknown }) => void;
}

/** What is shown. A new object with each change. */
export interface Shown {
  /** Null while a conversation is new. */
  readonly snapshot: Snapshot | null;
  readonly outgoing: readonly OutboxEntry[];
  readonly rows: readonly Row[];
  /** Files that the next message will have. */
  readonly attached: readonly Attachment[];
  readonly isBusy: boolean;
  /** Tells conversations apart, also before one has an id. */
  readonly name: string;
  /** Counts the conversations that were opened. A new one that gets its id stays the same one. */
  readonly opening: number;
}

export type Feedback = NonNullable<TurnState["feedback"]>;

export class Session {
  readonly attachments: Attachments;
  readonly #options: SessionOptions;
  readonly #transport: Transport;
  readonly #outbox: Outbox;
  readonly #calls: CallRunner;
  readonly #listeners = new Set<() => void>();
  #current: Current;
  #view: ConversationView | undefined;
  #leave: (() => void) | undefined;
  #shown!: Shown;
  #announcer = new Announcer();
  /** Messages that were stopped before they became turns. */
  readonly #stopped = new Set<string>();
  /** What this page has rated; the stream does not tell. */
  readonly #ratings = new Map<string, Feedback>();
  /** Turns, texts and calls that the host page has heard of, or that were there when the conversation was opened. */
  #told: Set<string> | undefined;
  /** What has a lower number was there before, and is read only when the reader scrolls up. */
  #oldest = 0;
  /** Key of the draft that the conversation began with here. */
  #draftKey: string | undefined;
  /** Whether the outbox may lack the draft's message because it is still being stored, or still being read. */
  #unsettled = 1;
  #resolving = false;
  #opening = 0;
  #isEnded = false;

  constructor(options: SessionOptions) {
    this.#options = options;
    const { baseUrl, token, fetch, user } = options;
    this.#transport = new Transport({ baseUrl, token, ...(fetch && { fetch }) });
    this.#outbox = new Outbox(this.#transport, user === null ? {} : { storage: webStorage(localStorage), user });
    this.#calls = new CallRunner(this.#turn, options.tools, (error) => console.error("copilotd:", error));
    this.attachments = new Attachments(new Files(this.#transport), this.#existing, () => this.#update());
    this.#current = options.keep.current;
    if (this.#current && "draft" in this.#current) this.#draftKey = this.#current.draft.key;
    this.#follow();
    const stop = this.#outbox.subscribe(() => {
      stop();
      this.#unsettled--;
      this.#outbox.subscribe(this.#update);
      this.#update();
    });
  }

  readonly getShown = (): Shown => this.#shown;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  /**
   * Sends a message with files exactly once, in place of the conversation's last turn if that is named. Resolves when it
   * is stored in the browser.
   */
  async send(text: string, { replaces, files = [] }: { replaces?: string; files?: readonly string[] } = {}): Promise<void> {
    const metadata = { ...this.#options.metadata(), [REF]: randomRef() };
    const current = (this.#current ??= this.#begin());
    const parts = files.map((file_id) => ({ type: "file" as const, file_id }));
    const input: SubmitTurn["input"] = parts.length ? [...(text ? [{ type: "text" as const, text }] : []), ...parts] : text;
    const offers = offersOf(this.#options.tools());
    this.#unsettled++;
    try {
      await this.#outbox.add("id" in current ? current.id : current.draft, {
        input,
        metadata,
        ...(replaces !== undefined && { replaces }),
        ...(offers.length > 0 && { client_tools: offers }),
      });
    } finally {
      this.#unsettled--;
      this.#update();
    }
  }

  /** Stops every answer of the conversation, also those that have not begun. */
  async stop(): Promise<void> {
    const { snapshot, outgoing } = this.#shown;
    for (const { key, body } of outgoing) {
      const ref = refOf(body.metadata);
      if (ref !== undefined) this.#stopped.add(ref);
      await this.#outbox.discard(key);
    }
    const open = snapshot?.turns.filter((turn) => !isEnded(turn)) ?? [];
    // The one that is queued last first, so that none begins meanwhile.
    for (const { id } of open.toReversed()) await this.#turn(id).cancel();
  }

  retry(entry: OutboxEntry): Promise<void> {
    return this.#outbox.retry(entry.key);
  }
  discard(entry: OutboxEntry): Promise<void> {
    return this.#outbox.discard(entry.key);
  }

  decide(turn: string, call: string, isApproved: boolean, edited?: Record<string, unknown>, reason?: string) {
    const handle = this.#turn(turn);
    const more = reason ? { reason } : {};
    return isApproved
      ? handle.approve(call, { ...more, ...(edited && { arguments: edited }) })
      : handle.reject(call, more);
  }

  ratingOf(turn: TurnState): TurnState["feedback"] {
    return this.#ratings.get(turn.id) ?? turn.feedback;
  }
  async rate(turn: string, rating: Feedback["rating"], comment: string | null): Promise<void> {
    await this.#turn(turn).feedback(rating, comment ? { comment } : {});
    this.#ratings.set(turn, { rating, comment });
    this.#update();
  }

  loadEarlier(): void {
    if (!this.#shown.snapshot?.cursor) return;
    // A failure shows as the connection's state; scrolling asks again.
    this.#view?.loadEarlier().catch(() => {});
  }

  /** Shows a conversation, or a new one. */
  show(current: Current): void {
    this.#current = current;
    this.#draftKey = undefined;
    this.#opening++;
    this.#options.keep.current = current;
    this.#follow();
    this.attachments.clear();
  }

  /** Takes the calls that wait for functions which the page has only now. */
  look(): void {
    this.#update();
  }

  /** Opens the conversation again that could not be followed any more. */
  reopen(): void {
    this.#follow();
  }

  /** A page of the user's conversations, newest first. */
  list(cursor: string | null): Promise<ConversationPage> {
    return listConversations(this.#transport, { limit: 30, cursor });
  }
  rename({ id }: Conversation, title: string): Promise<Conversation> {
    return this.#conversation(id).update({ title });
  }
  async delete({ id }: Conversation): Promise<void> {
    await this.#conversation(id).delete();
    if (this.#current && "id" in this.#current && this.#current.id === id) this.show(null);
  }

  end(): void {
    this.#isEnded = true;
    this.#leave?.();
    this.attachments.clear();
    this.#outbox.close();
    this.#listeners.clear();
  }

  readonly #turn = (id: string): TurnCalls => new TurnCalls(this.#transport, id);

  #conversation(id: string): ConversationCalls {
    return new ConversationCalls(this.#transport, id);
  }

  /** Begins a conversation, which is created with its first message or file. */
  #begin(): { draft: Draft } {
    const { copilot, keep } = this.#options;
    this.#draftKey = randomRef();
    return (keep.current = { draft: { key: this.#draftKey, body: { ...(copilot !== null && { copilot }) } } });
  }

  /** The id of the conversation that is shown. A new one is created. */
  readonly #existing = async (): Promise<string> => {
    const current = (this.#current ??= this.#begin());
    if ("id" in current) return current.id;
    this.#unsettled++;
    try {
      const { id } = await this.#create(current.draft);
      return id;
    } catch (error) {
      if (this.#current === current) this.#current = this.#options.keep.current = null;
      throw error;
    } finally {
      this.#unsettled--;
    }
  };

  #follow(): void {
    this.#leave?.();
    this.#view = this.#leave = undefined;
    this.#announcer = new Announcer();
    this.#told = this.#draftKey === undefined ? undefined : new Set();
    this.#oldest = 0;
    if (this.#current && "id" in this.#current) {
      const view = openView(this.#conversation(this.#current.id), { gather: 33 });
      const unsubscribe = view.subscribe(this.#update);
      this.#view = view;
      this.#leave = () => {
        unsubscribe();
        view.close();
      };
    }
    this.#update();
  }

  readonly #update = (): void => {
    if (this.#isEnded) return;
    this.#resolve();
    const snapshot = this.#view?.getSnapshot() ?? null;
    const turns = snapshot?.turns ?? [];
    const entries = this.#outbox.entries();
    const outgoing = outgoingOf({ turns }, entries, this.#isOurs);
    this.#outbox.settle(new Set(turns.map(({ id }) => id)));
    const name = !this.#current ? "new" : "id" in this.#current ? this.#current.id : this.#current.draft.key;
    const rows = rowsOf({ turns }, outgoing);
    const attached = this.attachments.list;
    this.#shown = { snapshot, outgoing, rows, attached, isBusy: isBusy({ turns }, outgoing), name, opening: this.#opening };
    if (snapshot?.position != null) this.#tell(turns);
    for (const listener of [...this.#listeners]) listener();
    if (!snapshot || (!snapshot.isErased && snapshot.error?.code !== "not_found")) return;
    // The conversation is gone, and with it what could not be sent to it.
    for (const { key } of outgoing) void this.#outbox.discard(key).catch(() => {});
    this.show(null);
  };

  readonly #isOurs = ({ draft, conversationId }: OutboxEntry): boolean => {
    if (!this.#current) return false;
    if (draft !== null && draft.key === this.#draftKey) return true;
    return "id" in this.#current && conversationId === this.#current.id;
  };

  /** Goes on to the conversation that a first message has created. */
  #resolve(): void {
    const current = this.#current;
    if (!current || "id" in current || this.#resolving) return;
    const { key } = current.draft;
    const entry = this.#outbox.entries().find(({ draft }) => draft?.key === key);
    if (entry?.conversationId) {
      this.#current = this.#options.keep.current = { id: entry.conversationId };
      this.#resolving = true;
      this.#follow();
      this.#resolving = false;
    } else if (!entry && !this.#unsettled) {
      // Another tab has sent it, or it was discarded: the key tells which conversation it is.
      this.#resolving = true;
      this.#create(current.draft)
        .catch(() => this.show(null))
        .finally(() => (this.#resolving = false));
    }
  }

  /** Creates a draft's conversation, and goes on to it if the draft is still what is shown. */
  async #create({ key, body }: Draft): Promise<Conversation> {
    const conversation = await createConversation(this.#transport, body, { idempotencyKey: key });
    if (this.#current && "draft" in this.#current && this.#current.draft.key === key) {
      this.#current = this.#options.keep.current = { id: conversation.id };
      this.#follow();
    }
    return conversation;
  }

  /** Tells the host page and the screen reader what is new, and stops what was stopped before it was a turn. */
  #tell(turns: readonly TurnState[]): void {
    if (!this.#told) {
      this.#oldest = turns[0]?.seq ?? 0;
      this.#told = new Set(turns.flatMap(({ id, items }) => [id, ...items.flatMap(finished)]));
      this.#announcer.skip(turns);
    }
    const told = this.#told;
    const isNew = (name: string) => !told.has(name) && Boolean(told.add(name));
    const conversationId = (this.#current as { id: string }).id;
    const recent = turns.filter(({ seq }) => seq >= this.#oldest);
    for (const turn of turns) {
      if (!isEnded(turn)) for (const item of turn.items) if (item.kind === "tool") this.#calls.take(turn.id, item);
    }
    for (const turn of recent) {
      const text = wordsOf(turn.input);
      if (isNew(turn.id)) this.#options.onMessage({ role: "user", conversationId, turnId: turn.id, text });
      for (const item of turn.items) {
        if (item.kind === "text" && !item.isOpen && item.text && isNew(item.id)) {
          this.#options.onMessage({ role: "assistant", conversationId, turnId: turn.id, text: item.text });
        } else if (item.kind === "tool" && item.status === "awaiting_approval" && isNew(item.id)) {
          this.#options.onApproval({ turnId: turn.id, callId: item.id, name: item.name, arguments: item.arguments });
        }
      }
      const ref = refOf(turn.metadata);
      if (ref !== undefined && this.#stopped.delete(ref) && !isEnded(turn)) {
        void this.#turn(turn.id).cancel().catch(() => {});
      }
    }
    for (const announcement of this.#announcer.next(recent)) this.#options.onAnnounce(announcement);
  }
}

const randomRef = (): string => crypto.getRandomValues(new Uint32Array(3)).join("");

/** Names of what an opened conversation already had. A text that is open, and a call that waits, are told later. */
const finished = (item: Item): string[] =>
  item.kind === "text" && !item.isOpen ? [item.id] : [];
