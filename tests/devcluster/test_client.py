"""The tests' own client."""

import asyncio
import gc
import json
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from devcluster.client import KubeClient
from devcluster.credentials import write_credentials

_ONE_EVENT = json.dumps({"type": "ADDED", "object": {"metadata": {"name": "default"}}}).encode() + b"\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


class DeafServer:
    """A TLS server that answers each request with one event of a watch and then reads nothing any more."""

    def __init__(self, folder: Path) -> None:
        write_credentials(folder)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[ssl.SSLSocket] = []
        self._thread = threading.Thread(target=self._serve)
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.ca_file = folder / "ca.crt"
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            secured = self._context.wrap_socket(peer, server_side=True)
            secured.recv(65536)
            secured.sendall(_ANSWER + b"%x\r\n%s\r\n" % (len(_ONE_EVENT), _ONE_EVENT))
            self._open.append(secured)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for each in self._open:
            each.close()


@pytest.fixture
def deaf_server(tmp_path: Path) -> Iterator[DeafServer]:
    server = DeafServer(tmp_path)
    yield server
    server.close()


def test_a_watch_that_is_left_in_the_middle_leaves_no_connection(deaf_server: DeafServer) -> None:
    async def leave() -> str:
        async with KubeClient(deaf_server.url, deaf_server.ca_file, "token") as client:
            async with aclosing(client.watch("/api/v1/namespaces")) as events:
                _, seen = await anext(events)
                return str(seen["metadata"]["name"])

    gc.collect()
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        assert asyncio.run(leave()) == "default"
        gc.collect()
    assert [str(one.message) for one in left] == []
