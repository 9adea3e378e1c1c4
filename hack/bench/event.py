"""What one event costs in observe + plan, and whether that grows with the fleet.

Raw lines of a WATCH go through projection, cache and world, and a plan is made after each of them; no API
server. The events are the same at every size (pods of two grants of 32 GPUs, ten events in a second), only the
fleet around them grows. The answers to our own writes are taken in as the writer does, and are part of the
cost. Building the objects is not.
"""

import gc
import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench import bodies
from bench.bodies import Json, encode
from bench.figures import Figure
from bench.inprocess import SIZES, InProcess, held_operator
from gpugrant import names
from gpugrant.decide.actions import ReleasePod, SetPolicies
from gpugrant.observe.cache import Cache

PODS = 300
NODE_EVENTS = 400
WAITING = 64
PER_SECOND = 10
FREE = 8  # seats of every grant that nobody holds, where events find room
_NUMBERS = itertools.count(10_000_000)  # of pods


class Feed:
    """Feeds events into one operator and keeps the time that observe and plan took."""

    def __init__(self, operator: InProcess) -> None:
        self.operator = operator
        self.seconds: list[float] = []

    def event(self, kind: str, body: Json, cache: Cache[Any]) -> None:
        """Let the watch tell of an object; plan; carry out what is planned."""
        line = encode({"type": kind, "object": body})
        if len(self.seconds) % PER_SECOND == 0:
            self.operator.now += 1
        begun = time.thread_time()
        cache._event(line)
        actions = self.operator.plan()
        spent = time.thread_time() - begun
        for action in actions:
            answer = self.operator.write(action)
            begun = time.thread_time()
            self.operator.take_answer(action, answer)
            spent += time.thread_time() - begun
        self.seconds.append(spent)
        for action in actions:  # the watch tells of our own writes too
            if isinstance(action, ReleasePod):
                self.pod("MODIFIED", action.namespace, action.name)

    def pod(self, kind: str, namespace: str, name: str) -> None:
        """Let the watch tell of a pod as it is now."""
        self.event(kind, self.operator.cluster.objects["Pod"][namespace, name], self.operator.observer.pods)

    def changed(self, body: Json) -> None:
        """Give a pod a new version and let the watch tell of it."""
        self.operator.cluster.put(body)
        self.event("MODIFIED", body, self.operator.observer.pods)

    # -- a pod's life ----------------------------------------------------------------------------------

    def create(self, grant: Json) -> Json:
        """Create a gated pod for a grant."""
        number = next(_NUMBERS)
        meta = grant["metadata"]
        pod = bodies.gated_pod(number, meta["namespace"], meta["name"], self.operator.now)
        self.event("ADDED", self.operator.cluster.put(pod), self.operator.observer.pods)
        return pod

    def bind_and_run(self, name: tuple[str, str]) -> None:
        """Bind a released pod where its selector says, and start it."""
        pod = self.operator.cluster.objects["Pod"][name]
        bodies.bind(pod, pod["spec"]["nodeSelector"][names.HOSTNAME_LABEL], self.operator.now)
        self.changed(pod)
        bodies.run(pod, self.operator.now)
        self.changed(pod)

    def end(self, name: tuple[str, str]) -> None:
        """Let a running pod succeed, lose its finalizer, and go."""
        pod = self.operator.cluster.objects["Pod"][name]
        bodies.end(pod, self.operator.now)
        self.changed(pod)
        del pod["metadata"]["finalizers"]
        self.changed(pod)
        self.event("DELETED", self.operator.cluster.drop(pod), self.operator.observer.pods)


def pod_lives(feed: Feed, grants: Sequence[Json]) -> None:
    """Let pods be created, released, bound, run, end and go, where there is room."""
    for number in range(PODS):
        pod = feed.create(grants[number % len(grants)])
        name = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        if "schedulingGates" in feed.operator.cluster.objects["Pod"][name]["spec"]:
            raise RuntimeError(f"{name} was not released: {feed.operator.world.why_waiting}")
        feed.bind_and_run(name)
        feed.end(name)


def churn(feed: Feed, grants: Sequence[Json]) -> None:
    """Let pods end on full grants while others wait: each end releases the next in line, and one more comes."""
    objects = feed.operator.cluster.objects["Pod"]
    for grant in grants:
        for _ in range(FREE + WAITING):
            feed.create(grant)
    _bind_all(feed, grants)
    feed.seconds.clear()
    rng = random.Random(7)
    for number in range(PODS):
        namespace = grants[number % len(grants)]["metadata"]["namespace"]
        running = [k for k, pod in objects.items() if k[0] == namespace and pod["status"]["phase"] == "Running"]
        feed.end(rng.choice(running))
        _bind_all(feed, [grants[number % len(grants)]])
        feed.create(grants[number % len(grants)])
    waiting = sum("schedulingGates" in pod["spec"] for pod in objects.values())
    if waiting != WAITING * len(grants):
        raise RuntimeError(f"{waiting} pods wait, not {WAITING * len(grants)}")


def _bind_all(feed: Feed, grants: Sequence[Json]) -> None:
    spaces = {grant["metadata"]["namespace"] for grant in grants}
    for key, pod in list(feed.operator.cluster.objects["Pod"].items()):
        if key[0] in spaces and "schedulingGates" not in pod["spec"] and "nodeName" not in pod["spec"]:
            feed.bind_and_run(key)


def heartbeats(feed: Feed, grants: Sequence[Json]) -> None:
    """Let kubelets tell that they live, and nothing else."""
    nodes = _nodes_of(feed, grants)
    for number in range(NODE_EVENTS):
        node = nodes[number % len(nodes)]
        for one in node["status"]["conditions"]:
            one["lastHeartbeatTime"] = bodies.stamp(feed.operator.now + number)
        feed.event("MODIFIED", feed.operator.cluster.put(node), feed.operator.observer.nodes)


def ready_flips(feed: Feed, grants: Sequence[Json]) -> None:
    """Let servers turn NotReady and Ready again, pods on them."""
    nodes = _nodes_of(feed, grants)
    for number in range(NODE_EVENTS // 4):
        node = nodes[number % len(nodes)]
        for status in ("False", "True"):
            ready = node["status"]["conditions"][0]
            ready |= {"status": status, "lastTransitionTime": bodies.stamp(feed.operator.now)}
            feed.event("MODIFIED", feed.operator.cluster.put(node), feed.operator.observer.nodes)


def _nodes_of(feed: Feed, grants: Sequence[Json]) -> list[Json]:
    nodes = feed.operator.cluster.objects["Node"]
    return [nodes["", name] for grant in grants for name in grant["status"]["allocation"]["servers"]]


LOADS: dict[str, tuple[Callable[[Feed, Sequence[Json]], None], float | None]] = {
    "a pod's life, room on the grant": (pod_lives, 1.3),
    "churn on full grants, 64 wait on each": (churn, 1.3),
    "node heartbeat": (heartbeats, 1.3),
    "node Ready flip": (ready_flips, None),
}


def measure(servers: int, runs: int) -> dict[str, list[float]]:
    """Return microseconds per event by load, one for each run."""
    gc.disable()
    operator = held_operator(servers, free=FREE)
    gc.collect()
    gc.freeze()  # as the operator does after its first plan
    gc.enable()
    grants = [g for k, g in sorted(operator.cluster.objects["GpuGrant"].items()) if k[0].startswith("nhn-b200-t")][:2]
    found: dict[str, list[float]] = {name: [] for name in LOADS}
    for _ in range(runs):
        for name, (load, _) in LOADS.items():
            feed = Feed(operator)
            load(feed, grants)
            found[name].append(sum(feed.seconds) / len(feed.seconds) * 1e6)
            _drain(feed, grants)
    gc.unfreeze()
    return found


def _drain(feed: Feed, grants: Sequence[Json]) -> None:
    """Let what a load left waiting or running end, back to what every load begins with."""
    objects = feed.operator.cluster.objects["Pod"]
    spaces = {grant["metadata"]["namespace"] for grant in grants}
    for key in [k for k, pod in objects.items() if k[0] in spaces and "schedulingGates" in pod["spec"]]:
        feed.event("DELETED", feed.operator.cluster.drop(objects[key]), feed.operator.observer.pods)
    for grant in grants:
        running = [k for k in objects if k[0] == grant["metadata"]["namespace"]]
        for key in running[grant["spec"]["gpus"] - FREE :]:
            feed.end(key)
    feed.operator.now += 60
    feed.operator.settle()
    assert not any(isinstance(a, SetPolicies) for a in feed.operator.plan())


def run(runs: int, sizes: Sequence[int] = SIZES) -> list[Figure]:
    """Measure every size; return microseconds and the ratio of the largest to the smallest."""
    measured = {servers: measure(servers, runs) for servers in sizes}
    figures = []
    for name, (_, aim) in LOADS.items():
        for servers in sizes:
            figures.append(
                Figure("event", f"{name}: {servers:,} servers", tuple(measured[servers][name]), "µs", digits=0)
            )
        small, large = measured[sizes[0]][name], measured[sizes[-1]][name]
        ratios = tuple(b / a for a, b in zip(small, large, strict=True))
        words = f"{name}: {sizes[-1]:,} / {sizes[0]:,} servers"
        figures.append(Figure("event", words, ratios, "times", aim))
    return figures
