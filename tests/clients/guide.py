"""The code blocks of the pages in docs/integrate."""

import os
import pathlib
import re
import subprocess

# The stream of a conversation does not end: a reader stops it with Ctrl-C, when the turn has ended.
ENDLESS = re.compile(r"^ *(curl -sN .*/conversations/[^#\n]*).*$", re.M)
UNTIL_THE_END = r"sed '/^event: turn.completed/{n;q}' < <(timeout 30 \1 2> /dev/null)"
PAGES = pathlib.Path(__file__).resolve().parents[2] / "docs" / "integrate"


def blocks(page: str, language: str) -> list[str]:
    """Returns the code blocks of one language, in their order."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


def run_shell(scripts: list[str], directory: pathlib.Path, **variables: str) -> list[str]:
    """Runs shell blocks one after the other in one shell, as a reader would; returns what each one printed.

    A command that fails ends the run with an error, so that no later block works on what it left behind.
    """
    mark = "\n== end of a block ==\n"
    scripts = [ENDLESS.sub(UNTIL_THE_END, block) for block in scripts]
    script = "set -eo pipefail\n" + "".join(f"{block}\nprintf '%s' '{mark}'\n" for block in scripts)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, (done.returncode, done.stdout[-2_000:], done.stderr)
    return done.stdout.split(mark)[:-1]
