"""Server-sent events, as the HTML standard parses them."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

# Characters that one event may have. copilotd's are far smaller; another server must not fill the memory.
MAX_CHARS = 64 * 1024 * 1024

_LINE_END = re.compile(r"\r\n?|\n")


@dataclass(frozen=True)
class SseMessage:
    """One dispatched block of an event stream."""

    event: str
    """The type (`event:`); `message` if there is none."""
    data: str
    id: str
    """The last `id:` so far, of this block or of an earlier one; empty if there is none."""


class SseParser:
    """Parses an event stream that arrives in pieces of any size.

    Knows all three line ends, a byte order mark, characters and line ends that are split between pieces, comments,
    `retry:` and `id:`.
    """

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        self.id = ""
        """The last `id:`, committed by the empty line that ends its block."""
        self.retry: float | None = None
        """What the last `retry:` said, in seconds."""
        self._max_chars = max_chars
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_start = True
        # The pieces of the line that is not complete yet: joined once, so that a long line costs its length only.
        self._line: list[str] = []
        self._chars = 0
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []
        self._next_id = ""

    def push(self, piece: bytes) -> list[SseMessage]:
        """Takes the next bytes and returns the events that they complete. Raises `ValueError` for too long a one."""
        text = self._decoder.decode(piece)
        # An empty piece, or the first bytes of a character.
        if not text:
            return []
        if self._is_start:
            self._is_start = False
            text = text.removeprefix("\ufeff")
        # The second half of a CRLF whose first half ended the last piece.
        if self._after_cr and text.startswith("\n"):
            text = text[1:]
            self._after_cr = False
        if text:
            self._after_cr = text.endswith("\r")
        messages: list[SseMessage] = []
        start = 0
        for end in _LINE_END.finditer(text):
            self._keep(text[start : end.start()])
            self._end_line(messages)
            start = end.end()
        self._keep(text[start:])
        return messages

    def _keep(self, piece: str) -> None:
        if not piece:
            return
        self._chars += len(piece)
        if self._chars > self._max_chars:
            raise ValueError(f"an event of more than {self._max_chars} characters")
        self._line.append(piece)

    def _end_line(self, messages: list[SseMessage]) -> None:
        line = "".join(self._line)
        self._line.clear()
        if line:
            self._field(line)
            return
        self.id = self._next_id
        # A block without data changes the position only.
        if self._data:
            messages.append(SseMessage(self._event or "message", "\n".join(self._data), self.id))
        self._event = ""
        self._data = []
        self._chars = 0

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            # An empty line costs memory, too.
            self._chars += 1
            return
        # What is not kept does not count: comments come for as long as the stream is open.
        self._chars -= len(line)
        if name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._next_id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            self.retry = int(value) / 1000
