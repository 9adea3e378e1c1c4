"""What the comments of the examples promise, each checked through the API, by waiting until it holds."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from devcluster.client import JsonObject, KubeClient, path_of

_SECONDS = 120.0
_API = "gpugrant.io/v1alpha1"
GRANT_UID = "gpugrant.io/grant-uid"
FABRIC = "gpugrant.io/fabric"
SHARE = "gpugrant.io/share"
SHARED_FOR = "gpugrant.io/shared-for"
OWN_USE = "gpugrant.io/own-use"


class Broken(Exception):
    """A promise does not hold; the message says what was seen instead."""


@dataclass(frozen=True)
class Promise:
    """A sentence, and how it is seen. ``seen`` returns what was seen, in words, or raises Broken, TimeoutError."""

    sentence: str
    seen: Callable[[KubeClient], Awaitable[str]]


def condition(found: JsonObject | None, kind: str) -> JsonObject:
    """Return a condition of an object, or {}."""
    conditions = (found or {}).get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})


def promises_of(objects: list[JsonObject]) -> list[Promise]:
    """Return what the examples promise, with the numbers that stand in these (possibly shrunk) examples."""
    by_name = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    job = by_name[("Job", "pretrain-0")]
    grant = by_name[("GpuGrant", "pretrain")]
    pods, gpus = job["spec"]["parallelism"], grant["spec"]["gpus"]
    pools = [each for each in objects if each["kind"] == "GpuPool"]
    return [
        Promise(f"all {len(pools)} pools are Ready, with the public share they promise",
                lambda client: _pools_ready(client, pools)),
        Promise(f"pretrain-0's {pods} pods run on servers of grant pretrain ({gpus} GPUs), all of one fabric",
                lambda client: _gang_runs(client, job, grant)),
        Promise("notebook-0 runs on a server that was opened for its tenant's shared grant",
                lambda client: _runs_on(client, "seorak-univ", "notebook-0",
                                        {SHARE: "Public", SHARED_FOR: "seorak-univ"})),
        Promise("ranker-0 runs, without a grant, on kakao's own-use servers",
                lambda client: _runs_on(client, "kakao-search", "ranker-0", {SHARE: "OwnUse", OWN_USE: "kakao"})),
        Promise("round-one is rejected: ConflictOfInterest", _round_one_rejected),
    ]


async def see_all(client: KubeClient, promises: list[Promise],
                  told: Callable[[Promise, str, bool], None]) -> bool:
    """Wait for all promises at once, tell of each as it is decided, and say whether all hold."""

    async def _see(promise: Promise) -> bool:
        try:
            what = await promise.seen(client)
        except (Broken, TimeoutError) as error:
            told(promise, str(error), False)
            return False
        told(promise, what, True)
        return True

    return all(await asyncio.gather(*map(_see, promises)))


async def _pools_ready(client: KubeClient, pools: list[JsonObject]) -> str:
    total = 0
    for pool in pools:
        path = path_of(_API, "GpuPool", None, pool["metadata"]["name"])
        found = await client.wait_for(path, lambda seen: condition(seen, "Ready").get("status") == "True", _SECONDS)
        status = found["status"]
        promised = pool["spec"].get("publicShare", {}).get("gpus", status["gpus"]["installed"])
        if status["public"]["installed"] != promised:
            raise Broken(f"{pool['metadata']['name']} promises {promised} public GPUs and has "
                         f"{status['public']['installed']}: {condition(found, 'ShareMet').get('message', '')}")
        total += status["gpus"]["installed"]
    return f"{total:,} GPUs"


async def _gang_runs(client: KubeClient, job: JsonObject, grant: JsonObject) -> str:
    namespace, name, pods = job["metadata"]["namespace"], job["metadata"]["name"], job["spec"]["parallelism"]
    await client.wait_for(path_of("batch/v1", "Job", namespace, name),
                          lambda seen: (seen or {}).get("status", {}).get("ready") == pods, _SECONDS)
    members = await client.list(path_of("v1", "Pod", namespace), labelSelector=f"batch.kubernetes.io/job-name={name}")
    not_running = [each["metadata"]["name"] for each in members if each["status"]["phase"] != "Running"]
    if not_running or len(members) != pods:
        raise Broken(f"{len(members)} pods, of which not running: {', '.join(not_running) or 'none'}")
    found = await client.get(path_of(_API, "GpuGrant", namespace, grant["metadata"]["name"]))
    uid = found["metadata"]["uid"]
    names = {each["spec"]["nodeName"] for each in members}
    servers = [await client.get(f"/api/v1/nodes/{each}") for each in sorted(names)]
    strange = [each["metadata"]["name"] for each in servers if each["metadata"]["labels"].get(GRANT_UID) != uid]
    if strange:
        raise Broken(f"not labelled as servers of the grant: {', '.join(strange)}")
    fabrics = {each["metadata"]["labels"].get(FABRIC) for each in servers}
    if len(fabrics) != 1 or len(servers) * 8 != grant["spec"]["gpus"]:
        raise Broken(f"{len(servers)} servers in fabrics {sorted(map(str, fabrics))}")
    first, last = servers[0]["metadata"]["name"], servers[-1]["metadata"]["name"]
    return f"{first} … {last} in {fabrics.pop()}" if len(servers) > 1 else f"{first} in {fabrics.pop()}"


async def _runs_on(client: KubeClient, namespace: str, name: str, labels: dict[str, str]) -> str:
    pod = await client.wait_for(path_of("v1", "Pod", namespace, name),
                                lambda seen: (seen or {}).get("status", {}).get("phase") == "Running", _SECONDS)
    server = await client.get(f"/api/v1/nodes/{pod['spec']['nodeName']}")
    marks = server["metadata"]["labels"]
    wrong = {key: marks.get(key) for key, value in labels.items() if marks.get(key) != value}
    if wrong:
        raise Broken(f"{server['metadata']['name']} has {wrong}, not {labels}")
    return f"{server['metadata']['name']}, {', '.join(f'{key}={value}' for key, value in labels.items())}"


async def _round_one_rejected(client: KubeClient) -> str:
    # Until the operator has seen pools and quotas too, the reason may be another one.
    found = await client.wait_for(
        path_of(_API, "GpuGrant", "sktel-lm", "round-one"),
        lambda seen: condition(seen, "Accepted").get("reason") == "ConflictOfInterest", _SECONDS)
    accepted = condition(found, "Accepted")
    if accepted["status"] != "False":
        raise Broken(f"Accepted is {accepted['status']}: {accepted['message']}")
    return str(accepted["message"])
