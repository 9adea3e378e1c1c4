"""Which container holds which device, as the kubelet tells it."""

from dataclasses import dataclass
from pathlib import Path

import grpc

from deviceplugin.api import podresources_pb2 as api
from deviceplugin.api.podresources_pb2_grpc import PodResourcesListerStub
from deviceplugin.registration import CHANNEL_OPTIONS

_LIST_SECONDS = 2.0


@dataclass(frozen=True)
class Holder:
    """The container that a device was given to."""

    namespace: str
    pod: str
    container: str


class Unreachable(RuntimeError):
    """The kubelet did not say who holds what; the message tells what it, or the socket, said instead."""


async def list_holders(socket: Path, resource: str) -> dict[str, Holder]:
    """Return who holds each device of a resource, by device id. Raises Unreachable.

    The kubelet goes on telling of a pod until it is done with it: containers that have ended hold nothing, and are
    told of for some seconds all the same.
    """
    try:
        # A channel of its own each time: one that lost its kubelet tries again less and less often.
        async with grpc.aio.insecure_channel(f"unix:{socket}", CHANNEL_OPTIONS) as channel:
            told = await PodResourcesListerStub(channel).List(api.ListPodResourcesRequest(), timeout=_LIST_SECONDS)
    except grpc.aio.AioRpcError as error:
        raise Unreachable(f"{socket}: {error.code().name}: {error.details()}") from None
    return {
        id_: Holder(pod.namespace, pod.name, container.name)
        for pod in told.pod_resources for container in pod.containers
        for devices in container.devices if devices.resource_name == resource
        for id_ in devices.device_ids
    }
