"""The fleet as data: which servers there are, in which fabrics, and how they look as nodes.

fleet.yaml tells pools in GPUs and the fabrics of the public share in servers. How providers wire their own
use is not public: here it is fabrics of at most 64 servers, which is what a single leaf-and-spine pod of
8-GPU servers commonly holds.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from pathlib import Path

import yaml

from devcluster.client import JsonObject, KubeClient

GPUS_PER_SERVER = 8
OWN_USE_FABRIC = 64
_FLEET = Path(__file__).resolve().parent / "fleet.yaml"
_IN_FLIGHT = 32
# MiB of one GPU as GPU Feature Discovery tells it, and what else a server of that kind has.
_MEMORY = {"NVIDIA-B200": "183359", "NVIDIA-H200": "143771", "NVIDIA-H100-80GB-HBM3": "81559"}
_MACHINE = {
    "NVIDIA-B200": ("224", "2267Gi", "DGXB200"),
    "NVIDIA-H200": ("192", "2015Gi", "DGXH200"),
    "NVIDIA-H100-80GB-HBM3": ("192", "2015Gi", "DGXH100"),
}
_FAMILY = {"NVIDIA-B200": "blackwell"}


@dataclass(frozen=True)
class PoolSpec:
    """One pool in whole servers: the public share's fabrics, and the provider's own use."""

    name: str
    programme: str
    provider: str
    gpu_type: str
    public_fabrics: tuple[int, ...]
    own_use: int

    @property
    def public(self) -> int:
        """Servers of the public share."""
        return sum(self.public_fabrics)

    @property
    def servers(self) -> int:
        """All servers."""
        return self.public + self.own_use

    @property
    def fabrics(self) -> tuple[int, ...]:
        """Sizes of all fabrics, the public share's first."""
        whole, rest = divmod(self.own_use, OWN_USE_FABRIC)
        return (*self.public_fabrics, *([OWN_USE_FABRIC] * whole), *([rest] if rest else []))

    @property
    def kinds(self) -> int:
        """How many servers the pool needs at the least: one public, and one of own use where it has any."""
        return 1 + (self.own_use > 0)


@dataclass(frozen=True)
class Fleet:
    """All pools."""

    pools: tuple[PoolSpec, ...]

    @property
    def servers(self) -> int:
        """All servers."""
        return sum(pool.servers for pool in self.pools)

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return self.servers * GPUS_PER_SERVER

    def pool(self, name: str) -> PoolSpec:
        """Return a pool by name. Raises KeyError."""
        return {pool.name: pool for pool in self.pools}[name]


@cache
def whole_fleet() -> Fleet:
    """Return the fleet of fleet.yaml."""
    programmes = yaml.safe_load(_FLEET.read_text())["programmes"]
    return Fleet(tuple(
        PoolSpec(pool["name"], programme, pool["provider"], pool["gpu_type"], tuple(pool["public_fabrics"]),
                 pool.get("own_use_gpus", 0) // GPUS_PER_SERVER)
        for programme, spec in programmes.items() for pool in spec["pools"]
    ))


def scaled(servers: int, fleet: Fleet | None = None) -> Fleet:
    """Return the fleet in proportion, of exactly ``servers`` servers and at least one of each kind.

    Raises ValueError where there are fewer servers than kinds. More servers than the whole fleet is growth
    in the same proportion.
    """
    fleet = fleet or whole_fleet()
    kinds = sum(pool.kinds for pool in fleet.pools)
    if servers < kinds:
        raise ValueError(
            f"SERVERS={servers} is too few: the fleet has {len(fleet.pools)} pools and {kinds} kinds of servers "
            f"(public and own use), and each needs one. Use SERVERS={kinds} or more")
    if servers == fleet.servers:
        return fleet
    parts = [part for pool in fleet.pools for part in ([pool.public, pool.own_use] if pool.own_use else [pool.public])]
    shares = iter(apportion(servers, parts))
    pools = []
    for pool in fleet.pools:
        public, own_use = next(shares), next(shares) if pool.own_use else 0
        # A fabric may vanish, a share may not.
        sizes = apportion(public, list(pool.public_fabrics), at_least=1 if public >= len(pool.public_fabrics) else 0)
        pools.append(replace(pool, public_fabrics=tuple(size for size in sizes if size), own_use=own_use))
    return Fleet(tuple(pools))


def apportion(total: int, weights: list[int], at_least: int = 1) -> list[int]:
    """Split ``total`` in proportion to ``weights``, in whole numbers that sum to it, none below ``at_least``.

    By largest remainder. ``total`` must be at least ``at_least`` for each weight.
    """
    spare = total - at_least * len(weights)
    # Only what a weight is due above the minimum is split, so that the minimum costs the large ones.
    due = [max(Fraction(total * weight, sum(weights)) - at_least, Fraction(0)) for weight in weights]
    due_sum = sum(due) or Fraction(1)
    exact = [each * spare / due_sum for each in due]
    parts = [int(each) for each in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: spare - sum(parts)]:
        parts[i] += 1
    return [at_least + part for part in parts]


# -- nodes ---------------------------------------------------------------------------------------------


def nodes(fleet: Fleet) -> list[JsonObject]:
    """Return the node objects of a fleet: nhn-0001 … in the order of their fabrics."""
    made = []
    numbers: dict[str, int] = {}
    for pool in fleet.pools:
        stem = pool.name.split("-")[0]
        for fabric, size in enumerate(pool.fabrics, 1):
            for _ in range(size):
                numbers[stem] = numbers.get(stem, 0) + 1
                made.append(a_server(
                    f"{stem}-{numbers[stem]:04}", provider=pool.provider, product=pool.gpu_type,
                    fabric=f"{pool.name}-f{fabric}"))
    return made


def a_server(name: str, *, provider: str, product: str, fabric: str | None = None, gpus: int = GPUS_PER_SERVER,
             resource: str = "nvidia.com/gpu") -> JsonObject:
    """Return one server as a Ready node, with the labels that people and GPU Feature Discovery set."""
    cpu, memory, machine = _MACHINE.get(product, ("192", "2015Gi", "GPU-server"))
    labels = {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "gpugrant.io/provider": provider,
    }
    if fabric is not None:
        labels["gpugrant.io/fabric"] = fabric
    if resource == "nvidia.com/gpu":
        labels |= {
            "nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": product, "nvidia.com/gpu.count": str(gpus),
            "nvidia.com/gpu.memory": _MEMORY.get(product, "81559"), "nvidia.com/gpu.machine": machine,
            "nvidia.com/gpu.family": _FAMILY.get(product, "hopper"), "nvidia.com/gpu.replicas": "1",
            "nvidia.com/mig.capable": "true", "nvidia.com/mig.strategy": "single",
        }
    else:
        labels["gpugrant.io/product"] = product
    amounts = {"cpu": cpu, "memory": memory, "pods": "256", "ephemeral-storage": "27Ti", resource: str(gpus)}
    now = _now()
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now,
                            "lastTransitionTime": now, "message": "kubelet is posting ready status"}],
            "addresses": [{"type": "Hostname", "address": name}],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.37.2", "bootID": "",
                "containerRuntimeVersion": "containerd://2.4.2", "kernelVersion": "6.8.0-gpu", "machineID": "",
                "osImage": "Ubuntu 24.04 LTS", "systemUUID": "", "kubeProxyVersion": ""},
        },
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def create_fleet(client: KubeClient, fleet: Fleet) -> None:
    """Create all servers, a bounded number at a time. Raises Refused."""
    waiting = iter(nodes(fleet))

    async def _create_some() -> None:
        for node in waiting:
            await client.create(node, strict=False)

    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(_create_some())


def schedulable(node: JsonObject) -> bool:
    """Say whether a node is Ready and free of the taint that every new node begins with."""
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", ()))
    return ready and not any(taint["key"] == "node.kubernetes.io/not-ready" for taint in node["spec"].get("taints", ()))


async def wait_until_schedulable(client: KubeClient, servers: int, seconds: float = 120.0) -> None:
    """Wait until ``servers`` nodes can take pods. Raises TimeoutError."""
    seen: dict[str, bool] = {}
    try:
        async with asyncio.timeout(seconds):
            async for kind, node in client.watch("/api/v1/nodes"):
                seen[node["metadata"]["name"]] = kind != "DELETED" and schedulable(node)
                if kind != "DELETED" and sum(seen.values()) >= servers:
                    return
    except TimeoutError:
        raise TimeoutError(f"{sum(seen.values())} of {servers} servers could take pods after {seconds:.0f} s") from None
