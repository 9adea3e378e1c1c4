"""On whose account a pod's seats are booked: what the world says of its node, namespace and grant."""

from gpugrant import names
from gpugrant.config import Settings
from gpugrant.decide.judge import read_terms
from gpugrant.decide.state import GrantState
from gpugrant.decide.world import World
from gpugrant.meter.facts import Account, Dimensions, GrantTerms, Owner
from gpugrant.meter.months import Calendars
from gpugrant.model.objects import Allocation, Grant, Namespace
from gpugrant.model.pod import Pod

_known: dict[Dimensions, Dimensions] = {}  # many pods share theirs
_MOST_KNOWN = 50_000


def dimensions_of(world: World, pod: Pod, *, gone: bool = False) -> Dimensions | None:
    """Return the account, server and seats of a bound pod; None while its node is not known.

    ``gone`` says that the node will not be known any more: then its grant says where the pod was.
    """
    server = world.servers.get(pod.node)
    node = server.node if server else None
    if node is None and not gone:
        return None
    state = world.grants.get(pod.grant_uid) if pod.grant_uid else None
    place = _place(state)
    pool_name = server.pool if server and node else place.pool
    pool = world.pools.get(pool_name)
    spec = pool.pool.spec if pool else None
    wish = state.grant.spec if state else None
    resource = spec.resource_name if spec else _resource(pod, world.resources)
    namespace = world.namespaces.get(pod.namespace)
    labels = node.labels if node else {}
    account = Account(
        programme=spec.programme if spec else "",
        provider=spec.provider if spec else labels.get(names.PROVIDER_LABEL, ""),
        pool=pool_name,
        gpu_type=spec.gpu_type if spec else labels.get(names.PRODUCT_LABEL, ""),
        share=(server.share if server and node else wish.share if wish else "")
        or labels.get(names.SHARE_LABEL, ""),
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
        fabric=server.fabric if server and node else place.fabric,
        resource=resource,
        seats=pod.shape.amount(resource),
        server_seats=node.seats_installed(resource) if node else 0,
    )
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    return _known.setdefault(found, found)


def _place(state: GrantState | None) -> Allocation:
    """Return where a grant's seats are, as this process or else its status knows it."""
    if state is not None and state.pool:
        return Allocation(state.pool, state.fabric)
    return (state.grant.allocation if state else None) or Allocation("")


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


def terms_of(world: World, grant: Grant) -> GrantTerms | None:
    """Return a grant's term as instants, read as what enforces it reads it; None where it does not parse."""
    spec = grant.spec
    if spec is None:
        return None
    state = GrantState(grant)  # of our own: the world's may not have been read since the last edit
    read_terms(world, state)
    return GrantTerms(
        grant_uid=grant.uid,
        namespace=grant.namespace,
        name=grant.name,
        start=state.start,
        end=state.end,
        grace_seconds=spec.term.grace_seconds,
        tenant=state.tenant,
        award=spec.award.id if spec.award else "",
        gpus=spec.gpus,
    )


def calendars_of(settings: Settings) -> Calendars:
    """Return the programmes' zones and the report period."""
    zones = tuple(sorted((name, programme.time_zone) for name, programme in settings.programmes.items()))
    return Calendars(zones, settings.period_seconds or 0)
