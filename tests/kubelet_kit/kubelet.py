"""A kubelet as a device plugin meets it. What it does is what Kubernetes 1.37's device manager does."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc

from deviceplugin.api import deviceplugin_pb2 as api
from deviceplugin.api import podresources_pb2 as pods_api
from deviceplugin.api.deviceplugin_pb2_grpc import (
    DevicePluginStub,
    RegistrationServicer,
    add_RegistrationServicer_to_server,
)
from deviceplugin.api.podresources_pb2_grpc import (
    PodResourcesListerServicer,
    add_PodResourcesListerServicer_to_server,
)

_SECONDS = 10.0
_AUTHORITY = (("grpc.default_authority", "localhost"),)


class Disconnected(Exception):
    """A call was under way when the plugin's stream ended."""


class Session:
    """One registration: the connection to a plugin's socket, and its stream."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self.endpoint, self.channel = endpoint, channel
        self.stub = DevicePluginStub(channel)
        self.lists: list[dict[str, str]] = []
        self.numa: dict[str, int] = {}
        self.lives = True


class FakeKubelet(RegistrationServicer, PodResourcesListerServicer):
    """Lives in a folder as kubelets do in /var/lib/kubelet; restarts in it."""

    def __init__(self, folder: Path) -> None:
        self.plugins, self.pod_resources = folder / "device-plugins", folder / "pod-resources" / "kubelet.sock"
        self.sessions: list[Session] = []
        self.requests: list[api.RegisterRequest] = []
        self.refuses = ""
        self._held: dict[tuple[str, str, str], dict[str, list[str]]] = {}
        self._servers: list[grpc.aio.Server] = []
        self._streams: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()

    # -- its life ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Delete every socket in the folder, then serve: what a kubelet does first."""
        self.plugins.mkdir(parents=True, exist_ok=True)
        self.pod_resources.parent.mkdir(exist_ok=True)
        for path in self.plugins.iterdir():
            if path.is_socket():
                path.unlink()
        for add, path in (
            (add_RegistrationServicer_to_server, self.plugins / "kubelet.sock"),
            (add_PodResourcesListerServicer_to_server, self.pod_resources),
        ):
            server = grpc.aio.server()
            add(self, server)
            server.add_insecure_port(f"unix:{path}")
            await server.start()
            self._servers.append(server)

    async def stop(self) -> None:
        """End as a kubelet that was stopped: streams are closed, sockets of plugins stay."""
        for server in self._servers:
            await server.stop(grace=None)
        self._servers.clear()
        for session in self.sessions:
            if session.lives:
                await session.channel.close()
        await asyncio.gather(*self._streams)

    async def restart(self) -> None:
        """Stop and start."""
        await self.stop()
        await self.start()

    # -- what plugins ask it -----------------------------------------------------------------------------

    async def Register(self, request: api.RegisterRequest, context: grpc.aio.ServicerContext) -> api.Empty:
        await self._note(lambda: self.requests.append(request))
        if self.refuses or request.version != "v1beta1" or "/" not in request.resource_name:
            await context.abort(grpc.StatusCode.UNKNOWN, self.refuses or "bad version or resource name")
        if any(each.lives and each.endpoint == request.endpoint for each in self.sessions):
            await context.abort(grpc.StatusCode.UNKNOWN, f"device plugin already connected: {request.endpoint}")
        session = Session(
            request.endpoint, grpc.aio.insecure_channel(f"unix:{self.plugins / request.endpoint}", _AUTHORITY)
        )
        # It serves before it registers, or this fails.
        await session.stub.GetDevicePluginOptions(api.Empty(), timeout=_SECONDS)
        await self._note(lambda: self.sessions.append(session))
        task = asyncio.create_task(self._listen(session))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return api.Empty()

    async def _listen(self, session: Session) -> None:
        try:
            async for message in session.stub.ListAndWatch(api.Empty()):
                devices = {device.ID: device.health for device in message.devices}
                session.numa = {device.ID: device.topology.nodes[0].ID for device in message.devices}
                await self._note(lambda devices=devices: session.lists.append(devices))
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        finally:
            await self._note(lambda: setattr(session, "lives", False))
            await session.channel.close()

    async def List(
        self, request: pods_api.ListPodResourcesRequest, context: grpc.aio.ServicerContext
    ) -> pods_api.ListPodResourcesResponse:
        return pods_api.ListPodResourcesResponse(pod_resources=[
            pods_api.PodResources(name=pod, namespace=namespace, containers=[
                pods_api.ContainerResources(name=container, devices=[
                    pods_api.ContainerDevices(resource_name=resource, device_ids=ids)
                    for resource, ids in held.items()])])
            for (namespace, pod, container), held in self._held.items()])  # fmt: skip

    # -- what it asks ------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The registration that is asked: the newest that lives."""
        living = [each for each in self.sessions if each.lives]
        assert living, "no plugin is registered"
        return living[-1]

    async def allocate(self, *ids: str) -> dict[str, str]:
        """Ask for devices for one container; return its environment. Raises AioRpcError, Disconnected."""
        request = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=ids)])
        call = self.session.stub.Allocate(request, timeout=_SECONDS)
        try:
            answer = await call
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            raise Disconnected("the stream ended, and the connection with it") from None
        assert len(answer.container_responses) == 1
        return dict(answer.container_responses[0].envs)

    async def preferred(self, available: list[str], must: list[str], size: int) -> list[str]:
        """Ask which devices to take."""
        asked = api.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must, allocation_size=size
        )
        request = api.PreferredAllocationRequest(container_requests=[asked])
        answer = await self.session.stub.GetPreferredAllocation(request, timeout=_SECONDS)
        return list(answer.container_responses[0].deviceIDs)

    def hold(self, namespace: str, pod: str, container: str, resource: str, *ids: str) -> None:
        """Tell from now on that a container holds devices."""
        self._held[(namespace, pod, container)] = {resource: list(ids)}

    # -- waiting -----------------------------------------------------------------------------------------

    async def _note(self, change: Callable[[], object]) -> None:
        async with self._changed:
            change()
            self._changed.notify_all()

    async def wait_for(self, what: Callable[[], object]) -> None:
        """Wait until something is so. Raises TimeoutError."""
        async with asyncio.timeout(_SECONDS), self._changed:
            await self._changed.wait_for(what)

    async def wait_for_list(self, devices: dict[str, str]) -> None:
        """Wait until the last list of the living registration is this one. Raises TimeoutError."""
        def _is_so() -> bool:
            living = [each for each in self.sessions if each.lives]
            return len(living) == 1 and living[0].lists[-1:] == [devices]

        try:
            await self.wait_for(_is_so)
        except TimeoutError:
            told = [(each.endpoint, each.lives, each.lists[-1:]) for each in self.sessions]
            raise TimeoutError(f"wanted {devices}; was told {told}") from None
