"""What the observer tells the world and the meter of what came and went while nobody looked."""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from contract.fake_api import FakeApi
from gpugrant import names
from gpugrant.config import Settings
from gpugrant.decide.world import World
from gpugrant.model.node import Node
from gpugrant.model.objects import Grant, Quota
from gpugrant.model.pod import Pod
from gpugrant.observe import adopt, cache, health, observer
from gpugrant.observe.client import Client
from gpugrant.observe.cluster_kinds import NAMESPACES, NODES, PODS, SETTINGS
from gpugrant.observe.credentials import Credentials
from gpugrant.observe.observer import Observer

START = 1_795_000_000
OWN = f"/apis/{names.API_VERSION}"
COLLECTIONS = (
    PODS.path,
    NODES.path,
    NAMESPACES.path,
    SETTINGS.path,
    *(f"{OWN}/{plural}" for plural in ("gpupools", "tenantquotas", "gpugrants")),
)
OUTAGE = 600


class Notes:
    """A meter that only notes what it is told."""

    def __init__(self) -> None:
        self.gone: dict[str, tuple[int, int | None]] = {}

    def observe_pod(self, pod: Pod) -> None:
        """Let it pass."""

    def pod_gone(self, pod: Pod, at: int, seen: int | None = None) -> None:
        """Note when a pod went, and until when it was seen."""
        self.gone[pod.name] = (at - START, None if seen is None else seen - START)

    def observe_grant(self, grant: Grant) -> None:
        """Let it pass."""

    def observe_quota(self, quota: Quota) -> None:
        """Let it pass."""

    def observe_node(self, node: Node, seen_until: int | None = None) -> None:
        """Let it pass."""

    def node_gone(self, name: str, at: int, seen_until: int | None = None) -> None:
        """Let it pass."""

    def observe_settings(self, digest: str, text: str, settings: Settings) -> None:
        """Let it pass."""

    def world_changed(self, namespace: str = "") -> None:
        """Let it pass."""


class Looking:
    """An observer of a fake API that looks when it is told to, and a clock that one sets."""

    def __init__(self, api: FakeApi, client: Client) -> None:
        self.api, self.passed = api, 0
        self.world, self.notes = World(Settings()), Notes()
        self.observer = Observer(
            client, self.world, CollectorRegistry(), lambda: START + self.passed, self.notes
        )

    async def pod(self, name: str, *, labelled: bool = True, **spec: object) -> None:
        """Create a pod that runs on the server."""
        gpus = {"resources": {"limits": {names.DEFAULT_RESOURCE: "8"}}}
        await self.api.put(
            PODS.path,
            name,
            "ns",
            spec={"nodeName": "server", "containers": [gpus], **spec},
            status={"phase": "Running"},
            metadata={"labels": {names.GPU_LABEL: "true"}} if labelled else {},
        )

    async def server(self) -> None:
        """Create the server."""
        offer = {"cpu": "64", "memory": "1Ti", names.DEFAULT_RESOURCE: "8"}
        await self.api.put(NODES.path, "server", spec={}, status={"allocatable": offer, "capacity": offer})


@pytest.fixture
async def looking(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Looking]:
    async with FakeApi() as api:
        for path in COLLECTIONS:
            api.objects[path] = {}
        async with Client(Credentials(api.url, None)) as client:
            it: Looking | None = None
            clock = SimpleNamespace(monotonic=lambda: float(it.passed if it else 0))
            for module in (adopt, cache, health, observer):
                monkeypatch.setattr(module, "time", clock, raising=False)
            it = Looking(api, client)
            yield it


async def test_a_pod_missed_after_an_outage_is_known_to_have_held_until_it_began(looking: Looking) -> None:
    await looking.server()
    await looking.pod("missed")
    for number in range(501):  # more than a page: hearing the first must not count as having seen all
        await looking.pod(f"stays-{number}")
    await looking.observer.look_once()
    await looking.api.drop(PODS.path, "missed", "ns")
    looking.passed = OUTAGE
    await looking.observer.pods.list_once()
    assert looking.notes.gone == {"missed": (OUTAGE, 0)}


async def test_a_list_that_breaks_off_does_not_hide_how_long_the_outage_was(looking: Looking) -> None:
    for number in range(501):
        await looking.pod(f"pod-{number}")
    await looking.observer.look_once()
    await looking.api.drop(PODS.path, "pod-7", "ns")
    for number in range(2):
        await looking.pod(f"new-{number}")
    looking.passed = OUTAGE
    looking.api.expire_continue = 1
    await looking.observer.pods.list_once()
    assert looking.notes.gone == {"pod-7": (OUTAGE, 0)}


async def test_a_pod_without_our_label_is_known_until_the_last_list_that_had_it(looking: Looking) -> None:
    await looking.pod("older", labelled=False)
    await looking.observer.look_once()
    await looking.api.drop(PODS.path, "older", "ns")
    looking.passed = OUTAGE // 2
    await looking.observer.pods.list_once()
    assert looking.notes.gone == {}
    looking.passed = OUTAGE
    await looking.observer.adoption.sweep()
    assert looking.notes.gone == {"older": (OUTAGE, 0)}


async def test_a_pod_that_a_write_finds_missing_during_an_outage_is_bounded_too(looking: Looking) -> None:
    await looking.pod("missed")
    await looking.observer.look_once()
    looking.observer.health["pods"].broke("Silent")
    looking.passed = OUTAGE
    uid = looking.api.objects[PODS.path]["ns/missed"]["metadata"]["uid"]
    looking.observer.pod_gone(uid)
    assert looking.notes.gone == {"missed": (OUTAGE, 0)}


async def test_a_pod_that_got_our_label_is_not_forgotten_by_the_sweep_for_others(looking: Looking) -> None:
    await looking.pod("older", labelled=False)
    await looking.observer.look_once()
    uid = looking.api.objects[PODS.path]["ns/older"]["metadata"]["uid"]
    before = looking.observer.adoption.get(uid)
    assert before is not None
    await looking.pod("older")
    await looking.observer.pods.list_once()
    looking.observer.adoption._unlabelled[uid] = before  # a LIST that was on its way when the label came
    await looking.observer.adoption.sweep()
    assert looking.notes.gone == {}
    assert uid in looking.world.pods


async def test_a_node_that_comes_back_has_what_other_pods_use_of_it_at_once(looking: Looking) -> None:
    await looking.server()
    other = {"containers": [{"resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}]}
    await looking.pod("exporter", labelled=False, **other)
    await looking.observer.look_once()
    assert looking.world.servers["server"].overhead_cpu == 2000
    await looking.api.drop(NODES.path, "server")
    await looking.observer.nodes.list_once()
    await looking.server()
    await looking.observer.nodes.list_once()
    assert looking.world.servers["server"].overhead_cpu == 2000
    await looking.observer.adoption.sweep()
    assert looking.world.servers["server"].overhead_memory == 2**30
