"""Clients that press: pods and gangs made and removed at any moment, and what a witness saw them hold."""

import asyncio
import random
from dataclasses import dataclass

from cluster_kit.pods import a_pod, pod_path
from cluster_kit.site import Tenant
from cluster_kit.witness import Witness, gpus_of
from devcluster.client import JsonObject, KubeClient
from gpugrant import names


@dataclass
class Client:
    """One tenant's user: creates something, sees it end or gives it up, removes it, and again."""

    admin: KubeClient
    witness: Witness
    tenant: Tenant
    number: int
    dice: random.Random
    made: int = 0

    async def press(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            pods = self._something()
            for pod in pods:
                await self.admin.create(pod)
            if self.dice.random() < 0.2:
                await asyncio.sleep(self.dice.uniform(0, 4))  # changes its mind at any moment
            else:
                await asyncio.gather(*(self.witness.until_over(self.tenant.namespace, pod["metadata"]["name"])
                                       for pod in pods))
            for pod in pods:
                await self._remove(pod)

    async def _remove(self, pod: JsonObject) -> None:
        grace = self.dice.choice([None, None, 0])
        await self.admin.delete(pod_path(pod), grace, missing_ok=True)
        await self.witness.until_over(self.tenant.namespace, pod["metadata"]["name"])

    def _something(self) -> list[JsonObject]:
        self.made += 1
        stem = f"client-{self.number}-{self.made}"
        if self.dice.random() < 0.2:
            size = self.dice.randint(2, 3)
            gpus = self.dice.choice([1, 2, 4])
            return [self._pod(f"{stem}-{i}", gpus, {
                names.GANG_ANNOTATION: stem, names.GANG_SIZE_ANNOTATION: str(size)}) for i in range(size)]
        return [self._pod(stem, self.dice.choice([1, 1, 2, 2, 4, 8]), {})]

    def _pod(self, name: str, gpus: int, marks: dict[str, str]) -> JsonObject:
        marks[names.RUN_SECONDS_ANNOTATION] = str(self.dice.randint(0, 3))
        return a_pod(name, self.tenant.namespace, gpus, annotations=marks, restartPolicy="Never")


def holds_of(witness: Witness) -> dict[str, tuple[int, int, int]]:
    """Return (GPUs, from, until) by pod uid, of all that held something for at least a second."""
    expected = {}
    for uid, each in witness.seen.items():
        interval = each.interval()
        if interval is not None and interval[1] > interval[0]:
            expected[uid] = (gpus_of(each.pod), *interval)
    return expected
