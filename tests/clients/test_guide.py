"""The shell lines of docs/integrate work as a reader types them, page by page, against the demo."""

import re

import pytest
from demo import Demo
from guide import PAGES, blocks, run_shell

TURN = r"turn_[0-9a-f]{32}"

# By page, what each of its blocks prints.
EXPECTED = {
    "README.md": [
        r'"next_cursor":null',
        r'"title":"Billing".*"metadata":\{"account":"4711"\}',
        r'^"(running|completed)"$',
        r'event: turn\.queued\n(?s:.*)event: turn\.completed\n(?s:.*)"text": "',
    ],
    "events.md": [
        r"event: turn\.queued\n(?s:.*)event: message\.delta\n(?s:.*)event: turn\.completed\n",
        r"event: turn\.queued\n(?s:.*)event: turn\.completed\n",
        r"^(?!(?s:.*)event: turn\.queued)(?s:.*)event: turn\.completed\n",
        r"id: \S+~\S+\n(?s:.*)event: turn\.completed\n",
    ],
    "approvals.md": [
        r"^$",
        rf'"id":"{TURN}"',
        r"event: approval\.decided\n(?s:.*)event: tool\.finished\n(?s:.*)event: turn\.completed\n",
    ],
    "errors.md": [
        r'"code":"invalid"(?s:.*)"pointer":"/when_busy"',
        r"^(conv_[0-9a-f]{32})\n\1\nidempotency_key_reused$",
    ],
    "feedback.md": [r'^204\n\{\s*"rating": -1,\s*"comment": "Too short"\s*\}$'],
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.stop()


@pytest.mark.parametrize("page", EXPECTED)
def test_the_lines_of_a_page_print_what_it_says(page, demo, tmp_path):
    start, variables, *rest = blocks("README.md", "sh")
    assert start == "cargo run --release -- demo\n"
    variables = variables.replace("copilotd-demo/demo.json", str(demo.directory / "data" / "demo.json"))
    variables = variables.replace("http://127.0.0.1:8080", demo.url)
    scripts = [variables, *rest] if page == "README.md" else [variables, *blocks(page, "sh")]
    # The stream of a conversation does not end: a reader stops it with Ctrl-C, when the turn has ended.
    endless = re.compile(r"^(curl -sN .*/conversations/.*)$", re.M)
    until = r"sed '/^event: turn.completed/{n;q}' < <(timeout 30 \1 2> /dev/null)"
    scripts = [endless.sub(until, script) for script in scripts]
    printed = run_shell(scripts, tmp_path)
    if page != "README.md":
        printed = printed[1:]
    assert len(printed) == len(EXPECTED[page]), "a new block is described here"
    for block, expected in zip(printed, EXPECTED[page], strict=True):
        assert re.search(expected, block.strip("\n") + "\n"), (expected, block)


def test_every_page_with_shell_lines_for_users_is_run():
    """A page that is written like these is run like these."""
    like_these = {page.name for page in PAGES.glob("*.md") if "README.md#try-it" in page.read_text(encoding="utf-8")}
    assert like_these | {"README.md"} == set(EXPECTED)
