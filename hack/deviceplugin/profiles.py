"""Kinds of servers, as profiles.toml tells them, and what each vendor's own software does with their devices."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

_FILE = Path(__file__).resolve().parent / "profiles.toml"
Vendor = Literal["nvidia", "rebellions"]
NVIDIA_DRIVER, REBELLIONS_DRIVER = "580.95.05", "2.0.1"
# A PCI bus has so much room in the addresses that devices.py gives.
MOST_DEVICES = 16
_NVIDIA_LABELS = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.mode": "compute",
    "nvidia.com/gpu.replicas": "1",
    "nvidia.com/gpu.sharing-strategy": "none",
    "nvidia.com/mig.capable": "true",
    "nvidia.com/mig.strategy": "single",
    "nvidia.com/mps.capable": "false",
    "nvidia.com/vgpu.present": "false",
    "nvidia.com/cuda.driver-version.full": NVIDIA_DRIVER,
    "nvidia.com/cuda.driver-version.major": "580",
    "nvidia.com/cuda.driver-version.minor": "95",
    "nvidia.com/cuda.driver-version.revision": "05",
    "nvidia.com/cuda.runtime-version.full": "13.0",
    "nvidia.com/cuda.runtime-version.major": "13",
    "nvidia.com/cuda.runtime-version.minor": "0",
}
_REBELLIONS_LABELS = {
    "rebellions.ai/npu.present": "true",
    "rebellions.ai/driver-version.full": REBELLIONS_DRIVER,
    "rebellions.ai/driver-version.major": "2",
    "rebellions.ai/driver-version.minor": "0",
    "rebellions.ai/driver-version.patch": "1",
}


class NoSuchProfile(LookupError):
    """A profile was named that profiles.toml does not have; the message lists those it has."""


@dataclass(frozen=True)
class Profile:
    """One kind of server: its devices are all alike. memory_mib is of one device, watts at no and at full load."""

    name: str
    vendor: Vendor
    resource: str
    model: str
    memory_mib: int
    count: int
    idle_watts: int
    full_watts: int
    own_labels: Mapping[str, str]

    def labels(self, count: int) -> dict[str, str]:
        """Return the labels that the vendor's feature discovery puts on a node that has so many of its devices."""
        if self.vendor == "rebellions":
            return {**_REBELLIONS_LABELS, **self.own_labels, "rebellions.ai/npu.count": str(count)}
        counted = {"nvidia.com/gpu.count": str(count), "nvidia.com/gpu.memory": str(self.memory_mib)}
        return {**_NVIDIA_LABELS, **self.own_labels, **counted}

    def environment(self, device_ids: Sequence[str]) -> dict[str, str]:
        """Return the variables that the vendor's plugin sets in a container for its devices.

        NVIDIA's, where it lists devices by environment variable (its default), names UUIDs as the kubelet did, which
        is in no order. Rebellions' is made of the SR-IOV plugin: its variable is named after the resource and lists
        PCI addresses, which it sorts.
        """
        if self.vendor == "nvidia":
            return {"NVIDIA_VISIBLE_DEVICES": ",".join(device_ids)}
        name = self.resource.replace(".", "_").replace("/", "_").upper()
        return {f"PCIDEVICE_{name}": ",".join(sorted(device_ids))}


@cache
def profiles() -> dict[str, Profile]:
    """Return all profiles by name, in the order of the file."""
    return {name: _profile(name, each) for name, each in tomllib.loads(_FILE.read_text()).items()}


def _profile(name: str, told: dict[str, object]) -> Profile:
    watts, labels = told.pop("watts"), told.pop("labels")
    assert isinstance(watts, dict) and isinstance(labels, dict)
    return Profile(name, idle_watts=watts["idle"], full_watts=watts["full"], own_labels=labels, **told)  # type: ignore[arg-type]


def profile(name: str) -> Profile:
    """Return a profile by name. Raises NoSuchProfile."""
    try:
        return profiles()[name]
    except KeyError:
        raise NoSuchProfile(f"no profile {name!r}; there are: {', '.join(profiles())}") from None


def all_label_keys() -> set[str]:
    """Return the keys of all labels of all profiles: what a node of another profile must not keep."""
    return {key for each in profiles().values() for key in each.labels(1)}
