"""The client for code without asyncio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
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
Token = str | Callable[[], str]


class Copilotd:
    """One caller's conversations. May be used by several threads."""

    def __init__(
        self,
        base_url: str,
        token: Token,
        *,
        user: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: Backoff | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        """Makes a client; nothing is sent yet.

        `token` is an API key, or a function that returns a user token: called when the first one is needed and whenever
        the server refuses the present one, once for all who wait. `user` is whom an API key acts for. `timeout` is for
        each attempt of a request, in seconds; `retries` is how often one is sent again. `http` is used for all
        requests, and not closed.
        """
        self._transport = Transport(Settings(base_url, user, headers, timeout, retries, backoff), token, http)
        self.conversations = Conversations(self._transport)
        self.facts = Facts(self._transport)
        self.files = Files(self._transport)

    def conversation(self, id: str) -> ConversationHandle:
        """A conversation that exists. Nothing is sent yet."""
        return ConversationHandle(self._transport, id)

    def turn(self, id: str) -> TurnHandle:
        """A turn that exists. Nothing is sent yet."""
        return TurnHandle(self._transport, id)

    def close(self) -> None:
        """Closes all connections."""
        self._transport.close()

    def __enter__(self) -> Copilotd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Conversations:
    """The caller's own conversations."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        *,
        copilot: str | None = None,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> ConversationHandle:
        """Creates a conversation. Give a key if the same creation may be asked for again, such as after a restart."""
        made = self._transport.send(calls.create_conversation(copilot, title, metadata, idempotency_key))
        return ConversationHandle(self._transport, made["id"], made)

    def get(self, id: str) -> Conversation:
        return self._transport.send(calls.get_conversation(id))

    def list(self, *, limit: int | None = None, cursor: str | None = None, q: str | None = None) -> ConversationPage:
        """Returns a page, newest first; with `q`, of those whose title or messages have these words."""
        return self._transport.send(calls.list_conversations(limit, cursor, q))

    def all(self, *, limit: int = 100, q: str | None = None) -> Iterator[Conversation]:
        """Every conversation, newest first, read page by page as they are asked for."""
        cursor: str | None = None
        while True:
            page = self.list(limit=limit, cursor=cursor, q=q)
            yield from page["data"]
            cursor = page["next_cursor"]
            if not cursor:
                return


class Facts:
    """What is remembered about the caller; for administrators, about `user`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        user: str | None = None,
        reason: str | None = None,
    ) -> FactPage:
        """Returns a page, the fact said last first. Reading about somebody else needs a reason."""
        return self._transport.send(calls.list_facts(limit, cursor, user, reason))

    def all(self, *, limit: int = 100, user: str | None = None, reason: str | None = None) -> Iterator[Fact]:
        """Every fact, read page by page as they are asked for."""
        cursor: str | None = None
        while True:
            page = self.list(limit=limit, cursor=cursor, user=user, reason=reason)
            yield from page["data"]
            cursor = page["next_cursor"]
            if not cursor:
                return

    def update(self, id: str, text: str, *, user: str | None = None, reason: str | None = None) -> Fact:
        """Corrects a fact."""
        return self._transport.send(calls.update_fact(id, text, user, reason))

    def delete(self, id: str, *, user: str | None = None, reason: str | None = None) -> None:
        """Deletes a fact. One that is gone already counts as deleted."""
        # It may be a repetition whose first answer was lost.
        with suppress(NotFoundError):
            self._transport.send(calls.delete_fact(id, user, reason))


class Files:
    """Files that a user attaches to prompts."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self, conversation_id: str, content: bytes, *, name: str = "file", idempotency_key: str | None = None
    ) -> StoredFile:
        """Uploads a file to a conversation.

        A prompt refers to it by a part `{"type": "file", "file_id": id}`; one to which no prompt refers is erased after
        a day.
        """
        return self._transport.send(calls.upload_file(conversation_id, content, name, idempotency_key))

    def read(self, id: str) -> bytes:
        """Returns the content."""
        return self._transport.send(calls.read_file(id))

    def delete(self, id: str) -> None:
        """Deletes a file. One that is gone already counts as deleted."""
        # It may be a repetition whose first answer was lost.
        with suppress(NotFoundError):
            self._transport.send(calls.delete_file(id))


class ConversationHandle:
    """One conversation."""

    def __init__(self, transport: Transport, id: str, created: Conversation | None = None) -> None:
        self._transport = transport
        self.id = id
        self.created = created
        """As it was when it was created here."""

    def get(self) -> Conversation:
        return self._transport.send(calls.get_conversation(self.id))

    def update(self, body: UpdateConversation) -> Conversation:
        return self._transport.send(calls.update_conversation(self.id, body))

    def rename(self, title: str) -> Conversation:
        return self.update({"title": title})

    def delete(self) -> None:
        """Erases the conversation everywhere. One that is gone already counts as erased."""
        # It may be a repetition whose first answer was lost.
        with suppress(NotFoundError):
            self._transport.send(calls.delete_conversation(self.id))

    def messages(
        self, *, limit: int | None = None, cursor: str | None = None, order: Order | None = None
    ) -> MessagePage:
        """Returns a page of messages with their turns; the oldest first unless `order` says otherwise."""
        return self._transport.send(calls.list_messages(self.id, limit, cursor, order))

    def send(
        self,
        input: Input,
        *,
        when_busy: WhenBusy | None = None,
        metadata: dict[str, Any] | None = None,
        response_schema: dict[str, Any] | None = None,
        replaces: str | None = None,
        idempotency_key: str | None = None,
    ) -> TurnHandle:
        """Submits a turn. When it returns, the server has stored the turn and will end it, whatever happens.

        Sent again under one idempotency key until there is an answer or the retries are used up. Give a key if the
        same message may be sent again later, such as after a restart of your program. `replaces` is the id of the
        conversation's last turn, which has ended: this one takes its place.
        """
        call = calls.submit_turn(self.id, input, when_busy, metadata, response_schema, replaces, idempotency_key)
        turn = self._transport.send(call)
        return TurnHandle(self._transport, turn["id"], turn)

    def events(
        self,
        *,
        after: str | int | None = None,
        timeout: float | None = None,
        silence: float = SILENCE,
        on_status: OnStatus | None = None,
    ) -> EventStream:
        """The conversation's events, over all turns, until it is erased. Without `after`, from now on."""
        cursor = StreamCursor.after(after, is_erased, self._transport.settings.backoff)
        call = calls.stream_conversation(self.id)
        return EventStream(self._transport, call, cursor, timeout, silence, on_status, lambda: self.get()["last_seq"])

    def ticket(self) -> StreamTicket:
        """Issues a ticket for an `EventSource`; see `stream_url`."""
        return self._transport.send(calls.create_ticket(self.id))

    def stream_url(self, *, after: str | int | None = None) -> str:
        """Returns the address of the conversation's stream for an `EventSource`, with a new ticket: open it in 60 s."""
        return self._transport.settings.url(calls.ticket_path(self.id, self.ticket(), after))


class TurnHandle:
    """One turn."""

    def __init__(self, transport: Transport, id: str, accepted: Turn | None = None) -> None:
        self._transport = transport
        self.id = id
        self.accepted = accepted
        """As it was when it was accepted here."""

    def get(self) -> Turn:
        return self._transport.send(calls.get_turn(self.id))

    def events(
        self,
        *,
        after: str | int | None = None,
        timeout: float | None = None,
        silence: float = SILENCE,
        on_status: OnStatus | None = None,
    ) -> EventStream:
        """The turn's events from its first one, or behind `after`, until its end."""
        cursor = StreamCursor.after(after, is_terminal, self._transport.settings.backoff)
        return EventStream(self._transport, calls.stream_turn(self.id), cursor, timeout, silence, on_status)

    def done(self, *, timeout: float = 3600.0) -> Turn:
        """Waits for the turn's end and returns it. Raises `WaitTimeoutError` after `timeout` seconds."""
        # Only the end matters, so what came before is read and dropped.
        for _ in self.events(timeout=timeout):
            pass
        return self.get()

    def text(self, *, timeout: float = 3600.0) -> str:
        """Waits for the answer. Raises `TurnFailedError` if there is none."""
        return calls.text_of_turn(self.done(timeout=timeout))

    def cancel(self) -> Turn:
        """Stops the turn. Stopping one that has ended changes nothing."""
        return self._transport.send(calls.cancel_turn(self.id))

    def replace(
        self,
        input: Input,
        *,
        when_busy: WhenBusy | None = None,
        metadata: dict[str, Any] | None = None,
        response_schema: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> TurnHandle:
        """Submits a turn in place of this one, which must be the conversation's last and have ended."""
        turn = self.accepted or self.get()
        return ConversationHandle(self._transport, turn["conversation_id"]).send(
            input,
            when_busy=when_busy,
            metadata=metadata,
            response_schema=response_schema,
            replaces=self.id,
            idempotency_key=idempotency_key,
        )

    def approve(self, call_id: str, *, arguments: dict[str, Any] | None = None, reason: str | None = None) -> Turn:
        """Lets a tool call run, with other arguments if some are given."""
        return self._transport.send(calls.approve(self.id, call_id, arguments, reason))

    def reject(self, call_id: str, *, reason: str | None = None) -> Turn:
        """Refuses a tool call. The turn goes on without it."""
        return self._transport.send(calls.reject(self.id, call_id, reason))

    def feedback(self, rating: Literal[1, -1], *, comment: str | None = None) -> None:
        """Stores what the user thinks of the answer."""
        self._transport.send(calls.give_feedback(self.id, rating, comment))

    def given_feedback(self) -> MessagePageTurnFeedback | None:
        """Returns the feedback that this user gave last; None if there is none."""
        try:
            return self._transport.send(calls.get_feedback(self.id))
        except NotFoundError:
            return None


class EventStream(Iterator[Event]):
    """A stream that connects again after every interruption that may pass, without limit; it waits in between.

    Bytes are read only when an event is asked for: a slow reader slows the server down, and nothing piles up here.
    """

    def __init__(
        self,
        transport: Transport,
        call: Call[None],
        cursor: StreamCursor,
        timeout: float | None,
        silence: float,
        on_status: OnStatus | None,
        start: Callable[[], int] | None = None,
    ) -> None:
        self._cursor = cursor
        # Without a reference to this object: a stream that is dropped is closed at once.
        self._events = _follow(transport, call, cursor, Deadline(timeout), silence, on_status or _ignore, start)

    @property
    def position(self) -> str:
        """The position behind the last event: pass it as `after` to go on there."""
        return self._cursor.position

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Closes the connection. No more events come."""
        self._events.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ignore(*_: object) -> None:
    pass


def _follow(
    transport: Transport,
    call: Call[None],
    cursor: StreamCursor,
    deadline: Deadline,
    silence: float,
    notify: OnStatus,
    start: Callable[[], int] | None,
) -> Generator[Event, None, None]:
    notify("connecting", None)
    while True:
        problem: CopilotdError | None = None
        try:
            # A stream that is cut before its first event has no position to go on from, unless it began with one.
            if not cursor.position and start:
                cursor.position = str(start())
            with transport.open(call, cursor.headers(), deadline.left(silence)) as response:
                cursor.opened(response.status_code, response.headers.get("content-type"))
                if cursor.is_over:
                    return
                notify("live", None)
                for piece in response.iter_bytes():
                    yield from cursor.receive(piece)
                    if cursor.is_over:
                        return
                    deadline.check()
        except CopilotdError as error:
            problem = error
        deadline.check()
        delay = cursor.lost(problem)
        notify("reconnecting", problem)
        transport.sleep(deadline.left(delay))
        deadline.check()


class Transport:
    """Sends requests as one caller."""

    def __init__(self, settings: Settings, token: Token, http: httpx.Client | None) -> None:
        self.settings = settings
        self.sleep = time.sleep
        self._http = http or httpx.Client(limits=LIMITS)
        self._is_own = http is None
        self._source = token
        # The token that is used until the server refuses it.
        self._token = check_token(token) if isinstance(token, str) else None
        self._renewal = threading.Lock()

    def close(self) -> None:
        if self._is_own:
            self._http.close()

    def send(self, call: Call[T]) -> T:
        """Sends a request and returns what its answer says. Sent again after failures that pass by themselves."""
        failures = 0
        while True:
            try:
                with self.open(call) as response:
                    answer: T = parse(call, response, self._read(response, Body(self.settings.timeout)))
                    return answer
            except CopilotdError as error:
                delay = delay_before_retry(error, failures, self.settings.retries, self.settings.backoff)
                if delay is None:
                    raise
            failures += 1
            self.sleep(delay)

    @contextmanager
    def open(
        self, call: Call[Any], headers: Mapping[str, str] | None = None, read: float | None = None
    ) -> Iterator[httpx.Response]:
        """Sends a request once, and once more with a new token if the server refuses the present one.

        Gives the answer with its body unread. Raises the error of one that is no success.
        """
        with as_unreachable():
            token = self._token_after(None)
            response = self._attempt(self.settings.request(call, token, headers, read))
            if response.status_code == 401 and callable(self._source):
                response.close()
                token = self._token_after(token)
                response = self._attempt(self.settings.request(call, token, headers, read))
            try:
                if not response.is_success:
                    raise self._error_of(response)
                yield response
            finally:
                response.close()

    def _attempt(self, request: httpx.Request) -> httpx.Response:
        # A redirect could carry the token elsewhere.
        return self._http.send(request, stream=True, auth=None, follow_redirects=False)

    def _error_of(self, response: httpx.Response) -> CopilotdError:
        try:
            body = self._read(response, Body(self.settings.timeout, MAX_ERROR))
        except UnexpectedAnswerError:
            # Nothing that copilotd sends is that long; the status still counts.
            body = b""
        return error_of(response.status_code, response.headers, body)

    def _read(self, response: httpx.Response, body: Body) -> bytes:
        for piece in response.iter_bytes():
            body.add(piece)
        return body.whole()

    def _token_after(self, refused: str | None) -> str:
        """Returns the present token; a new one if it is the refused one. One renewal serves all who wait."""
        token = self._token
        if token is not None and token != refused:
            return token
        if not self._renewal.acquire(timeout=self.settings.timeout):
            raise UnreachableError("no token in time")
        try:
            # Another thread may have renewed it meanwhile.
            if self._token is not None and self._token != refused:
                return self._token
            assert callable(self._source), "a string is never renewed"
            try:
                token = self._source()
            except Exception as error:
                raise no_token(error) from error
            self._token = check_token(token)
            return self._token
        finally:
            self._renewal.release()
