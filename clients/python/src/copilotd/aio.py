"""The client for asyncio: the same as `client`, with `await`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx

from . import calls
from .backoff import Backoff, delay_before_retry
from .calls import Call, Input, Order, WhenBusy
from .errors import CopilotdError, NotFoundError, UnexpectedAnswerError, UnreachableError, error_of
from .schema import (
    Conversation,
    ConversationPage,
    Event,
    Fact,
    FactPage,
    MessagePage,
    MessagePageTurnFeedback,
    StoredFile,
    StreamTicket,
    Turn,
    UpdateConversation,
)
from .stream import SILENCE, OnStatus, StreamCursor, is_erased, is_terminal
from .wire import LIMITS, MAX_ERROR, Body, Deadline, Settings, as_unreachable, check_token, no_token, parse

T = TypeVar("T")
AsyncToken = str | Callable[[], str | Awaitable[str]]


class AsyncCopilotd:
    """One caller's conversations. May be used by several tasks of one event loop."""

    def __init__(
        self,
        base_url: str,
        token: AsyncToken,
        *,
        user: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: Backoff | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        """Makes a client; nothing is sent yet.

        `token` is an API key, or a function, also a coroutine function, that returns a user token: called when the
        first one is needed and whenever the server refuses the present one, once for all who wait. `user` is whom an
        API key acts for. `timeout` is for each attempt of a request, in seconds; `retries` is how often one is sent
        again. `http` is used for all requests, and not closed.
        """
        self._transport = AsyncTransport(Settings(base_url, user, headers, timeout, retries, backoff), token, http)
        self.conversations = AsyncConversations(self._transport)
        self.facts = AsyncFacts(self._transport)
        self.files = AsyncFiles(self._transport)

    def conversation(self, id: str) -> AsyncConversationHandle:
        """A conversation that exists. Nothing is sent yet."""
        return AsyncConversationHandle(self._transport, id)

    def turn(self, id: str) -> AsyncTurnHandle:
        """A turn that exists. Nothing is sent yet."""
        return AsyncTurnHandle(self._transport, id)

    async def close(self) -> None:
        """Closes all connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncCopilotd:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncConversations:
    """The caller's own conversations."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        copilot: str | None = None,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncConversationHandle:
        """Creates a conversation. Give a key if the same creation may be asked for again, such as after a restart."""
        made = await self._transport.send(calls.create_conversation(copilot, title, metadata, idempotency_key))
        return AsyncConversationHandle(self._transport, made["id"], made)

    async def get(self, id: str) -> Conversation:
        return await self._transport.send(calls.get_conversation(id))

    async def list(
        self, *, limit: int | None = None, cursor: str | None = None, q: str | None = None
    ) -> ConversationPage:
        """Returns a page, newest first; with `q`, of those whose title or messages have these words."""
        return await self._transport.send(calls.list_conversations(limit, cursor, q))

    async def all(self, *, limit: int = 100, q: str | None = None) -> AsyncIterator[Conversation]:
        """Every conversation, newest first, read page by page as they are asked for."""
        cursor: str | None = None
        while True:
            page = await self.list(limit=limit, cursor=cursor, q=q)
            for entry in page["data"]:
                yield entry
            cursor = page["next_cursor"]
            if not cursor:
                return


class AsyncFacts:
    """What is remembered about the caller; for administrators, about `user`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        user: str | None = None,
        reason: str | None = None,
    ) -> FactPage:
        """Returns a page, the fact said last first. Reading about somebody else needs a reason."""
        return await self._transport.send(calls.list_facts(limit, cursor, user, reason))

    async def all(self, *, limit: int = 100, user: str | None = None, reason: str | None = None) -> AsyncIterator[Fact]:
        """Every fact, read page by page as they are asked for."""
        cursor: str | None = None
        while True:
            page = await self.list(limit=limit, cursor=cursor, user=user, reason=reason)
            for entry in page["data"]:
                yield entry
            cursor = page["next_cursor"]
            if not cursor:
                return

    async def update(self, id: str, text: str, *, user: str | None = None, reason: str | None = None) -> Fact:
        """Corrects a fact."""
        return await self._transport.send(calls.update_fact(id, text, user, reason))

    async def delete(self, id: str, *, user: str | None = None, reason: str | None = None) -> None:
        """Deletes a fact. One that is gone already counts as deleted."""
        # It may be a repetition whose first answer was lost.
        with suppress(NotFoundError):
            await self._transport.send(calls.delete_fact(id, user, reason))


class AsyncFiles:
    """Files that a user attaches to prompts."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(
        self, conversation_id: str, content: bytes, *, name: str = "file", idempotency_key: str | None = None
    ) -> StoredFile:
        """Uploads a file to a conversation.

        A prompt refers to it by a part `{"type": "file", "file_id": id}`; one to which no prompt refers is erased after
        a day.
        """
        return await self._transport.send(calls.upload_file(conversation_id, content, name, idempotency_key))

    async def read(self, id: str) -> bytes:
        """Returns the content."""
        return await self._transport.send(calls.read_file(id))

    async def delete(self, id: str) -> None:
        """Deletes a file. One that is gone already counts as deleted."""
        # It may be a repetition whose first answer was lost.
        with suppress(NotFoundError):
            await self._transport.send(calls.delete_file(id))


class AsyncConversationHandle:
    """One conversation."""

    def __init__(self, transport: AsyncTransport, id: str, created: Conversation | None = None) -> None:
        self._transport = transport
        self.id = id
        self.created = created
        """As it was when it was created here."""

    async def get(self) -> Conversation:
        return await self._transport.send(calls.get_conversation(self.id))

    async def update(self, body: UpdateConversation) -> Conversation:
        return await self._transport.send(calls.update_conversation(self.id, body))

    async def rename(self, title: str) -> Conversation:
        return await self.update({"title": title})

    async def delete(self) -> None:
        """Erases the conversation everywhere. One that is gone already counts as erased."""
        # It may be a repetition whose first answer was lost.
        with suppress(NotFoundError):
            await self._transport.send(calls.delete_conversation(self.id))

    async def messages(
        self, *, limit: int | None = None, cursor: str | None = None, order: Order | None = None
    ) -> MessagePage:
        """Returns a page of messages with their turns; the oldest first unless `order` says otherwise."""
        return await self._transport.send(calls.list_messages(self.id, limit, cursor, order))

    async def send(
        self,
        input: Input,
        *,
        when_busy: WhenBusy | None = None,
        metadata: dict[str, Any] | None = None,
        response_schema: dict[str, Any] | None = None,
        replaces: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncTurnHandle:
        """Submits a turn. When it returns, the server has stored the turn and will end it, whatever happens.

        Sent again under one idempotency key until there is an answer or the retries are used up. Give a key if the
        same message may be sent again later, such as after a restart of your program. `replaces` is the id of the
        conversation's last turn, which has ended: this one takes its place.
        """
        call = calls.submit_turn(self.id, input, when_busy, metadata, response_schema, replaces, idempotency_key)
        turn = await self._transport.send(call)
        return AsyncTurnHandle(self._transport, turn["id"], turn)

    def events(
        self,
        *,
        after: str | int | None = None,
        timeout: float | None = None,
        silence: float = SILENCE,
        on_status: OnStatus | None = None,
    ) -> AsyncEventStream:
        """The conversation's events, over all turns, until it is erased. Without `after`, from now on."""
        cursor = StreamCursor.after(after, is_erased, self._transport.settings.backoff)
        call = calls.stream_conversation(self.id)
        return AsyncEventStream(self._transport, call, cursor, timeout, silence, on_status, self._last_seq)

    async def _last_seq(self) -> int:
        return (await self.get())["last_seq"]

    async def ticket(self) -> StreamTicket:
        """Issues a ticket for an `EventSource`; see `stream_url`."""
        return await self._transport.send(calls.create_ticket(self.id))

    async def stream_url(self, *, after: str | int | None = None) -> str:
        """Returns the address of the conversation's stream for an `EventSource`, with a new ticket: open it in 60 s."""
        return self._transport.settings.url(calls.ticket_path(self.id, await self.ticket(), after))


class AsyncTurnHandle:
    """One turn."""

    def __init__(self, transport: AsyncTransport, id: str, accepted: Turn | None = None) -> None:
        self._transport = transport
        self.id = id
        self.accepted = accepted
        """As it was when it was accepted here."""

    async def get(self) -> Turn:
        return await self._transport.send(calls.get_turn(self.id))

    def events(
        self,
        *,
        after: str | int | None = None,
        timeout: float | None = None,
        silence: float = SILENCE,
        on_status: OnStatus | None = None,
    ) -> AsyncEventStream:
        """The turn's events from its first one, or behind `after`, until its end."""
        cursor = StreamCursor.after(after, is_terminal, self._transport.settings.backoff)
        return AsyncEventStream(self._transport, calls.stream_turn(self.id), cursor, timeout, silence, on_status)

    async def done(self, *, timeout: float = 3600.0) -> Turn:
        """Waits for the turn's end and returns it. Raises `WaitTimeoutError` after `timeout` seconds."""
        # Only the end matters, so what came before is read and dropped.
        async for _ in self.events(timeout=timeout):
            pass
        return await self.get()

    async def text(self, *, timeout: float = 3600.0) -> str:
        """Waits for the answer. Raises `TurnFailedError` if there is none."""
        return calls.text_of_turn(await self.done(timeout=timeout))

    async def cancel(self) -> Turn:
        """Stops the turn. Stopping one that has ended changes nothing."""
        return await self._transport.send(calls.cancel_turn(self.id))

    async def replace(
        self,
        input: Input,
        *,
        when_busy: WhenBusy | None = None,
        metadata: dict[str, Any] | None = None,
        response_schema: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncTurnHandle:
        """Submits a turn in place of this one, which must be the conversation's last and have ended."""
        turn = self.accepted or await self.get()
        return await AsyncConversationHandle(self._transport, turn["conversation_id"]).send(
            input,
            when_busy=when_busy,
            metadata=metadata,
            response_schema=response_schema,
            replaces=self.id,
            idempotency_key=idempotency_key,
        )

    async def approve(
        self, call_id: str, *, arguments: dict[str, Any] | None = None, reason: str | None = None
    ) -> Turn:
        """Lets a tool call run, with other arguments if some are given."""
        return await self._transport.send(calls.approve(self.id, call_id, arguments, reason))

    async def reject(self, call_id: str, *, reason: str | None = None) -> Turn:
        """Refuses a tool call. The turn goes on without it."""
        return await self._transport.send(calls.reject(self.id, call_id, reason))

    async def feedback(self, rating: Literal[1, -1], *, comment: str | None = None) -> None:
        """Stores what the user thinks of the answer."""
        await self._transport.send(calls.give_feedback(self.id, rating, comment))

    async def given_feedback(self) -> MessagePageTurnFeedback | None:
        """Returns the feedback that this user gave last; None if there is none."""
        try:
            return await self._transport.send(calls.get_feedback(self.id))
        except NotFoundError:
            return None


class AsyncEventStream(AsyncIterator[Event]):
    """A stream that connects again after every interruption that may pass, without limit; it waits in between.

    Bytes are read only when an event is asked for: a slow reader slows the server down, and nothing piles up here.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        call: Call[None],
        cursor: StreamCursor,
        timeout: float | None,
        silence: float,
        on_status: OnStatus | None,
        start: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._cursor = cursor
        # Without a reference to this object: a stream that is dropped is closed at once.
        self._events = _follow(transport, call, cursor, Deadline(timeout), silence, on_status or _ignore, start)

    @property
    def position(self) -> str:
        """The position behind the last event: pass it as `after` to go on there."""
        return self._cursor.position

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def close(self) -> None:
        """Closes the connection. No more events come."""
        await self._events.aclose()

    async def __aenter__(self) -> AsyncEventStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _ignore(*_: object) -> None:
    pass


async def _follow(
    transport: AsyncTransport,
    call: Call[None],
    cursor: StreamCursor,
    deadline: Deadline,
    silence: float,
    notify: OnStatus,
    start: Callable[[], Awaitable[int]] | None,
) -> AsyncGenerator[Event, None]:
    notify("connecting", None)
    while True:
        problem: CopilotdError | None = None
        try:
            # A stream that is cut before its first event has no position to go on from, unless it began with one.
            if not cursor.position and start:
                cursor.position = str(await start())
            async with transport.open(call, cursor.headers(), deadline.left(silence)) as response:
                cursor.opened(response.status_code, response.headers.get("content-type"))
                if cursor.is_over:
                    return
                notify("live", None)
                async for piece in response.aiter_bytes():
                    for event in cursor.receive(piece):
                        yield event
                    if cursor.is_over:
                        return
                    deadline.check()
        except CopilotdError as error:
            problem = error
        deadline.check()
        delay = cursor.lost(problem)
        notify("reconnecting", problem)
        await transport.sleep(deadline.left(delay))
        deadline.check()


class AsyncTransport:
    """Sends requests as one caller."""

    def __init__(self, settings: Settings, token: AsyncToken, http: httpx.AsyncClient | None) -> None:
        self.settings = settings
        self.sleep = asyncio.sleep
        self._http = http or httpx.AsyncClient(limits=LIMITS)
        self._is_own = http is None
        self._source = token
        # The token that is used until the server refuses it.
        self._token = check_token(token) if isinstance(token, str) else None
        self._renewal = asyncio.Lock()

    async def close(self) -> None:
        if self._is_own:
            await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Sends a request and returns what its answer says. Sent again after failures that pass by themselves."""
        failures = 0
        while True:
            try:
                async with self.open(call) as response:
                    answer: T = parse(call, response, await self._read(response, Body(self.settings.timeout)))
                    return answer
            except CopilotdError as error:
                delay = delay_before_retry(error, failures, self.settings.retries, self.settings.backoff)
                if delay is None:
                    raise
            failures += 1
            await self.sleep(delay)

    @asynccontextmanager
    async def open(
        self, call: Call[Any], headers: Mapping[str, str] | None = None, read: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Sends a request once, and once more with a new token if the server refuses the present one.

        Gives the answer with its body unread. Raises the error of one that is no success.
        """
        with as_unreachable():
            token = await self._token_after(None)
            response = await self._attempt(self.settings.request(call, token, headers, read))
            if response.status_code == 401 and callable(self._source):
                await response.aclose()
                token = await self._token_after(token)
                response = await self._attempt(self.settings.request(call, token, headers, read))
            try:
                if not response.is_success:
                    raise await self._error_of(response)
                yield response
            finally:
                await response.aclose()

    async def _attempt(self, request: httpx.Request) -> httpx.Response:
        # A redirect could carry the token elsewhere.
        return await self._http.send(request, stream=True, auth=None, follow_redirects=False)

    async def _error_of(self, response: httpx.Response) -> CopilotdError:
        try:
            body = await self._read(response, Body(self.settings.timeout, MAX_ERROR))
        except UnexpectedAnswerError:
            # Nothing that copilotd sends is that long; the status still counts.
            body = b""
        return error_of(response.status_code, response.headers, body)

    async def _read(self, response: httpx.Response, body: Body) -> bytes:
        async for piece in response.aiter_bytes():
            body.add(piece)
        return body.whole()

    async def _token_after(self, refused: str | None) -> str:
        """Returns the present token; a new one if it is the refused one. One renewal serves all who wait."""
        token = self._token
        if token is not None and token != refused:
            return token
        async with self._renewal:
            # Another task may have renewed it meanwhile.
            if self._token is not None and self._token != refused:
                return self._token
            assert callable(self._source), "a string is never renewed"
            try:
                token = await asyncio.wait_for(_call(self._source), self.settings.timeout)
            except asyncio.TimeoutError as error:
                raise UnreachableError("no token in time") from error
            except Exception as error:
                raise no_token(error) from error
            self._token = check_token(token)
            return self._token


async def _call(source: Callable[[], str | Awaitable[str]]) -> str:
    token = source()
    return await token if inspect.isawaitable(token) else token
