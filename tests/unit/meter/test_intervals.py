"""R9, case by case: when a pod held its seats."""

import pytest

from gpugrant.meter.facts import EndReason
from gpugrant.meter.intervals import (
    Hold,
    Interval,
    NodeFacts,
    cut_overlaps,
    gone_interval,
    held_interval,
    skew_of,
)
from meter_kit import a_pod

HERE = NodeFacts()
NOW = 5000

CASES = {
    "bound and running: open": ({}, Interval(1000)),
    "image pull holds": ({"phase": "Pending", "admitted": False}, Interval(1000)),
    "being deleted, containers still there: holds": ({"deleting": 1500}, Interval(1000)),
    "evicted, containers still there: holds": ({"disrupted_at": 1500}, Interval(1000)),
    "lost server, pod never ends: holds": ({"deleting": 1300, "disrupted_at": 0}, Interval(1000)),
    "finished": (
        {"phase": "Succeeded", "finished_at": 2000, "terminal_at": 2003},
        Interval(1000, 2000, EndReason.FINISHED),
    ),
    "failed after a crash loop": (
        {"phase": "Failed", "finished_at": 2000},
        Interval(1000, 2000, EndReason.FINISHED),
    ),
    "evicted, then finished: the finish counts": (
        {"phase": "Failed", "finished_at": 2030, "disrupted_at": 2000, "reason": "Evicted"},
        Interval(1000, 2030, EndReason.FINISHED),
    ),
    "node's clock ahead: clipped to the terminal status": (
        {"phase": "Succeeded", "finished_at": 2600, "terminal_at": 2003},
        Interval(1000, 2003, EndReason.FINISHED),
    ),
    "node's clock behind its start: nothing, never negative": (
        {"phase": "Succeeded", "finished_at": 400, "terminal_at": 1002},
        Interval(1000, 1000, EndReason.FINISHED),
    ),
    "rejected by the device plugin: held nothing": (
        {"phase": "Failed", "admitted": False, "reason": "UnexpectedAdmissionError", "terminal_at": 1002},
        Interval(1000, 1000, EndReason.REJECTED),
    ),
    "rejected, out of GPUs: held nothing": (
        {"phase": "Failed", "admitted": False, "reason": "OutOfnvidia.com/gpu", "terminal_at": 1002},
        Interval(1000, 1000, EndReason.REJECTED),
    ),
    "deadline passed during image pull: it was admitted, and held": (
        {"phase": "Failed", "admitted": False, "reason": "DeadlineExceeded", "terminal_at": 1600},
        Interval(1000, 1600, EndReason.TERMINAL),
    ),
    "deleted during image pull: held until the terminal status": (
        {"phase": "Failed", "admitted": False, "deleting": 1500, "terminal_at": 1505},
        Interval(1000, 1505, EndReason.TERMINAL),
    ),
    "server's object deleted, PodGC ended it": (
        {"phase": "Failed", "disrupted_at": 2045, "terminal_at": 2045},
        Interval(1000, 2045, EndReason.DISRUPTED),
    ),
    "ended by others during image pull: held until then": (
        {"phase": "Failed", "admitted": False, "disrupted_at": 2045, "reason": "NodeLost"},
        Interval(1000, 2045, EndReason.DISRUPTED),
    ),
    "ended, container states lost: the terminal status": (
        {"phase": "Failed", "terminal_at": 2100},
        Interval(1000, 2100, EndReason.TERMINAL),
    ),
    "ended and nothing says when: when it was seen": (
        {"phase": "Succeeded"},
        Interval(1000, NOW, EndReason.SEEN_ENDED),
    ),
    "node's clock years ahead, no terminal status: bounded all the same": (
        {"phase": "Succeeded", "finished_at": 10**9},
        Interval(1000, NOW + 3600, EndReason.FINISHED),
    ),
    "waiting behind the gate: nothing": ({"node": "", "scheduled_at": 0, "phase": "Pending"}, None),
    "deleted between release and bind: held nothing": (
        {"node": "", "scheduled_at": 0, "phase": "Pending", "deleting": 1400},
        Interval(1400, 1400, EndReason.NEVER_BOUND),
    ),
    "bound past the scheduler, not confirmed yet": ({"scheduled_at": 0, "phase": "Pending"}, None),
    "bound past the scheduler, finished before it was confirmed": (
        {"scheduled_at": 0, "phase": "Succeeded", "finished_at": 1900},
        Interval(900, 1900, EndReason.FINISHED),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pod_holds_from_its_bind_to_the_first_end_that_exists(case):
    given, expected = CASES[case]
    assert held_interval(a_pod(**given), HERE, NOW) == expected


GONE = {
    "while the watch looked: until then": ({}, HERE, 3000, 3000, Interval(1000, 3000, EndReason.GONE)),
    "found missing: until it was last seen": (
        {},
        HERE,
        3000,
        2500,
        Interval(1000, 2500, EndReason.UNOBSERVED),
    ),
    "found missing, never seen since its bind": (
        {},
        HERE,
        3000,
        400,
        Interval(1000, 1000, EndReason.UNOBSERVED),
    ),
    "its last state says when it ended": (
        {"phase": "Succeeded", "finished_at": 2000},
        HERE,
        3000,
        3000,
        Interval(1000, 2000, EndReason.FINISHED),
    ),
    "its server went before": ({}, NodeFacts(2200), 3000, 2500, Interval(1000, 2200, EndReason.UNOBSERVED)),
    "released, never bound, finalizer forced off": (
        {"node": "", "scheduled_at": 0, "phase": "Pending"},
        HERE,
        3000,
        3000,
        Interval(3000, 3000, EndReason.NEVER_BOUND),
    ),
    "a waiting pod that was deleted": (
        {"node": "", "scheduled_at": 0, "phase": "Pending", "finalizer": False},
        HERE,
        3000,
        3000,
        None,
    ),
}


@pytest.mark.parametrize("case", GONE)
def test_a_pod_whose_object_is_gone_held_as_long_as_that_is_certain(case):
    given, node, at, seen, expected = GONE[case]
    assert gone_interval(a_pod(**given), node, at, seen) == expected


OVERLAPS = {
    "two whole-server pods: the next bind wins": (
        [Hold("a", 0, 105, 8, 8), Hold("b", 103, 200, 8, 8)],
        {"a": 103, "b": 200},
    ),
    "the one that ends first gives way, not the one that started first": (
        [Hold("a", 0, None, 4, 8), Hold("b", 10, 105, 4, 8), Hold("c", 103, None, 4, 8)],
        {"a": None, "b": 103, "c": None},
    ),
    "they fit side by side: nothing is cut": (
        [Hold("a", 0, 105, 4, 8), Hold("b", 103, 200, 4, 8)],
        {"a": 105, "b": 200},
    ),
    "one ends in the second the next begins: nothing is cut": (
        [Hold("a", 0, 103, 8, 8), Hold("b", 103, 200, 8, 8)],
        {"a": 103, "b": 200},
    ),
    "a rejected pod pushes nobody aside": (
        [Hold("a", 0, 105, 8, 8), Hold("b", 50, 50, 8, 8)],
        {"a": 105, "b": 50},
    ),
    "the size of the server is not known: nothing is cut": (
        [Hold("a", 0, 105, 8, 0), Hold("b", 50, 200, 8, 0)],
        {"a": 105, "b": 200},
    ),
    "a hold that was cut takes no more seats from later ones": (
        [Hold("a", 0, 300, 8, 8), Hold("b", 100, 150, 8, 8), Hold("c", 160, 200, 8, 8)],
        {"a": 100, "b": 150, "c": 200},
    ),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_no_seat_of_a_server_is_held_twice(case):
    holds, expected = OVERLAPS[case]
    assert cut_overlaps(holds) == expected
    assert cut_overlaps(reversed(holds)) == expected


@pytest.mark.parametrize(
    ("finished", "terminal", "skew"),
    [(150, 151, 0), (151, 151, 0), (155, 151, 4), (97, 151, 3), (155, 0, 0), (97, 0, 3)],
    ids=["as it should be", "at once", "ahead", "behind", "nothing to compare with", "before it was bound"],
)
def test_how_far_a_nodes_clock_is_off(finished, terminal, skew):
    pod = a_pod(
        phase="Succeeded", node="n", admitted=True, scheduled_at=100, finished_at=finished, terminal_at=terminal
    )
    interval = held_interval(pod, NodeFacts(), 200)
    assert skew_of(pod, interval) == skew
    assert interval.start <= interval.end
