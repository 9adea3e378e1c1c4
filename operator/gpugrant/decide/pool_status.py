"""A pool's status: what is installed, promised, granted, held, and what is not as promised."""

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.reasons import Verdict, counted
from gpugrant.decide.state import OWN_USE, PUBLIC, PoolState
from gpugrant.decide.statuses import Doc, condition
from gpugrant.decide.world import World


def pool_status(world: World, state: PoolState, now: int) -> Doc:
    """Return a pool's status."""
    pool, old = state.pool, state.pool.status
    if pool.spec is None:
        return {
            "observedGeneration": pool.generation,
            "conditions": [
                condition(old, "Ready", False, reasons.INVALID_SPEC, pool.error, pool.generation, now)
            ],
        }
    shares = {share: world.tally[pool.name, share] for share in (PUBLIC, OWN_USE, "")}
    installed = sum(t.installed for t in shares.values())
    failed = sum(t.failed for t in shares.values())
    promised = pool.spec.public_share.gpus if pool.spec.public_share else installed
    met, share_reason, share_words = _share_met(state, shares[PUBLIC].installed, promised, installed)
    valid, valid_reason, valid_words = _nodes_valid(world, state)
    if not installed:
        ready = Verdict(False, reasons.NO_SERVERS, f"no node matches the pool: {_selector_words(state)}")
    elif not met:
        ready = Verdict(True, reasons.SHARE_SHORT, share_words)
    elif not valid:
        ready = Verdict(True, valid_reason, valid_words)
    else:
        ready = Verdict(True, reasons.READY, f"{counted(len(state.servers), 'server')}, {installed} GPUs")
    granted = {share: granted_seats(world, pool.name, share, now) for share in (PUBLIC, OWN_USE)}

    def share_doc(share: str, promised_gpus: int) -> Doc:
        tally = shares[share]
        return {
            "installed": tally.installed,
            "promised": promised_gpus,
            "granted": granted[share],
            "free": max(0, tally.installed - tally.failed - granted[share]),
            "held": tally.held,
        }

    gen = pool.generation
    conditions = [
        condition(old, "Ready", ready.ok, ready.reason, ready.message, gen, now),
        condition(old, "ShareMet", met, share_reason, share_words, gen, now),
        condition(old, "NodesValid", valid, valid_reason, valid_words, gen, now),
    ]
    return {
        "observedGeneration": gen,
        "conditions": conditions,
        "servers": len(state.servers),
        "gpus": {"installed": installed, "healthy": installed - failed, "failed": failed},
        "public": share_doc(PUBLIC, promised),
        "ownUse": share_doc(OWN_USE, max(0, installed - promised)),
        "summary": {
            "public": f"{shares[PUBLIC].held}/{granted[PUBLIC]}/{promised}",
            "ownUse": f"{shares[OWN_USE].held}/{shares[OWN_USE].installed}",
            "why": "" if ready.reason == reasons.READY else ready.message,
        },
    }


def _share_met(state: PoolState, public: int, promised: int, installed: int) -> tuple[bool, str, str]:
    if public >= promised and installed:
        return True, reasons.SHARE_MET, f"{public} of {promised} promised GPUs are public"
    short = promised - public
    if not installed:
        return (
            False,
            reasons.NO_SERVERS,
            f"public share {promised} GPUs short of the promise: no server is there",
        )
    if state.shares_pending:
        return (
            False,
            reasons.SERVERS_IN_USE,
            f"public share {short} GPUs short of the promise: own-use servers become public as they empty",
        )
    return False, reasons.SHARE_SHORT, f"public share {short} GPUs short of the promise of {promised}"


def _nodes_valid(world: World, state: PoolState) -> tuple[bool, str, str]:
    if state.doubtful:
        which = sorted(state.doubtful)
        others = sorted({n for name in which for n in world.servers[name].claims} - {state.pool.name})
        return (
            False,
            reasons.CLAIMED_TWICE,
            f"{counted(len(which), 'node')} also match {', '.join(others)} ({_some(which)}): "
            "make the pools' nodeSelectors disjoint",
        )
    if state.oversized:
        large = sorted(state.oversized)
        return (
            False,
            reasons.TOO_MANY_SEATS,
            f"{counted(len(large), 'node')} offer more than gpusPerServer = {state.size} ({_some(large)}): "
            "raise gpusPerServer or select other nodes",
        )
    return True, reasons.ALL_VALID, "every node belongs to one pool and has the seats it should"


def _some(which: list[str]) -> str:
    return ", ".join(which[:3]) + (f" and {len(which) - 3} more" if len(which) > 3 else "")


def _selector_words(state: PoolState) -> str:
    spec = state.pool.spec
    assert spec
    if spec.node_selector:
        return ", ".join(f"{k}={v}" for k, v in spec.node_selector.match_labels.items())
    return f"{names.PROVIDER_LABEL}={spec.provider}, {names.PRODUCT_LABEL}={spec.gpu_type}"


def granted_seats(world: World, pool: str, share: str, now: int) -> int:
    """Return how many seats of a share grants have now."""
    return world.granted.get((pool, share), 0)
