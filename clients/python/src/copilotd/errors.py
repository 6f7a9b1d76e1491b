"""What can go wrong, one class for each problem code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any


class CopilotdError(Exception):
    """An error of the client. Every other class here extends it."""

    code: str
    """Stable code for programs: the problem's code, or one of this client's own."""
    title: str
    """What is wrong, in general, for people."""
    detail: str | None
    """What is wrong in this case, for people."""
    status: int
    """The HTTP status; 0 if there was no answer."""
    request_id: str | None
    """The request's id in the server's log."""
    retry: str
    """Whether the same request may be sent again: `safe`, `unsafe` (only under the same idempotency key) or `never`."""
    retry_after: float | None
    """Seconds after which the server wants to be asked again."""
    errors: list[dict[str, str]]
    """The faults of a body that breaks its schema: `pointer` and `message` of each."""

    def __init__(
        self,
        code: str,
        title: str,
        *,
        detail: str | None = None,
        status: int = 0,
        request_id: str | None = None,
        retry: str = "never",
        retry_after: float | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(code, title)
        self.code = code
        self.title = title
        self.detail = detail
        self.status = status
        self.request_id = request_id
        self.retry = retry
        self.retry_after = retry_after
        self.errors = errors or []

    def __str__(self) -> str:
        faults = "; ".join(f"{fault.get('pointer')}: {fault.get('message')}" for fault in self.errors)
        text = f"{self.title}: {self.detail or faults}" if self.detail or faults else self.title
        more = f"{self.code}, {self.request_id}" if self.request_id else self.code
        return f"{text} ({more})"

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed a little later, by itself."""
        # `budget_exhausted` ends with a period, not by waiting a little.
        if self.status == 0:
            return self.code == "unreachable"
        return self.status == 408 or self.status >= 500 or self.code in ("rate_limited", "queue_full")


class BudgetExhaustedError(CopilotdError):
    """`budget_exhausted`"""


class ConflictError(CopilotdError):
    """`conflict`"""


class ForbiddenError(CopilotdError):
    """`forbidden`"""


class IdempotencyKeyReusedError(CopilotdError):
    """`idempotency_key_reused`"""


class InternalError(CopilotdError):
    """`internal`"""


class InvalidError(CopilotdError):
    """`invalid`"""


class MalformedError(CopilotdError):
    """`malformed`"""


class MethodNotAllowedError(CopilotdError):
    """`method_not_allowed`"""


class NotAcceptableError(CopilotdError):
    """`not_acceptable`"""


class NotFoundError(CopilotdError):
    """`not_found`"""


class NotResumableError(CopilotdError):
    """`not_resumable`"""


class NotWaitingError(CopilotdError):
    """`not_waiting`"""


class OverloadedError(CopilotdError):
    """`overloaded`"""


class QueueFullError(CopilotdError):
    """`queue_full`"""


class QuotaExceededError(CopilotdError):
    """`quota_exceeded`"""


class RateLimitedError(CopilotdError):
    """`rate_limited`"""


class RequestTimeoutError(CopilotdError):
    """`timeout`"""


class TooLargeError(CopilotdError):
    """`too_large`"""


class TurnRunningError(CopilotdError):
    """`turn_running`"""


class UnauthenticatedError(CopilotdError):
    """`unauthenticated`"""


class UnavailableError(CopilotdError):
    """`unavailable`"""


class UnsupportedMediaTypeError(CopilotdError):
    """`unsupported_media_type`"""


class UnreachableError(CopilotdError):
    """There was no answer: no network, no server, or no answer in time (`code`: `unreachable`)."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreachable", "The server cannot be reached", detail=detail, retry="unsafe")


class UnexpectedAnswerError(CopilotdError):
    """An answer that does not come from copilotd, such as the error page of a proxy (`code`: `unexpected_answer`)."""

    def __init__(self, title: str, **more: Any) -> None:
        super().__init__("unexpected_answer", title, **more)


class TurnFailedError(CopilotdError):
    """The turn ended without an answer. `code` is the turn's error code, or `cancelled`."""


class WaitTimeoutError(CopilotdError):
    """The turn or stream went on for longer than the caller wanted to wait (`code`: `wait_timeout`)."""

    def __init__(self, seconds: float) -> None:
        super().__init__("wait_timeout", "Waited too long", detail=f"no end within {seconds:g} s", retry="safe")


# The tests compare the keys with the codes of schemas/api/problem.json.
CLASSES: dict[str, type[CopilotdError]] = {
    "budget_exhausted": BudgetExhaustedError,
    "conflict": ConflictError,
    "forbidden": ForbiddenError,
    "idempotency_key_reused": IdempotencyKeyReusedError,
    "internal": InternalError,
    "invalid": InvalidError,
    "malformed": MalformedError,
    "method_not_allowed": MethodNotAllowedError,
    "not_acceptable": NotAcceptableError,
    "not_found": NotFoundError,
    "not_resumable": NotResumableError,
    "not_waiting": NotWaitingError,
    "overloaded": OverloadedError,
    "queue_full": QueueFullError,
    "quota_exceeded": QuotaExceededError,
    "rate_limited": RateLimitedError,
    "timeout": RequestTimeoutError,
    "too_large": TooLargeError,
    "turn_running": TurnRunningError,
    "unauthenticated": UnauthenticatedError,
    "unavailable": UnavailableError,
    "unsupported_media_type": UnsupportedMediaTypeError,
}


def retry_after_of(value: str | None, now: datetime | None = None) -> float | None:
    """Reads `Retry-After`, which is a number of seconds or a date, as seconds."""
    if not value:
        return None
    # Of nine digits at most: more is no wait that anybody means, and may not fit a float.
    if value.strip().isascii() and value.strip().isdigit() and len(value.strip()) < 10:
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - (now or datetime.now(timezone.utc))).total_seconds())


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> CopilotdError:
    """Returns the error of an answer whose status is not a success. `headers` ignores case."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = None
    problem = problem if isinstance(problem, dict) else {}
    code, title = problem.get("code"), problem.get("title")
    request_id = problem.get("request_id") or headers.get("x-request-id")
    retry_after = retry_after_of(headers.get("retry-after"))
    if not isinstance(code, str) or not isinstance(title, str):
        return UnexpectedAnswerError(
            f"Unexpected answer with status {status}",
            status=status,
            request_id=request_id,
            retry="unsafe" if status >= 500 else "never",
            retry_after=retry_after,
        )
    return CLASSES.get(code, CopilotdError)(
        code,
        title,
        detail=problem.get("detail"),
        status=status,
        request_id=request_id,
        retry=problem.get("retry", "never"),
        retry_after=retry_after,
        errors=problem.get("errors"),
    )
