"""A conversation as a value: folded from pages of messages and from events, without any effect.

A stream is opened behind a page's `last_seq`, while the messages and turns of the page may have been read a little
later. So an event may tell what is known already, and must change nothing then: messages and calls have ids, a message
that is complete takes no more text, and neither a turn nor a call goes back to an earlier state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from .schema import Citation, Event, Message, MessageCompletedEvent, MessagePage, MessagePageTurn, ToolCall, Usage


@dataclass(frozen=True)
class TextItem:
    """A text of the assistant."""

    id: str
    text: str
    is_open: bool
    """It is being written."""
    citations: tuple[Citation, ...] = ()
    finish: str | None = None
    """Why the step ended; None while it is open and for messages of a page."""


@dataclass(frozen=True)
class ToolItem:
    """A tool call."""

    id: str
    name: str
    arguments: Any
    status: str
    result: Any = None
    error: str | None = None
    expires_at: str | None = None
    """When the approval expires, while it is awaited."""
    decision: str | None = None
    decided_by: str | None = None


@dataclass(frozen=True)
class NoticeItem:
    """Something that a user may want to know: a guardrail, a fallback, a text that was discarded, a summary."""

    id: str
    event: Mapping[str, Any]


Item = TextItem | ToolItem | NoticeItem
Kind = TypeVar("Kind", TextItem, ToolItem, NoticeItem)


@dataclass(frozen=True)
class TurnState:
    """A turn with everything said and done in it, in the order in which it came."""

    id: str
    seq: int
    """Sequence number of its first record."""
    input: Any
    metadata: Mapping[str, Any]
    status: str = "queued"
    attempt: int = 0
    items: tuple[Item, ...] = ()
    waiting: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    usage: Usage | None = None
    feedback: Mapping[str, Any] | None = None
    first_token_ms: int | None = None
    finished_at: str | None = None
    replaced_by: str | None = None
    """The turn that took its place: prompts no longer hold this one."""

    @property
    def is_ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


@dataclass(frozen=True)
class ConversationState:
    """A conversation, or its newest part. Without arguments: one that was just created."""

    turns: tuple[TurnState, ...] = ()
    """By rising `seq`."""
    cursor: str | None = None
    """Pass it as `cursor` to read what came before; None at the conversation's beginning."""
    pending: tuple[Message, ...] = ()
    """Messages whose turn began on a page that is not read yet."""
    position: str | None = None
    """The stream's position behind all that is known; None before the first page."""
    is_erased: bool = False


def text_of(turn: TurnState) -> str:
    """Returns the text that a turn has so far: that of its last message that has any."""
    texts = (item.text for item in reversed(turn.items) if isinstance(item, TextItem) and item.text)
    return next(texts, "")


def words_of(content: str | Iterable[Mapping[str, Any]]) -> str:
    """Returns the words of an input or of a message."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)


def add_page(state: ConversationState, page: MessagePage) -> ConversationState:
    """Adds a page of messages, read with `order="desc"`: the newest page first, then what came before it.

    A turn is added once its first message is known.
    """
    groups: dict[str | None, list[Message]] = {}
    for message in sorted([*page["data"], *state.pending], key=lambda message: message["seq"]):
        groups.setdefault(message["turn_id"], []).append(message)
    views: dict[str | None, MessagePageTurn] = {turn["id"]: turn for turn in page["turns"]}
    known = {turn.id for turn in state.turns}
    added: list[TurnState] = []
    pending: list[Message] = []
    for id, group in groups.items():
        if group[0]["role"] != "user" or id not in views:
            pending.extend(group)
        elif id not in known:
            added.append(_from_messages(group, views[id]))
    return replace(
        state,
        turns=tuple(sorted([*added, *state.turns], key=lambda turn: turn.seq)),
        cursor=page["next_cursor"],
        pending=tuple(pending),
        position=str(page["last_seq"]) if state.position is None else state.position,
    )


def _from_messages(messages: list[Message], view: MessagePageTurn) -> TurnState:
    calls = [_from_call(call) for call in view["tool_calls"]]
    items: list[Item] = []
    # A step's message comes first, then one result for each of its calls. Calls without a result are the last step's.
    for message in messages:
        if message["role"] == "assistant":
            citations = tuple(message.get("citations", ()))
            items.append(TextItem(message["id"], words_of(message["content"]), False, citations))
        elif message["role"] == "tool" and calls:
            items.append(calls.pop(0))
    first = messages[0]
    for guardrail in view["guardrails"]:
        known = {"seq": first["seq"], "turn_id": view["id"], "at": first["created_at"], **guardrail}
        items.append(_notice({"type": "guardrail.triggered", "position": "", **known}))
    turn = TurnState(view["id"], first["seq"], first["content"], view["metadata"])
    turn = replace(turn, status=view["status"], attempt=view["attempt"], items=(*items, *calls))
    return replace(
        turn,
        waiting=view["waiting"],
        error=view["error"],
        usage=view["usage"] if turn.is_ended else None,
        feedback=view["feedback"],
        first_token_ms=view["first_token_ms"],
        finished_at=view["finished_at"],
        replaced_by=cast("dict[str, Any]", view).get("replaced_by"),
    )


def _from_call(call: ToolCall) -> ToolItem:
    return ToolItem(
        call["id"],
        call["name"],
        call["arguments"],
        call["status"],
        call.get("result"),
        call.get("error"),
        call.get("expires_at"),
    )


def _notice(event: Mapping[str, Any]) -> NoticeItem:
    # What a page tells again has no number of its own there.
    is_guardrail = event["type"] == "guardrail.triggered"
    id = f"{event['rule']}:{event['stage']}" if is_guardrail else str(event["seq"])
    return NoticeItem(f"{event['type']}:{id}", event)


def apply(state: ConversationState, event: Event) -> ConversationState:
    """Folds an event into a conversation. Turns that it does not concern stay the same objects."""
    state = replace(state, position=event["position"] or state.position)
    if event["type"] == "conversation.erased":
        return ConversationState(position=state.position, is_erased=True)
    # What concerns the conversation as a whole is shown at its end.
    turn_id = event.get("turn_id") or (state.turns[-1].id if state.turns else None)
    at = next((at for at in reversed(range(len(state.turns))) if state.turns[at].id == turn_id), None)
    if at is not None:
        turn = _apply_to_turn(state.turns[at], event)
        return replace(state, turns=(*state.turns[:at], turn, *state.turns[at + 1 :]))
    if event["type"] == "turn.queued":
        replaced = cast("dict[str, Any]", event).get("replaces")
        others = (replace(t, replaced_by=event["turn_id"]) if t.id == replaced else t for t in state.turns)
        turn = TurnState(event["turn_id"], event["seq"], event["input"], event["metadata"])
        return replace(state, turns=(*others, turn))
    return state


def _apply_to_turn(turn: TurnState, event: Event) -> TurnState:
    if event["type"] == "turn.started":
        # What a crash left open is discarded by `message.reset`, which came before.
        return turn if turn.is_ended else replace(turn, status="running", attempt=event["attempt"], waiting=None)
    if event["type"] == "turn.waiting":
        waiting = {"reason": event["reason"], "until": event["until"]}
        return turn if turn.is_ended else replace(turn, waiting=waiting)
    if event["type"] == "message.delta":
        text = _item(turn, TextItem, event["message_id"])
        if text and not text.is_open:
            return turn
        so_far = text.text if text else ""
        return _put(replace(turn, waiting=None), TextItem(event["message_id"], so_far + event["text"], True))
    if event["type"] == "message.completed":
        return _completed(turn, event)
    if event["type"] == "message.reset":
        text = _item(turn, TextItem, event["message_id"])
        if text and not text.is_open:
            return turn
        rest = tuple(item for item in turn.items if item is not text)
        return _put(replace(turn, waiting=None, items=rest), _notice(event))
    if event["type"] == "approval.requested":
        more = {"arguments": event["arguments"], "expires_at": event["expires_at"]}
        return _call(turn, event["call_id"], "awaiting_approval", more)
    if event["type"] == "approval.decided":
        more = {"decision": event["decision"], "decided_by": event["by"]}
        if "arguments" in event:
            more["arguments"] = event["arguments"]
        return _call(turn, event["call_id"], "running" if event["decision"] == "approved" else "rejected", more)
    if event["type"] == "tool.called":
        return _call(turn, event["call_id"], "running", {"arguments": event["arguments"]})
    if event["type"] == "tool.finished":
        call = _item(turn, ToolItem, event["call_id"])
        if not call:
            return turn
        # A rejection comes twice, as the decision and as the call's end, which alone says why.
        result, error = event.get("result"), event.get("error")
        call = replace(call, status=event["status"], result=result, error=error, expires_at=None)
        return _with_status(_put(turn, call))
    if event["type"] in ("guardrail.triggered", "model.fallback", "memory.compressed"):
        notice = _notice(event)
        return turn if _item(turn, NoticeItem, notice.id) else _put(turn, notice)
    if event["type"] in ("turn.completed", "turn.failed", "turn.cancelled"):
        return _ended(turn, event)
    # `context.assembled`, and what a newer server may send.
    return turn


def _completed(turn: TurnState, event: MessageCompletedEvent) -> TurnState:
    citations = tuple(event["citations"])
    text = TextItem(event["message_id"], event["text"], False, citations, event["finish"])
    turn = _put(replace(turn, waiting=None), text)
    for call in event["tool_calls"]:
        if not _item(turn, ToolItem, call["id"]):
            turn = _put(turn, ToolItem(call["id"], call["name"], call["arguments"], "proposed"))
    return turn


# How far a call has come.
_RANK = {"proposed": 0, "awaiting_approval": 1, "running": 2}
_FINISHED = 3


def _call(turn: TurnState, id: str, status: str, more: dict[str, Any]) -> TurnState:
    call = _item(turn, ToolItem, id)
    if not call:
        return turn
    rank = _RANK.get(call.status, _FINISHED)
    if _RANK.get(status, _FINISHED) < rank or rank == _FINISHED:
        return turn
    return _with_status(_put(turn, replace(call, status=status, **more)))


def _with_status(turn: TurnState) -> TurnState:
    """A turn awaits approval as long as one of its calls does; no event says so by itself."""
    if turn.is_ended:
        return turn
    if any(isinstance(item, ToolItem) and item.status == "awaiting_approval" for item in turn.items):
        return replace(turn, status="awaiting_approval")
    return replace(turn, status="running") if turn.status == "awaiting_approval" else turn


def _ended(turn: TurnState, event: Event) -> TurnState:
    # Nothing more comes: a text that is still open was cut off with the turn.
    items = tuple(replace(item, is_open=False) if isinstance(item, TextItem) else item for item in turn.items)
    turn = replace(turn, items=items)
    if turn.is_ended:
        return turn
    turn = replace(turn, waiting=None, finished_at=event["at"])
    if event["type"] == "turn.failed":
        return replace(turn, status="failed", error={"code": event["code"], "message": event["message"]})
    if event["type"] == "turn.cancelled":
        return replace(turn, status="cancelled", usage=event["usage"])
    if event["type"] == "turn.completed":
        first = event["first_token_ms"]
        first = turn.first_token_ms if first is None else first
        return replace(turn, status="completed", usage=event["usage"], first_token_ms=first)
    return turn


def _item(turn: TurnState, kind: type[Kind], id: str) -> Kind | None:
    found = (item for item in reversed(turn.items) if isinstance(item, kind) and item.id == id)
    return next(found, None)


def _put(turn: TurnState, item: Item) -> TurnState:
    """Adds an item, or replaces the one of the same kind with the same id."""
    items = list(turn.items)
    for at in reversed(range(len(items))):
        if type(items[at]) is type(item) and items[at].id == item.id:
            items[at] = item
            break
    else:
        items.append(item)
    return replace(turn, items=tuple(items))
