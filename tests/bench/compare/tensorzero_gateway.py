"""Starts the gateway in TensorZero's package, prints its address and keeps it running.

The package has no executable: the gateway is compiled into its extension module, and `patch_openai_client` starts it
as an HTTP server on a free port. From then on no Python is involved in a call.
"""

import asyncio
import sys
import warnings

from openai import AsyncOpenAI
from tensorzero import patch_openai_client


async def main() -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    client = AsyncOpenAI(api_key="none", base_url="http://127.0.0.1")
    client = await patch_openai_client(client, config_file=sys.argv[1])
    print(f"serving {client.base_url}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
