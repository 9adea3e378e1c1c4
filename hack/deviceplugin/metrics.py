"""What exporters would say of the devices: DCGM's names and labels for NVIDIA, Rebellions' for theirs.

The values are made up, and the same each time for the same state: a device that a pod holds is busy, one that
nobody holds is idle, an Unhealthy one does nothing; `load` sets them otherwise. Names, units and labels are those
of dcgm-exporter and rbln-metrics-exporter.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from deviceplugin.devices import Device, Devices
from deviceplugin.podresources import Holder
from deviceplugin.profiles import NVIDIA_DRIVER, REBELLIONS_DRIVER, Profile

_BUSY_PERCENT, _BUSY_MEMORY_PERCENT = 96, 88
_IDLE_CELSIUS, _WARMER_AT_FULL_LOAD = 32, 38
_MIB_PER_GIB = 1024


class Reading:
    """What sensors of one device would show. Percent, MiB, watts, degrees Celsius."""

    def __init__(self, profile: Profile, device: Device, held: bool) -> None:
        busy = held and not device.fault
        self.percent = device.load if device.load is not None else _BUSY_PERCENT * busy
        by_itself = profile.memory_mib * _BUSY_MEMORY_PERCENT // 100 * busy
        self.used_mib = min(by_itself if device.memory_mib is None else device.memory_mib, profile.memory_mib)
        self.free_mib = profile.memory_mib - self.used_mib
        self.total_mib = profile.memory_mib
        self.watts = profile.idle_watts + (profile.full_watts - profile.idle_watts) * self.percent / 100
        self.celsius = _IDLE_CELSIUS + _WARMER_AT_FULL_LOAD * self.percent // 100
        self.xid = device.xid
        self.inactive = int(bool(device.fault))


_Metric = tuple[str, str, Callable[[Reading], float]]
_DCGM: tuple[_Metric, ...] = (
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", lambda each: each.percent),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", lambda each: each.percent // 2),
    ("DCGM_FI_DEV_FB_USED", "Frame buffer memory used (in MiB).", lambda each: each.used_mib),
    ("DCGM_FI_DEV_FB_FREE", "Frame buffer memory free (in MiB).", lambda each: each.free_mib),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", lambda each: each.celsius),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", lambda each: each.watts),
    ("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", lambda each: each.xid),
)
_RBLN: tuple[_Metric, ...] = (
    ("RBLN_DEVICE_STATUS:UTILIZATION", "Utilization (%)", lambda each: each.percent),
    ("RBLN_DEVICE_STATUS:DRAM_USED", "DRAM in use (GiB)", lambda each: each.used_mib / _MIB_PER_GIB),
    ("RBLN_DEVICE_STATUS:DRAM_TOTAL", "DRAM (GiB)", lambda each: each.total_mib / _MIB_PER_GIB),
    ("RBLN_DEVICE_STATUS:TEMPERATURE", "Temperature (C)", lambda each: each.celsius),
    ("RBLN_DEVICE_STATUS:CARD_POWER", "Power (W)", lambda each: each.watts),
    ("RBLN_DEVICE_STATUS:HEALTH", "0: active, 1: inactive", lambda each: each.inactive),
)


def exposition(profile: Profile, node: str, devices: Devices, holders: Mapping[str, Holder] | None) -> bytes:
    """Return the page that a scraper gets. holders is None where the kubelet did not say: then nothing seems held."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(_families(profile, node, devices, holders)))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _families(profile: Profile, node: str, devices: Devices, holders: Mapping[str, Holder] | None
              ) -> Iterator[GaugeMetricFamily]:
    up = "Whether the kubelet said which pod holds which device (pod-resources API)."
    yield GaugeMetricFamily("fake_gpu_pod_resources_up", up, value=int(holders is not None))
    known, there = holders or {}, [device for device in devices if device.present]
    labelled = _dcgm_labels if profile.vendor == "nvidia" else _rbln_labels
    told = [(labelled(profile, node, device) | _pod_labels(known.get(device.id)),
             Reading(profile, device, device.id in known)) for device in there]
    for name, help_, read in _DCGM if profile.vendor == "nvidia" else _RBLN:
        family = GaugeMetricFamily(name, help_, labels=list(told[0][0]) if told else [])
        for labels, reading in told:
            family.add_metric(list(labels.values()), read(reading))
        yield family


def _dcgm_labels(profile: Profile, node: str, device: Device) -> dict[str, str]:
    return {"gpu": str(device.index), "UUID": device.uuid, "pci_bus_id": device.pci, "device": f"nvidia{device.index}",
            "modelName": profile.model, "Hostname": node, "DCGM_FI_DRIVER_VERSION": NVIDIA_DRIVER}


def _rbln_labels(profile: Profile, node: str, device: Device) -> dict[str, str]:
    return {"card": profile.model, "uuid": device.uuid, "name": f"rbln{device.index}", "hostname": node,
            "driver_version": REBELLIONS_DRIVER}


def _pod_labels(holder: Holder | None) -> dict[str, str]:
    # An empty label is to Prometheus as none: what nobody holds has no pod.
    return {"namespace": holder.namespace if holder else "", "pod": holder.pod if holder else "",
            "container": holder.container if holder else ""}
