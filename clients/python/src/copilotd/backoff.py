"""How long to wait between attempts, and which requests are sent again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .errors import CopilotdError, QueueFullError

# A caller who waits for an answer should rather be told than wait for longer than this, in seconds.
LONGEST_WAIT = 30.0
# A server that asks for more is asked again after this, in seconds.
LONGEST_RETRY_AFTER = 300.0


@dataclass(frozen=True)
class Backoff:
    """The waits between attempts of requests and streams."""

    base: float = 0.5
    """The first wait is at most this long, in seconds."""
    cap: float = 15.0
    """No wait is longer, in seconds."""

    def delay(
        self, failures: int, retry_after: float | None = None, random: Callable[[], float] = random.random
    ) -> float:
        """Returns the seconds to wait before the next attempt.

        They double with each failure up to the cap, and are any time between a tenth of that and all of it, so that the
        clients of a server that restarts do not come back together ("full jitter"). What the server asked for is waited
        out in any case, up to five minutes.
        """
        most = min(self.cap, self.base * 2.0 ** min(failures, 20))
        return min(retry_after or 0.0, LONGEST_RETRY_AFTER) + most * (0.1 + 0.9 * random())


def delay_before_retry(error: CopilotdError, failures: int, retries: int, backoff: Backoff) -> float | None:
    """Returns the seconds after which a request that failed is sent again; None if it is not.

    All requests of this client may be sent again: they are reads, or writes whose repetition has no second effect, by
    their nature or by their idempotency key.
    """
    if not error.is_transient or isinstance(error, QueueFullError) or failures >= retries:
        return None
    if (error.retry_after or 0.0) > LONGEST_WAIT:
        return None
    return backoff.delay(failures, error.retry_after)
