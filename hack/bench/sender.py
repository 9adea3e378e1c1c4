"""A bare asyncio loop that sends prepared PATCHes, so many at a time: the API server's own ceiling.

python -m bench.sender FILE KUBECONFIG IN_FLIGHT   FILE holds a JSON array of [path, body]. Prints JSON.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from gpugrant.observe.client import JSON_PATCH
from gpugrant.observe.credentials import load_credentials


async def send(file: Path, kubeconfig: str, in_flight: int) -> dict[str, Any]:
    """Send all; return how long it took and how many were refused."""
    credentials = load_credentials(kubeconfig)
    work = iter([(path, body.encode()) for path, body in json.loads(file.read_bytes())])
    sent = refused = 0
    headers = {"Authorization": f"Bearer {credentials.token()}", "Content-Type": JSON_PATCH}
    connector = aiohttp.TCPConnector(ssl=credentials.tls or True, limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def one_after_another() -> None:
            nonlocal sent, refused
            for path, body in work:
                async with session.patch(credentials.server + path, data=body) as response:
                    await response.read()
                    sent += 1
                    refused += response.status >= 300

        begun = time.monotonic()
        await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
        return {"sent": sent, "refused": refused, "seconds": time.monotonic() - begun}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(send(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
