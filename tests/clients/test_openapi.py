"""`GET /openapi.json` matches the server: unmodified schemathesis finds no failure."""

import pathlib
import subprocess
import sys

import requests
from demo import Demo

SCOPES = ("chat", "gateway", "knowledge", "admin", "operator")
CONFIG = pathlib.Path(__file__).with_name("schemathesis.toml")


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
    try:
        done = subprocess.run(
            [
                pathlib.Path(sys.executable).with_name("schemathesis"),
                "--config-file",
                CONFIG,
                "run",
                f"{demo.url}/openapi.json",
                "--header",
                f"Authorization: Bearer {without_write_limit(demo)}",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    finally:
        demo.stop()
    print(done.stdout[-8_000:], done.stderr[-2_000:])
    assert done.returncode == 0
    # Check that it tested something: an empty run proves nothing.
    assert "Tested: 59" in done.stdout
    # And not only requests that the credential may not make.
    assert "Authentication failed" not in done.stdout
