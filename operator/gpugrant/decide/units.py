"""What is released together: a pod, or the members of a gang that are missing (R5)."""

from msgspec import Struct

from gpugrant import names
from gpugrant.decide import reasons
from gpugrant.decide.match import asked_resource
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.state import Gang, GrantState
from gpugrant.decide.waiting import parse_gang_size
from gpugrant.decide.world import World
from gpugrant.model.pod import Pod


class Unit(Struct, frozen=True):
    """What is released together: a pod, or the waiting members of a gang."""

    pods: list[Pod]
    key: str
    replacement: bool = False


def next_unit(world: World, head: Pod, now: int) -> Unit | Verdict:
    """Return what is to be released together with ``head``, or why it is not its turn."""
    if len(head.gates) > 1:
        others = ", ".join(g for g in head.gates if g != names.GATE)
        return Verdict(False, reasons.OTHER_GATES, f"waits for another gate to be taken off first: {others}")
    if head.gang_size and parse_gang_size(head.gang_size) is None:
        return Verdict(
            False,
            reasons.GANG_INVALID,
            f"annotation {names.GANG_SIZE_ANNOTATION}: {head.gang_size!r} is no gang size: "
            "write a whole number of pods",
        )
    key = world.gang_key(head)
    if key is None:
        return Unit([head], world.unit_key(head))
    gang = world.gangs[key]
    if gang_is_whole(world, gang, now):
        return Unit([head], world.unit_key(head), replacement=True)
    ready = sorted(
        (world.pods[u] for u in gang.waiting if len(world.pods[u].gates) == 1),
        key=lambda p: (-p.priority, p.created, p.name),
    )
    started = len(gang.living) + len(world.ran_ahead(gang))
    missing = gang.size - started
    if len(ready) < missing:
        return Verdict(
            False,
            reasons.GANG_INCOMPLETE,
            f"gang of {gang.size} pods has {len(ready) + started} so far",
        )
    asked = {str(asked_resource(world, p)) for p in ready}
    if len(asked) > 1:
        return Verdict(
            False, reasons.GANG_INVALID, "the pods of the gang ask for different kinds of accelerators"
        )
    return Unit(ready[: max(1, missing)], world.unit_key(head))


def gang_is_whole(world: World, gang: Gang, now: int) -> bool:
    """Say whether a gang has run whole, so that a lost member is replaced singly.

    Of a gang that was released by an operator before this one that is not remembered. Its members were whole if all
    that live are bound, the time-out is over, and none waits that was there when they were released: such a one was
    of the same gang and missed its release.
    """
    if gang.whole or gang.released_here:
        return gang.whole and bool(gang.living)
    members = [world.pods[u] for u in gang.living]
    if not members or not all(p.node and now >= world.bind_deadline(p) for p in members):
        return False
    first = min(p.released_at or p.created for p in members)
    gang.whole = all(world.pods[u].created > first for u in gang.waiting)
    return gang.whole


def where_the_gang_lives(world: World, pod: Pod, grants: list[GrantState]) -> list[GrantState]:
    """Return the grants a pod may go to: where others of its gang run, if that is one of them."""
    gang = world.gangs.get(world.gang_key(pod) or ("", ""))
    homes = {world.entries[u].grant for u in gang.living} if gang else set()
    return [s for s in grants if s.grant.uid in homes] or grants
