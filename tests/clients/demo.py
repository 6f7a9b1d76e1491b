"""Starts `copilotd demo` as a user would, kills and restarts it, and breaks its readers' connections."""

import base64
import hashlib
import hmac
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import requests

# The demo prepares its tables at the first start; on a loaded machine that takes a while.
START_S = 60


def binary() -> str:
    """Returns the program to start."""
    if "COPILOTD_BIN" in os.environ:
        return os.environ["COPILOTD_BIN"]
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    for profile in ("debug", "release"):
        path = target / profile / "copilotd"
        if path.exists():
            return str(path)
    raise FileNotFoundError("build copilotd first, or set COPILOTD_BIN")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Demo:
    """A running demo on a directory of its own."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.printed = ""
        self.start()

    def start(self) -> None:
        command = [binary(), "demo", "--port", str(self.port), "--data-dir", "data"]
        log = open(self.directory / "demo.log", "a", encoding="utf-8")
        with log:
            self.process = subprocess.Popen(
                command, cwd=self.directory, stdout=subprocess.PIPE, stderr=log, text=True
            )
        lines = []
        # The last line of the start-up output ends the wait.
        guard = threading.Timer(START_S, self.process.kill)
        guard.start()
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Kill it"):
                break
        guard.cancel()
        self.printed = "".join(lines)
        assert "is ready" in self.printed, (self.directory / "demo.log").read_text()
        self.about = json.loads((self.directory / "data" / "demo.json").read_text())

    @property
    def url(self) -> str:
        return self.about["base_url"]

    def token(self, user: str = "ada", tenant: str = "acme") -> str:
        return self.about["tenants"][tenant]["users"][user]

    def token_with(self, *scopes: str, user: str = "root", tenant: str | None = None) -> str:
        """Signs a token with these scopes, as the tenant's own backend would; only the tenant ops may grant operator."""
        tenant = tenant or ("ops" if "operator" in scopes else "acme")
        secret = (self.directory / "data" / f"{tenant}.jwt.key").read_text().strip()

        def part(data: bytes) -> bytes:
            return base64.urlsafe_b64encode(data).rstrip(b"=")

        claims = {
            "iss": f"https://{tenant}.example",
            "aud": "copilotd",
            "sub": user,
            "tenant": tenant,
            "exp": int(time.time()) + 3600,
            "scope": " ".join(scopes),
        }
        signed = b".".join(part(json.dumps(each).encode()) for each in ({"alg": "HS256"}, claims))
        signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
        return (signed + b"." + part(signature)).decode()

    def headers(self) -> dict:
        return {"authorization": f"Bearer {self.token()}"}

    def post(self, path: str, body: dict) -> dict:
        answer = requests.post(self.url + path, json=body, headers=self.headers(), timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def get(self, path: str) -> dict:
        answer = requests.get(self.url + path, headers=self.headers(), timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def without_pauses(self) -> None:
        """Has the simulated model answer at once, until the demo is started again."""
        knobs = {"first_ms": 0, "pace_ms": 0}
        answer = requests.post(f"{self.about['sim']['openai']}/_sim/knobs", json=knobs, timeout=10)
        assert answer.ok, answer.text

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()


class Cutter:
    """A proxy that breaks a connection after some bytes of the response, and lets the next one pass more."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.target = port
        self.cuts = list(cuts)
        self.made = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            limit = self.cuts.pop(0) if self.cuts else None
            threading.Thread(target=self._serve, args=(client, limit), daemon=True).start()

    def _serve(self, client: socket.socket, limit: int | None) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=30)
        except OSError:
            client.close()
            return
        threading.Thread(target=_copy, args=(client, server, None), daemon=True).start()
        if _copy(server, client, limit):
            self.made += 1


def _copy(source: socket.socket, sink: socket.socket, limit: int | None) -> bool:
    """Copies until the end or until `limit` bytes have passed; returns whether the limit was reached."""
    passed = 0
    try:
        while limit is None or passed < limit:
            piece = source.recv(64 * 1024)
            if not piece:
                break
            if limit is not None:
                piece = piece[: limit - passed]
            sink.sendall(piece)
            passed += len(piece)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    return limit is not None and passed >= limit
