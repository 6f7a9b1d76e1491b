"""Client of copilotd's HTTP API: conversations, streams that resume, approvals; with and without asyncio.

The guide is docs/integrate/python.md.
"""

from . import schema
from .aio import AsyncConversationHandle, AsyncCopilotd, AsyncEventStream, AsyncTurnHandle
from .backoff import Backoff
from .client import ConversationHandle, Copilotd, EventStream, TurnHandle
from .errors import (
    BudgetExhaustedError,
    ConflictError,
    CopilotdError,
    ForbiddenError,
    IdempotencyKeyReusedError,
    InternalError,
    InvalidError,
    MalformedError,
    MethodNotAllowedError,
    NotAcceptableError,
    NotFoundError,
    NotResumableError,
    NotWaitingError,
    OverloadedError,
    QueueFullError,
    QuotaExceededError,
    RateLimitedError,
    RequestTimeoutError,
    TooLargeError,
    TurnFailedError,
    TurnRunningError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedAnswerError,
    UnreachableError,
    UnsupportedMediaTypeError,
    WaitTimeoutError,
)
from .schema import Event
from .sse import SseMessage, SseParser
from .state import ConversationState, TurnState, add_page, apply, text_of, words_of
from .stream import StreamStatus

__all__ = [
    "AsyncConversationHandle",
    "AsyncCopilotd",
    "AsyncEventStream",
    "AsyncTurnHandle",
    "Backoff",
    "BudgetExhaustedError",
    "ConflictError",
    "ConversationHandle",
    "ConversationState",
    "Copilotd",
    "CopilotdError",
    "Event",
    "EventStream",
    "ForbiddenError",
    "IdempotencyKeyReusedError",
    "InternalError",
    "InvalidError",
    "MalformedError",
    "MethodNotAllowedError",
    "NotAcceptableError",
    "NotFoundError",
    "NotResumableError",
    "NotWaitingError",
    "OverloadedError",
    "QueueFullError",
    "QuotaExceededError",
    "RateLimitedError",
    "RequestTimeoutError",
    "SseMessage",
    "SseParser",
    "StreamStatus",
    "TooLargeError",
    "TurnFailedError",
    "TurnHandle",
    "TurnRunningError",
    "TurnState",
    "UnauthenticatedError",
    "UnavailableError",
    "UnexpectedAnswerError",
    "UnreachableError",
    "UnsupportedMediaTypeError",
    "WaitTimeoutError",
    "add_page",
    "apply",
    "schema",
    "text_of",
    "words_of",
]
