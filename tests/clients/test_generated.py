"""Tools that know nothing of copilotd read `/openapi.json`: a linter, and generators whose clients work."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from demo import Demo, binary

HERE = pathlib.Path(__file__).resolve().parent


def run(command: list, directory: pathlib.Path, **env: str) -> str:
    """Runs a program; returns what it printed, standard error included."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:]
    return done.stdout


def npm(name: str) -> pathlib.Path:
    return pathlib.Path(os.environ["COPILOTD_NODE_MODULES"]) / ".bin" / name


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    printed = subprocess.run([binary(), "openapi"], stdout=subprocess.PIPE, timeout=30, check=True)
    path.write_bytes(printed.stdout)
    return path


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.stop()


def test_redocly_finds_nothing(document):
    # Without its report of usage and its look for a newer version: a test has no business on the internet.
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    command = [npm("redocly"), "lint", document, "--config", HERE / "redocly.yaml", "--format", "json"]
    printed = run(command, document.parent, **quiet)
    report = json.JSONDecoder().raw_decode(printed[printed.index('{\n  "totals"') :])[0]
    assert report["problems"] == []
    assert report["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}


TYPED = """
import type { components, operations, paths } from "./api";

type Json<T> = T extends { content: { "application/json": infer Body } } ? Body : never;
type Turn = components["schemas"]["Turn"];
type Submit = Json<NonNullable<operations["submit_turn"]["requestBody"]>>;

const body: Submit = { input: "Hello", when_busy: "enqueue" };
const parts: Submit = { input: [{ type: "text", text: "Hello" }] };
// @ts-expect-error: not a value of `when_busy`
const wrong: Submit = { input: "Hello", when_busy: "wait" };

export async function ask(base: string, token: string, conversation: string): Promise<Turn> {
  const path: keyof paths = "/v1/conversations/{id}/turns";
  const response = await fetch(base + path.replace("{id}", conversation), {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const turn = (await response.json()) as Json<operations["submit_turn"]["responses"][202]>;
  if (turn.error !== null) throw new Error(turn.error.code satisfies "rate_limited" | string);
  const text: string | undefined = turn.output?.text;
  console.log(text, turn.status satisfies Turn["status"], parts, wrong);
  return turn;
}
"""


def test_openapi_typescript_gives_types_that_compile(document, tmp_path):
    printed = run([npm("openapi-typescript"), document, "--output", "api.ts"], tmp_path)
    assert "warn" not in printed.lower() and "error" not in printed.lower(), printed
    (tmp_path / "program.ts").write_text(TYPED)
    strict = ["--strict", "--noEmit", "--skipLibCheck"]
    modern = ["--target", "es2022", "--module", "esnext", "--lib", "es2022,dom"]
    run([npm("tsc"), *strict, *modern, "program.ts"], tmp_path)


PROGRAM = """
import sys
import time

from generated import AuthenticatedClient
from generated.api.conversations import create_conversation, list_messages
from generated.api.turns import get_turn, submit_turn
from generated.models import Conversation, CreateConversation, MessagePage, SubmitTurn, SubmitTurnResponse404, Turn

base, token = sys.argv[1:]
client = AuthenticatedClient(base_url=base, token=token, raise_on_unexpected_status=True)
body = CreateConversation(title="Generated")
conversation = create_conversation.sync(client=client, body=body, idempotency_key="one")
assert isinstance(conversation, Conversation) and conversation.title == "Generated", conversation
again = create_conversation.sync(client=client, body=body, idempotency_key="one")
assert again.id == conversation.id
turn = submit_turn.sync(conversation.id, client=client, body=SubmitTurn(input_="[[sim text=generated]]"))
assert isinstance(turn, Turn), turn
end = time.monotonic() + 30
while turn.status not in ("completed", "failed", "cancelled"):
    assert time.monotonic() < end, turn
    time.sleep(0.05)
    turn = get_turn.sync(turn.id, client=client)
assert turn.output.text == "generated", turn
page = list_messages.sync(conversation.id, client=client)
assert isinstance(page, MessagePage) and page.turns[0].id == turn.id, page
missing = submit_turn.sync("conv_" + "0" * 32, client=client, body=SubmitTurn(input_="Hello"))
assert isinstance(missing, SubmitTurnResponse404) and missing.code == "not_found", missing
print("done")
"""

EVERYTHING = """
import pkgutil
import generated

for each in pkgutil.walk_packages(generated.__path__, "generated."):
    __import__(each.name)
"""

# Without formatting, which takes longer than all the rest. The result of an export is lines of JSON; the generator can
# leave them as text.
CONFIG = """
post_hooks: []
content_type_overrides:
  application/jsonl: text/plain
"""

# Request bodies that openapi-python-client cannot send: it knows JSON, forms and bytes. A document can be sent as JSON,
# too, so the operation loses nothing but these forms.
NOT_SENT = {
    ("put_document", media)
    for media in (
        "application/pdf",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "text/csv",
        "text/html",
        "text/markdown",
        "text/plain",
    )
}


def operation_of(document: pathlib.Path, method: str, path: str) -> str:
    return json.loads(document.read_text())["paths"][path][method.lower()]["operationId"]


def test_openapi_python_client_makes_a_client_that_works(document, demo, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    generator = pathlib.Path(sys.executable).with_name("openapi-python-client")
    options = ["--path", document, "--output-path", "generated", "--meta", "none", "--config", "config.yaml"]
    printed = run([generator, "generate", *options], tmp_path, NO_COLOR="1", COLUMNS="200")
    warnings = re.findall(r"WARNING parsing ([A-Z]+) (\S+) within \w+\.\s+(.*)", printed)
    assert len(warnings) == len(re.findall("WARNING|Unable to parse|Skipping", printed)), printed
    unsent = {(operation_of(document, method, path), why) for method, path, why in warnings}
    assert unsent == {(name, f"Unsupported content type {media}") for name, media in NOT_SENT}, printed
    (tmp_path / "program.py").write_text(PROGRAM)
    printed = run([sys.executable, "-B", "program.py", demo.url, demo.token()], tmp_path)
    assert printed == "done\n"
    # Every module can be imported, not only what the program uses.
    run([sys.executable, "-B", "-c", EVERYTHING], tmp_path)
