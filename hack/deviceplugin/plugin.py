"""What the kubelet calls: the device plugin's own service, on one socket.

Each socket has a service of its own, so that the log tells by which of them a call came. What they share, the
devices and how Allocate is to fail, is handed to them.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
from grpc.aio import ServicerContext

from deviceplugin.api import deviceplugin_pb2 as api
from deviceplugin.api.deviceplugin_pb2_grpc import DevicePluginServicer
from deviceplugin.devices import Devices, listed, preferred
from deviceplugin.log import Log
from deviceplugin.profiles import Profile
from deviceplugin.stock import Stock

Manner = Literal["answer", "fail", "hang"]
OPTIONS = api.DevicePluginOptions(pre_start_required=False, get_preferred_allocation_available=True)


@dataclass
class Allocating:
    """How Allocate goes: for the next ``times`` calls, or until told otherwise where that is None."""

    manner: Manner = "answer"
    message: str = ""
    times: int | None = None
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, manner: Manner, message: str = "", times: int | None = None) -> None:
        """Set how it goes from now on. Calls that hang go on as that says."""
        self.manner, self.message, self.times = manner, message, times
        self._told.set()
        self._told = asyncio.Event()

    async def manner_of_a_call(self) -> tuple[Literal["answer", "fail"], str]:
        """Return how one call is to be answered, and the words of a failure, once it no longer hangs."""
        while True:
            told, manner, message = self._told, self.manner, self.message
            if self.times is not None:
                self.times -= 1
                if self.times <= 0:
                    self.manner, self.message, self.times = "answer", "", None
            if manner != "hang":
                return manner, message
            await told.wait()


class Plugin(DevicePluginServicer):
    """Answers the kubelet on one socket."""

    def __init__(self, endpoint: str, profile: Profile, stock: Stock, allocating: Allocating, log: Log) -> None:
        self.endpoint = endpoint
        self._profile, self._stock, self._allocating, self._log = profile, stock, allocating, log
        self._dropped = asyncio.Event()
        self.streams = 0

    def drop(self) -> None:
        """End all streams of this socket with an error."""
        self._dropped.set()
        self._dropped = asyncio.Event()

    async def GetDevicePluginOptions(self, request: api.Empty, context: object) -> api.DevicePluginOptions:
        """Say which calls are served."""
        call = self._log.called("GetDevicePluginOptions", endpoint=self.endpoint)
        self._log.answered(call, "GetDevicePluginOptions")
        return OPTIONS

    async def ListAndWatch(
        self, request: api.Empty, context: "ServicerContext[api.Empty, api.ListAndWatchResponse]"
    ) -> None:
        """Send the whole list now and at each change, until the kubelet goes or the stream is dropped."""
        call = self._log.called("ListAndWatch", endpoint=self.endpoint)
        dropped, code = self._dropped, "CANCELLED"
        self.streams += 1
        try:
            version = -1
            while not dropped.is_set():
                version, devices = self._stock.version, self._stock.devices
                # Told of before it goes: a stream may be cut once the kubelet has it, and before we go on.
                self._log.pushed(call, self.endpoint, listed(devices))
                await context.write(_message(devices))
                await _first_of(self._stock.wait_past(version), dropped.wait())
            code = "UNAVAILABLE"
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was dropped on request")
        finally:
            self.streams -= 1
            self._log.answered(call, "ListAndWatch", code)

    async def GetPreferredAllocation(
        self, request: api.PreferredAllocationRequest, context: object
    ) -> api.PreferredAllocationResponse:
        """Choose devices that are near each other."""
        asked = request.container_requests
        call = self._log.called("GetPreferredAllocation", endpoint=self.endpoint, containers=[
            {"available": list(each.available_deviceIDs), "must": list(each.must_include_deviceIDs),
             "size": each.allocation_size} for each in asked])
        chosen = [preferred(self._stock.devices, each.available_deviceIDs, each.must_include_deviceIDs,
                            each.allocation_size) for each in asked]
        self._log.answered(call, "GetPreferredAllocation", devices=chosen)
        responses = [api.ContainerPreferredAllocationResponse(deviceIDs=each) for each in chosen]
        return api.PreferredAllocationResponse(container_responses=responses)

    async def Allocate(
        self, request: api.AllocateRequest, context: "ServicerContext[api.AllocateRequest, api.AllocateResponse]"
    ) -> api.AllocateResponse:
        """Give each container its environment; or fail, or hang, as was asked for."""
        containers = [list(each.devices_ids) for each in request.container_requests]
        call = self._log.called("Allocate", endpoint=self.endpoint, devices=containers)
        try:
            manner, message = await self._allocating.manner_of_a_call()
        except asyncio.CancelledError:
            self._log.answered(call, "Allocate", "CANCELLED")
            raise
        known = {id_ for id_, _ in listed(self._stock.devices)}
        unknown = sorted({each for ids in containers for each in ids} - known)
        if unknown and manner == "answer":
            manner, message = "fail", f"no such device: {', '.join(unknown)}"
        if manner == "fail":
            self._log.answered(call, "Allocate", "INTERNAL", message=message)
            await context.abort(grpc.StatusCode.INTERNAL, message)
        environments = [self._profile.environment(ids) for ids in containers]
        self._log.answered(call, "Allocate", environments=environments)
        return api.AllocateResponse(container_responses=[
            api.ContainerAllocateResponse(envs=each) for each in environments])

    async def PreStartContainer(
        self, request: api.PreStartContainerRequest, context: object
    ) -> api.PreStartContainerResponse:
        """Do nothing; the options tell the kubelet not to ask."""
        call = self._log.called("PreStartContainer", endpoint=self.endpoint, devices=list(request.devices_ids))
        self._log.answered(call, "PreStartContainer")
        return api.PreStartContainerResponse()


def _message(devices: Devices) -> api.ListAndWatchResponse:
    return api.ListAndWatchResponse(devices=[
        api.Device(ID=device.id, health=device.health, topology=api.TopologyInfo(nodes=[api.NUMANode(ID=device.numa)]))
        for device in devices if device.present])


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of several has come; the others are waited for no more."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
