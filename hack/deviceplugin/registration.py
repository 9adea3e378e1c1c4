"""Being known to the kubelet: a socket of our own that it dials, and a Register for each life of the kubelet.

The kubelet deletes every socket of its folder when it starts and knows no plugin then, so what is watched is the
identity of kubelet.sock. Each registration has a fresh socket: 1.37 refuses a name whose stream still lives, and a
socket whose file was deleted cannot be dialled. The new one is registered before the old one goes, so that a
registration by itself takes no device away.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from deviceplugin.api import deviceplugin_pb2 as api
from deviceplugin.api.deviceplugin_pb2_grpc import RegistrationStub, add_DevicePluginServicer_to_server
from deviceplugin.log import Log
from deviceplugin.plugin import OPTIONS, Plugin

KUBELET_SOCKET = "kubelet.sock"
CHANNEL_OPTIONS = (
    # Go's servers refuse the name that grpcio makes of a socket's path.
    ("grpc.default_authority", "localhost"),
    # Channels to one address share its connection otherwise, and with it the time to wait after a failed one.
    ("grpc.use_local_subchannel_pool", 1),
)
# The kubelet dials back before it answers, and gives that ten seconds.
_REGISTER_SECONDS = 15.0
_LONGEST_WAIT_SECONDS = 5.0
# A file, by inode and the time that made it: a deleted file's inode is soon another's.
Identity = tuple[int, int]


@dataclass
class _Endpoint:
    plugin: Plugin
    server: grpc.aio.Server
    path: Path

    async def retire(self) -> None:
        await self.server.stop(grace=None)
        self.path.unlink(missing_ok=True)


class Registration:
    """Keeps the plugin known to the kubelet, unless told to stay away."""

    def __init__(self, folder: Path, resource: str, make_plugin: Callable[[str], Plugin], log: Log,
                 look_every_seconds: float = 0.5) -> None:
        self._folder, self._resource, self._make_plugin, self._log = folder, resource, make_plugin, log
        self._look_every = look_every_seconds
        self._endpoint: _Endpoint | None = None
        self._known_to: Identity | None = None
        self._wanted = True
        self._told = asyncio.Event()
        # A command and the watch never act at the same time.
        self._acting = asyncio.Lock()

    @property
    def endpoint(self) -> str:
        """Return the name of the socket that is registered, or ""."""
        return self._endpoint.path.name if self._endpoint else ""

    @property
    def streams(self) -> int:
        """Return how many ListAndWatch streams are open on it."""
        return self._endpoint.plugin.streams if self._endpoint else 0

    async def run(self) -> None:
        """Register with each kubelet that comes, until cancelled."""
        self._sweep()
        wait = self._look_every
        try:
            while True:
                self._told.clear()
                seen = self._kubelet()
                ok = await self._register_if_needed(seen)
                # A kubelet that is away leaves its socket behind: ask it less and less often.
                wait = self._look_every if ok else min(2 * wait, _LONGEST_WAIT_SECONDS)
                await self._wait_for_change(seen, wait)
        finally:
            await self._retire()

    async def _wait_for_change(self, seen: Identity | None, seconds: float) -> None:
        waited = 0.0
        while waited < seconds and not self._told.is_set() and self._kubelet() == seen:
            try:
                # Not wait_for: that of Python 3.11 loses a cancellation which comes as the event does.
                async with asyncio.timeout(self._look_every):
                    await self._told.wait()
            except TimeoutError:
                waited += self._look_every

    async def _register_if_needed(self, kubelet: Identity | None) -> bool:
        async with self._acting:
            if not self._wanted or kubelet is None or kubelet == self._known_to:
                return True
            new = await self._serve()
            known = False
            try:
                known = await self._register(new, kubelet)
            finally:
                # Also where this was cut short: a server that nobody stops hangs the process at its end.
                if not known:
                    await new.retire()
            if not known:
                return False
            old, self._endpoint, self._known_to = self._endpoint, new, kubelet
            if old is not None:
                await old.retire()
            return True

    async def register_again(self) -> None:
        """Register anew, on another socket, as soon as there is a kubelet."""
        async with self._acting:
            self._wanted, self._known_to = True, None
        self._told.set()

    async def stay_away(self) -> None:
        """Close the socket and be unknown, over restarts of the kubelet too, until told to register again."""
        async with self._acting:
            self._wanted = False
            await self._retire()

    async def drop_streams(self) -> None:
        """End the streams with an error, and leave the socket: the kubelet takes the plugin for gone."""
        async with self._acting:
            if self._endpoint is not None:
                self._endpoint.plugin.drop()

    # -- sockets -----------------------------------------------------------------------------------------

    @property
    def _prefix(self) -> str:
        return f"fake-{self._resource.replace('/', '_')}-"

    def _kubelet(self) -> Identity | None:
        try:
            status = (self._folder / KUBELET_SOCKET).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_ctime_ns

    async def _serve(self) -> _Endpoint:
        path = self._folder / f"{self._prefix}{secrets.token_hex(4)}.sock"
        server, plugin = grpc.aio.server(), self._make_plugin(path.name)
        add_DevicePluginServicer_to_server(plugin, server)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        return _Endpoint(plugin, server, path)

    async def _register(self, new: _Endpoint, kubelet: Identity) -> bool:
        request = api.RegisterRequest(version="v1beta1", endpoint=new.path.name, resource_name=self._resource,
                                      options=OPTIONS)
        code, message = "OK", ""
        try:
            async with grpc.aio.insecure_channel(f"unix:{self._folder / KUBELET_SOCKET}", CHANNEL_OPTIONS) as channel:
                async with asyncio.timeout(_REGISTER_SECONDS):
                    asked = asyncio.ensure_future(_ask(channel, request))
                    # One that was restarted meanwhile may never answer, and its successor waits.
                    while not asked.done() and self._kubelet() == kubelet:
                        await asyncio.wait({asked}, timeout=self._look_every)
                    if not asked.done():
                        raise TimeoutError
                    await asked
        except grpc.aio.AioRpcError as error:
            code, message = error.code().name, error.details() or ""
        except TimeoutError:
            code, message = "DEADLINE_EXCEEDED", "the kubelet did not answer, or went"
        finally:
            asked.cancel()
        self._log.write("registration", endpoint=new.path.name, resource=self._resource, code=code, message=message)
        return code == "OK"

    async def _retire(self) -> None:
        endpoint, self._endpoint, self._known_to = self._endpoint, None, None
        if endpoint is not None:
            await endpoint.retire()

    def _sweep(self) -> None:
        """Remove sockets that a run of ours left behind when it was killed. One that is served is not ours to take."""
        for path in self._folder.glob(f"{self._prefix}*.sock"):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except (ConnectionRefusedError, FileNotFoundError):
                    path.unlink(missing_ok=True)


async def _ask(channel: grpc.aio.Channel, request: api.RegisterRequest) -> None:
    await RegistrationStub(channel).Register(request)
