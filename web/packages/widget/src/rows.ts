// What the list shows, as a list of rows: a pure function of the conversation and of the messages on their way.

import {
  isEnded,
  type ConversationState,
  type NoticeItem,
  type OutboxEntry,
  type TextItem,
  type ToolItem,
  type TurnState,
} from "@copilotd/client/parts";

export type Row =
  /** `canEdit`: another message may take its place, as that of the conversation's last turn once it has ended. */
  | { readonly kind: "user"; readonly key: string; readonly turn: TurnState; readonly canEdit: boolean }
  | { readonly kind: "outgoing"; readonly key: string; readonly entry: OutboxEntry }
  | { readonly kind: "text"; readonly key: string; readonly turn: TurnState; readonly item: TextItem }
  | { readonly kind: "tool"; readonly key: string; readonly turn: TurnState; readonly item: ToolItem }
  | { readonly kind: "notice"; readonly key: string; readonly turn: TurnState; readonly item: NoticeItem }
  /** How the turn stands: answering, waiting, failed, or its buttons. */
  | { readonly kind: "status"; readonly key: string; readonly turn: TurnState; readonly isLast: boolean };

/** Name in a turn's metadata under which the widget finds the message that it sent. */
export const REF = "widget_message";

export const refOf = (metadata: Record<string, unknown> | undefined): string | undefined => {
  const ref = metadata?.[REF];
  return typeof ref === "string" ? ref : undefined;
};

/** Messages of this conversation that are not turns of it yet, each shown once. */
export function outgoingOf(
  state: Pick<ConversationState, "turns">,
  entries: readonly OutboxEntry[],
  isOurs: (entry: OutboxEntry) => boolean,
): OutboxEntry[] {
  const turns = new Set(state.turns.map(({ id }) => id));
  // The stream may tell of a turn before the request that submitted it is answered.
  const refs = new Set(state.turns.map(({ metadata }) => refOf(metadata)));
  return entries.filter((entry) => {
    if (!isOurs(entry) || (entry.turnId !== null && turns.has(entry.turnId))) return false;
    const ref = refOf(entry.body.metadata);
    return ref === undefined || !refs.has(ref);
  });
}

/** Whether the composer is locked: an answer is on its way, or will be. */
export const isBusy = (state: Pick<ConversationState, "turns">, outgoing: readonly OutboxEntry[]): boolean =>
  state.turns.some((turn) => !isEnded(turn)) || outgoing.some(({ status }) => status !== "failed");

export function rowsOf(state: Pick<ConversationState, "turns">, outgoing: readonly OutboxEntry[]): Row[] {
  const rows: Row[] = [];
  // A turn goes away as soon as the message that takes its place is on its way, and comes back if that is refused.
  const going = new Set(outgoing.flatMap(({ status, body }) => (status === "failed" ? [] : [body.replaces])));
  const turns = state.turns.filter(({ id, replacedBy }) => replacedBy === null && !going.has(id));
  const last = state.turns.at(-1);
  for (const turn of turns) {
    const canEdit = turn === last && isEnded(turn) && !outgoing.length;
    rows.push({ kind: "user", key: `user:${turn.id}`, turn, canEdit });
    for (const item of turn.items) {
      const key = `${item.kind}:${item.id}`;
      if (item.kind === "tool") rows.push({ kind: "tool", key, turn, item });
      else if (item.kind === "text") {
        if (item.text !== "") rows.push({ kind: "text", key, turn, item });
      } else if (isTold(item)) rows.push({ kind: "notice", key, turn, item });
    }
    const at = isEnded(turn) ? "" : `:${turn.items.length}`;
    // A text that grows shows by itself that something happens. What stood below it would be pushed down by each line,
    // and for the same reason a new item brings a new status.
    if (isEnded(turn) || !isGrowing(turn)) rows.push({ kind: "status", key: `status:${turn.id}${at}`, turn, isLast: turn === last && !outgoing.length });
  }
  for (const entry of outgoing) rows.push({ kind: "outgoing", key: `out:${entry.key}`, entry });
  return rows;
}

function isGrowing(turn: TurnState): boolean {
  const item = turn.items.at(-1);
  return item?.kind === "text" && item.isOpen && item.text !== "";
}

/** Notices that concern a user. Another model or a summary does not. */
const isTold = ({ event }: NoticeItem): boolean =>
  event.type === "message.reset" || (event.type === "guardrail.triggered" && event.action !== "allow");
