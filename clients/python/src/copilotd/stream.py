"""Event streams that go on after every interruption, at the very byte. Nothing here does I/O or reads a clock."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from .backoff import Backoff
from .errors import CopilotdError, UnexpectedAnswerError
from .schema import Event
from .sse import SseMessage, SseParser

StreamStatus = Literal["connecting", "live", "reconnecting"]
"""`connecting` at first, `live` while the stream is open, `reconnecting` after an interruption."""

OnStatus = Callable[[StreamStatus, "CopilotdError | None"], object]
"""Hears whether the stream is open, and why not."""

SILENCE = 45.0
"""Seconds without a byte after which a connection counts as lost: three heartbeats."""

_TERMINAL = frozenset(("turn.completed", "turn.failed", "turn.cancelled"))
# What may stand in a header.
_POSITION = re.compile(r"[!-~]{0,1024}")


def is_terminal(event: Event) -> bool:
    """Returns whether a turn's stream ends with it."""
    return event["type"] in _TERMINAL


def is_erased(event: Event) -> bool:
    """Returns whether a conversation's stream ends with it."""
    return event["type"] == "conversation.erased"


@dataclass
class StreamCursor:
    """Where a reader is in a stream, and what follows from what happens to its connection.

    Invariant: every event is given out once and in order, however often the connection is lost. An event that was cut
    off is not given out, and `position` lies behind the last one that was.
    """

    position: str
    """Sent as `Last-Event-ID`; empty before the first event, unless the caller gave one."""
    is_last: Callable[[Event], bool]
    backoff: Backoff
    is_over: bool = False
    """Nothing more comes."""
    _failures: int = 0
    _parser: SseParser | None = None

    @classmethod
    def after(cls, after: str | int | None, is_last: Callable[[Event], bool], backoff: Backoff) -> StreamCursor:
        position = "" if after is None else str(after)
        if not _POSITION.fullmatch(position):
            raise ValueError(f"after is not the position of an event: {position[:80]!r}")
        return cls(position, is_last, backoff)

    def headers(self) -> dict[str, str]:
        # A proxy that compresses would hold events back.
        headers = {"accept": "text/event-stream", "accept-encoding": "identity"}
        return {**headers, "last-event-id": self.position} if self.position else headers

    def opened(self, status: int, content_type: str | None) -> None:
        """Takes the head of a successful answer. Raises what is no event stream."""
        if status == 204:
            self.is_over = True
        elif not (content_type or "").startswith("text/event-stream"):
            raise UnexpectedAnswerError(f"Not an event stream: {content_type}", status=status)
        self._parser = SseParser()

    def receive(self, piece: bytes) -> Iterator[Event]:
        """Gives out the events that the next bytes complete."""
        assert self._parser is not None, "a connection is opened before anything is received"
        # Whatever arrives shows that the server is well.
        self._failures = 0
        try:
            messages = self._parser.push(piece)
        except ValueError as error:
            raise UnexpectedAnswerError(str(error)) from error
        for message in messages:
            event = _decode(message)
            self._move(message.id)
            if event is None:
                continue
            self.is_over = self.is_last(event)
            yield event
            if self.is_over:
                return
        self._move(self._parser.id)
        if self._parser.retry is not None:
            self.backoff = replace(self.backoff, base=min(self._parser.retry, self.backoff.cap))

    def lost(self, error: CopilotdError | None) -> float:
        """Returns the seconds to wait before connecting again. Raises an error that does not pass by itself."""
        if error is not None and not error.is_transient:
            raise error
        delay = self.backoff.delay(self._failures, error.retry_after if error else None)
        self._failures += 1
        return delay

    def _move(self, position: str) -> None:
        if not _POSITION.fullmatch(position):
            raise UnexpectedAnswerError("An event's id is not a position")
        self.position = position or self.position


def _decode(message: SseMessage) -> Event | None:
    if not message.data:
        return None
    try:
        data: Any = json.loads(message.data)
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswerError("An event is not JSON") from error
    if not isinstance(data, dict):
        raise UnexpectedAnswerError("An event is not a JSON object")
    # Types and fields that this client does not know are passed on.
    return cast(Event, {**data, "type": message.event, "position": message.id})
