"""The cache knows the truth again after whatever the connection does to it, and tells every deletion."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from contract.fake_api import FakeApi
from gpugrant.model.pod import Pod
from gpugrant.observe.cache import Cache, Receiver
from gpugrant.observe.client import Client
from gpugrant.observe.cluster_kinds import PODS
from gpugrant.observe.credentials import Credentials
from gpugrant.observe.health import CacheHealth, CacheMetrics

PATH = "/api/v1/pods"
SILENCE = 0.4


class Mirror:
    """What a receiver knows from puts and drops alone. A drop of what was never put is a fault."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.puts = 0
        self.dropped: list[str] = []
        self.news = asyncio.Event()

    def put(self, pod: Pod) -> None:
        self.pods[pod.uid] = pod
        self.puts += 1
        self.news.set()

    def drop(self, key: str, pod: Pod, missed: float | None) -> None:
        del self.pods[key]
        self.dropped.append(pod.name)
        self.news.set()

    async def until(self, holds: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something is true of what was received."""
        async with asyncio.timeout(seconds):
            while not holds():
                self.news.clear()
                await self.news.wait()

    def knows(self, api: FakeApi) -> bool:
        """Say whether it equals the truth: the same pods, each as it is now."""
        truth = {body["metadata"]["uid"]: body["status"]["phase"] for body in api.objects[PATH].values()}
        return truth == {uid: pod.phase for uid, pod in self.pods.items()}


class Watched:
    """A fake API, a cache that follows it, and the mirror behind the cache."""

    def __init__(self, api: FakeApi, cache: Cache[Pod], mirror: Mirror, health: CacheHealth) -> None:
        self.api, self.cache, self.mirror, self.health = api, cache, mirror, health

    async def pod(self, name: str, phase: str = "Pending", **metadata: object) -> None:
        await self.api.put(
            PATH,
            name,
            "ns",
            spec={"containers": []},
            status={"phase": phase},
            metadata={"labels": {"gpugrant.io/gpu": "true"}, **metadata},
        )

    async def gone(self, name: str) -> None:
        await self.api.drop(PATH, name, "ns")

    async def settled(self) -> None:
        await self.mirror.until(lambda: self.mirror.knows(self.api))


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    mirror = Mirror()
    async with FakeApi() as api:
        api.objects[PATH] = {}
        health = CacheHealth("pods", CacheMetrics(CollectorRegistry()))
        async with Client(Credentials(api.url, None)) as client:
            cache = Cache(client, PODS, Receiver(mirror.put, mirror.drop), health, SILENCE)
            task = asyncio.create_task(cache.run())
            await cache.synced.wait()
            yield Watched(api, cache, mirror, health)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_changes_arrive_in_order(watched: Watched) -> None:
    await watched.pod("a")
    await watched.pod("b")
    await watched.pod("a", "Running")
    await watched.gone("b")
    await watched.settled()
    await watched.mirror.until(lambda: watched.mirror.dropped == ["b"])


async def test_an_event_that_changes_nothing_we_read_is_not_passed_on(watched: Watched) -> None:
    await watched.pod("a")
    await watched.settled()
    before = watched.mirror.puts
    await watched.pod("a", managedFields=[{"manager": "kubelet"}])
    await watched.pod("marker")
    await watched.settled()
    assert watched.mirror.puts == before + 1


async def test_deletions_of_a_gap_are_found_by_the_relist(watched: Watched) -> None:
    for name in "abc":
        await watched.pod(name)
    await watched.settled()
    watched.api.refuse.append(("GET", 500, {}))
    await watched.gone("a")
    await watched.gone("c")
    watched.api.compact()
    await watched.pod("d")
    await watched.settled()
    assert sorted(watched.mirror.dropped) == ["a", "c"]


async def test_a_name_that_comes_back_in_a_gap_is_a_deletion_and_a_creation(watched: Watched) -> None:
    await watched.pod("a")
    await watched.settled()
    await watched.gone("a")
    await watched.pod("a")
    watched.api.compact()
    await watched.pod("other")
    await watched.settled()
    assert watched.mirror.dropped == ["a"]


@pytest.mark.parametrize("in_stream", [0, 1], ids=["as the answer", "as a line of the stream"])
async def test_410_on_watch_lists_again(watched: Watched, in_stream: int) -> None:
    await watched.pod("a")
    await watched.settled()
    watched.api.gone_in_stream = in_stream
    lists = watched.api.lists
    await watched.gone("a")
    watched.api.compact()
    await watched.pod("b")
    await watched.settled()
    assert watched.api.lists > lists
    assert watched.mirror.dropped == ["a"]


@pytest.mark.parametrize("times", [1, 2, 5], ids=["once", "twice", "until one big page is asked for"])
async def test_a_continue_token_that_expires_starts_the_list_over(times: int) -> None:
    mirror = Mirror()
    async with FakeApi() as api:
        api.objects[PATH] = {}
        for number in range(1200):
            labels = {"labels": {"gpugrant.io/gpu": "true"}}
            await api.put(PATH, f"p{number}", "ns", spec={}, status={"phase": "Running"}, metadata=labels)
        api.expire_continue = times
        health = CacheHealth("pods", CacheMetrics(CollectorRegistry()))
        async with Client(Credentials(api.url, None)) as client:
            cache = Cache(client, PODS, Receiver(mirror.put, mirror.drop), health, SILENCE)
            await cache.list_once()
        assert len(mirror.pods) == 1200
        assert mirror.puts == 1200, "a page seen twice is passed on once"


async def test_a_list_that_is_refused_is_tried_again(watched: Watched) -> None:
    await watched.pod("a")
    await watched.settled()
    watched.api.refuse.extend([("GET", 410, {}), ("GET", 500, {}), ("GET", 410, {})])
    await watched.gone("a")
    watched.api.compact()
    await watched.pod("b")
    await watched.settled()


async def test_silence_is_taken_for_a_dead_connection(watched: Watched) -> None:
    watched.api.mute = 1
    watched.api.cut_after.append(0)
    await watched.pod("a")  # breaks the present watch; the next one says nothing
    await watched.pod("b")
    await watched.settled()


async def test_a_line_that_is_cut_is_asked_for_again(watched: Watched) -> None:
    watched.api.cut_after.extend([1, 0, 2])
    for name in "abcdef":
        await watched.pod(name)
    await watched.gone("c")
    await watched.settled()


async def test_bookmarks_alone_keep_a_quiet_watch_going(watched: Watched) -> None:
    lists, watches = watched.api.lists, len(watched.api.requests)
    for _ in range(6):
        watched.api.version += 5
        await watched.api.bookmark(PATH)
        await asyncio.sleep(SILENCE / 2)
    assert (watched.api.lists, len(watched.api.requests)) == (lists, watches)
    # From the bookmark's version on, although all that was before is compacted.
    watched.api.compact()
    watched.api.cut_after.append(0)
    await watched.pod("a")
    await watched.settled()


async def test_repeated_and_reordered_lines_do_no_harm(watched: Watched) -> None:
    shuffler = random.Random(7)

    def mangle(lines: list[bytes]) -> list[bytes]:
        return shuffler.sample(lines * 2, len(lines) * 2)

    await watched.pod("a")
    await watched.settled()
    watched.api.mangle = mangle
    # One batch, so that there is something to reorder; a deletion among the repeats must not be undone.
    for _ in range(5):
        await watched.pod("a", "Running")
    await watched.gone("a")
    await watched.pod("b")
    await watched.mirror.until(lambda: watched.mirror.dropped[:1] == ["a"])
    await watched.settled()


async def test_an_object_that_does_not_parse_takes_nothing_else_down(watched: Watched) -> None:
    bad = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "eight"}}}]}
    await watched.api.put(PATH, "bad", "ns", spec=bad, status={"phase": "Pending"})
    await watched.pod("good")
    await watched.mirror.until(lambda: [pod.name for pod in watched.mirror.pods.values()] == ["good"])


async def test_the_answer_to_a_write_counts_before_its_event(watched: Watched) -> None:
    await watched.pod("a")
    await watched.settled()
    body = dict(watched.api.objects[PATH]["ns/a"])
    body["metadata"] = {**body["metadata"], "resourceVersion": str(watched.api.version + 50)}
    body["status"] = {"phase": "Running"}
    import json

    watched.cache.feed(json.dumps(body).encode())
    (pod,) = watched.mirror.pods.values()
    assert pod.phase == "Running"
    await watched.pod("a", "Pending")  # an event of before that write
    await watched.pod("marker")
    await watched.mirror.until(lambda: len(watched.mirror.pods) == 2)
    assert watched.mirror.pods[pod.uid].phase == "Running"


@pytest.mark.parametrize("seed", range(5))
async def test_after_a_storm_the_cache_knows_the_truth(watched: Watched, seed: int) -> None:
    dice = random.Random(seed)
    api = watched.api
    names = [f"p{number}" for number in range(30)]
    ever: set[str] = set()
    for _ in range(400):
        name = dice.choice(names)
        there = f"ns/{name}" in api.objects[PATH]
        match dice.randrange(14):
            case 0 | 1 | 2 if there:
                await watched.gone(name)
            case 3:
                api.cut_after.append(dice.randrange(3))
            case 4:
                api.compact()
                api.gone_in_stream = dice.randrange(2)
            case 5:
                api.refuse.append(("GET", dice.choice([410, 500, 429, 503]), {"Retry-After": "0"}))
            case 6:
                api.expire_continue = 1
            case 7:
                await api.bookmark(PATH)
            case 8:
                await asyncio.sleep(dice.random() * 0.02)
            case _:
                await watched.pod(name, dice.choice(["Pending", "Running", "Failed"]))
                ever.add(api.objects[PATH][f"ns/{name}"]["metadata"]["uid"])
    api.refuse.clear()
    await watched.pod("last")
    await watched.mirror.until(lambda: watched.mirror.knows(api), 30)
    held = {pod.uid for pod in watched.cache.items()}
    assert held == set(watched.mirror.pods)
