"""May this grant be had at all? A chain of small checks; the first that objects is the answer (R8, R14).

The list ``CHECKS`` reads as the policy. What a check says goes unchanged onto the grant's Accepted condition.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from gpugrant.config import Programme
from gpugrant.decide import reasons
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.state import OWN_USE, PUBLIC, GrantState, PoolState
from gpugrant.decide.world import World
from gpugrant.model.objects import Grant

UTC_ZONE = ZoneInfo("UTC")


def programme_rules(world: World, name: str) -> Programme | None:
    """Return a programme's rules; a programme that only pools name has the documented defaults."""
    rules = world.settings.programmes.get(name)
    if rules is None and any(s.pool.spec and s.pool.spec.programme == name for s in world.pools.values()):
        return Programme()
    return rules


def read_terms(world: World, state: GrantState) -> None:
    """Fill in tenant, programme, rules and the term's instants."""
    grant = state.grant
    state.tenant = world.tenant_of(grant.namespace)
    state.line = world.line_of(grant)
    state.programme = state.line[0]
    state.rules = programme_rules(world, state.programme)
    state.zone = ZoneInfo(state.rules.time_zone) if state.rules else UTC_ZONE
    if grant.spec:
        state.start, state.end = grant.spec.term.bounds(state.zone)
        state.grace_end = state.end + grant.spec.term.grace_seconds


def judge(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict:
    """Return the verdict on a grant, given its tenant's accepted grants of the line that come before it."""
    for check in CHECKS:
        verdict = check(world, state, earlier)
        if verdict:
            return verdict
    return Verdict(True, reasons.ACCEPTED, "the grant meets the rules of its programme")


def _no(reason: str, message: str) -> Verdict:
    return Verdict(False, reason, message, lasting=True)


def _spec_parses(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    if state.grant.spec is None:
        return _no(reasons.INVALID_SPEC, state.grant.error)
    return None


def _namespace_has_tenant(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    if state.tenant:
        return None
    return _no(
        reasons.NAMESPACE_HAS_NO_TENANT,
        f"namespace {state.grant.namespace} has no label gpugrant.io/tenant: label it with the tenant's name",
    )


def _programme_known(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    if state.rules:
        return None
    known = ", ".join(sorted(world.known_programmes())) or "none"
    asked = state.grant.spec.programme if state.grant.spec else None
    if asked is None:
        return _no(reasons.NO_SUCH_PROGRAMME, f"spec.programme is needed: there are {known}")
    return _no(reasons.NO_SUCH_PROGRAMME, f"programme {asked} is not known: there are {known}")


def _tenant_has_quota(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    quota = world.quotas.get(state.tenant)
    if quota is None:
        return _no(
            reasons.NO_TENANT_QUOTA,
            f"tenant {state.tenant} has no TenantQuota, so its affiliations are not known: "
            f"create TenantQuota {state.tenant}",
        )
    if quota.spec is None:
        return _no(reasons.NO_TENANT_QUOTA, f"TenantQuota {state.tenant} cannot be read: {quota.error}")
    return None


def _term_allowed(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    assert state.rules and state.zone
    months = state.rules.longest_term_months
    if months is None:
        return None
    latest = add_months(state.start, months, state.zone)
    if state.end <= latest:
        return None
    day = datetime.fromtimestamp(latest, state.zone).date()
    return _no(
        reasons.INVALID_TERM,
        f"spec.term: {state.programme} grants at most {months} months: end must be {day} or before",
    )


def _pool_exists(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    spec = state.grant.spec
    assert spec
    pools = pools_for(world, state)
    if not pools:
        others = sorted(
            {
                f"{s.pool.spec.gpu_type} of {s.pool.spec.provider}"
                for s in world.pools.values()
                if s.pool.spec and s.pool.spec.programme == state.programme
            }
        )
        provider = f" of {spec.provider}" if spec.provider else ""
        has = ", ".join(others) or "no pool"
        return _no(
            reasons.NO_SUCH_POOL, f"{state.programme} has no pool of {spec.gpu_type}{provider}; it has {has}"
        )
    if spec.share == OWN_USE and all(p.pool.spec and p.pool.spec.public_share is None for p in pools):
        return _no(
            reasons.NO_SUCH_POOL,
            f"{state.programme} has no own-use share of {spec.gpu_type}: all of it is public",
        )
    return None


def _no_conflict(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    assert state.rules and state.grant.spec
    if not state.rules.conflict_of_interest or state.grant.spec.share != PUBLIC:
        return None
    award = state.grant.spec.award
    rounds = state.rules.conflict_rounds
    if rounds is not None and (award is None or award.round not in rounds):
        return None
    quota = world.quotas[state.tenant]
    assert quota.spec
    suppliers = {
        s.pool.spec.provider
        for s in world.pools.values()
        if s.pool.spec and s.pool.spec.programme == state.programme
    }
    conflicts = sorted(suppliers & ({*quota.spec.affiliated_providers, state.tenant}))
    if not conflicts:
        return None
    verb = "supplies" if len(conflicts) == 1 else "supply"
    return _no(
        reasons.CONFLICT_OF_INTEREST,
        f"{' and '.join(conflicts)} {verb} {state.programme}, and tenant {state.tenant} is affiliated with "
        f"{'it' if len(conflicts) == 1 else 'them'}",
    )


def _within_cap(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    spec = state.grant.spec
    assert state.rules and spec
    cap = state.rules.caps.get(spec.gpu_type)
    if cap is None or spec.share != PUBLIC or spec.gpus <= cap:
        return None
    return _no(
        reasons.EXCEEDS_PROGRAMME_CAP,
        f"spec.gpus: {state.programme} grants at most {cap} {spec.gpu_type}; {spec.gpus} were asked",
    )


def _within_quota(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    spec = state.grant.spec
    assert spec
    limit = tenant_limit(world, state.tenant, state.line)
    if limit is None:
        return None
    peak = _peak(state, earlier)
    asked = min(spec.gpus, state.seats) if state.pool else spec.gpus  # growth is judged when it is placed
    if peak + asked <= limit:
        return None
    return _no(
        reasons.EXCEEDS_TENANT_QUOTA,
        f"tenant {state.tenant} may have {limit} {spec.gpu_type} of {state.programme}; other grants have {peak}, "
        f"so spec.gpus can be {max(0, limit - peak)} at most",
    )


def quota_room(world: World, state: GrantState) -> int | None:
    """Return how many GPUs the tenant's limit leaves for a grant beside its others; None: no limit."""
    limit = tenant_limit(world, state.tenant, state.line)
    if limit is None:
        return None
    others = [world.grants[u] for u in world.grants_of(state.tenant) if u != state.grant.uid]
    return limit - _peak(state, [g for g in others if g.line == state.line and g.accepted.ok])


def _peak(state: GrantState, others: list[GrantState]) -> int:
    """Return the most that other grants have at one time within a grant's term."""
    instants = [state.start, *(g.start for g in others if state.start <= g.start < state.end)]
    return max(sum(_size(g) for g in others if g.start <= t < g.end) for t in instants)


def _size(state: GrantState) -> int:
    spec = state.grant.spec
    return min(spec.gpus, state.seats) if spec and state.pool else spec.gpus if spec else 0


def _whole_servers(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    spec = state.grant.spec
    assert spec
    if state.shared:
        return None
    sizes = sorted({pool.size for pool in pools_for(world, state)})
    if any(spec.gpus % size == 0 for size in sizes):
        return None
    size = sizes[0]
    lower, upper = spec.gpus // size * size, -(-spec.gpus // size) * size
    choices = f"{lower}, {upper}" if lower else f"{upper}"
    return _no(
        reasons.NOT_WHOLE_SERVERS,
        f"{spec.gpus} GPUs are not whole servers: use {choices} or placement SharedServers",
    )


def _can_ever_fit(world: World, state: GrantState, earlier: list[GrantState]) -> Verdict | None:
    spec = state.grant.spec
    assert spec
    if state.pool:
        return None  # it has its place: servers that are away come back, and growth is a wish of its own
    pools = pools_for(world, state)
    most = max(_share_size(world, pool, spec.share) for pool in pools)
    if spec.gpus > most:
        return _no(
            reasons.NEVER_FITS,
            f"{spec.gpus} GPUs never fit: the {spec.share} share of {spec.gpu_type} in {state.programme} has {most}",
        )
    if state.shared and all(
        p.pool.spec
        and p.pool.spec.max_shared_servers is not None
        and -(-spec.gpus // p.size) > p.pool.spec.max_shared_servers
        for p in pools
    ):
        return _no(
            reasons.NEVER_FITS, f"{spec.gpus} GPUs never fit the pools' maxSharedServers; use whole servers"
        )
    if spec.placement != "OneFabric" or any(not _delivered(world, pool) for pool in pools):
        return None
    largest = max(_largest_fabric(world, pool, spec.share) for pool in pools)
    if spec.gpus > largest:
        return _no(
            reasons.NEVER_FITS,
            f"{spec.gpus} GPUs never fit one fabric: the largest has {largest}; use fewer, or placement AnyFabric",
        )
    return None


CHECKS: tuple[Callable[[World, GrantState, list[GrantState]], Verdict | None], ...] = (
    _spec_parses,
    _namespace_has_tenant,
    _programme_known,
    _tenant_has_quota,
    _term_allowed,
    _pool_exists,
    _no_conflict,
    _within_cap,
    _within_quota,
    _whole_servers,
    _can_ever_fit,
)


def pools_for(world: World, state: GrantState) -> list[PoolState]:
    """Return the pools that may serve a grant, by name."""
    spec = state.grant.spec
    assert spec
    return [
        pool
        for _, pool in sorted(world.pools.items())
        if pool.pool.spec
        and pool.pool.spec.programme == state.programme
        and pool.pool.spec.gpu_type == spec.gpu_type
        and spec.provider in (None, pool.pool.spec.provider)
    ]


def tenant_limit(world: World, tenant: str, line: tuple[str, str, str]) -> int | None:
    """Return the most a tenant may have of a programme, type and share; None: no limit."""
    quota = world.quotas.get(tenant)
    if quota and quota.spec:
        for limit in quota.spec.limits:
            if (limit.programme, limit.gpu_type, limit.share) == line:
                return limit.gpus
    rules = programme_rules(world, line[0])
    return rules.caps.get(line[1]) if rules and line[2] == PUBLIC else None


def add_months(instant: int, months: int, zone: ZoneInfo) -> int:
    """Return the same clock time ``months`` later, in the zone; a day that does not exist becomes the next."""
    moment = datetime.fromtimestamp(instant, zone)
    month = moment.month - 1 + months
    year, month = moment.year + month // 12, month % 12 + 1
    try:
        later = moment.replace(year=year, month=month)
    except ValueError:
        later = moment.replace(year=year + month // 12, month=month % 12 + 1, day=1)
    return int(later.astimezone(UTC).timestamp())


def _share_size(world: World, pool: PoolState, share: str) -> int:
    """Return how many seats a share has or was promised, whichever is more."""
    spec = pool.pool.spec
    assert spec
    installed = len(pool.servers) * pool.size
    delivered = max(installed, sum(part.gpus for part in spec.delivery))
    if spec.public_share is None:
        return delivered if share == PUBLIC else 0
    promised = spec.public_share.gpus
    return promised if share == PUBLIC else max(0, delivered - promised)


def _delivered(world: World, pool: PoolState) -> bool:
    """Say whether all servers are there that the pool will have."""
    spec = pool.pool.spec
    assert spec
    promised = max(
        spec.public_share.gpus if spec.public_share else 0, sum(part.gpus for part in spec.delivery)
    )
    return bool(pool.servers) and len(pool.servers) * pool.size >= promised


def _largest_fabric(world: World, pool: PoolState, share: str) -> int:
    """Return the seats of a share's largest fabric; worked out once per plan."""
    key = (pool.pool.name, share)
    known = world.largest_fabric.get(key)
    if known is None:
        sizes = Counter(s.fabric for s in (world.servers[n] for n in pool.servers) if s.share == share)
        known = world.largest_fabric[key] = max(sizes.values(), default=0) * pool.size
    return known


def line_order(grant: Grant) -> tuple[int, int, str, str, int, str, str]:
    """Return a grant's place in line (R5): priority, award's day and id, then age."""
    spec = grant.spec
    award = spec.award if spec else None
    return (
        -(spec.priority if spec else 0),
        0 if award else 1,
        (award.decided_on or "9999-99-99") if award else "",
        award.id if award else "",
        grant.created,
        grant.namespace,
        grant.name,
    )
