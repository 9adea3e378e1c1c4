"""A real control plane with a granted fleet, for benchmarks: every pool public, one tenant and grant over all of it."""

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from bench import bodies
from bench.bodies import Json
from bench.inprocess import SETTINGS, tenants_of
from bench.process import OperatorProcess, operating, total
from devcluster.client import KubeClient, Refused
from devcluster.controlplane import ControlPlane
from devcluster.credentials import write_kubeconfig
from devcluster.fleet import GPUS_PER_SERVER, Fleet, create_fleet, scaled, wait_until_schedulable
from devcluster.install import apply_settings, install
from gpugrant import names
from gpugrant.act import patches
from gpugrant.act.writer import IN_FLIGHT
from gpugrant.config import Settings, load_settings
from gpugrant.decide.actions import ReleasePod
from gpugrant.decide.plan import make_plan
from gpugrant.decide.world import World
from gpugrant.observe.client import Client
from gpugrant.observe.credentials import load_credentials
from gpugrant.observe.observer import Observer

_CREATING = 48
_ALL = 10**6
_RELEASED_SECONDS = 600.0
_WAITING_SECONDS = 900.0
_serial = itertools.count(1)


class Plane:
    """The control plane, its fleet, and what benchmarks do there."""

    def __init__(self, plane: ControlPlane, fleet: Fleet, client: KubeClient, work: Path) -> None:
        self.client = client
        self.seats = fleet.servers * GPUS_PER_SERVER
        self.operator_kubeconfig = work / "operator.kubeconfig"
        self._plane = plane
        self._fleet = fleet
        self._work = work

    async def prepare(self) -> None:
        """Install everything, create the fleet, grant all of it, and let the operator label the servers."""
        await install(self.client)
        await apply_settings(self.client, SETTINGS)
        await create_fleet(self.client, self._fleet)
        await wait_until_schedulable(self.client, self._fleet.servers, 300)
        for body in (*bodies.pools(self._fleet), *tenants_of(self._fleet, _ALL, int(time.time()))):
            await self.client.create(body)
        token = await self.client.token_for(names.SYSTEM_NAMESPACE, names.SERVICE_ACCOUNT)
        write_kubeconfig(
            self.operator_kubeconfig, self._plane.server, self._plane.ca_file, names.SERVICE_ACCOUNT, token
        )
        with self.operator() as operator:
            operator.wait_ready()
            while not await self._all_active():  # noqa: ASYNC110 - a moment, once
                await asyncio.sleep(0.5)
            await self.quiet(operator)

    @contextlib.contextmanager
    def operator(self) -> Iterator[OperatorProcess]:
        """Run the operator, with the ledger it had before."""
        ledger, log = self._work / "ledger.sqlite", self._work / "operator.log"
        with operating(self.operator_kubeconfig, ledger, log) as process:
            yield process

    async def _all_active(self) -> bool:
        for grant in await self.client.list(f"/apis/{names.API_VERSION}/gpugrants"):
            conditions = grant.get("status", {}).get("conditions", ())
            if not any(
                c["type"] == "Ready" and c["reason"] == "Active" and c["status"] == "True" for c in conditions
            ):
                return False
        return True

    async def quiet(self, operator: OperatorProcess, seconds: float = 3.0) -> None:
        """Wait until the operator has written nothing for some seconds."""
        last, since = -1.0, time.monotonic()
        while time.monotonic() - since < seconds:
            wrote = operator.metric("gpugrant_writes_total") + operator.metric("gpugrant_events_total")
            if wrote != last:
                last, since = wrote, time.monotonic()
            await asyncio.sleep(0.5)

    # -- pods --------------------------------------------------------------------------------------------

    def spread(self, count: int) -> list[str]:
        """Return a tenant's namespace for each of ``count`` pods, in proportion to the pools."""
        spaces = [(f"{pool.name}-t000", pool.servers * GPUS_PER_SERVER) for pool in self._fleet.pools]
        seats = sum(size for _, size in spaces)
        found: list[str] = []
        for space, size in spaces:
            found += [space] * (count * size // seats)
        return found + [spaces[0][0]] * (count - len(found))

    async def create(self, spaces: list[str], run_seconds: int = 0) -> None:
        """Create a one-GPU pod in each of these namespaces."""
        work = iter(spaces)

        async def _some() -> None:
            for space in work:
                pod = bodies.pod_manifest()
                pod["metadata"] |= {"name": f"train-{next(_serial):06}", "namespace": space}
                if run_seconds:
                    pod["metadata"]["annotations"] = {names.RUN_SECONDS_ANNOTATION: str(run_seconds)}
                await self.client.create(pod, strict=False)

        async with asyncio.TaskGroup() as group:
            for _ in range(_CREATING):
                group.create_task(_some())

    async def pods(self, **params: str) -> list[Json]:
        """Return all GPU pods."""
        return await self.client.list("/api/v1/pods", labelSelector=names.GPU_LABEL, **params)

    async def wait_running(self, but: int = 0) -> None:
        """Wait until all GPU pods run, but for so many."""
        await self._wait_left(but, fieldSelector="status.phase!=Running")

    async def _wait_left(self, most: int, **params: str) -> None:
        """Wait until a LIST of GPU pods has no more than so many items: what is listed gets less with each look."""
        async with asyncio.timeout(_WAITING_SECONDS):
            while len(await self.pods(**params)) > most:  # noqa: ASYNC110 - a watch would be one more at work
                await asyncio.sleep(10)  # a LIST of thousands of pods is work for the API server too

    async def wait_ended(self, count: int) -> None:
        """Wait until so many pods have ended and their finalizers are off."""
        async with asyncio.timeout(_WAITING_SECONDS):
            while sum(_is_over(pod) for pod in await self.pods()) < count:  # noqa: ASYNC110
                await asyncio.sleep(1)

    async def remove_pods(self) -> None:
        """Delete all GPU pods and wait until none is left; who has put finalizers on takes them off."""
        async with asyncio.TaskGroup() as group:
            for pool in self._fleet.pools:
                group.create_task(self._remove(f"/api/v1/namespaces/{pool.name}-t000/pods"))
        await self._wait_left(0)

    async def _remove(self, collection: str) -> None:
        while True:
            try:
                return await self.client.delete(collection, grace_seconds=0)
            except Refused as refused:
                if refused.status != 504:  # so many that they take more than a minute
                    raise

    def strip(self, pods: list[Json]) -> None:
        """Take the metering finalizer off pods that no operator ever counted."""
        found = [
            (_path(pod), patches.strip_finalizer(pod["metadata"]["uid"], 0).decode())
            for pod in pods
            if names.FINALIZER in pod["metadata"].get("finalizers", ())
        ]
        self.send(found)

    # -- releases ----------------------------------------------------------------------------------------

    async def planned_releases(self) -> list[tuple[str, str]]:
        """Return the release PATCHes that the operator would send now: paths and bodies."""
        world, now = World(Settings()), int(time.time())
        async with Client(load_credentials(str(self.operator_kubeconfig)), "bench") as client:
            observer = Observer(client, world, CollectorRegistry(), lambda: now)
            await observer.look_once()
            world.set_settings(load_settings(SETTINGS))
            found = []
            for action in make_plan(world, now).actions:
                if isinstance(action, ReleasePod):
                    pod = observer.pod(action.uid)
                    assert pod is not None
                    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
                    found.append((path, patches.release(pod, action).decode()))
            return found

    def send(self, work: list[tuple[str, str]], in_flight: int = IN_FLIGHT) -> dict[str, Any]:
        """Send PATCHes from a bare loop in a process of its own, and wait for its end."""
        process = self.start_sending(work, in_flight)
        answer, _ = process.communicate()
        if process.returncode:
            raise RuntimeError("the bare loop failed")
        return json.loads(answer)  # type: ignore[no-any-return]

    def start_sending(
        self, work: list[tuple[str, str]], in_flight: int = IN_FLIGHT
    ) -> "subprocess.Popen[bytes]":
        """Start a bare loop that sends PATCHes as the operator's service account."""
        file = self._work / "patches.json"
        file.write_text(json.dumps(work))
        command = [
            sys.executable,
            "-m",
            "bench.sender",
            str(file),
            str(self.operator_kubeconfig),
            str(in_flight),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    async def watch_releases(self, count: int, started: asyncio.Event) -> list[float]:
        """Return when each of ``count`` pods was seen released (monotonic seconds)."""
        version = (await self.client.get("/api/v1/pods", limit="1"))["metadata"]["resourceVersion"]
        seen: list[float] = []
        started.set()
        deadline = time.monotonic() + _RELEASED_SECONDS
        while time.monotonic() < deadline:  # the API server ends watches that do not keep up with it
            # The label comes with the release, so that a pod is ADDED to this selection when it is released.
            async for kind, pod in self.client.watch(
                "/api/v1/pods", labelSelector=names.GRANT_LABEL, resourceVersion=version, timeoutSeconds="60"
            ):
                version = pod["metadata"]["resourceVersion"]
                if kind == "ADDED":
                    seen.append(time.monotonic())
                    if len(seen) == count:
                        return seen
        raise RuntimeError(f"{len(seen)} of {count} pods were released")

    # -- writes ------------------------------------------------------------------------------------------

    async def writes(self) -> Counter[str]:
        """Return the API server's count of writes so far, as "VERB group/resource/subresource"."""
        assert self.client._session is not None
        async with self.client._session.get(self.client.server + "/metrics") as response:
            return parse_writes(await response.text())


def parse_writes(text: str) -> Counter[str]:
    """Return the writes of an API server's metrics page."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("apiserver_request_total{"):
            continue
        labels = dict(part.split("=", 1) for part in line[line.index("{") + 1 : line.rindex("}")].split(","))
        told = {key: value.strip('"') for key, value in labels.items()}
        if (
            told["verb"] in ("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION")
            and told["code"] < "300"
        ):
            what = "/".join(part for part in (told["group"], told["resource"], told["subresource"]) if part)
            found[f"{told['verb']} {what}"] += int(float(line.rpartition(" ")[2]))
    return found


def _is_over(pod: Json) -> bool:
    return pod["status"].get("phase") == "Succeeded" and not pod["metadata"].get("finalizers")


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


@contextlib.asynccontextmanager
async def granted_plane(servers: int, work: Path) -> AsyncIterator[Plane]:
    """Run a control plane with a fleet that is granted whole."""
    work.mkdir(parents=True, exist_ok=True)
    plane = ControlPlane(work / "plane")
    await asyncio.to_thread(plane.start, guarded=True)
    try:
        async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as client:
            made = Plane(plane, scaled(servers), client, work)
            await made.prepare()
            yield made
    finally:
        plane.stop(at_once=True)


__all__ = ["Plane", "granted_plane", "parse_writes", "total"]
