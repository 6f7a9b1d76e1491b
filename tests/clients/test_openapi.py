"""`GET /openapi.json` agrees with the server: schemathesis, unmodified, finds no failure."""

import pathlib
import subprocess
import sys

from demo import Demo

CONFIG = pathlib.Path(__file__).with_name("schemathesis.toml")


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
                f"Authorization: Bearer {demo.token_with('chat', 'gateway', 'knowledge', 'admin', 'operator')}",
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
    # It looked: a run that tests nothing is no agreement.
    assert "Tested: 33" in done.stdout
