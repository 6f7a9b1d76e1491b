// A conversation as a value: folded from pages of messages and from events, without any effect.
//
// A stream is opened behind a page's `last_seq`, while the messages and turns of the page may have been read a little
// later. So an event may tell what is known already, and must change nothing then: messages and calls have ids, a
// message that is complete takes no more text, and neither a turn nor a call goes back to an earlier state.

import type { Citation, Message, MessageCompletedEvent, MessagePage, ToolCall, Turn, Usage } from "./schema.js";
import type { CopilotdEvent } from "./stream.js";

/** A text of the assistant. `isOpen` while it is being written. */
export interface TextItem {
  readonly kind: "text";
  readonly id: string;
  readonly text: string;
  readonly isOpen: boolean;
  readonly citations: readonly Citation[];
  /** Why the step ended; missing while it is open and for messages of a page. */
  readonly finish?: MessageCompletedEvent["finish"];
}

/** A tool call. */
export interface ToolItem {
  readonly kind: "tool";
  readonly id: string;
  readonly name: string;
  readonly arguments: unknown;
  readonly status: ToolCall["status"];
  readonly result?: unknown;
  readonly error?: string | undefined;
  /** Until when a person may decide, or a page may claim or answer the call of a client tool. */
  readonly expiresAt?: string | undefined;
  readonly decision?: "approved" | "rejected" | "expired";
  /** Who decided. */
  readonly decidedBy?: string;
  /** Where each argument comes from: names of tools and of other sources, by the argument's name. */
  readonly origins?: Origins | undefined;
}

/** Names of sources by the arguments' names. */
export type Origins = Readonly<Record<string, readonly string[]>>;

/** Something that a user may want to know: a guardrail, a fallback, a text that was discarded, a summary. */
export interface NoticeItem {
  readonly kind: "notice";
  readonly id: string;
  readonly event: Extract<
    CopilotdEvent,
    { type: "message.reset" | "model.fallback" | "memory.compressed" | "guardrail.triggered" }
  >;
}

export type Item = TextItem | ToolItem | NoticeItem;

/** A turn with everything said and done in it, in the order in which it came. */
export interface TurnState {
  readonly id: string;
  /** Sequence number of its first record. */
  readonly seq: number;
  readonly input: Turn["input"];
  readonly metadata: Turn["metadata"];
  readonly status: Turn["status"];
  readonly attempt: number;
  readonly items: readonly Item[];
  readonly waiting: { readonly reason: string; readonly until: string } | null;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly usage: Usage | null;
  readonly feedback: MessagePage["turns"][number]["feedback"];
  readonly firstTokenMs: number | null;
  readonly finishedAt: string | null;
  /** The turn that took its place: prompts no longer hold this one. Null if none did. */
  readonly replacedBy: string | null;
}

/** A conversation, or its newest part. */
export interface ConversationState {
  /** By rising `seq`. */
  readonly turns: readonly TurnState[];
  /** Pass it as `cursor` to read what came before; null at the conversation's beginning. */
  readonly cursor: string | null;
  /** Messages whose turn began on a page that is not read yet. */
  readonly pending: readonly Message[];
  /** The stream's position behind all that is known; null before the first page. */
  readonly position: string | null;
  readonly isErased: boolean;
  /** The title that the server wrote since the page was read; null if it wrote none. */
  readonly title: string | null;
}

/** What is known of a conversation that was just created, or before its first page is read. */
export const emptyState: ConversationState = {
  turns: [],
  cursor: null,
  pending: [],
  position: null,
  isErased: false,
  title: null,
};

/** Whether a turn has ended. */
export const isEnded = (turn: Pick<TurnState, "status">): boolean =>
  turn.status === "completed" || turn.status === "failed" || turn.status === "cancelled";

/** The text that a turn has so far: that of its last message that has any. */
export function textOf(turn: TurnState): string {
  const last = turn.items.findLast((item): item is TextItem => item.kind === "text" && item.text !== "");
  return last?.text ?? "";
}

/** The words of an input or of a message; its files have none. */
export const wordsOf = (content: Turn["input"]): string =>
  typeof content === "string" ? content : content.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n");

/** A file of an input or of a message. An input names its id only. */
export interface FilePart {
  readonly file_id: string;
  readonly name?: string;
  readonly bytes?: number;
}

/** The files of an input or of a message. */
export const filesOf = (content: Turn["input"]): FilePart[] =>
  typeof content === "string" ? [] : content.filter((part): part is typeof part & FilePart => part.type === "file");

/**
 * Adds a page of messages, read with `order=desc`: the newest page first, then what came before it. A turn is added
 * once its first message is known.
 */
export function addPage(state: ConversationState, page: MessagePage): ConversationState {
  const groups = new Map<string, Message[]>();
  const messages = [...page.data, ...state.pending].sort((a, b) => a.seq - b.seq);
  for (const message of messages) {
    const group = groups.get(message.turn_id);
    if (group) group.push(message);
    else groups.set(message.turn_id, [message]);
  }
  const known = new Set(state.turns.map((turn) => turn.id));
  const added: TurnState[] = [];
  const pending: Message[] = [];
  for (const [id, group] of groups) {
    const view = page.turns.find((turn) => turn.id === id);
    if (group[0]?.role !== "user" || !view) pending.push(...group);
    else if (!known.has(id)) added.push(fromMessages(group, view));
  }
  return {
    ...state,
    turns: [...added, ...state.turns].sort((a, b) => a.seq - b.seq),
    cursor: page.next_cursor,
    pending,
    position: state.position ?? String(page.last_seq),
  };
}

function fromMessages(messages: readonly Message[], view: MessagePage["turns"][number]): TurnState {
  const calls = view.tool_calls.map(fromCall);
  const items: Item[] = [];
  // A step's message comes first, then one result for each of its calls. Calls without a result are the last step's.
  for (const { role, id, content, citations } of messages) {
    if (role === "assistant") {
      items.push({ kind: "text", id, text: wordsOf(content), isOpen: false, citations: citations ?? [] });
    } else if (role === "tool" && calls.length) items.push(calls.shift()!);
  }
  const first = messages[0]!;
  for (const { stage, rule, action } of view.guardrails) {
    const data = { seq: first.seq, turn_id: view.id, at: first.created_at, stage, rule, action };
    items.push(notice({ type: "guardrail.triggered", position: "", ...data }));
  }
  const { id, metadata, status, attempt, waiting, error, feedback } = view;
  return {
    id,
    seq: first.seq,
    input: first.content,
    metadata,
    status,
    attempt,
    items: [...items, ...calls],
    waiting,
    error,
    usage: isEnded(view) ? view.usage : null,
    feedback,
    firstTokenMs: view.first_token_ms,
    finishedAt: view.finished_at,
    replacedBy: view.replaced_by ?? null,
  };
}

function fromCall(call: ToolCall): ToolItem {
  const { id, name, arguments: given, status, result, error, expires_at: expiresAt } = call;
  return { kind: "tool", id, name, arguments: given, status, result, error, expiresAt, origins: originsOf(call) };
}

/** Where arguments come from, if the server says so. */
const originsOf = (told: object): Origins | undefined => (told as { origins?: Origins }).origins;

function notice(event: NoticeItem["event"]): NoticeItem {
  // What a page tells again has no number of its own there.
  const id = event.type === "guardrail.triggered" ? `${event.rule}:${event.stage}` : String(event.seq);
  return { kind: "notice", id: `${event.type}:${id}`, event };
}

/** Folds an event into a conversation. Turns that it does not concern stay the same objects. */
export function apply(state: ConversationState, event: CopilotdEvent): ConversationState {
  const next = { ...state, position: event.position || state.position };
  if (event.type === "conversation.erased") return { ...emptyState, position: next.position, isErased: true };
  if (event.type === "conversation.titled") return { ...next, title: event.title };
  // What concerns the conversation as a whole is shown at its end.
  const id = event.turn_id ?? state.turns.at(-1)?.id;
  const at = state.turns.findLastIndex((turn) => turn.id === id);
  const turn = state.turns[at];
  if (!turn) {
    if (event.type !== "turn.queued") return next;
    return { ...next, turns: [...replaced(state.turns, event), queued(event)] };
  }
  const changed = applyToTurn(turn, event);
  if (changed === turn) return next;
  const turns = state.turns.slice();
  turns[at] = changed;
  return { ...next, turns };
}

/** Marks the turn that the event's turn replaces. */
function replaced(
  turns: readonly TurnState[],
  { turn_id, replaces }: Extract<CopilotdEvent, { type: "turn.queued" }>,
): readonly TurnState[] {
  const mark = (turn: TurnState) => (turn.id === replaces ? { ...turn, replacedBy: turn_id } : turn);
  return replaces ? turns.map(mark) : turns;
}

function queued({ turn_id, seq, input, metadata }: Extract<CopilotdEvent, { type: "turn.queued" }>): TurnState {
  return { ...blank, id: turn_id, seq, input, metadata };
}

const blank = {
  status: "queued",
  attempt: 0,
  items: [],
  waiting: null,
  error: null,
  usage: null,
  feedback: null,
  firstTokenMs: null,
  finishedAt: null,
  replacedBy: null,
} as const;

/** Folds an event into its turn. Returns the same object if it says nothing new. */
export function applyToTurn(turn: TurnState, event: CopilotdEvent): TurnState {
  switch (event.type) {
    case "turn.started":
      // What a crash left open is discarded by `message.reset`, which came before.
      return isEnded(turn) ? turn : { ...turn, status: "running", attempt: event.attempt, waiting: null };
    case "turn.waiting":
      return isEnded(turn) ? turn : { ...turn, waiting: { reason: event.reason, until: event.until } };
    case "message.delta": {
      const open = itemOf(turn, "text", event.message_id);
      if (open && !open.isOpen) return turn;
      const text: TextItem = open
        ? { ...open, text: open.text + event.text }
        : { kind: "text", id: event.message_id, text: event.text, isOpen: true, citations: [] };
      return put({ ...turn, waiting: null }, text);
    }
    case "message.completed":
      return completed(turn, event);
    case "message.reset": {
      const open = itemOf(turn, "text", event.message_id);
      if (open && !open.isOpen) return turn;
      return put({ ...turn, waiting: null, items: turn.items.filter((item) => item !== open) }, notice(event));
    }
    case "approval.requested":
      return call(turn, event.call_id, "awaiting_approval", {
        arguments: event.arguments,
        expiresAt: event.expires_at,
        origins: originsOf(event),
      });
    case "approval.decided":
      return call(turn, event.call_id, event.decision === "approved" ? "running" : "rejected", {
        decision: event.decision,
        decidedBy: event.by,
        arguments: event.arguments ?? itemOf(turn, "tool", event.call_id)?.arguments,
      });
    case "client_tool.requested":
      return call(turn, event.call_id, "proposed", { arguments: event.arguments, expiresAt: event.expires_at });
    case "tool.called":
      return call(turn, event.call_id, "running", { arguments: event.arguments, expiresAt: event.expires_at });
    case "tool.finished":
      return finished(turn, event);
    case "guardrail.triggered":
    case "model.fallback":
    case "memory.compressed":
      return itemOf(turn, "notice", notice(event).id) ? turn : put(turn, notice(event));
    case "turn.completed":
    case "turn.failed":
    case "turn.cancelled":
      return ended(turn, event);
    default:
      return turn;
  }
}

function completed(turn: TurnState, event: Extract<CopilotdEvent, { type: "message.completed" }>): TurnState {
  const { message_id: id, text, citations, finish } = event;
  let next = put({ ...turn, waiting: null }, { kind: "text", id, text, isOpen: false, citations, finish });
  for (const { id, name, arguments: given } of event.tool_calls) {
    if (itemOf(next, "tool", id)) continue;
    next = put(next, { kind: "tool", id, name, arguments: given, status: "proposed" });
  }
  return next;
}

/** How far a call has come. */
const RANK: Partial<Record<ToolCall["status"], number>> = { proposed: 0, awaiting_approval: 1, running: 2 };
const rank = (status: ToolCall["status"]): number => RANK[status] ?? 3;

function call(turn: TurnState, id: string, status: ToolCall["status"], more: Partial<ToolItem>): TurnState {
  const item = itemOf(turn, "tool", id);
  if (!item || rank(status) < rank(item.status) || rank(item.status) === 3) return turn;
  return withStatus(put(turn, { ...item, status, ...more }));
}

function finished(turn: TurnState, event: Extract<CopilotdEvent, { type: "tool.finished" }>): TurnState {
  const item = itemOf(turn, "tool", event.call_id);
  if (!item) return turn;
  // A rejection comes twice, as the decision and as the call's end, which alone says why.
  const { status, result, error } = event;
  return withStatus(put(turn, { ...item, status, result, error, expiresAt: undefined }));
}

/** A turn awaits approval as long as one of its calls does; no event says so by itself. */
function withStatus(turn: TurnState): TurnState {
  if (isEnded(turn)) return turn;
  const awaits = turn.items.some((item) => item.kind === "tool" && item.status === "awaiting_approval");
  const status = awaits ? "awaiting_approval" : turn.status === "awaiting_approval" ? "running" : turn.status;
  return status === turn.status ? turn : { ...turn, status };
}

function ended(
  turn: TurnState,
  event: Extract<CopilotdEvent, { type: "turn.completed" | "turn.failed" | "turn.cancelled" }>,
): TurnState {
  // Nothing more comes: a text that is still open was cut off with the turn.
  const items = turn.items.map((item) => (item.kind === "text" && item.isOpen ? { ...item, isOpen: false } : item));
  if (isEnded(turn)) return { ...turn, items };
  const next = { ...turn, items, waiting: null, finishedAt: event.at };
  if (event.type === "turn.failed") {
    return { ...next, status: "failed", error: { code: event.code, message: event.message } };
  }
  if (event.type === "turn.cancelled") return { ...next, status: "cancelled", usage: event.usage };
  return { ...next, status: "completed", usage: event.usage, firstTokenMs: event.first_token_ms ?? next.firstTokenMs };
}

function itemOf<Kind extends Item["kind"]>(
  turn: TurnState,
  kind: Kind,
  id: string,
): Extract<Item, { kind: Kind }> | undefined {
  const isIt = (item: Item): item is Extract<Item, { kind: Kind }> => item.kind === kind && item.id === id;
  return turn.items.findLast(isIt);
}

/** Adds an item, or replaces the one with the same id. */
function put(turn: TurnState, item: Item): TurnState {
  const at = turn.items.findLastIndex((other) => other.kind === item.kind && other.id === item.id);
  const items = turn.items.slice();
  if (at < 0) items.push(item);
  else items[at] = item;
  return { ...turn, items };
}
