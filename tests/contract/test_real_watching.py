"""Caches and own kinds on a real API server that is killed under them."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from contract.recorder import Recorder
from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane
from devcluster.install import install
from gpugrant import names
from gpugrant.model.objects import Pool
from gpugrant.observe.client import Client
from gpugrant.observe.credentials import load_credentials
from gpugrant.observe.observer import Observer
from gpugrant.run.watching import Watching


class Facts(Recorder):
    """What the world would know of nodes, pools and pods."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: set[str] = set()
        self.pools: dict[str, Pool] = {}
        self.settings: list[Any] = []

    def put_node(self, node: Any) -> None:
        self.nodes.add(node.name)

    def drop_node(self, name: str) -> None:
        self.nodes.remove(name)

    def put_pool(self, pool: Pool) -> None:
        self.pools[pool.name] = pool

    def drop_pool(self, name: str) -> None:
        del self.pools[name]

    def set_settings(self, settings: Any) -> None:
        self.settings.append(settings)


class Watched:
    """An observer with Kopf beside it, on a control plane of its own."""

    def __init__(self, plane: ControlPlane, admin: KubeClient, observer: Observer, facts: Facts) -> None:
        self.plane, self.admin, self.observer, self.facts = plane, admin, observer, facts
        self.told: list[tuple[str, str]] = []

    async def until(self, holds: Callable[[], bool], seconds: float = 40) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                self.observer.changed.clear()
                await self.observer.changed.wait()


# An API server that is killed in a TLS handshake leaves a socket behind that asyncio (3.11) closes only when it is
# collected, and says so. Collected here, so that no other test is told.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def _node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def _pool(name: str) -> dict[str, Any]:
    spec = {"provider": "p", "gpuType": "NVIDIA-B200"}
    return {"apiVersion": names.API_VERSION, "kind": "GpuPool", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(autouse=True)
def _nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as in a container, where the user's id has no name."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)

    def getpwuid(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", getpwuid)


@pytest.fixture
async def watched(own_control_plane: ControlPlane) -> AsyncIterator[Watched]:
    plane = own_control_plane
    async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as admin:
        await install(admin)
        credentials = load_credentials(str(plane.kubeconfig))
        async with Client(credentials) as client:
            facts = Facts()
            told: list[tuple[str, str]] = []
            observer = Observer(
                client,
                facts,
                CollectorRegistry(),
                lambda: 0,
                settings_told=lambda text, settings, digest, message: told.append((digest, message)),
            )
            tasks = [asyncio.create_task(loop) for loop in observer.loops()]
            await observer.first_look()
            kopf = Watching(credentials, observer.own, lambda: None)
            kopf.start()
            it = Watched(plane, admin, observer, facts)
            it.told = told
            yield it
            kopf.stop()
            await asyncio.to_thread(kopf.join)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    gc.collect()


async def test_nodes_and_pools_are_followed_over_the_death_of_the_api_server(watched: Watched) -> None:
    await watched.admin.create(_node("a"))
    await watched.admin.create(_pool("one"))
    await watched.until(lambda: watched.facts.nodes == {"a"} and set(watched.facts.pools) == {"one"})
    await asyncio.to_thread(watched.plane.restart_apiserver, kill=True)
    await watched.admin.create(_node("b"))
    await watched.admin.create(_pool("two"))
    await watched.admin.delete("/api/v1/nodes/a")
    await watched.admin.delete(f"/apis/{names.API_VERSION}/gpupools/one")
    await watched.until(lambda: watched.facts.nodes == {"b"} and set(watched.facts.pools) == {"two"})


async def test_a_sweep_drops_what_kopf_did_not_see_go(watched: Watched) -> None:
    await watched.admin.create(_pool("one"))
    await watched.until(lambda: "one" in watched.facts.pools)
    ghost = {
        **_pool("ghost"),
        "metadata": {"name": "ghost", "uid": "u-ghost", "resourceVersion": "1", "generation": 1},
    }
    watched.observer.own.feed("GpuPool", ghost)
    assert "ghost" in watched.facts.pools
    watched.observer.own.want_sweep("GpuPool")
    await watched.until(lambda: set(watched.facts.pools) == {"one"})


async def test_a_bad_version_of_the_settings_is_refused_and_the_last_good_one_stays(watched: Watched) -> None:
    def settings(text: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "data": {names.SETTINGS_KEY: text},
            "metadata": {"name": names.SETTINGS_CONFIGMAP, "namespace": names.SYSTEM_NAMESPACE},
        }

    await watched.admin.apply(settings("bindTimeoutSeconds: 7"))
    await watched.until(lambda: bool(watched.facts.settings))
    await watched.admin.apply(settings("bindTimeoutSeconds: soon"))
    async with asyncio.timeout(20):
        while len(watched.told) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert "bindTimeoutSeconds" in watched.told[1][1]
    assert [one.bind_timeout_seconds for one in watched.facts.settings] == [7]
    assert watched.observer.settings.bind_timeout_seconds == 7
