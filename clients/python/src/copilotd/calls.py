"""The requests of the HTTP API as values: what is sent, and what type the answer has. Nothing here does I/O."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

from .errors import TurnFailedError
from .schema import (
    Conversation,
    ConversationPage,
    Fact,
    FactPage,
    MessagePage,
    MessagePageTurnFeedback,
    StoredFile,
    StreamTicket,
    SubmitTurnInputItem,
    Turn,
    UpdateConversation,
)

T = TypeVar("T")
Input = str | list[SubmitTurnInputItem]
WhenBusy = Literal["enqueue", "reject", "interrupt"]
Order = Literal["asc", "desc"]

_KEY = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request whose answer is a `T`. It may be sent more than once."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    """Of the body."""
    is_raw: bool = False
    """The answer is bytes, not JSON."""


def header_value(what: str, value: str) -> str:
    """Returns a value that may stand in a header. Raises `ValueError` for any other."""
    if value != value.strip() or any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise ValueError(f"{what} has control characters, or white space at an end: {value[:80]!r}")
    return value


def _segment(id: str) -> str:
    # Anything else would be another path.
    if id in ("", ".", ".."):
        raise ValueError(f"{id!r} is not an id")
    return quote(id, safe="")


def _query(path: str, **parameters: str | int | None) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _once(key: str | None) -> dict[str, str]:
    """The header that makes a repetition have no second effect."""
    key = key if key is not None else str(uuid.uuid4())
    if not _KEY.fullmatch(key):
        raise ValueError("an idempotency key has 1 to 255 visible ASCII characters")
    return {"idempotency-key": key}


def create_conversation(
    copilot: str | None, title: str | None, metadata: dict[str, Any] | None, key: str | None
) -> Call[Conversation]:
    body = _given(copilot=copilot, title=title, metadata=metadata)
    return Call("POST", "/v1/conversations", _json(body), _once(key))


def list_conversations(limit: int | None, cursor: str | None, q: str | None) -> Call[ConversationPage]:
    return Call("GET", _query("/v1/conversations", limit=limit, cursor=cursor, q=q))


def conversation_path(id: str) -> str:
    return f"/v1/conversations/{_segment(id)}"


def get_conversation(id: str) -> Call[Conversation]:
    return Call("GET", conversation_path(id))


def update_conversation(id: str, body: UpdateConversation) -> Call[Conversation]:
    return Call("PATCH", conversation_path(id), _json(body))


def delete_conversation(id: str) -> Call[None]:
    return Call("DELETE", conversation_path(id))


def list_messages(id: str, limit: int | None, cursor: str | None, order: Order | None) -> Call[MessagePage]:
    return Call("GET", _query(f"{conversation_path(id)}/messages", limit=limit, cursor=cursor, order=order))


def submit_turn(
    id: str,
    input: Input,
    when_busy: WhenBusy | None,
    metadata: dict[str, Any] | None,
    response_schema: dict[str, Any] | None,
    replaces: str | None,
    key: str | None,
) -> Call[Turn]:
    body = _given(input=input, when_busy=when_busy, metadata=metadata, response_schema=response_schema)
    body |= _given(replaces=replaces)
    return Call("POST", f"{conversation_path(id)}/turns", _json(body), _once(key))


def stream_conversation(id: str) -> Call[None]:
    return Call("GET", f"{conversation_path(id)}/events")


def create_ticket(conversation_id: str) -> Call[StreamTicket]:
    return Call("POST", "/v1/stream-tickets", _json({"conversation_id": conversation_id}))


def ticket_path(conversation_id: str, ticket: StreamTicket, after: str | int | None) -> str:
    return _query(f"{conversation_path(conversation_id)}/events", after=after, ticket=ticket["ticket"])


def turn_path(id: str) -> str:
    return f"/v1/turns/{_segment(id)}"


def get_turn(id: str) -> Call[Turn]:
    return Call("GET", turn_path(id))


def stream_turn(id: str) -> Call[None]:
    return Call("GET", f"{turn_path(id)}/events")


def cancel_turn(id: str) -> Call[Turn]:
    return Call("POST", f"{turn_path(id)}/cancel")


def approve(id: str, call_id: str, arguments: dict[str, Any] | None, reason: str | None) -> Call[Turn]:
    body = _given(decision="approve", arguments=arguments, reason=reason)
    return Call("POST", f"{turn_path(id)}/approvals/{_segment(call_id)}", _json(body))


def reject(id: str, call_id: str, reason: str | None) -> Call[Turn]:
    body = _given(decision="reject", reason=reason)
    return Call("POST", f"{turn_path(id)}/approvals/{_segment(call_id)}", _json(body))


def give_feedback(id: str, rating: Literal[1, -1], comment: str | None) -> Call[None]:
    return Call("POST", f"{turn_path(id)}/feedback", _json(_given(rating=rating, comment=comment)))


def get_feedback(id: str) -> Call[MessagePageTurnFeedback]:
    return Call("GET", f"{turn_path(id)}/feedback")


def upload_file(conversation_id: str, content: bytes, name: str, key: str | None) -> Call[StoredFile]:
    boundary = uuid.uuid4().hex
    # As browsers write it.
    quoted = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")

    def part(disposition: str, content: bytes) -> bytes:
        return f"--{boundary}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"

    # In this order: the server knows where the file belongs before it arrives.
    body = part('name="conversation_id"', conversation_id.encode())
    body += part(f'name="file"; filename="{quoted}"\r\ncontent-type: application/octet-stream', content)
    content_type = f"multipart/form-data; boundary={boundary}"
    return Call("POST", "/v1/files", body + f"--{boundary}--\r\n".encode(), _once(key), content_type)


def read_file(id: str) -> Call[bytes]:
    return Call("GET", f"/v1/files/{_segment(id)}", is_raw=True)


def delete_file(id: str) -> Call[None]:
    return Call("DELETE", f"/v1/files/{_segment(id)}")


def _because(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"x-copilotd-reason": header_value("reason", reason)}


def list_facts(limit: int | None, cursor: str | None, user: str | None, reason: str | None) -> Call[FactPage]:
    return Call("GET", _query("/v1/memory/facts", limit=limit, cursor=cursor, user=user), None, _because(reason))


def _fact_path(id: str, user: str | None) -> str:
    return _query(f"/v1/memory/facts/{_segment(id)}", user=user)


def update_fact(id: str, text: str, user: str | None, reason: str | None) -> Call[Fact]:
    return Call("PATCH", _fact_path(id, user), _json({"text": text}), _because(reason))


def delete_fact(id: str, user: str | None, reason: str | None) -> Call[None]:
    return Call("DELETE", _fact_path(id, user), None, _because(reason))


def text_of_turn(turn: Turn) -> str:
    """Returns the answer of a turn that has ended. Raises `TurnFailedError` if there is none."""
    if turn["status"] == "completed":
        return turn["output"]["text"] if turn["output"] else ""
    error = turn["error"]
    raise TurnFailedError(
        error["code"] if error else turn["status"],
        f"The turn {turn['status']}",
        detail=error["message"] if error else None,
    )
