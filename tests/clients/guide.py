"""The code blocks of the pages in docs/integrate."""

import os
import pathlib
import re
import subprocess

PAGES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "integrate"


def blocks(page: str, language: str) -> list[str]:
    """Returns the code blocks of one language, in their order."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


def run_shell(scripts: list[str], directory: pathlib.Path) -> list[str]:
    """Runs shell blocks one after the other in one shell, as a reader would; returns what each one printed.

    A command that fails ends the run with an error, so that no later block works on what it left behind.
    """
    mark = "\n== end of a block ==\n"
    script = "set -eo pipefail\n" + "".join(f"{block}\nprintf '%s' '{mark}'\n" for block in scripts)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stdout[-2_000:], done.stderr)
    return done.stdout.split(mark)[:-1]
