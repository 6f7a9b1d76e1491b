"""An unmodified EventSource client from PyPI reads streams that break: it reconnects with Last-Event-ID by itself."""

import json
import pathlib
import subprocess
import threading
import time

import pytest
import requests
import sseclient
from demo import Cutter, Demo

# In small pieces, with multi-byte characters.
PROMPT = '[[sim text="Grüße aus Köln: {words}" pace_ms=15 chunk=7]]'.replace("{words}", "zehn Öre für Bücher, " * 20)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("eventsource"))
    yield demo
    demo.stop()


def utf8(response: requests.Response, **_: object) -> None:
    """Sets UTF-8, the encoding of every event stream; `requests` assumes Latin-1 for text without a charset."""
    response.encoding = "utf-8"


def begin(demo) -> tuple[dict, dict]:
    conversation = demo.post("/v1/conversations", {})
    return conversation, demo.post(f"/v1/conversations/{conversation['id']}/turns", {"input": PROMPT})


def read(url: str, headers: dict | None = None, at_event=lambda _: None) -> list:
    """Reads until the turn has ended; the client reconnects on its own."""
    events = []
    deadline = time.monotonic() + 120
    session = requests.Session()
    session.hooks["response"] = utf8
    client = sseclient.SSEClient(url, retry=100, session=session, headers=headers or {}, timeout=30)
    for event in client:
        if not event.data:
            continue
        events.append((event.event, event.id, json.loads(event.data)))
        at_event(events)
        if event.event in ("turn.completed", "turn.failed", "turn.cancelled"):
            break
        assert time.monotonic() < deadline, "the turn did not end"
    client.resp.close()
    return events


def check(events: list, expected: str) -> None:
    """Each durable event once and in order; the complete text, from what was not reset."""
    durable = [data["seq"] for kind, _, data in events if kind != "message.delta"]
    assert durable == sorted(set(durable)), durable
    assert events[-1][0] == "turn.completed"
    text = ""
    for kind, _, data in events:
        if kind == "message.delta":
            text += data["text"]
        elif kind == "message.reset":
            text = ""
        elif kind == "message.completed":
            assert text == data["text"]
            assert text == expected
            text = ""


def answer_of(demo, turn: dict) -> str:
    turn = demo.get(f"/v1/turns/{turn['id']}")
    assert turn["status"] == "completed", turn
    assert "Köln" in turn["output"]["text"]
    return turn["output"]["text"]


@pytest.mark.parametrize("stream", ["turn", "conversation"])
def test_a_stream_that_breaks_again_and_again_is_read_whole(demo, stream):
    cutter = Cutter(demo.port, [700, 900, 1300, 1100, 1500])
    conversation, turn = begin(demo)
    path = f"/v1/turns/{turn['id']}/events"
    if stream == "conversation":
        path = f"/v1/conversations/{conversation['id']}/events?after=0"
    events = read(f"http://127.0.0.1:{cutter.port}{path}", demo.headers())
    cutter.close()
    check(events, answer_of(demo, turn))
    # The number of breaks depends on the reconnection time that the server asks for.
    assert cutter.made >= 3, "the connection was not broken as often as planned"


def test_a_browser_s_ticket_reopens_the_stream(demo):
    cutter = Cutter(demo.port, [1200, 1200])
    conversation, turn = begin(demo)
    ticket = demo.post("/v1/stream-tickets", {"conversation_id": conversation["id"]})["ticket"]
    events = read(f"http://127.0.0.1:{cutter.port}/v1/turns/{turn['id']}/events?ticket={ticket}")
    cutter.close()
    check(events, answer_of(demo, turn))
    assert cutter.made == 2


def test_a_reader_outlives_the_server(demo):
    conversation, turn = begin(demo)
    killed = threading.Event()

    def kill(events: list) -> None:
        said = sum(kind == "message.delta" for kind, _, _ in events)
        if said >= 5 and not killed.is_set():
            killed.set()
            demo.kill()
            demo.start()

    cutter = Cutter(demo.port, [])
    events = read(f"http://127.0.0.1:{cutter.port}/v1/turns/{turn['id']}/events", demo.headers(), kill)
    cutter.close()
    assert killed.is_set()
    assert [data["attempt"] for kind, _, data in events if kind == "turn.started"] == [1, 2]
    check(events, answer_of(demo, turn))


def test_a_turn_s_stream_that_is_over_is_not_opened_again(demo):
    _, turn = begin(demo)
    url = f"{demo.url}/v1/turns/{turn['id']}/events"
    last = read(url, demo.headers())[-1][1]
    answer = requests.get(url, headers={**demo.headers(), "last-event-id": last}, timeout=10)
    assert (answer.status_code, answer.content) == (204, b"")


def test_npm_s_eventsource_reads_a_broken_stream_whole(demo):
    cutter = Cutter(demo.port, [900, 1200, 1500])
    conversation, turn = begin(demo)
    ticket = demo.post("/v1/stream-tickets", {"conversation_id": conversation["id"]})["ticket"]
    url = f"http://127.0.0.1:{cutter.port}/v1/turns/{turn['id']}/events?ticket={ticket}"
    script = pathlib.Path(__file__).with_name("eventsource.mjs")
    done = subprocess.run(["node", str(script), url], capture_output=True, text=True, timeout=120, check=False)
    cutter.close()
    assert done.returncode == 0, done.stderr or done.stdout
    check(json.loads(done.stdout), answer_of(demo, turn))
    assert cutter.made >= 2
