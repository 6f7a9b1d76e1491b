"""The Python client against the real server: through cuts and `kill -9`, by its guide, packed and installed."""

import asyncio
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time

import pytest
from demo import Cutter, Demo

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "python"
sys.path.insert(0, str(PACKAGE / "src"))

from copilotd import (  # noqa: E402
    AsyncCopilotd,
    Backoff,
    ConversationState,
    Copilotd,
    CopilotdError,
    IdempotencyKeyReusedError,
    InvalidError,
    NotFoundError,
    TurnFailedError,
    UnsupportedMediaTypeError,
    add_page,
    apply,
    text_of,
)

QUICK = {"backoff": Backoff(base=0.02, cap=0.2), "retries": 60}
# More by a command: COPILOTD_SCHEDULES=100 scripts/test clients
SCHEDULES = int(os.environ.get("COPILOTD_SCHEDULES", "4"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("python-client"))
    yield demo
    demo.stop()


def drain(client: Copilotd, turn: str, pause) -> list:
    events = []
    for event in client.turn(turn).events(timeout=120):
        events.append(event)
        time.sleep(pause())
    return events


async def drain_async(client: AsyncCopilotd, turn: str, pause) -> list:
    events = []
    async for event in client.turn(turn).events(timeout=120):
        events.append(event)
        await asyncio.sleep(pause())
    return events


def check(events: list, turn: dict) -> None:
    """Each record once and in order, and every text equal to that of the log."""
    durable = [event["seq"] for event in events if event["type"] != "message.delta"]
    assert durable == sorted(set(durable)), durable
    assert events[-1]["type"] == "turn.completed"
    texts = {}
    for event in events:
        if event["type"] == "message.delta":
            texts[event["message_id"]] = texts.get(event["message_id"], "") + event["text"]
        elif event["type"] == "message.reset":
            texts.pop(event["message_id"], None)
        elif event["type"] == "message.completed":
            assert texts.get(event["message_id"], "") == event["text"]
    assert list(texts.values())[-1] == turn["output"]["text"]


@pytest.mark.parametrize("seed", range(1, SCHEDULES + 1))
def test_cuts_restarts_and_slow_reads_end_with_the_text_of_the_log(demo, seed):
    """Odd seeds read without asyncio and even ones with; every second one of either kills the server as well."""
    chance = random.Random(seed)
    tokens, pace_ms = 60 + chance.randrange(60), 4 + chance.randrange(8)
    cutter = Cutter(demo.port, [200 + chance.randrange(3000) for _ in range(4 + chance.randrange(6))])
    url = f"http://127.0.0.1:{cutter.port}"

    def pause() -> float:
        return chance.randrange(20) / 1000 if chance.randrange(4) == 0 else 0

    def disturb() -> None:
        time.sleep(chance.randrange(300) / 1000)
        demo.kill()
        demo.start()

    with Copilotd(demo.url, demo.token, **QUICK) as direct:
        conversation = direct.conversations.create()
        turn = conversation.send(f"[[sim tokens={tokens} pace_ms={pace_ms}]] Tell me something long ä🚀")
        disturbed = threading.Thread(target=disturb)
        if seed % 4 in (1, 2):
            disturbed.start()
        if seed % 2:
            with Copilotd(url, demo.token, **QUICK) as client:
                events = drain(client, turn.id, pause)
        else:

            async def read() -> list:
                async with AsyncCopilotd(url, demo.token, **QUICK) as client:
                    return await drain_async(client, turn.id, pause)

            events = asyncio.run(read())
        if disturbed.ident:
            disturbed.join()
        cutter.close()
        check(events, turn.get())
        folded = ConversationState(position="0")
        for event in events:
            folded = apply(folded, event)
        page = add_page(ConversationState(), conversation.messages(limit=100, order="desc"))
        assert [(t.status, text_of(t)) for t in folded.turns] == [(t.status, text_of(t)) for t in page.turns]


def test_a_message_is_sent_once_through_cuts(demo):
    chance = random.Random(7)
    cutter = Cutter(demo.port, [chance.randrange(400) for _ in range(8)])
    with Copilotd(f"http://127.0.0.1:{cutter.port}", demo.token, **QUICK) as client:
        conversation = client.conversations.create()
        for n in range(4):
            conversation.send(f"[[sim tokens=3]] message {n}")
        page = conversation.messages(limit=100)
    cutter.close()
    assert cutter.made > 0, "no connection was broken"
    said = [message["content"][0]["text"][-1] for message in page["data"] if message["role"] == "user"]
    assert said == ["0", "1", "2", "3"]


def test_keys_approvals_cancelling_feedback_titles_lists_tickets_and_erasure(demo):
    with Copilotd(demo.url, demo.token) as client:
        conversation = client.conversations.create(title="First", metadata={"account": "4711"})
        conversation.rename("Second")
        assert client.conversations.get(conversation.id)["title"] == "Second"
        with pytest.raises(InvalidError) as invalid:
            conversation.send([], idempotency_key="the-same")
        assert invalid.value.errors[0]["pointer"] == "/input"
        first = conversation.send("[[sim tokens=3]] Hi", idempotency_key="the-same")
        assert conversation.send("[[sim tokens=3]] Hi", idempotency_key="the-same").id == first.id
        with pytest.raises(IdempotencyKeyReusedError):
            conversation.send("Other", idempotency_key="the-same")

        turn = conversation.send("Open a ticket: the printer is on fire")
        decided = 0
        for event in turn.events(timeout=120):
            if event["type"] == "approval.requested":
                decided += 1
                turn.approve(event["call_id"])
        assert decided == sum(call["name"] == "zendesk_create_ticket" for call in turn.get()["tool_calls"]) > 0
        turn.feedback(1, comment="Good")
        assert conversation.messages(order="desc", limit=1)["turns"][0]["feedback"] == {"rating": 1, "comment": "Good"}

        slow = conversation.send("[[sim tokens=500 pace_ms=50]] Tell me something long")
        for event in slow.events(timeout=120):
            if event["type"] == "message.delta":
                break
        slow.cancel()
        with pytest.raises(TurnFailedError) as failed:
            slow.text(timeout=60)
        assert failed.value.code == "cancelled"

        assert [each["title"] for each in client.conversations.all(limit=1) if each["id"] == conversation.id] == ["Second"]
        assert list(client.facts.all()) == []
        events = conversation.events(timeout=60)
        erasing = threading.Timer(0.1, conversation.delete)
        erasing.start()
        assert [event["type"] for event in events] == ["conversation.erased"]
        erasing.join()
        conversation.delete()
        with pytest.raises(NotFoundError):
            conversation.get()


def test_files_replaced_turns_and_searches(demo):
    png = bytes.fromhex("89504e470d0a1a0a") + b"not much of a picture"
    with Copilotd(demo.url, demo.token) as client:
        conversation = client.conversations.create(title="Quarterly attachments")
        text = "Grüße, 4711".encode()
        stored = client.files.upload(conversation.id, text, name="größe.txt", idempotency_key="one")
        assert (stored["name"], stored["media_type"], stored["bytes"]) == ("größe.txt", "text/plain", len(text))
        assert client.files.upload(conversation.id, text, name="größe.txt", idempotency_key="one") == stored
        assert client.files.upload(conversation.id, png, name="a.txt")["media_type"] == "image/png", "by its content"
        with pytest.raises(UnsupportedMediaTypeError):
            client.files.upload(conversation.id, b"\x00\x01\x02", name="a.bin")

        parts = [{"type": "text", "text": "[[sim tokens=3]] What is it?"}, {"type": "file", "file_id": stored["id"]}]
        first = conversation.send(parts)
        first.text(timeout=60)
        second = first.replace("[[sim tokens=3]] And now?")
        second.text(timeout=60)
        assert first.get()["replaced_by"] == second.id
        shown = conversation.messages()["data"][0]["content"][1]
        described = {name: stored[name] for name in ("name", "media_type", "bytes")}
        assert shown == {"type": "file", "file_id": stored["id"], **described}

        assert client.files.read(stored["id"]) == text
        client.files.delete(stored["id"])
        client.files.delete(stored["id"])
        with pytest.raises(NotFoundError):
            client.files.read(stored["id"])
        assert [each["id"] for each in client.conversations.all(q="quarterly attach")] == [conversation.id]


def test_the_guides_examples_run_as_they_stand(demo, capsys):
    guide = (ROOT / "docs" / "integrate" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```$", guide, re.M | re.S)
    assert len(examples) == 10, "a new example is counted here"
    code = "\n".join(examples).replace("https://copilotd.example.com", demo.url)
    names: dict = {"fetch_user_token": demo.token, "api_key": demo.token()}
    # The API key's place is taken by a user token, which may name its own user.
    exec(compile(code, "docs/integrate/python.md", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert len(names["answer"]) > 10
    assert names["text"].endswith(names["answer"])
    assert demo.get(f"/v1/turns/{names['request'].id}")["status"] == "completed"
    assert names["reply"]
    assert any(line.startswith("zendesk_create_ticket {") for line in said), "the approval was asked for"
    assert any(line.startswith("completed ") for line in said), "the conversation was shown"
    assert said[-1].startswith("Not found req_")


def test_the_example_script_asks_approves_and_prints(demo):
    def run(*arguments: str, answer: str = "", token: str | None = None) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE / "src"), "COPILOTD_URL": demo.url}
        environment["COPILOTD_TOKEN"] = token or demo.token()
        script = str(ROOT / "examples" / "python" / "ask.py")
        command = [sys.executable, script, *arguments]
        return subprocess.run(
            command, input=answer, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    approved = run("--yes", "Open a ticket: the printer is on fire")
    assert approved.returncode == 0, approved.stderr
    assert "[zendesk_create_ticket {" in approved.stdout
    assert "[succeeded]" in approved.stdout
    rejected = run("Open a ticket: the printer is on fire", answer="n\n")
    assert rejected.returncode == 0, rejected.stderr
    assert "[rejected]" in rejected.stdout
    wrong = run("Hello", token="nope")
    assert wrong.returncode == 1
    assert "unauthenticated" in wrong.stderr


def test_types_and_style():
    for command in (
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy", "--cache-dir", os.devnull, "src", "generate.py", str(ROOT / "examples" / "python" / "ask.py")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=PACKAGE, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_packed_wheel_installs_and_is_the_same_twice(demo, tmp_path):
    environment = {**os.environ, "COPILOTD_PYTHON": sys.executable, "SOURCE_DATE_EPOCH": "1767225600"}
    packed = []
    for name in ("one", "two"):
        done = subprocess.run(
            [str(ROOT / "scripts" / "pack-clients"), "python", str(tmp_path / name)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        packed.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert packed[0] == packed[1]
    (wheel,) = (tmp_path / "one").glob("copilotd-*-py3-none-any.whl")
    assert len(packed[0]) == 2
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    assert wheel.name == f"copilotd-{version}-py3-none-any.whl"

    # An empty environment with the wheel alone; httpx and what it needs are those that are installed here already.
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    import httpx

    program = (
        "import pathlib, sys; sys.path.append(sys.argv[3]); import copilotd; "
        "assert pathlib.Path(copilotd.__file__).is_relative_to(sys.prefix); "
        "assert pathlib.Path(copilotd.__file__).with_name('py.typed').exists(); "
        "client = copilotd.Copilotd(sys.argv[1], sys.argv[2]); "
        "print(client.conversations.create().send('[[sim text=packed]]').text(timeout=60))"
    )
    packages = str(pathlib.Path(httpx.__file__).parents[1])
    done = subprocess.run(
        [str(python), "-I", "-c", program, demo.url, demo.token(), packages],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "packed\n"), done.stderr


def test_an_error_names_the_request(demo):
    with Copilotd(demo.url, "nope", retries=0) as client, pytest.raises(CopilotdError) as raised:
        client.conversations.list()
    assert raised.value.request_id.startswith("req_")
