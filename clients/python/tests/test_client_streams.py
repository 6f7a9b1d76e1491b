"""Streams go on at the very byte after every interruption; sync and async."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import hypothesis.strategies as st
import pytest
from both import NO_WAITS, async_client, sync_client
from fake import FakeServer, problem, timeline_of
from hypothesis import given

from copilotd import (
    Copilotd,
    NotFoundError,
    NotResumableError,
    UnexpectedAnswerError,
    WaitTimeoutError,
)

# Characters of one to four bytes, and everything that a line end could be.
PIECE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).flatmap(
    lambda text: st.sampled_from(
        [text, f"{text}\n", f"{text}\r\n\r\n", f"🚀{text}", f"data: {text}", f"\u2028{text}\ufeff"]
    )
)
STEP = st.fixed_dictionaries(
    {
        "pieces": st.lists(PIECE, max_size=6),
        "end": st.sampled_from(["completed", "completed", "completed", "reset"]),
        "notice": st.booleans(),
        "call": st.booleans(),
    }
)
TURN = st.fixed_dictionaries(
    {
        "steps": st.lists(STEP, min_size=1, max_size=4).map(
            lambda steps: [*steps[:-1], {**steps[-1], "end": "completed"}]
        ),
        "end": st.sampled_from(["completed", "completed", "failed", "cancelled"]),
    }
)
TURNS = st.lists(TURN, min_size=1, max_size=3)
# What may happen to one connection.
FAULT = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["refused", "busy", "proxy", "expired"]), "passes": st.integers(0, 6)}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["cut", "broken", "silent", "restart"]),
            "after": st.integers(0, 900),
            "passes": st.integers(0, 6),
        }
    ),
)
FAULTS = st.lists(FAULT, max_size=12)
SIZES = st.lists(st.integers(1, 300), max_size=5)
SLOW = st.lists(st.integers(0, 3), max_size=40)


def check(events, timeline, after=0):
    """Checks that events are those of the log behind `after`, each once and in order, with every byte of every text."""
    records = [(step["seq"], step["type"]) for step in timeline if (step["seq"] or 0) > after]
    durable = [(event["seq"], event["type"]) for event in events if event["type"] != "message.delta"]
    assert durable == records
    text = ""
    for event in events:
        if event["type"] == "message.delta":
            text += event["text"]
            assert event["position"] == f"{event['seq']}.{len(text.encode())}"
        elif event["type"] == "message.completed":
            assert text == event["text"]
            text = ""
        elif event["type"] in ("message.reset", "turn.started"):
            text = ""


def last_of(timeline):
    return timeline[-1]["seq"]


async def read(stream, until, meanwhile=lambda: None):
    events = []
    async with stream:
        async for event in stream:
            events.append(event)
            meanwhile()
            if event["seq"] >= until and event["type"] != "message.delta":
                break
    return events


@given(TURNS, FAULTS, SIZES, SLOW)
def test_random_cuts_restarts_and_slow_reads_end_with_the_bytes_of_the_log(make, run, turns, faults, sizes, slow):
    timeline = timeline_of(turns)
    server = FakeServer(timeline, faults, sizes=sizes)
    pauses = list(slow)

    def meanwhile():
        # A slow reader: the log goes on.
        server.now = min(len(timeline), server.now + (pauses.pop() if pauses else 0))

    async def scenario():
        conversation = make(server.handle, token=server.issue).conversation("conv_1")
        return await read(conversation.events(after=0), last_of(timeline), meanwhile)

    check(run(scenario()), timeline)
    assert server.open == 0, "every connection is closed"


@given(TURNS, st.lists(st.integers(0, 8), max_size=8), SIZES)
def test_a_reader_that_stops_anywhere_goes_on_at_that_byte_with_another_client(make, run, turns, stops, sizes):
    timeline = timeline_of(turns)
    server = FakeServer(timeline, sizes=sizes)

    async def scenario():
        events, after = [], "0"
        for stop in [*stops, 10**9]:
            async with make(server.handle, token="token-0").conversation("conv_1").events(after=after) as stream:
                async for event in stream:
                    events.append(event)
                    assert stream.position == event["position"]
                    stop -= 1
                    if stop < 0 or event["seq"] == last_of(timeline):
                        break
                after = stream.position
            if events[-1]["seq"] == last_of(timeline):
                return events
        return events

    check(run(scenario()), timeline)


COURSE = timeline_of([{"steps": [{"pieces": ["Hello, ", "wörld", " 🚀!"]}]}])


def conversation_of(make, server, **options):
    return make(server.handle, token=server.issue, **options).conversation("conv_1")


def test_it_resumes_with_the_position_of_the_last_whole_event(make, run):
    server = FakeServer(COURSE, [{"kind": "cut", "after": 700}])
    check(run(read(conversation_of(make, server).events(after=0), last_of(COURSE))), COURSE)
    sent = [request.headers["last-event-id"] for request in server.requests]
    assert sent[0] == "0"
    assert sent[1].split(".")[1].isdigit()


def test_without_a_position_it_begins_at_the_end_of_the_log(make, run):
    timeline = timeline_of([{"steps": [{"pieces": ["a"]}]}, {"steps": [{"pieces": ["b"]}]}])
    second = next(i for i, step in enumerate(timeline) if step["data"]["turn_id"] == "turn_1")
    # Cut before the first event, while time passes.
    server = FakeServer(timeline, [{"kind": "none"}, {"kind": "cut", "after": 5, "passes": 2}], now=second)
    after = server.seq
    check(run(read(conversation_of(make, server).events(), last_of(timeline))), timeline, after)


def test_a_turns_stream_ends_after_its_last_event_and_with_204(make, run):
    server = FakeServer(COURSE)
    client = make(server.handle, token="token-0")
    events = run(read(client.turn("turn_0").events(), 10**9))
    assert events[-1]["type"] == "turn.completed"
    assert len(server.requests) == 1
    nothing = make(lambda _: (204, {}, b""), token="t")
    assert run(read(nothing.turn("turn_0").events(after=9), 10**9)) == []


def test_the_status_tells_why_the_stream_is_not_open(make, run):
    server = FakeServer(COURSE, [{"kind": "silent", "after": 400}, {"kind": "busy"}])
    seen = []
    events = conversation_of(make, server).events(
        after=0, on_status=lambda status, error: seen.append((status, error and error.code))
    )
    check(run(read(events, last_of(COURSE))), COURSE)
    assert seen == [
        ("connecting", None),
        ("live", None),
        ("reconnecting", "unreachable"),
        ("reconnecting", "overloaded"),
        ("live", None),
    ]


def test_a_connection_that_is_silent_counts_as_lost():
    """On a real socket: the first answer stops in the middle and stays open."""
    served = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            if self.headers["last-event-id"] == "4":
                self.wfile.write(b'id: 5\nevent: turn.completed\ndata: {"seq":5}\n\n')
                served.set()
            else:
                self.wfile.write(b'id: 4\nevent: turn.started\ndata: {"seq":4}\n\nid: 5\nevent: turn.comp')
                self.wfile.flush()
                served.wait(60)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with Copilotd(f"http://127.0.0.1:{server.server_port}", "token", backoff=NO_WAITS) as client:
            events = list(client.turn("turn_1").events(silence=0.2, timeout=60))
        server.shutdown()
    assert [event["type"] for event in events] == ["turn.started", "turn.completed"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(404, "not_found"), NotFoundError),
        (problem(410, "not_resumable"), NotResumableError),
        ((200, {"content-type": "text/html"}, b"<p>Hello"), UnexpectedAnswerError),
        ((302, {"location": "http://elsewhere.test"}, b""), UnexpectedAnswerError),
        ((200, {"content-type": "text/event-stream"}, b"id: 1\ndata: {\n\n"), UnexpectedAnswerError),
        ((200, {"content-type": "text/event-stream"}, b"id: 1\ndata: 7\n\n"), UnexpectedAnswerError),
        ((200, {"content-type": "text/event-stream"}, b"id: \xc3\xa4\ndata: {}\n\n"), UnexpectedAnswerError),
    ],
)
def test_what_does_not_pass_is_raised(make, run, answer, error):
    with pytest.raises(error):
        run(read(make(lambda _: answer, token="t").conversation("c").events(after=1), 9))


def test_an_unknown_type_is_passed_on_and_an_event_without_data_is_not(make, run):
    body = b'event: beat\ndata:\n\nid: 3\nevent: thought.shared\ndata: {"seq":3,"new":{"a":1}}\n\n'
    client = make(lambda _: (200, {"content-type": "text/event-stream; charset=utf-8"}, body), token="t")
    (event,) = run(read(client.conversation("c").events(after=1), 3))
    assert event == {"type": "thought.shared", "position": "3", "seq": 3, "new": {"a": 1}}


def test_nothing_is_read_ahead_of_a_reader_that_stands_still(make, run):
    timeline = timeline_of([{"steps": [{"pieces": [f"piece {n} " for n in range(500)]}]}])
    server = FakeServer(timeline)

    async def scenario():
        async with conversation_of(make, server).events(after=0) as events:
            for _ in range(10):
                await events.__anext__()
            for _ in range(100):
                await asyncio.sleep(0)
            return server.now

    assert run(scenario()) <= 12
    assert server.open == 0


def test_a_dead_network_is_retried_without_limit(make, run):
    server = FakeServer(COURSE, [{"kind": "refused"}] * 40)
    check(run(read(conversation_of(make, server).events(after=0), last_of(COURSE))), COURSE)
    assert len(server.requests) == 41


def test_waiting_ends_with_the_timeout(make, run):
    def refuse(_):
        return problem(503, "unavailable")

    async def scenario():
        await make(refuse, token="t").turn("turn_0").done(timeout=0.05)

    with pytest.raises(WaitTimeoutError) as raised:
        run(scenario())
    assert raised.value.code == "wait_timeout"


def test_the_stream_survives_a_token_that_expires_again_and_again(make, run):
    server = FakeServer(COURSE, [{"kind": "cut", "after": 300}, {"kind": "expired"}] * 3)
    check(run(read(conversation_of(make, server).events(after=0), last_of(COURSE))), COURSE)
    assert server.issued == 4


def test_a_wrong_position_is_refused_before_anything_is_sent(make):
    client = make(lambda _: problem(500, "internal"), token="t")
    for after in ("ä", "1\n2", "x" * 2000):
        with pytest.raises(ValueError, match="after is not the position"):
            client.turn("turn_0").events(after=after)


def test_a_task_that_is_cancelled_closes_its_connection():
    server = FakeServer(COURSE)

    async def scenario():
        started = asyncio.Event()

        async def reader():
            async for _ in async_client(server.handle, token="token-0").conversation("conv_1").events(after=0):
                started.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(reader())
        await started.wait()
        assert server.open == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        for _ in range(20):
            await asyncio.sleep(0)
        assert server.open == 0

    asyncio.run(scenario())


def test_a_loop_that_is_left_closes_its_connection():
    server = FakeServer(COURSE)
    client = sync_client(server.handle, token="token-0").inner
    for _ in client.conversation("conv_1").events(after=0):
        break
    assert server.open == 0
