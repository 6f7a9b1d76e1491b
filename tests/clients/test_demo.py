"""The commands that the demo and the README show to newcomers work as printed."""

import pathlib
import re

import pytest
import requests
from demo import Demo
from guide import run_shell

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.stop()


def test_the_lines_that_the_demo_prints_work_as_printed(demo):
    lines = re.search(r"Try it:\n(.*?)\n\n", demo.printed, re.S).group(1)
    (printed,) = run_shell([lines], demo.directory)
    assert '"status":"running"' in printed
    for event in ("turn.queued", "tool.called", "tool.finished", "message.completed", "turn.completed"):
        assert f"event: {event}\n" in printed, event
    assert '"role":"assistant"' in printed
    posted = requests.get(f"{demo.about['sim']['slack'].removesuffix('/api/').rstrip('/')}/_sim/state", timeout=10)
    assert posted.ok and "support" in posted.text


def test_demo_json_names_all_that_a_program_needs(demo):
    about = demo.about
    assert about["pid"] == demo.process.pid
    assert set(about["sim"]) == {"openai", "zendesk", "slack"}
    for tenant in ("acme", "globex"):
        assert {"users", "admin", "gateway_key"} <= set(about["tenants"][tenant])
    for user in ("ada", "bob"):
        answer = requests.get(
            f"{demo.url}/v1/conversations", headers={"authorization": f"Bearer {demo.token(user)}"}, timeout=10
        )
        assert answer.status_code == 200


def test_the_readme_s_five_lines_work(demo):
    block = re.search(r"## The API in five lines\n\n```sh\n(.*?)```", README.read_text(), re.S).group(1)
    block = block.replace("http://127.0.0.1:8080", demo.url)
    names, create, submit, *rest = block.strip().splitlines()
    # A person copies the ids from one response into the next line.
    pick = "sed 's/.*\"id\":\"\\({}_[0-9a-f]*\\)\".*/\\1/'"
    script = "\n".join([
        names,
        "CONV=$(" + create.split("#")[0].strip() + " | " + pick.format("conv") + ")",
        "TURN=$(" + submit.split("#")[0].strip() + " | sed 's/^{\"id\":\"\\(turn_[0-9a-f]*\\)\".*/\\1/')",
        "echo CONV=$CONV TURN=$TURN",
        *rest,
    ])
    (printed,) = run_shell([script], demo.directory, TOKEN=demo.token())
    assert re.search(r"CONV=conv_[0-9a-f]{32} TURN=turn_[0-9a-f]{32}", printed), printed
    assert "event: turn.queued" in printed and "event: message.completed" in printed
    assert '"role":"user"' in printed
    assert printed.rstrip().endswith("}") and '"conversation_id"' in printed.splitlines()[-1]


def test_a_killed_demo_goes_on_where_it_was(demo):
    def posted() -> list:
        base = demo.about["sim"]["slack"].removesuffix("/api/").rstrip("/")
        state = requests.get(f"{base}/_sim/state", timeout=10).json()
        return [message["ts"] for channel in state["channels"] for message in channel["messages"]]

    token, before = demo.token(), posted()
    conversation = demo.post("/v1/conversations", {"title": "kept"})["id"]
    demo.kill()
    demo.start()
    answer = requests.get(
        f"{demo.url}/v1/conversations/{conversation}", headers={"authorization": f"Bearer {token}"}, timeout=10
    )
    assert (answer.status_code, answer.json()["title"]) == (200, "kept")
    assert before and posted() == before
