"""The writer: one write per object at a time, the urgent first, nothing twice, every refusal reported."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from contract.fake_api import FakeApi
from contract.recorder import Recorder
from gpugrant import names
from gpugrant.act.writer import Writer
from gpugrant.decide.actions import EvictPod, ExplainPod, ReleasePod, SetStatus, WriteServer
from gpugrant.observe.client import Client
from gpugrant.observe.cluster_kinds import SETTINGS
from gpugrant.observe.credentials import Credentials
from gpugrant.observe.observer import Observer

OWN = f"/apis/{names.API_VERSION}"
COLLECTIONS = (
    "/api/v1/pods",
    "/api/v1/nodes",
    "/api/v1/namespaces",
    SETTINGS.path,
    f"{OWN}/gpupools",
    f"{OWN}/tenantquotas",
    f"{OWN}/gpugrants",
)


class Writing:
    """A fake API with some objects, and a writer that knows them."""

    def __init__(self, api: FakeApi, client: Client, observer: Observer, world: Recorder) -> None:
        self.api, self.observer, self.world = api, observer, world
        self.writer = Writer(client, observer, world, CollectorRegistry(), lambda: 1_000, in_flight=4)

    def uid(self, name: str) -> str:
        return next(pod.uid for pod in self.observer.pods.items() if pod.name == name)

    def release(self, name: str) -> ReleasePod:
        return ReleasePod(
            self.uid(name),
            "ns",
            name,
            "g",
            "gu",
            "n",
            (("k", "v"),),
            "nvidia.com/gpu",
            True,
            False,
            1_000,
            "released",
        )

    def explain(self, name: str, words: str) -> ExplainPod:
        return ExplainPod(self.uid(name), "ns", name, words)

    def evict(self, name: str, *, force: bool) -> EvictPod:
        return EvictPod(self.uid(name), "ns", name, 60, force, "Evicting", "over")

    def status(self, urgent: bool = True, **status: Any) -> SetStatus:
        (grant,) = self.observer.own.of("GpuGrant")
        return SetStatus("GpuGrant", "ns", "g", grant.uid, status, urgent)

    async def until_idle(self) -> None:
        await self.until(lambda: self.writer.idle)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def written(self) -> list[str]:
        """Return what was written in order: method and the end of the path."""
        return [
            f"{method} {path.removeprefix('/api/v1/namespaces/ns/')}" for method, path, _ in self.api.writes
        ]


@pytest.fixture
async def writing() -> AsyncIterator[Writing]:
    async with FakeApi() as api:
        for path in COLLECTIONS:
            api.objects[path] = {}
        for name in ("a", "b", "c", "d", "e", "f"):
            gated = {"schedulingGates": [{"name": names.GATE}], "terminationGracePeriodSeconds": 10**9}
            await api.put(
                "/api/v1/pods",
                name,
                "ns",
                spec=gated,
                status={"phase": "Pending"},
                metadata={"labels": {names.GPU_LABEL: "true"}},
            )
        await api.put(
            "/api/v1/pods",
            "bound",
            "ns",
            spec={"nodeName": "n", "terminationGracePeriodSeconds": 10**9},
            status={"phase": "Running"},
            metadata={"labels": {names.GPU_LABEL: "true"}},
        )
        await api.put("/api/v1/nodes", "n", spec={}, status={}, metadata={"labels": {"a": "b"}})
        await api.put(f"{OWN}/gpugrants", "g", "ns", spec={})
        async with Client(Credentials(api.url, None)) as client:
            world = Recorder()
            observer = Observer(client, world, CollectorRegistry(), lambda: 1_000)
            await observer.look_once()
            api.requests.clear()
            yield Writing(api, client, observer, world)


async def test_one_object_has_at_most_one_write_in_flight(writing: Writing) -> None:
    writing.api.hold_writes = asyncio.Event()
    writing.writer.submit([writing.status(summary={"why": str(number)}) for number in range(3)])
    await writing.until(lambda: bool(writing.api.writes))
    writing.writer.submit([writing.status(summary={"why": "last"})])
    writing.api.hold_writes.set()
    await writing.until_idle()
    assert writing.api.most_in_flight == 1
    assert [body["status"]["summary"]["why"] for _, _, body in writing.api.writes] == ["2", "last"]


async def test_no_more_writes_in_flight_than_allowed(writing: Writing) -> None:
    writing.api.hold_writes = asyncio.Event()
    writing.writer.submit([writing.release(name) for name in "abcdef"])
    await writing.until(lambda: len(writing.api.writes) == 4)
    await asyncio.sleep(0.05)
    assert len(writing.api.writes) == 4
    writing.api.hold_writes.set()
    await writing.until_idle()
    assert len(writing.api.writes) == 6


async def test_releases_go_before_servers_statuses_words_and_figures(writing: Writing) -> None:
    writing.writer.pause()
    writing.writer.submit(
        [
            writing.status(urgent=False, usage={"held": 1}),
            writing.explain("a", "no room"),
            WriteServer("n", (("x", "y"),)),
            writing.release("b"),
        ]
    )
    assert not writing.api.writes
    writing.writer._limit = 1
    writing.writer.resume()
    await writing.until_idle()
    assert writing.written() == [
        "PATCH pods/b",
        "PATCH /api/v1/nodes/n",
        "PATCH pods/a",
        f"PATCH {OWN}/namespaces/ns/gpugrants/g/status",
    ]


async def test_a_release_drops_the_explanation_that_waits(writing: Writing) -> None:
    writing.writer.pause()
    words = writing.explain("a", "no room")
    writing.writer.submit([words, writing.release("a")])
    writing.writer.resume()
    await writing.until_idle()
    assert len(writing.api.writes) == 1
    assert [action for action, _ in writing.world.forgotten] == [words]


async def test_figures_of_one_object_are_written_every_two_seconds_at_most(writing: Writing) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for held in range(5):
        writing.writer.submit([writing.status(urgent=False, usage={"held": held})])
        await asyncio.sleep(0.02)
    await writing.until_idle()
    assert [body["status"]["usage"]["held"] for _, _, body in writing.api.writes] == [0, 4]
    assert loop.time() - begun >= 2.0


async def test_a_status_that_says_the_same_is_not_written(writing: Writing) -> None:
    writing.writer.submit([writing.status()])
    await writing.until_idle()
    assert not writing.api.writes
    assert len(writing.world.confirmed) == 1


async def test_429_is_waited_out_as_the_server_asks(writing: Writing) -> None:
    writing.api.refuse.append(("PATCH", 429, {"Retry-After": "1"}))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    writing.writer.submit([writing.release("a")])
    await writing.until_idle()
    assert loop.time() - begun >= 1.0
    assert len(writing.world.confirmed) == 1


@pytest.mark.parametrize("status", [403, 404, 409, 422], ids=["forbidden", "gone", "conflict", "test failed"])
async def test_a_refusal_is_reported_once_and_not_repeated(writing: Writing, status: int) -> None:
    writing.api.refuse.append(("PATCH", status, {}))
    writing.writer.submit([writing.release("a")])
    await writing.until_idle()
    ((action, error),) = writing.world.forgotten
    assert isinstance(action, ReleasePod)
    assert error.startswith(str(status))
    assert not writing.api.writes


async def test_a_pod_that_is_answered_404_is_gone_for_everybody(writing: Writing) -> None:
    uid = writing.uid("a")
    writing.api.refuse.append(("PATCH", 404, {}))
    writing.writer.submit([writing.release("a")])
    await writing.until_idle()
    assert ("drop_pod", (uid,)) in writing.world.facts


async def test_a_server_in_trouble_is_asked_again(writing: Writing) -> None:
    writing.api.refuse.extend([("PATCH", 500, {}), ("PATCH", 503, {})])
    writing.writer.submit([writing.release("a")])
    await writing.until_idle()
    assert len(writing.world.confirmed) == 1


async def test_a_release_is_dated_when_it_is_written(writing: Writing) -> None:
    writing.writer.submit([msgspec.structs.replace(writing.release("a"), at=1)])  # decided long ago
    await writing.until_idle()
    ((_, _, operations),) = writing.api.writes
    assert "1970-01-01T00:16:40Z" in str(operations)  # second 1,000, the writer's clock
    assert "1970-01-01T00:00:01Z" not in str(operations)


async def test_a_gated_pod_is_never_evicted(writing: Writing) -> None:
    writing.writer.submit([writing.evict("a", force=True)])
    await writing.until_idle()
    assert not writing.api.writes
    assert len(writing.world.forgotten) == 1


@pytest.mark.parametrize(
    ("force", "then"),
    [(False, ["POST pods/bound/eviction"]), (True, ["POST pods/bound/eviction", "DELETE pods/bound"])],
    ids=["before the deadline: told, and no more", "at the deadline: DELETE"],
)
async def test_a_disruption_budget_delays_but_does_not_save(
    writing: Writing, force: bool, then: list[str]
) -> None:
    writing.api.disruption_budget = True
    writing.writer.submit([writing.evict("bound", force=force)])
    await writing.until_idle()
    assert writing.written() == then
    # Thirty years of grace were asked for; every body says how many seconds are granted.
    options = [body.get("deleteOptions", body) for _, _, body in writing.api.writes]
    assert {one["gracePeriodSeconds"] for one in options} == {60}
    assert {one["preconditions"]["uid"] for one in options} == {writing.uid("bound")}


async def test_a_paused_writer_writes_nothing(writing: Writing) -> None:
    writing.writer.pause()
    writing.writer.submit([writing.release("a")])
    await asyncio.sleep(0.05)
    assert not writing.api.writes
