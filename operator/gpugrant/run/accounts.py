"""On whose account a pod's seats are booked: what the world says of its node, namespace and grant."""

from collections.abc import Mapping
from typing import Protocol

from gpugrant import names
from gpugrant.config import Settings
from gpugrant.decide.state import GrantState, PoolState, Server
from gpugrant.meter.facts import Account, Dimensions, GrantTerms, Owner
from gpugrant.meter.months import Calendars
from gpugrant.model.objects import Grant, Namespace
from gpugrant.model.pod import Pod


class World(Protocol):
    """What is read of decide's world."""

    settings: Settings
    servers: dict[str, Server]
    pools: dict[str, PoolState]
    namespaces: dict[str, Namespace]
    grants: dict[str, GrantState]
    resources: frozenset[str]


_known: dict[Dimensions, Dimensions] = {}  # many pods share theirs
_MOST_KNOWN = 50_000


def dimensions_of(world: World, pod: Pod) -> Dimensions | None:
    """Return the account, server and seats of a bound pod; None while its node is not known."""
    server = world.servers.get(pod.node)
    if server is None or server.node is None:
        return None
    pool = world.pools.get(server.pool)
    spec = pool.pool.spec if pool else None
    resource = spec.resource_name if spec else _resource(pod, world.resources)
    namespace = world.namespaces.get(pod.namespace)
    state = world.grants.get(pod.grant_uid) if pod.grant_uid else None
    account = Account(
        programme=spec.programme if spec else "",
        provider=spec.provider if spec else server.label(names.PROVIDER_LABEL),
        pool=server.pool,
        gpu_type=spec.gpu_type if spec else server.label(names.PRODUCT_LABEL),
        share=server.share or server.label(names.SHARE_LABEL),
        owner=_owner(world, pod, namespace),
        tenant=namespace.tenant if namespace else "",
        tenant_namespace=state.grant.namespace if state else pod.namespace,
        grant=pod.grant if pod.grant_uid else "",
        grant_uid=pod.grant_uid,
        award=_award(state),
    )
    found = Dimensions(
        account=account,
        server=pod.node,
        fabric=server.fabric,
        resource=resource,
        seats=pod.shape.amount(resource),
        server_seats=server.node.seats_installed(resource),
    )
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    return _known.setdefault(found, found)


def _owner(world: World, pod: Pod, namespace: Namespace | None) -> Owner:
    if pod.grant_uid:
        return Owner.GRANT
    if pod.namespace in world.settings.exempt_namespaces:
        return Owner.EXEMPT
    if namespace is not None and namespace.provider and not namespace.tenant:
        return Owner.OWN_USE
    return Owner.UNMANAGED


def _award(state: GrantState | None) -> str:
    spec = state.grant.spec if state else None
    return spec.award.id if spec and spec.award else ""


def _resource(pod: Pod, wanted: frozenset[str]) -> str:
    asked = [name for name, _ in pod.shape.resources]
    return next((name for name in asked if name in wanted), asked[0] if asked else "")


def terms_of(grant: Grant, settings: Settings, namespaces: Mapping[str, Namespace]) -> GrantTerms | None:
    """Return a grant's term as instants; None where its spec does not parse."""
    spec = grant.spec
    if spec is None:
        return None
    programmes = settings.programmes
    only = next(iter(programmes)) if len(programmes) == 1 else "default"
    programme = programmes.get(spec.programme or only)
    if programme is None:
        return None
    start, end = spec.term.bounds(programme.zone)
    namespace = namespaces.get(grant.namespace)
    return GrantTerms(
        grant_uid=grant.uid,
        namespace=grant.namespace,
        name=grant.name,
        start=start,
        end=end,
        grace_seconds=spec.term.grace_seconds,
        tenant=namespace.tenant if namespace else "",
        award=spec.award.id if spec.award else "",
        gpus=spec.gpus,
    )


def calendars_of(settings: Settings) -> Calendars:
    """Return the programmes' zones and the report period."""
    zones = tuple(sorted((name, programme.time_zone) for name, programme in settings.programmes.items()))
    return Calendars(zones, settings.period_seconds or 0)
