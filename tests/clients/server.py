"""Starts `copilotd serve` with a configuration file."""

import pathlib
import re
import subprocess
import threading

from demo import START_S, binary


class Server:
    """A running server, whose configuration listens on port 0."""

    def __init__(self, config: pathlib.Path, env: dict | None = None) -> None:
        self.process = subprocess.Popen(
            [binary(), "serve", "--config", config.name],
            cwd=config.parent,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        guard = threading.Timer(START_S, self.process.kill)
        guard.start()
        said = []
        self.url = None
        for line in self.process.stdout:
            said.append(line)
            if ready := re.search(r'"message":"copilotd is ready".*"address":"([^"]+)"', line):
                self.url = f"http://{ready[1]}"
                break
        guard.cancel()
        assert self.url, "".join(said)
        # Otherwise the log fills the pipe, and the server waits.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(timeout=30)
