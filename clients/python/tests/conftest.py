"""Fixtures of the client's tests."""

import asyncio
import os
import pathlib
import sys
import tempfile

import hypothesis
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "src"))

from both import async_client, sync_client

# Nothing is written to the checkout, and no test depends on the clock.
hypothesis.configuration.set_hypothesis_home_dir(pathlib.Path(tempfile.gettempdir()) / "copilotd-hypothesis")
# More by a command: COPILOTD_EXAMPLES=5000 pytest clients/python/tests
EXAMPLES = int(os.environ.get("COPILOTD_EXAMPLES", "60"))
hypothesis.settings.register_profile("copilotd", max_examples=EXAMPLES, database=None, deadline=None, print_blob=True)
hypothesis.settings.load_profile("copilotd")


@pytest.fixture(params=[sync_client, async_client], ids=["sync", "async"], scope="session")
def make(request):
    """Makes a client of a server in memory."""
    return request.param


@pytest.fixture(scope="session")
def run():
    """Runs a coroutine, with a limit in case that it hangs."""
    return lambda coroutine: asyncio.run(asyncio.wait_for(coroutine, 60))
