"""`GET /openapi.json` matches the server: unmodified schemathesis finds no failure."""

import os
import pathlib
import subprocess
import sys

import requests
from demo import Demo

SCOPES = ("chat", "gateway", "knowledge", "admin", "operator")
CONFIG = pathlib.Path(__file__).with_name("schemathesis.toml")
HOOKS = pathlib.Path(__file__).with_name("schemathesis_hooks.py")
# The streams, which do not end, are switched off there, and schemathesis leaves out the document that it reads.
NOT_TESTED = {"stream_conversation", "stream_turn", "get_description"}
# More, and others, by a command: COPILOTD_API_EXAMPLES=200 COPILOTD_SEED=7 pytest tests/clients/test_openapi.py
EXAMPLES = int(os.environ.get("COPILOTD_API_EXAMPLES", "40"))
SEED = os.environ.get("COPILOTD_SEED", "20261126")


def without_write_limit(demo) -> str:
    """Removes the write limit, which would answer most of a run with 429; returns a credential with every scope."""
    token = demo.token_with(*SCOPES)
    changed = requests.patch(
        f"{demo.url}/v1/operator/tenants/ops",
        json={"settings": {"limits": {"writes_per_minute": 0, "per_user": {"writes_per_minute": 0}}}},
        headers={"authorization": f"Bearer {token}"},
        timeout=30,
    )
    assert changed.ok, changed.text
    return token


def test_the_description_agrees_with_the_server(tmp_path):
    demo = Demo(tmp_path)
    # Otherwise four fifths of the time is the simulated model's pace.
    demo.without_pauses()
    try:
        document = requests.get(f"{demo.url}/openapi.json", timeout=30).json()
        done = subprocess.run(
            [
                pathlib.Path(sys.executable).with_name("schemathesis"),
                "--config-file",
                CONFIG,
                "run",
                f"{demo.url}/openapi.json",
                "--header",
                f"Authorization: Bearer {without_write_limit(demo)}",
                "--max-examples",
                str(EXAMPLES),
                "--seed",
                SEED,
                "--no-color",
            ],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
            capture_output=True,
            text=True,
            timeout=max(400, 5 * EXAMPLES),
            check=False,
        )
    finally:
        demo.stop()
    print(done.stdout[-8_000:], done.stderr[-2_000:])
    assert done.returncode == 0
    # Check that it tested something: an empty run proves nothing.
    operations = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert NOT_TESTED <= set(operations)
    assert f"Tested: {len(operations) - len(NOT_TESTED)}\n" in done.stdout
    # And not only requests that the credential may not make.
    assert "Authentication failed" not in done.stdout
