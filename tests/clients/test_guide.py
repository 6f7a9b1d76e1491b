"""The shell lines of docs/integrate work as a reader types them, page by page, against the demo."""

import re

import pytest
from demo import Demo
from guide import PAGES, blocks, run_shell

TURN, CONVERSATION, FILE = (rf"{kind}_[0-9a-f]{{32}}" for kind in ("turn", "conv", "file"))
INVOICE = '"name":"invoice.txt","media_type":"text/plain","bytes":31'

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
    "conversations.md": [
        r"^$",
        rf'^"{TURN}"$',
        r'^"\S.*"$',
        rf'^\{{\s*"id": "{CONVERSATION}",\s*"title": "\S.*"\s*\}}',
    ],
    "files.md": [
        rf'^\{{"id":"{FILE}",{INVOICE},"conversation_id":"{CONVERSATION}"\}}$',
        rf'^\{{"type":"file","file_id":"{FILE}",{INVOICE}\}}$',
        rf'^\{{"kind":"file","id":"{FILE}",.*"reason":"fitted"\}}$',
        r"^Invoice 4711\nTotal: 120.00 EUR\n204$",
    ],
    "client-tools.md": [
        rf'"id":"{TURN}".*"status":"running"',
        r'^\{"call_id":"call_[0-9a-f]{32}","name":"open_page","arguments":\{"path":"/orders"\},.*"claim":"[^"]+"\}$',
        # The page shows both answers; a call takes the first one.
        r'"status":"succeeded","result":\{"title":"Orders"\}(?s:.*)"code":"not_waiting"',
    ],
    "structured-answers.md": [r'^\{\s*"urgency": "(low|normal|high)",\s*"reason": "\S.*"\s*\}$'],
    "prompts.md": [r"^$", r'"exact": true(?s:.*)"kind": "chunk"(?s:.*)"omitted": \['],
    "memory.md": [r'^\{"data":\[\],"next_cursor":null\}$'],
    "knowledge.md": [r"^$", r'"title": "Cash refunds",\s*"text": ".* costs a fee of two euros\."'],
}

# Run by tests/browser/first-call.test.mjs and test_tokens.py. `import.md` has the command line of a real server, which
# tests/it runs.
RUN_ELSEWHERE = {"first-call.md", "tokens.md", "import.md"}

# What a page leaves to its reader: lines to run before each of its blocks.
BETWEEN = {
    "client-tools.md": [
        "CONV=$(curl -s $B/v1/conversations -H \"$H\" -H \"$J\" -d '{}' | jq -r .id)",
        """
        TURN=$(curl -s $B/v1/conversations/$CONV/messages -H "$H" | jq -r '.turns[0].id')
        CALL='.tool_calls[] | select(.status == "proposed") | .id'
        until curl -s $B/v1/turns/$TURN -H "$H" | jq -er "$CALL" > call.txt; do sleep 0.1; done
        CALL=$(cat call.txt)
        """,
        # The same claim again gets the same answer, as the page says.
        """
        CLAIM=$(curl -s $B/v1/turns/$TURN/client-tools/$CALL -H "$H" -H "$J" -H 'idempotency-key: tab-1' \\
          -d '{"claim": true}' | jq -r .claim)
        """,
    ],
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
    scripts = rest if page == "README.md" else blocks(page, "sh")
    before = BETWEEN.get(page, [""] * len(scripts))
    scripts = [f"{lines}\n{block}" for lines, block in zip(before, scripts, strict=True)]
    # The claim's token, which a reader copies out of the answer.
    scripts = [variables, *(script.replace("q7c…", "'$CLAIM'") for script in scripts)]
    about = str(demo.directory / "data" / "demo.json")
    scripts = [
        script.replace("copilotd-demo/demo.json", about).replace("http://127.0.0.1:8080", demo.url) for script in scripts
    ]
    printed = run_shell(scripts, tmp_path)
    if page != "README.md":
        printed = printed[1:]
    assert len(printed) == len(EXPECTED[page]), "a new block is described here"
    for block, expected in zip(printed, EXPECTED[page], strict=True):
        assert re.search(expected, block.strip("\n") + "\n"), (expected, block)


def test_every_page_with_shell_lines_is_run():
    with_shell = {page.name for page in PAGES.glob("*.md") if blocks(page.name, "sh")}
    assert with_shell == set(EXPECTED) | RUN_ELSEWHERE
