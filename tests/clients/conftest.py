"""Starts `copilotd-sim` on free ports for the tests, and resets it before each."""

import json
import os
import pathlib
import subprocess

import pytest
import requests


def binary() -> str:
    """Returns the program to start."""
    if "COPILOTD_SIM_BIN" in os.environ:
        return os.environ["COPILOTD_SIM_BIN"]
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    for profile in ("debug", "release"):
        path = target / profile / "copilotd-sim"
        if path.exists():
            return str(path)
    raise FileNotFoundError("build copilotd-sim first, or set COPILOTD_SIM_BIN")


class Simulator:
    """One simulator with its control API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def state(self) -> dict:
        return requests.get(f"{self.url}/_sim/state", timeout=10).json()

    def control(self, path: str, body: dict) -> dict:
        answer = requests.post(f"{self.url}/_sim/{path}", json=body, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    def knobs(self, **changes: object) -> dict:
        return self.control("knobs", changes)


@pytest.fixture(scope="session")
def outside_world():
    """The three simulators, one process for all tests."""
    with subprocess.Popen([binary(), "--fixtures"], stdout=subprocess.PIPE, text=True) as process:
        try:
            addresses = json.loads(process.stdout.readline())
            yield {name: Simulator(url) for name, url in addresses.items()}
        finally:
            process.terminate()
            assert process.wait(timeout=10) == 0


def fresh(simulator: Simulator) -> Simulator:
    simulator.control("reset", {})
    return simulator


@pytest.fixture
def provider(outside_world):
    provider = fresh(outside_world["openai"])
    provider.knobs(first_ms=0, pace_ms=0)
    return provider


@pytest.fixture
def zendesk(outside_world):
    return fresh(outside_world["zendesk"])


@pytest.fixture
def slack(outside_world):
    return fresh(outside_world["slack"])
