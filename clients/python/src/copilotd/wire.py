"""What the sync and the async transport have in common: requests of httpx, limits, and errors."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from .backoff import Backoff
from .calls import Call, header_value
from .errors import CopilotdError, UnexpectedAnswerError, UnreachableError, WaitTimeoutError

# Bytes that an answer may have. copilotd's are smaller; another server must not fill the memory.
MAX_ANSWER = 64 * 1024 * 1024
# An error is a short document. Of anything longer only the status counts.
MAX_ERROR = 1024 * 1024
# Streams hold one connection each.
LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=20)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Settings:
    """Checked options of a client."""

    def __init__(
        self,
        base_url: str,
        user: str | None,
        headers: Mapping[str, str] | None,
        timeout: float,
        retries: int,
        backoff: Backoff | None,
    ) -> None:
        url = httpx.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"base_url is not an http or https address: {base_url!r}")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("base_url has a user, a query or a fragment: only scheme, host, port and path are allowed")
        if not timeout > 0:
            raise ValueError("timeout is not above 0")
        self.base_url = base_url.rstrip("/")
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}
        if user is not None:
            self.headers["x-copilotd-user"] = user
        for name, value in self.headers.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a header")
            header_value(f"the header {name}", value)
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff or Backoff()

    def url(self, path: str) -> str:
        return self.base_url + path

    def request(
        self, call: Call[Any], token: str, headers: Mapping[str, str] | None = None, read: float | None = None
    ) -> httpx.Request:
        """Builds one attempt. `read` is how long a silence may last, in seconds, if not as long as usual."""
        every = {**self.headers, **call.headers, **(headers or {}), "authorization": f"Bearer {token}"}
        if call.body is not None:
            every["content-type"] = call.content_type
        timeout = httpx.Timeout(self.timeout, read=self.timeout if read is None else read)
        return httpx.Request(
            call.method,
            self.url(call.path),
            headers=[(name.encode(), value.encode()) for name, value in every.items()],
            content=call.body,
            extensions={"timeout": timeout.as_dict()},
        )


class Deadline:
    """When waiting ends."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self, most: float) -> float:
        """Returns the seconds that are left, at most `most`."""
        return most if self._end is None else max(0.001, min(most, self._end - time.monotonic()))

    def check(self) -> None:
        """Raises `WaitTimeoutError` once the time is over."""
        if self._end is not None and self.seconds is not None and time.monotonic() >= self._end:
            raise WaitTimeoutError(self.seconds)


class Body:
    """The body of an answer, collected within its limits."""

    def __init__(self, timeout: float, most: int = MAX_ANSWER) -> None:
        self._most = most
        self._end = time.monotonic() + timeout
        self._pieces: list[bytes] = []
        self._length = 0

    def add(self, piece: bytes) -> None:
        self._length += len(piece)
        if self._length > self._most:
            raise UnexpectedAnswerError(f"An answer of more than {self._most} bytes")
        # httpx limits the silence between two pieces, not the whole.
        if time.monotonic() > self._end:
            raise UnreachableError("no whole answer in time")
        self._pieces.append(piece)

    def whole(self) -> bytes:
        return b"".join(self._pieces)


def parse(call: Call[Any], response: httpx.Response, body: bytes) -> Any:
    """Returns what a successful answer says."""
    if call.is_raw:
        return body
    if response.status_code == 204:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswerError(
            "The answer is not JSON", status=response.status_code, request_id=response.headers.get("x-request-id")
        ) from error


def check_token(token: object) -> str:
    if not isinstance(token, str) or not token or not all("!" <= character <= "~" for character in token):
        raise TypeError("a token is a string of visible ASCII characters")
    return token


def no_token(error: Exception) -> CopilotdError:
    """The error of a token function that raised `error`: it is called again later."""
    return error if isinstance(error, CopilotdError) else UnreachableError(f"no token: {error!r}")


@contextmanager
def as_unreachable() -> Iterator[None]:
    """Makes one error of everything that may happen to a connection."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise UnreachableError(f"no answer in time ({type(error).__name__})") from error
    except httpx.RequestError as error:
        raise UnreachableError(str(error) or type(error).__name__) from error
