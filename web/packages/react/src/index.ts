// @copilotd/react: conversations as hooks.
//
// A component renders again only for what it shows: a list for new turns, a turn for its own events. Text that is
// written in one turn renders neither the list nor the other turns.

import {
  openView,
  submission,
  type Client,
  type ConversationView,
  type CopilotdError,
  type OutboxEntry,
  type SendOptions,
  type Snapshot,
  type SubmitTurn,
  type TurnState,
  type ViewOptions,
} from "@copilotd/client";
import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";

/** What a conversation's list shows. The same object until one of its parts changes. */
export interface ConversationList {
  /** The turns' ids, the oldest first: pass each to a component that calls `useTurn`. */
  readonly turnIds: readonly string[];
  readonly status: Snapshot["status"];
  /** Why the stream is not open. */
  readonly error: CopilotdError | null;
  /** Whether there are turns before the first one. */
  readonly hasEarlier: boolean;
  readonly isErased: boolean;
  /** Whether a turn is queued, running or waiting. */
  readonly isBusy: boolean;
}

export interface UseConversation extends ConversationList {
  /** Pass it to `useTurn`. Null while there is no conversation. */
  readonly view: ConversationView | null;
  /** Messages of this conversation that the server has not shown yet. */
  readonly outbox: readonly OutboxEntry[];
  /** Stores a message and sends it as soon as possible, exactly once. */
  send(input: SubmitTurn["input"], options?: SendOptions): Promise<OutboxEntry>;
  /** Stops the turns that run. */
  cancel(): Promise<void>;
  /** Shows earlier turns. */
  loadEarlier(): Promise<void>;
}

const NOTHING: ConversationList = {
  turnIds: [],
  status: "closed",
  error: null,
  hasEarlier: false,
  isErased: false,
  isBusy: false,
};
const subscribeToNothing = () => () => {};
const isOpen = ({ status }: TurnState) => status !== "completed" && status !== "failed" && status !== "cancelled";

/** Follows a conversation as long as the component is mounted. `id` may be null while there is none. */
export function useConversation(client: Client, id: string | null, options?: ViewOptions): UseConversation {
  const [view, setView] = useState<ConversationView | null>(null);
  // How it is opened is decided when it is opened.
  const latest = useRef(options);
  latest.current = options;
  useEffect(() => {
    if (id === null) return undefined;
    const opened = openView(client.conversation(id), latest.current);
    setView(opened);
    return () => {
      opened.close();
      setView(null);
    };
  }, [client, id]);

  const select = useMemo(listSelector, [view]);
  const list = useSelected(view, select, NOTHING);
  const outbox = useOutbox(client, id, list.turnIds);
  const send = useCallback(
    (input: SubmitTurn["input"], more?: SendOptions) => {
      if (id === null) return Promise.reject(new TypeError("there is no conversation to send to"));
      return client.outbox.add(id, submission(input, more));
    },
    [client, id],
  );
  const cancel = useCallback(async () => {
    const open = view?.getSnapshot().turns.filter((turn) => isOpen(turn) && turn.status !== "queued") ?? [];
    await Promise.all(open.map((turn) => client.turn(turn.id).cancel()));
  }, [client, view]);
  const loadEarlier = useCallback(async () => view?.loadEarlier(), [view]);
  return useMemo(
    () => ({ ...list, view, outbox, send, cancel, loadEarlier }),
    [list, view, outbox, send, cancel, loadEarlier],
  );
}

/** One turn. Renders again when this turn changes, and for no other. */
export function useTurn(view: ConversationView | null, id: string): TurnState | undefined {
  const select = useCallback((snapshot: Snapshot) => snapshot.turns.find((turn) => turn.id === id), [id]);
  return useSelected(view, select, undefined);
}

/** A part of the view's value. `select` returns the same object as long as the part is the same. */
function useSelected<T>(view: ConversationView | null, select: (snapshot: Snapshot) => T, nothing: T): T {
  const get = () => (view ? select(view.getSnapshot()) : nothing);
  return useSyncExternalStore(view?.subscribe ?? subscribeToNothing, get, () => nothing);
}

/** Returns a function that gives equal lists as the same object. */
function listSelector(): (snapshot: Snapshot) => ConversationList {
  let last = NOTHING;
  return ({ turns, cursor, status, error, isErased }) => {
    const turnIds = turns.map(({ id }) => id);
    const next = { turnIds, status, error, hasEarlier: cursor !== null, isErased, isBusy: turns.some(isOpen) };
    const isSameTurns = turnIds.length === last.turnIds.length && turnIds.every((id, n) => id === last.turnIds[n]);
    const isSame =
      isSameTurns &&
      next.status === last.status &&
      next.error === last.error &&
      next.hasEarlier === last.hasEarlier &&
      next.isErased === last.isErased &&
      next.isBusy === last.isBusy;
    if (!isSame) last = isSameTurns ? { ...next, turnIds: last.turnIds } : next;
    return last;
  };
}

const NO_ENTRIES: readonly OutboxEntry[] = [];

/** The messages to a conversation that its view does not show yet. */
function useOutbox(client: Client, id: string | null, turnIds: readonly string[]): readonly OutboxEntry[] {
  const subscribe = useCallback((listener: () => void) => client.outbox.subscribe(listener), [client]);
  const entries = useSyncExternalStore(
    subscribe,
    () => client.outbox.entries(),
    () => NO_ENTRIES,
  );
  useEffect(() => client.outbox.settle(new Set(turnIds)), [client, turnIds, entries]);
  return useMemo(() => {
    const isShown = ({ turnId }: OutboxEntry) => turnId !== null && turnIds.includes(turnId);
    const own = entries.filter((entry) => entry.conversationId === id && !isShown(entry));
    return own.length ? own : NO_ENTRIES;
  }, [entries, id, turnIds]);
}
