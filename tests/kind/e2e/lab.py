"""One tenant with a grant of every GPU there is, and what pods say of when they held theirs."""

from collections.abc import Callable
from dataclasses import dataclass

from cluster_kit.pods import condition, phase
from cluster_kit.site import Grant, Pool, Tenant, seconds_of
from devcluster.client import JsonObject

# The kubelet tells devices' health within this; a kind node on a busy machine.
SLOW = 60.0


@dataclass
class Lab:
    """The tenant, its grant, and the pool of all workers."""

    pool: Pool
    tenant: Tenant
    grant: Grant


def ended(pod: JsonObject | None) -> bool:
    """Say whether a pod has ended."""
    return phase(pod) in ("Succeeded", "Failed")


def waits_in(reason: str) -> Callable[[JsonObject | None], bool]:
    """Return what says whether a pod's container waits for a reason, for instance CrashLoopBackOff."""
    def holds(pod: JsonObject | None) -> bool:
        [status] = (pod or {}).get("status", {}).get("containerStatuses") or [{}]
        return bool(status.get("state", {}).get("waiting", {}).get("reason") == reason)
    return holds


def start_of(pod: JsonObject) -> int:
    """Return when a pod was bound."""
    return seconds_of(condition(pod, "PodScheduled")["lastTransitionTime"])


def finish_of(pod: JsonObject) -> int:
    """Return when the last of its containers finished, those that ran before or beside the main ones among them."""
    status = pod["status"]
    statuses = [*status["containerStatuses"], *status.get("initContainerStatuses", ())]
    return max(seconds_of(one["state"]["terminated"]["finishedAt"]) for one in statuses)


def end_of(pod: JsonObject) -> int:
    """Return when a pod that ended has held its GPUs until.

    That is the last finish of its containers. Where the kubelet has lost sight of one, or wiped what it had said of
    all, it is when the API server took in that all is over.
    """
    own = pod["status"].get("containerStatuses") or [{"state": {}}]
    if all(one["state"].get("terminated", {}).get("finishedAt") for one in own):
        return finish_of(pod)
    fields = pod["metadata"]["managedFields"]
    return max(seconds_of(one["time"]) for one in fields if one.get("subresource") == "status")
