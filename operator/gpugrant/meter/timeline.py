"""From facts to cells: who owned every seat of a programme in every second, and in what condition (R10). Pure.

One window at a time, normally a day of the programme: ``build`` takes the facts that touch it and returns integer
GPU-seconds. The same function serves the running day, a day that closes, a late fact, and the check of a ledger.

Who owns a seat: the pod that holds it says so; else the grant whose own server it is, within its term; else a grant
on shared servers that has fewer seats held than it owns; else the provider (own use) or nobody (free).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from gpugrant.meter.facts import Account, Condition, Contracted, GrantTerms, Owner, Seated
from gpugrant.meter.server_seats import ServerSeats
from gpugrant.meter.spans import in_force, terms_at
from gpugrant.meter.window import Built, Facts, PoolOf, Stay, Window, pool_of

PUBLIC = "Public"
NOT_INSTALLED = "NotInstalled"  # reason of Undelivered


def build(facts: Facts, programme: str, start: int, end: int) -> Built:
    """Return the sums of a programme's pools over [start, end). Stays on servers of no pool are left out."""
    window = Window(facts, programme, start, end)
    _add_servers(window)
    _deal_to_shared_grants(window)
    _add_contracts(window)
    return window.built()


def _add_servers(window: Window) -> None:
    """Add the seats of every server: those that are held, and those that are not to their owners."""
    facts = window.facts
    by_server: dict[str, list[Stay]] = defaultdict(list)
    for stay in facts.stays:
        if stay.start < window.end and (stay.end > window.start or stay.gone > window.start):
            by_server[stay.server].append(stay)
    seats = ServerSeats(window)
    for server in sorted(facts.placed.keys() | by_server.keys()):
        seats.add(server, by_server.get(server, []))


# -- grants on shared servers ----------------------------------------------------------------------------


def _deal_to_shared_grants(window: Window) -> None:
    """Deal the seats that nobody holds to the grants on shared servers that have some to come."""
    if not window.rooms:
        return
    facts = window.facts
    # Their own pods count against what they have, on whatever server.
    holds: dict[str, list[Stay]] = defaultdict(list)
    for stay in facts.stays:
        if stay.account.grant_uid in facts.seated:
            holds[stay.account.grant_uid].append(stay)
    for (pool, share), rooms in sorted(window.rooms.items()):
        for uid, history in sorted(facts.seated.items()):
            terms = facts.terms.get(uid, ())
            for start, end, seated in _seated(history, terms, pool, share, window.start, window.end):
                account = window.granted(uid, terms_at(terms, start), seated)
                rooms.want(account, start, end, seated.seats)
                for stay in holds[uid]:
                    left, right = max(start, stay.start), min(end, stay.end)
                    if left < right:
                        rooms.want(account, left, right, -stay.seats)
        for taken in rooms.deal(window.start, window.end):
            room, amount = taken.room, taken.seats * taken.seconds
            window.add(taken.account, taken.fabric, room.condition, room.reason, amount)


def _seated(
    history: Sequence[Seated], terms: Sequence[GrantTerms], pool: PoolOf, share: str, start: int, end: int
) -> Iterator[tuple[int, int, Seated]]:
    """Yield when a grant on shared servers owns seats of a pool's share: within its term."""
    edges = {start, end, *(one.since for one in history)}
    for one in terms:
        edges.update((one.since, one.start, one.end))
    inside = sorted(at for at in edges if start <= at <= end)
    for left, right in pairwise(inside):
        seated, now = in_force(history, left), terms_at(terms, left)
        if seated is None or now is None or (pool_of(seated), seated.share) != (pool, share):
            continue
        if seated.seats and now.start <= left < now.end:
            yield left, right, seated


# -- contracts -------------------------------------------------------------------------------------------


def _add_contracts(window: Window) -> None:
    """Add what is contracted and not installed. Goes last: servers have said by then what is installed."""
    pools = {pool for pool, _ in window.steps} | {
        pool_of(one)
        for history in window.facts.contracted.values()
        for one in history
        if one.programme == window.programme
    }
    for pool in sorted(pools):
        _add_contract(window, pool, window.facts.contracted.get(pool[1], ()))


def _add_contract(window: Window, pool: PoolOf, history: Sequence[Contracted]) -> None:
    shares = sorted(share for name, share in window.steps if name == pool)
    edges = {window.start, window.end}
    for share in shares:
        edges.update(window.steps[pool, share])
    for one in history:
        edges.add(one.since)
        edges.update(part.due for part in one.instalments)
    inside = sorted(at for at in edges if window.start <= at <= window.end)
    installed = dict.fromkeys(shares, 0)
    for start, end in pairwise(inside):
        for share in shares:
            installed[share] += window.steps[pool, share].get(start, 0)
        there, public = sum(installed.values()), installed.get(PUBLIC, 0)
        plan = in_force(history, start)
        if plan is None or (plan.programme, plan.provider) != (window.programme, pool[0]):
            window.expected[pool] += there * (end - start)
            continue
        due = [part for part in plan.instalments if part.due <= start]
        contracted = sum(part.gpus for part in due)
        window.expected[pool] += max(contracted, there) * (end - start)
        if plan.promised >= 0:
            window.shortfall[pool] += max(0, plan.promised - public) * (end - start)
        missing = max(0, contracted - there)
        for_public = min(missing, max(0, sum(part.public_gpus for part in due) - public))
        for share, seats in ((PUBLIC, for_public), ("OwnUse", missing - for_public)):
            account = Account(plan.programme, *pool, plan.gpu_type, share, Owner.FREE)
            window.add(account, "", Condition.UNDELIVERED, NOT_INSTALLED, seats * (end - start))
