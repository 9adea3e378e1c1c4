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

    def __init__(self, operator: InProcess, grants: Sequence[Json]) -> None:
        self.operator = operator
        self.grants = grants
        self.seconds: list[float] = []
        # By namespace, so that looking for them does not drive the operator's data out of the processor's caches.
        self.pods: dict[str, list[str]] = {grant["metadata"]["namespace"]: [] for grant in grants}
        for namespace, name in operator.cluster.objects["Pod"]:
            if namespace in self.pods:
                self.pods[namespace].append(name)

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
                pod = self.pod(action.namespace, action.name)
                self.event("MODIFIED", pod, self.operator.observer.pods)

    def pod(self, namespace: str, name: str) -> Json:
        """Return a pod as it is now."""
        return self.operator.cluster.objects["Pod"][namespace, name]

    def changed(self, body: Json) -> None:
        """Give a pod a new version and let the watch tell of it."""
        self.operator.cluster.put(body)
        self.event("MODIFIED", body, self.operator.observer.pods)

    # -- a pod's life ----------------------------------------------------------------------------------

    def create(self, grant: Json) -> str:
        """Create a gated pod for a grant; return its name."""
        number = next(_NUMBERS)
        meta = grant["metadata"]
        pod = bodies.gated_pod(number, meta["namespace"], meta["name"], self.operator.now)
        name: str = pod["metadata"]["name"]
        self.pods[meta["namespace"]].append(name)
        self.event("ADDED", self.operator.cluster.put(pod), self.operator.observer.pods)
        return name

    def bind_and_run(self, namespace: str, name: str) -> None:
        """Bind a released pod where its selector says, and start it."""
        pod = self.pod(namespace, name)
        bodies.bind(pod, pod["spec"]["nodeSelector"][names.HOSTNAME_LABEL], self.operator.now)
        self.changed(pod)
        bodies.run(pod, self.operator.now)
        self.changed(pod)

    def end(self, namespace: str, name: str) -> None:
        """Let a running pod succeed, lose its finalizer, and go."""
        pod = self.pod(namespace, name)
        bodies.end(pod, self.operator.now)
        self.changed(pod)
        del pod["metadata"]["finalizers"]
        self.changed(pod)
        self.remove(namespace, name)

    def remove(self, namespace: str, name: str) -> None:
        """Let a pod's object go."""
        self.pods[namespace].remove(name)
        body = self.operator.cluster.drop(self.pod(namespace, name))
        self.event("DELETED", body, self.operator.observer.pods)

    def waiting(self, namespace: str) -> list[str]:
        """Return the gated pods of a namespace."""
        return [
            name for name in self.pods[namespace] if "schedulingGates" in self.pod(namespace, name)["spec"]
        ]

    def running(self, namespace: str) -> list[str]:
        """Return the running pods of a namespace."""
        return [n for n in self.pods[namespace] if self.pod(namespace, n)["status"]["phase"] == "Running"]

    def bind_all(self, namespace: str) -> None:
        """Bind and start what was released in a namespace."""
        for name in list(self.pods[namespace]):
            spec = self.pod(namespace, name)["spec"]
            if "schedulingGates" not in spec and "nodeName" not in spec:
                self.bind_and_run(namespace, name)


def pod_lives(feed: Feed, pods: int = PODS) -> None:
    """Let pods be created, released, bound, run, end and go, where there is room."""
    for number in range(pods):
        grant = feed.grants[number % len(feed.grants)]
        namespace, name = grant["metadata"]["namespace"], feed.create(grant)
        if feed.waiting(namespace):
            raise RuntimeError(f"{namespace}/{name} was not released")
        feed.bind_and_run(namespace, name)
        feed.end(namespace, name)


def churn(feed: Feed, pods: int = PODS) -> None:
    """Let pods end on full grants while others wait: each end releases the next in line, and one more comes."""
    for grant in feed.grants:
        for _ in range(FREE + WAITING):
            feed.create(grant)
        feed.bind_all(grant["metadata"]["namespace"])
    feed.seconds.clear()
    rng = random.Random(7)
    for number in range(pods):
        grant = feed.grants[number % len(feed.grants)]
        namespace = grant["metadata"]["namespace"]
        feed.end(namespace, rng.choice(feed.running(namespace)))
        feed.bind_all(namespace)
        feed.create(grant)
    waiting = {namespace: len(feed.waiting(namespace)) for namespace in feed.pods}
    if set(waiting.values()) != {WAITING}:
        raise RuntimeError(f"not {WAITING} wait in each namespace, but {waiting}")


def heartbeats(feed: Feed, beats: int = NODE_EVENTS) -> None:
    """Let kubelets tell that they live, and nothing else."""
    nodes = _nodes_of(feed)
    for number in range(beats):
        node = nodes[number % len(nodes)]
        for one in node["status"]["conditions"]:
            one["lastHeartbeatTime"] = bodies.stamp(feed.operator.now + number)
        feed.event("MODIFIED", feed.operator.cluster.put(node), feed.operator.observer.nodes)


def ready_flips(feed: Feed) -> None:
    """Let servers turn NotReady and Ready again, pods on them."""
    nodes = _nodes_of(feed)
    for number in range(NODE_EVENTS // 4):
        node = nodes[number % len(nodes)]
        for status in ("False", "True"):
            ready = node["status"]["conditions"][0]
            ready |= {"status": status, "lastTransitionTime": bodies.stamp(feed.operator.now)}
            feed.event("MODIFIED", feed.operator.cluster.put(node), feed.operator.observer.nodes)


def _nodes_of(feed: Feed) -> list[Json]:
    nodes = feed.operator.cluster.objects["Node"]
    return [nodes["", name] for grant in feed.grants for name in grant["status"]["allocation"]["servers"]]


LOADS: dict[str, tuple[Callable[[Feed], None], float | None]] = {
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
    grants = [
        g for k, g in sorted(operator.cluster.objects["GpuGrant"].items()) if k[0].startswith("nhn-b200-t")
    ][:2]
    found: dict[str, list[float]] = {name: [] for name in LOADS}
    for _ in range(runs):
        for name, (load, _) in LOADS.items():
            feed = Feed(operator, grants)
            load(feed)  # without the collector: its pauses would be the benchmark's own raw objects
            gc.collect()
            found[name].append(sum(feed.seconds) / len(feed.seconds) * 1e6)
            _drain(feed)
    gc.unfreeze()
    gc.enable()
    return found


def _drain(feed: Feed) -> None:
    """Let what a load left waiting or running end, back to what every load begins with."""
    for grant in feed.grants:
        namespace = grant["metadata"]["namespace"]
        for name in feed.waiting(namespace):
            feed.remove(namespace, name)
        for name in feed.running(namespace)[grant["spec"]["gpus"] - FREE :]:
            feed.end(namespace, name)
    feed.operator.now += 60
    feed.operator.settle()
    assert not any(isinstance(a, SetPolicies) for a in feed.operator.plan())


def run(runs: int, sizes: Sequence[int] = SIZES) -> list[Figure]:
    """Measure every size; return microseconds and the ratio of the largest to the smallest."""
    measured = {servers: measure(servers, runs) for servers in sizes}
    figures = []
    for name, (_, aim) in LOADS.items():
        figures += [
            Figure("event", f"{name}: {n:,} servers", tuple(measured[n][name]), "CPU µs", digits=0) for n in sizes
        ]
        small, large = measured[sizes[0]][name], measured[sizes[-1]][name]
        ratios = tuple(b / a for a, b in zip(small, large, strict=True))
        words = f"{name}: {sizes[-1]:,} / {sizes[0]:,} servers"
        figures.append(Figure("event", words, ratios, "times", aim))
    return figures
