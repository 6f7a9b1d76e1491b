"""The two clients, driven by the same tests."""

import inspect

import httpx
from fake import FakeTransport

from copilotd import AsyncCopilotd, Backoff, Copilotd

NO_WAITS = Backoff(base=0.0, cap=0.0)


class Awaited:
    """A sync client as if it were async, so that one test can drive both."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        value = getattr(self.inner, name)
        if not inspect.ismethod(value):
            return _wrap(value)
        if name in ("conversation", "turn", "events", "all"):
            return lambda *args, **options: _wrap(value(*args, **options))

        async def call(*args, **options):
            return _wrap(value(*args, **options))

        return call

    async def __aenter__(self):
        self.inner.__enter__()
        return self

    async def __aexit__(self, *error):
        self.inner.__exit__(*error)


class AwaitedIterator(Awaited):
    def __aiter__(self):
        return self

    async def __anext__(self):
        try:
            return next(self.inner)
        except StopIteration:
            raise StopAsyncIteration from None


def _wrap(value):
    if hasattr(value, "__next__"):
        return AwaitedIterator(value)
    return Awaited(value) if type(value).__module__.startswith("copilotd") else value


def sync_client(handle, **options):
    http = httpx.Client(transport=FakeTransport(handle))
    return Awaited(Copilotd("http://copilotd.test", http=http, **{"backoff": NO_WAITS, **options}))


def async_client(handle, **options):
    http = httpx.AsyncClient(transport=FakeTransport(handle))
    return AsyncCopilotd("http://copilotd.test", http=http, **{"backoff": NO_WAITS, **options})
