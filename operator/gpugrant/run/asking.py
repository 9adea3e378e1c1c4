"""Commands that ask: list the cluster once, build the planner's world from it, and let decide answer.

decide is pure, so the answer is the operator's own, and asking needs no operator that runs.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml
from prometheus_client import CollectorRegistry

from gpugrant.config import Settings
from gpugrant.decide import explain
from gpugrant.decide.plan import make_plan
from gpugrant.decide.world import World
from gpugrant.expose.views import figures
from gpugrant.model.objects import Grant, Pool, Quota
from gpugrant.observe.client import ApiError, Client
from gpugrant.observe.credentials import load_credentials
from gpugrant.observe.kinds import OWN_KINDS
from gpugrant.observe.observer import Observer
from gpugrant.observe.project import project_namespace, project_node, project_pod
from gpugrant.run.lease import LEASE_PATH
from gpugrant.run.screen import screen


class Asked(msgspec.Struct, frozen=True):
    """One question: why, status or preview."""

    question: str
    kind: str = ""
    namespace: str = ""
    name: str = ""
    file: str = ""


def ask(kubeconfig: str, asked: Asked) -> list[str]:
    """Return the answer's lines; a cluster that cannot be read is told in words and ends the command."""
    try:
        return asyncio.run(ask_cluster(kubeconfig, asked))
    except (ApiError, LookupError, ValueError, OSError, yaml.YAMLError) as error:
        raise SystemExit(f"gpugrant: {error}") from None


async def ask_cluster(kubeconfig: str, asked: Asked) -> list[str]:
    """Return the answer's lines. Raises ApiError, LookupError, ValueError, OSError, yaml.YAMLError."""
    world = World(Settings())
    async with Client(load_credentials(kubeconfig or None), "gpugrant-cli") as client:
        # As the operator's time: the API server's, whatever this machine's clock says.
        observer = Observer(client, world, CollectorRegistry(), lambda: int(client.clock.now()))
        await observer.look_once()
        return await _answer(world, client, asked, int(client.clock.now()))


async def _answer(world: World, client: Client, asked: Asked, now: int) -> list[str]:
    match asked.question:
        case "why":
            return explain.why(world, now, asked.kind, asked.namespace, asked.name)
        case "preview":
            return explain.preview(world, now, put_file(world, Path(asked.file), now))
        case _:
            make_plan(world, now)  # decides what is public and what is own use, and writes nothing
            return screen(figures(world, now), await _leader(client), now)


async def _leader(client: Client) -> str:
    """Return who leads and since when that is known, in words."""
    try:
        lease = json.loads(await client.get(LEASE_PATH))
    except ApiError as error:
        return f"no leader is known ({error.reason})"
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity"):
        return "nobody leads"
    ago = client.clock.now() - datetime.fromisoformat(spec["renewTime"]).timestamp()
    return f"leader {spec['holderIdentity']}, seen {max(0.0, ago):.0f} s ago"


def put_file(world: World, file: Path, now: int) -> list[tuple[str, str, str]]:
    """Put the objects of a YAML file into the world, as if they had just been applied; return which those are.

    Raises ValueError, naming the object, for what gpugrant does not look at or cannot read.
    """
    found: list[tuple[str, str, str]] = []
    for number, body in enumerate(yaml.safe_load_all(file.read_text()), 1):
        if body is None:
            continue
        kind = body.get("kind", "") if isinstance(body, dict) else ""
        put = _PUTS.get(kind)
        if put is None:
            known = ", ".join(sorted(_PUTS))
            raise ValueError(f"{file}, object {number}: kind {kind or '?'} is none of {known}")
        _complete(world, body, kind, now)
        found.append((kind, body["metadata"].get("namespace", ""), str(body["metadata"].get("name", ""))))
        try:
            put(world, body)
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            raise ValueError(f"{file}, {kind} {body['metadata'].get('name')}: {error}") from None
    return found


def _complete(world: World, body: dict[str, Any], kind: str, now: int) -> None:
    """Add what the API server and the admission policies would add; what is there already keeps who it is."""
    from gpugrant import names

    meta = body.setdefault("metadata", {})
    known = _known(world, kind, meta.get("namespace", "default"), meta.get("name", ""))
    if known is not None:
        meta.setdefault("uid", known.uid)
        meta.setdefault("generation", known.generation + 1)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(known.created))
        meta.setdefault("creationTimestamp", created)
        body.setdefault("status", known.status)
    meta.setdefault("uid", f"preview-{uuid.uuid4()}")
    meta.setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))
    if kind in ("Pod", "GpuGrant"):
        meta.setdefault("namespace", "default")
    if kind == "Pod":
        meta.setdefault("labels", {})[names.GPU_LABEL] = "true"
        body.setdefault("spec", {}).setdefault("schedulingGates", [{"name": names.GATE}])


def _known(world: World, kind: str, namespace: str, name: str) -> Pool | Quota | Grant | None:
    if kind == "GpuPool" and name in world.pools:
        return world.pools[name].pool
    if kind == "TenantQuota":
        return world.quotas.get(name)
    if kind == "GpuGrant" and (namespace, name) in world.grant_at:
        return world.grants[world.grant_at[namespace, name]].grant
    return None


def _encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, default=str).encode()


_PUTS: dict[str, Callable[[World, dict[str, Any]], None]] = {
    "GpuPool": lambda world, body: world.put_pool(OWN_KINDS["GpuPool"].read(body)),  # type: ignore[arg-type]
    "TenantQuota": lambda world, body: world.put_quota(OWN_KINDS["TenantQuota"].read(body)),  # type: ignore[arg-type]
    "GpuGrant": lambda world, body: world.put_grant(OWN_KINDS["GpuGrant"].read(body)),  # type: ignore[arg-type]
    "Namespace": lambda world, body: world.put_namespace(project_namespace(_encoded(body))),
    "Node": lambda world, body: world.put_node(project_node(_encoded(body))),
    "Pod": lambda world, body: world.put_pod(project_pod(_encoded(body))),
}
