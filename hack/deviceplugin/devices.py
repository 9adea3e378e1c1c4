"""The devices of one server as values: what they are, how they fail and heal. No clock, no I/O."""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from deviceplugin.profiles import MOST_DEVICES, Profile

# NVIDIA's plugin takes these for the application's own fault, and the device for healthy.
# https://github.com/NVIDIA/k8s-device-plugin/blob/main/internal/rm/health.go
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
_HIGHEST_XID = 1000
# Any fixed value does: ids are the same wherever the names of node and profile are.
_NAMESPACE = uuid.UUID("6f1d9c0e-3c52-5b8e-9a40-7f1f5b0f6a11")


class NoSuchDevice(LookupError):
    """A device was named that this server has not; the message lists what can be named."""


class Refused(ValueError):
    """What was asked cannot be done to this device as it is; the message says why and what to do."""


@dataclass(frozen=True)
class Device:
    """One device. load and memory_mib are what metrics show; None: what a device in use, or not, would show."""

    index: int
    id: str
    uuid: str
    pci: str
    numa: int
    fault: str = ""
    xid: int = 0
    present: bool = True
    load: int | None = None
    memory_mib: int | None = None

    @property
    def health(self) -> str:
        """Return the word that the kubelet knows: Healthy or Unhealthy."""
        return "Unhealthy" if self.fault else "Healthy"


Devices = tuple[Device, ...]


def devices_of(profile: Profile, node: str, count: int | None = None) -> Devices:
    """Return the devices of a node, with ids that depend on nothing but the names of node and profile.

    Raises ValueError where they are too few or too many.
    """
    count = profile.count if count is None else count
    if not 1 <= count <= MOST_DEVICES:
        raise ValueError(f"count: a server has 1 to {MOST_DEVICES} devices, not {count}")
    return tuple(_device(profile, node, index, count) for index in range(count))


def _device(profile: Profile, node: str, index: int, count: int) -> Device:
    made = str(uuid.uuid5(_NAMESPACE, f"{node}/{profile.name}/{index}"))
    bus = f"{0x10 + 8 * index:02x}:00.0"
    numa = 2 * index // count
    if profile.vendor == "nvidia":
        return Device(index, f"GPU-{made}", f"GPU-{made}", f"00000000:{bus.upper()}", numa)
    # Rebellions' plugin knows its devices by their addresses.
    return Device(index, f"0000:{bus}", made, f"0000:{bus}", numa)


def listed(devices: Devices) -> list[tuple[str, str]]:
    """Return what the kubelet should know of them: id and health of each that is there, in order."""
    return [(device.id, device.health) for device in devices if device.present]


def find(devices: Devices, name: str) -> Device:
    """Return a device by its index or id. Raises NoSuchDevice."""
    for device in devices:
        if name in (str(device.index), device.id):
            return device
    raise NoSuchDevice(f"no device {name!r}; name one by its id or its index, 0 to {len(devices) - 1}")


# -- changes: each returns all devices, with one of them changed ------------------------------------------


def with_xid(devices: Devices, name: str, xid: int) -> Devices:
    """Let the driver report an Xid on a device. Raises NoSuchDevice, Refused."""
    if not 1 <= xid <= _HIGHEST_XID:
        raise Refused(f"xid: an Xid is a number from 1 to {_HIGHEST_XID}, not {xid}")

    def _hit(device: Device) -> Device:
        # What made it Unhealthy first is why it is; a later error does not heal.
        fault = device.fault or ("" if xid in APPLICATION_XIDS else f"Xid {xid}")
        return replace(device, xid=xid, fault=fault)

    return _changed(devices, name, _hit)


def with_fault(devices: Devices, name: str, reason: str) -> Devices:
    """Make a device Unhealthy for a reason in words. Raises NoSuchDevice, Refused."""
    return _changed(devices, name, lambda device: replace(device, fault=reason or "failed on request"))


def healed(devices: Devices, name: str) -> Devices:
    """Make a device Healthy, its last Xid forgotten. Raises NoSuchDevice, Refused."""
    return _changed(devices, name, lambda device: replace(device, fault="", xid=0))


def without(devices: Devices, name: str) -> Devices:
    """Take a device out of the server: it is on no list any more. Raises NoSuchDevice, Refused."""
    return _changed(devices, name, lambda device: replace(device, present=False))


def with_again(devices: Devices, name: str) -> Devices:
    """Put a device back, with the id it had; it comes back Healthy. Raises NoSuchDevice, Refused."""
    if find(devices, name).present:
        raise Refused(f"device {name} is there: only one that was removed can be added")
    return _swapped(devices, replace(find(devices, name), present=True, fault="", xid=0))


def with_load(devices: Devices, name: str, percent: int | None, memory_mib: int | None) -> Devices:
    """Set what metrics show of a device; None: what they show by themselves. Raises NoSuchDevice, Refused."""
    if percent is not None and not 0 <= percent <= 100:
        raise Refused(f"percent: a load is 0 to 100, not {percent}")
    if memory_mib is not None and memory_mib < 0:
        raise Refused(f"memory_mib: not {memory_mib}: used memory is 0 or more")
    return _changed(devices, name, lambda device: replace(device, load=percent, memory_mib=memory_mib))


def _changed(devices: Devices, name: str, change: Callable[[Device], Device]) -> Devices:
    device = find(devices, name)
    if not device.present:
        raise Refused(f"device {name} is removed: add it first")
    return _swapped(devices, change(device))


def _swapped(devices: Devices, new: Device) -> Devices:
    return tuple(new if device.index == new.index else device for device in devices)


# -- choosing ----------------------------------------------------------------------------------------------


def preferred(devices: Devices, available: Iterable[str], must: Sequence[str], size: int) -> list[str]:
    """Choose ``size`` of the available ids, those of ``must`` among them, on as few NUMA nodes as can be.

    Of several nodes that would do, the fullest is taken, so that large jobs find whole ones. Fewer than ``size``
    where there are not so many. Ids that this server has not are left out.
    """
    rank = {device.id: device for device in devices}
    chosen = [each for each in must if each in rank][:size]
    left = sorted((rank[each] for each in set(available) - set(chosen) if each in rank), key=lambda each: each.index)
    while len(chosen) < size and left:
        started = {rank[each].numa for each in chosen}
        numa = _best_numa(left, started, size - len(chosen))
        here = [device for device in left if device.numa == numa][: size - len(chosen)]
        chosen += [device.id for device in here]
        left = [device for device in left if device not in here]
    return chosen


def _best_numa(left: list[Device], started: set[int], missing: int) -> int:
    free = {numa: sum(1 for device in left if device.numa == numa) for numa in {device.numa for device in left}}

    def _badness(numa: int) -> tuple[bool, bool, int, int]:
        enough = free[numa] >= missing
        # One that holds all that is missing, the fuller the better; else the one that holds most of it.
        return numa not in started, not enough, free[numa] if enough else -free[numa], numa

    return min(free, key=_badness)
