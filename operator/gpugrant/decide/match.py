"""Which grants a waiting pod may use, and why not when there is none (R6, design "Pods")."""

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.state import GrantState
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod


def asked_resource(world: World, pod: Pod) -> str | Verdict:
    """Return the one resource a pod asks for, or why it cannot be served."""
    if pod.shape.dra:
        return _no(
            reasons.DRA_NOT_SERVED,
            "devices by resource claims (DRA) are not served yet: ask for a GPU resource",
        )
    offered = [name for name, _ in pod.shape.resources if name in world.resources]
    if len(offered) > 1:
        return _no(
            reasons.TWO_RESOURCES,
            f"the pod asks for {' and '.join(offered)}: ask for one kind of accelerator per pod",
        )
    if not offered:
        asked = ", ".join(name for name, _ in pod.shape.resources) or "no accelerator"
        return _no(reasons.NO_POOL_OFFERS, f"no pool offers what the pod asks for ({asked})")
    if not any(s.resource == offered[0] for s in world.pools.values() if s.pool.spec):
        return _no(reasons.NO_POOL_OFFERS, f"no pool offers {offered[0]}")
    return offered[0]


def candidate_grants(world: World, pod: Pod, tenant: str) -> list[GrantState] | Verdict:
    """Return the grants a pod may use, the one that ends first first; or why there is none."""
    if not tenant:
        return _no(
            reasons.NAMESPACE_HAS_NO_TENANT,
            f"namespace {pod.namespace} has no label {names.TENANT_LABEL} any more",
        )
    resource = asked_resource(world, pod)
    if isinstance(resource, Verdict):
        return resource
    product = dict(pod.shape.selector).get(names.PRODUCT_LABEL, "")
    mine = [world.grants[uid] for uid in world.grants_of(tenant)]
    if pod.grant:
        named = [s for s in mine if s.grant.name == pod.grant]
        chosen = sorted(named, key=lambda s: (s.grant.namespace != pod.namespace, s.grant.namespace))[:1]
        if not chosen:
            return _no(reasons.NO_GRANT, f"{tenant} has no grant {pod.grant}; it has: {_listed(mine)}")
        kind = world.resource_of_type(chosen[0].grant.spec.gpu_type if chosen[0].grant.spec else "")
        if kind and kind != resource:
            return _no(reasons.NO_GRANT, f"grant {pod.grant} is for {kind}, the pod asks for {resource}")
        if product and chosen[0].grant.spec and chosen[0].grant.spec.gpu_type != product:
            return _no(
                reasons.NO_GRANT,
                f"grant {pod.grant} is for {chosen[0].grant.spec.gpu_type}, the pod's nodeSelector asks for {product}",
            )
        return chosen
    fitting = [
        s
        for s in mine
        if s.grant.spec
        and (not product or s.grant.spec.gpu_type == product)
        and world.resource_of_type(s.grant.spec.gpu_type) == resource
    ]
    if not fitting:
        return _no(
            reasons.NO_GRANT, f"no grant of {tenant} covers {product or resource}; it has: {_listed(mine)}"
        )
    return sorted(fitting, key=lambda s: (s.end, s.grant.name, s.grant.namespace))


def may_start(state: GrantState, now: int) -> Verdict | None:
    """Return why nothing of a grant may start now, None where it may."""
    spec, name = state.grant.spec, state.grant.name
    if spec is None or not state.accepted.ok:
        return Verdict(False, reasons.GRANT_NOT_ACTIVE, f"grant {name} is rejected: {state.accepted.message}")
    if state.grant.deleting:
        return Verdict(False, reasons.GRANT_NOT_ACTIVE, f"grant {name} is being deleted")
    if now >= state.end:
        return Verdict(False, reasons.GRANT_NOT_ACTIVE, f"grant {name} ended on {spec.term.end}")
    if spec.suspend != "None":
        return Verdict(False, reasons.GRANT_NOT_ACTIVE, f"grant {name} is suspended")
    if now < state.start:
        return Verdict(False, reasons.GRANT_NOT_ACTIVE, f"grant {name} starts on {spec.term.start}")
    if not state.pool:
        return Verdict(
            False, reasons.GRANT_NOT_ACTIVE, f"grant {name} has no servers yet: {state.allocated.message}"
        )
    return None


def _listed(grants: list[GrantState]) -> str:
    return (
        ", ".join(
            f"{s.grant.name} ({s.grant.spec.gpu_type})"
            for s in sorted(grants, key=lambda s: s.grant.key)
            if s.grant.spec
        )
        or "none"
    )


def _no(reason: str, message: str) -> Verdict:
    return Verdict(False, reason, message, lasting=True)
