"""Requests: what is sent, what is sent again, tokens, errors; sync and async."""

import asyncio
import email
import email.policy
import inspect
import json
import pathlib
import subprocess
import sys
import threading
import typing
from datetime import datetime, timezone

import hypothesis.strategies as st
import pytest
from both import NO_WAITS, async_client, sync_client
from fake import FakeServer, answer, problem, timeline_of
from hypothesis import given

import copilotd
from copilotd import (
    Backoff,
    ConflictError,
    Copilotd,
    CopilotdError,
    IdempotencyKeyReusedError,
    InvalidError,
    NotFoundError,
    QueueFullError,
    RateLimitedError,
    TurnFailedError,
    UnauthenticatedError,
    UnexpectedAnswerError,
    UnreachableError,
    aio,
    client,
    errors,
)
from copilotd.backoff import delay_before_retry
from copilotd.schema import ProblemCode

COURSE = timeline_of([{"steps": [{"pieces": ["Hello"]}]}, {"steps": [{"pieces": []}], "end": "failed"}])
LOST = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["refused", "busy", "proxy", "expired", "cut", "broken", "silent", "restart"]),
        "after": st.integers(0, 20),
    }
)


@given(st.lists(LOST, max_size=4))
def test_a_message_is_sent_once_whatever_is_lost(make, run, faults):
    server = FakeServer(COURSE, faults)

    async def scenario():
        copilotd = make(server.handle, token=server.issue, retries=20)
        return await copilotd.conversation("conv_1").send("Hello", metadata={"a": 1}, when_busy="reject")

    turn = run(scenario())
    assert list(server.created.values()) == [
        ({"id": "new_0"}, {"input": "Hello", "when_busy": "reject", "metadata": {"a": 1}})
    ]
    assert turn.id == "new_0"


def test_a_given_key_is_kept_and_another_message_is_refused(make, run):
    server = FakeServer()

    async def scenario():
        conversation = make(server.handle, token="token-0").conversation("conv_1")
        first = await conversation.send("Hello", idempotency_key="row-1")
        again = await conversation.send("Hello", idempotency_key="row-1")
        other = await conversation.send("Hello")
        assert (first.id, again.id, other.id) == ("new_0", "new_0", "new_1")
        await conversation.send("Bye", idempotency_key="row-1")

    with pytest.raises(IdempotencyKeyReusedError):
        run(scenario())
    assert len(server.requests) == 4


def test_every_call_is_sent_as_the_api_says(make, run):
    seen = []

    def handle(request):
        body = json.loads(request.content) if request.content else None
        path = request.url.raw_path.decode()
        seen.append((request.method, path, body, request.headers.get("x-copilotd-reason")))
        if request.method == "DELETE" or (request.method, path) == ("POST", "/v1/turns/turn_1/feedback"):
            return 204, {}, b""
        return answer({"id": "x", "ticket": "cpt_1", "data": [], "next_cursor": None})

    async def scenario():
        c = make(handle, token="t")
        await c.conversations.create(title="T", metadata={}, copilot="support")
        await c.conversations.get("conv_1")
        await c.conversations.list(limit=5, cursor="a b")
        conversation = c.conversation("conv/1")
        await conversation.get()
        await conversation.update({"title": None})
        await conversation.rename("New")
        await conversation.delete()
        await conversation.messages(limit=2, order="desc")
        await conversation.send([{"type": "text", "text": "ä"}], response_schema={"type": "object"})
        assert await conversation.stream_url(after="1.2") == (
            "http://copilotd.test/v1/conversations/conv%2F1/events?after=1.2&ticket=cpt_1"
        )
        turn = c.turn("turn_1")
        await turn.get()
        await turn.cancel()
        await turn.approve("call_1", arguments={"a": 1})
        await turn.reject("call_1", reason="no")
        await turn.feedback(-1, comment="bad")
        await turn.given_feedback()
        await c.facts.list(user="bob", reason="asked to")
        await c.facts.update("fact_1", "User lives in Oslo")
        await c.facts.delete("fact_1", user="bob")

    run(scenario())
    assert seen == [
        ("POST", "/v1/conversations", {"copilot": "support", "title": "T", "metadata": {}}, None),
        ("GET", "/v1/conversations/conv_1", None, None),
        ("GET", "/v1/conversations?limit=5&cursor=a+b", None, None),
        ("GET", "/v1/conversations/conv%2F1", None, None),
        ("PATCH", "/v1/conversations/conv%2F1", {"title": None}, None),
        ("PATCH", "/v1/conversations/conv%2F1", {"title": "New"}, None),
        ("DELETE", "/v1/conversations/conv%2F1", None, None),
        ("GET", "/v1/conversations/conv%2F1/messages?limit=2&order=desc", None, None),
        (
            "POST",
            "/v1/conversations/conv%2F1/turns",
            {"input": [{"type": "text", "text": "ä"}], "response_schema": {"type": "object"}},
            None,
        ),
        ("POST", "/v1/stream-tickets", {"conversation_id": "conv/1"}, None),
        ("GET", "/v1/turns/turn_1", None, None),
        ("POST", "/v1/turns/turn_1/cancel", None, None),
        ("POST", "/v1/turns/turn_1/approvals/call_1", {"decision": "approve", "arguments": {"a": 1}}, None),
        ("POST", "/v1/turns/turn_1/approvals/call_1", {"decision": "reject", "reason": "no"}, None),
        ("POST", "/v1/turns/turn_1/feedback", {"rating": -1, "comment": "bad"}, None),
        ("GET", "/v1/turns/turn_1/feedback", None, None),
        ("GET", "/v1/memory/facts?user=bob", None, "asked to"),
        ("PATCH", "/v1/memory/facts/fact_1", {"text": "User lives in Oslo"}, None),
        ("DELETE", "/v1/memory/facts/fact_1?user=bob", None, None),
    ]


def test_a_turn_is_replaced_in_its_own_conversation(make, run):
    seen = []

    def handle(request):
        seen.append((request.method, request.url.path, json.loads(request.content or b"null")))
        return answer({"id": "turn_2", "conversation_id": "conv_1"})

    async def scenario():
        second = await make(handle, token="t").turn("turn_1").replace("Again", metadata={"a": 1})
        await second.replace("Once more")

    run(scenario())
    path = "/v1/conversations/conv_1/turns"
    assert seen == [
        ("GET", "/v1/turns/turn_1", None),
        ("POST", path, {"input": "Again", "metadata": {"a": 1}, "replaces": "turn_1"}),
        ("POST", path, {"input": "Once more", "replaces": "turn_2"}),
    ]


def test_a_turn_without_feedback_has_none(make, run):
    assert run(make(lambda _: problem(404, "not_found"), token="t").turn("turn_1").given_feedback()) is None


def test_files_are_uploaded_read_and_deleted(make, run):
    content = bytes(range(256)) + b"--not the end\r\n\r\n"
    stored = {"id": "file_1", "name": "a.png", "media_type": "image/png", "bytes": 1, "conversation_id": "conv_1"}
    seen = []

    def handle(request):
        seen.append((request.method, request.url.path))
        if request.method == "GET":
            return 200, {"content-type": "image/png"}, content
        if request.method == "DELETE":
            return problem(404, "not_found")
        # The first answer is lost; the repetition is the same.
        uploads.append((request.headers["idempotency-key"], request.headers["content-type"], request.content))
        return problem(503, "unavailable") if len(uploads) == 1 else answer(stored, 201)

    async def scenario():
        files = make(handle, token="t").files
        assert await files.upload("conv_1", content, name='a"ä\r\n.png', idempotency_key="upload-1") == stored
        assert await files.read("file_1") == content
        await files.delete("file_1")

    uploads = []
    run(scenario())
    assert seen == [("POST", "/v1/files")] * 2 + [("GET", "/v1/files/file_1"), ("DELETE", "/v1/files/file_1")]
    assert uploads[0] == uploads[1]
    key, content_type, body = uploads[0]
    assert key == "upload-1"
    head = f"content-type: {content_type}\r\n\r\n".encode()
    first, second = email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()
    assert (first.get_param("name", header="content-disposition"), first.get_content().strip()) == (
        "conversation_id",
        "conv_1",
    )
    assert second.get_filename() == "a%22ä%0D%0A.png"
    assert body.split(b"octet-stream\r\n\r\n", 1)[1].startswith(content + b"\r\n--")


def test_lists_are_read_page_by_page(make, run):
    pages = {None: ([1, 2], "x"), "x": ([], "y"), "y": ([3], None)}

    def handle(request):
        data, cursor = pages[request.url.params.get("cursor")]
        return answer({"data": data, "next_cursor": cursor})

    async def scenario():
        c = make(handle, token="t")
        return [each async for each in c.conversations.all()], [each async for each in c.facts.all()]

    assert run(scenario()) == ([1, 2, 3], [1, 2, 3])


def test_the_answer_of_a_turn_or_why_there_is_none(make, run):
    server = FakeServer(COURSE)

    async def scenario():
        c = make(server.handle, token="token-0")
        assert await c.turn("turn_0").text() == "Hello"
        await c.turn("turn_1").text()

    with pytest.raises(TurnFailedError) as raised:
        run(scenario())
    assert (raised.value.code, raised.value.detail) == ("internal", "no")


def test_what_is_gone_counts_as_deleted(make, run):
    async def scenario():
        c = make(lambda _: problem(404, "not_found"), token="t")
        await c.conversation("conv_1").delete()
        await c.facts.delete("fact_1")
        await c.conversation("conv_1").get()

    with pytest.raises(NotFoundError):
        run(scenario())


def test_every_problem_code_has_its_class():
    assert set(errors.CLASSES) == set(typing.get_args(ProblemCode))
    assert len(set(errors.CLASSES.values())) == len(errors.CLASSES)
    for kind in errors.CLASSES.values():
        assert kind.__name__ in copilotd.__all__


def test_an_error_says_everything_the_problem_does(make, run):
    body = {
        "type": "t", "title": "Invalid request", "status": 422, "code": "invalid", "request_id": "req_7",
        "retry": "never", "errors": [{"pointer": "/input", "message": "too short"}],
    }  # fmt: skip
    with pytest.raises(InvalidError) as raised:
        run(make(lambda _: (422, {"retry-after": "7"}, json.dumps(body).encode()), token="t").conversations.create())
    error = raised.value
    assert (error.status, error.request_id, error.retry, error.retry_after) == (422, "req_7", "never", 7.0)
    assert error.errors == [{"pointer": "/input", "message": "too short"}]
    assert str(error) == "Invalid request: /input: too short (invalid, req_7)"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (404, b"<h1>nginx</h1>", UnexpectedAnswerError, "unexpected_answer"),
        (400, b"[" * 100_000, UnexpectedAnswerError, "unexpected_answer"),
        (409, b'{"code": "conflict", "title": "Conflict"}', ConflictError, "conflict"),
        (418, b'{"code": "teapot", "title": "New"}', CopilotdError, "teapot"),
        (200, b"not json", UnexpectedAnswerError, "unexpected_answer"),
        (404, b"x" * 2_000_000, UnexpectedAnswerError, "unexpected_answer"),
    ],
)
def test_other_answers(make, run, status, body, kind, code):
    with pytest.raises(kind) as raised:
        run(make(lambda _: (status, {}, body), token="t").turn("turn_1").get())
    assert (type(raised.value), raised.value.code, raised.value.status) == (kind, code, status)


def test_an_answer_is_bounded(make, run, monkeypatch):
    for module in (client, aio):
        monkeypatch.setattr(module, "Body", lambda timeout, most=0: copilotd.wire.Body(timeout, 1000))
    with pytest.raises(UnexpectedAnswerError, match="more than 1000 bytes"):
        run(make(lambda _: (200, {}, iter([b"[" * 10] * 1000)), token="t").turn("turn_1").get())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("Mon, 30 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("9" * 400, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(value, seconds):
    assert errors.retry_after_of(value, datetime(2026, 11, 30, 12, tzinfo=timezone.utc)) == seconds


@pytest.mark.parametrize(
    ("error", "is_sent_again"),
    [
        (UnreachableError("x"), True),
        (CopilotdError("internal", "x", status=500), True),
        (CopilotdError("timeout", "x", status=408), True),
        (RateLimitedError("rate_limited", "x", status=429, retry_after=30), True),
        (RateLimitedError("rate_limited", "x", status=429, retry_after=31), False),
        (QueueFullError("queue_full", "x", status=429), False),
        (CopilotdError("budget_exhausted", "x", status=429), False),
        (CopilotdError("conflict", "x", status=409), False),
        (CopilotdError("wait_timeout", "x"), False),
    ],
)
def test_which_requests_are_sent_again(error, is_sent_again):
    assert (delay_before_retry(error, 0, 4, NO_WAITS) is not None) == is_sent_again
    assert delay_before_retry(error, 4, 4, NO_WAITS) is None


@given(st.integers(0, 10**6), st.floats(0, 1), st.none() | st.floats(0, 10**9))
def test_waits_double_up_to_the_cap_with_jitter(failures, chance, retry_after):
    delay = Backoff(0.5, 15.0).delay(failures, retry_after, lambda: chance)
    asked = min(retry_after or 0, 300)
    most = min(15.0, 0.5 * 2 ** min(failures, 20))
    assert asked + most * 0.1 <= delay <= asked + most


def test_retries_are_counted_and_the_last_error_is_raised(make, run):
    server = FakeServer(COURSE, [{"kind": "busy"}] * 10)
    with pytest.raises(errors.OverloadedError):
        run(make(server.handle, token="token-0", retries=3).conversation("conv_1").get())
    assert len(server.requests) == 4


def test_a_string_is_never_renewed_and_a_function_once(make, run):
    def refuse(_):
        requests.append(1)
        return problem(401, "unauthenticated")

    for token, expected in (("cpk_1", 1), (lambda: "t", 2)):
        requests = []
        with pytest.raises(UnauthenticatedError):
            run(make(refuse, token=token).turn("turn_1").get())
        assert len(requests) == expected


def test_a_token_function_that_fails_is_called_again(make, run):
    calls = []

    def token():
        calls.append(1)
        if len(calls) < 3:
            raise OSError("the session service is away")
        return "token-0"

    server = FakeServer(COURSE)
    assert run(make(server.handle, token=token).conversation("conv_1").get())["id"] == "conv_1"
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(UnreachableError, match="the session service is away"):
        run(make(server.handle, token=token, retries=0).conversation("conv_1").get())


def test_one_renewal_serves_all_tasks():
    server = FakeServer(COURSE)

    async def token():
        await asyncio.sleep(0.01)
        return server.issue()

    async def scenario():
        conversation = async_client(server.handle, token=token).conversation("conv_1")
        await conversation.get()
        server.token = "another"
        await asyncio.gather(*(conversation.get() for _ in range(20)))

    asyncio.run(scenario())
    assert server.issued == 2


def test_one_renewal_serves_all_threads():
    server = FakeServer(COURSE)
    lock, refused = threading.Lock(), threading.Barrier(8)

    def handle(request):
        with lock:
            given = server.handle(request)
        if given[0] == 401:
            # Nobody asks for a new token before everybody was refused.
            refused.wait(60)
        return given

    class Renewal:
        """A lock that knows how many have asked for it."""

        asked, lock, everybody = 0, threading.Lock(), threading.Event()

        def acquire(self, timeout):
            with lock:
                self.asked += 1
            if self.asked == 9:
                self.everybody.set()
            return self.lock.acquire(timeout=timeout)

        def release(self):
            self.lock.release()

    renewal = Renewal()

    def token():
        if server.issued:
            assert renewal.everybody.wait(60), "everybody waits for this token"
        return server.issue()

    copilotd = sync_client(handle, token=token).inner
    copilotd._transport._renewal = renewal
    conversation = copilotd.conversation("conv_1")
    conversation.get()
    server.token = "another"
    threads = [threading.Thread(target=conversation.get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert server.issued == 2
    assert len(server.requests) == 1 + 2 * 8


def test_an_api_key_acts_for_a_user_and_the_authorization_cannot_be_overridden(make, run):
    server = FakeServer(COURSE)
    headers = {"Authorization": "Bearer other", "x-trace": "1"}
    run(make(server.handle, token="token-0", user="ådå", headers=headers).conversation("conv_1").get())
    (request,) = server.requests
    assert request.headers["authorization"] == "Bearer token-0"
    assert request.headers["x-trace"] == "1"
    assert dict(request.headers.raw)[b"x-copilotd-user"] == "ådå".encode()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Copilotd("copilotd.test", "t"),
        lambda: Copilotd("http://a:b@copilotd.test", "t"),
        lambda: Copilotd("http://copilotd.test?a=b", "t"),
        lambda: Copilotd("http://copilotd.test", "t", timeout=0),
        lambda: Copilotd("http://copilotd.test", "t", user="a\r\nb: c"),
        lambda: Copilotd("http://copilotd.test", "t", headers={"a b": "c"}),
        lambda: Copilotd("http://copilotd.test", "t").facts.list(user="ada", reason="because\n"),
        lambda: Copilotd("http://copilotd.test", "t").conversation("").delete(),
        lambda: Copilotd("http://copilotd.test", "t").turn("..").get(),
        lambda: Copilotd("http://copilotd.test", "t").conversation("c").send("x", idempotency_key=""),
        lambda: Copilotd("http://copilotd.test", "t").conversation("c").send("x", idempotency_key="ä"),
        lambda: Copilotd("http://copilotd.test", "t").conversation("c").send("x", metadata={"a": float("nan")}),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(wrong):
    with pytest.raises(ValueError, match=r"."):
        wrong()


def test_a_token_that_cannot_be_one_is_refused():
    for token in ("", "a b", "a\n"):
        with pytest.raises(TypeError, match="a token is a string"):
            Copilotd("http://copilotd.test", token)


def test_both_clients_have_the_same_methods_with_the_same_parameters():
    pairs = 0
    for name, kind in vars(client).items():
        if not inspect.isclass(kind) or kind.__module__ != client.__name__ or name == "Transport":
            continue
        twin = getattr(aio, f"Async{name}")
        for method, function in inspect.getmembers(kind, inspect.isfunction):
            if method.startswith("_") and method != "__init__":
                continue
            pairs += 1
            ours, theirs = inspect.signature(function), inspect.signature(getattr(twin, method))
            same = [(p.name, p.kind, p.default) for p in ours.parameters.values()]
            assert [(p.name, p.kind, p.default) for p in theirs.parameters.values()] == same, f"{name}.{method}"
            assert (function.__doc__ or "").split("\n")[0] == (getattr(twin, method).__doc__ or "").split("\n")[0]
    assert pairs == 41, "a new method is counted here"


def test_the_types_are_those_of_the_schemas():
    root = pathlib.Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, root / "generate.py", "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
