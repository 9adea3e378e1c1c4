"""A month's account from the ledger's rows: provisional while it is open, as it closed for ever after."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, func, select

from gpugrant.config import Programme, SettingsError, load_settings
from gpugrant.meter.absences import absences_of
from gpugrant.meter.awards import awards_of
from gpugrant.meter.day_tables import cells, corrections, day_digests, day_pools, days, months, totals
from gpugrant.meter.days import line_of
from gpugrant.meter.digests import day_digest, summed
from gpugrant.meter.facts import Condition, Contracted, GrantTerms, Named, Placed, Seated
from gpugrant.meter.histories import Histories
from gpugrant.meter.incidents import incidents_of, servers_to_look_at
from gpugrant.meter.month import Correction, DayDigest, Identity, MonthAccount, Shortfall
from gpugrant.meter.months import Calendars, Day, Month, day_from, first_second
from gpugrant.meter.raw_sums import held_by_pool
from gpugrant.meter.reading import facts_of, histories_of, read_stays, read_stays_on
from gpugrant.meter.rows import Accounts
from gpugrant.meter.spans import in_force
from gpugrant.meter.tables import accounts as account_rows
from gpugrant.meter.tables import holdings, ledger, settings_versions
from gpugrant.meter.timeline import build
from gpugrant.meter.window import Cell, PoolOf

HeldByPool = Callable[[Connection, Accounts, Histories, str, int, int], Mapping[PoolOf, int]]

SEATS_IDENTITY = "seats x seconds"
HELD_IDENTITY = "held"


class State(Struct, frozen=True):
    """The ledger's own row."""

    opened_at: int
    watermark: int
    calendars: Calendars


class Frozen(Struct, frozen=True):
    """What is kept of a closed month beside its cells. ``account`` is without lines."""

    account: MonthAccount
    names: dict[str, str]  # tenants' display names


class _Sums:
    """A month's cells by day, and what they must add up to by pool."""

    def __init__(self) -> None:
        self.days: dict[str, dict[Cell, int]] = defaultdict(dict)
        self.expected: Counter[PoolOf] = Counter()
        self.held: Counter[PoolOf] = Counter()
        self.shortfall: Counter[PoolOf] = Counter()

    def counted(self) -> Counter[PoolOf]:
        """Return what the cells of each pool add up to."""
        found: Counter[PoolOf] = Counter()
        for of_day in self.days.values():
            for cell, amount in of_day.items():
                found[cell.account.provider, cell.account.pool] += amount
        return found


def read_state(connection: Connection) -> State:
    """Return the ledger's own row; raises LookupError where there is none yet."""
    row = connection.execute(select(ledger)).first()
    if row is None:
        raise LookupError("the ledger is new: no operator has opened it yet")
    return State(row.opened_at, row.watermark, msgspec.json.decode(row.calendars, type=Calendars))


def month_account(connection: Connection, programme: str, provider: str, month: Month) -> MonthAccount:
    """Return a month of a provider: as it closed, or as the facts are by now. Blocking; takes some seconds."""
    return counted_account(connection, programme, provider, month)[0]


def counted_account(
    connection: Connection, programme: str, provider: str, month: Month, held: HeldByPool = held_by_pool
) -> tuple[MonthAccount, dict[str, str]]:
    """Return a month of a provider, and tenants' display names in it. ``held`` sums what pods held."""
    accounts = Accounts()
    accounts.load(connection)
    query = select(months).filter_by(programme=programme, provider=provider, name=month.name)
    closed = connection.execute(query).first()
    if closed is not None:
        kept = msgspec.json.decode(closed.account, type=Frozen)
        sums = _Sums()
        _read_days(connection, accounts, programme, month.name, sums)
        return replace(kept.account, lines=_lines(sums, provider, kept.names)), kept.names
    return _open_account(connection, accounts, programme, provider, month, held)


def _open_account(
    connection: Connection,
    accounts: Accounts,
    programme: str,
    provider: str,
    month: Month,
    held: HeldByPool,
) -> tuple[MonthAccount, dict[str, str]]:
    state = read_state(connection)
    until = max(month.start, min(month.end, state.watermark))
    histories = histories_of(connection)
    histories.read(connection, [Named])
    names = {
        tenant: found.display_name
        for tenant, history in histories.of(Named).items()
        if (found := in_force(history, month.end - 1)) is not None
    }
    sums = _Sums()
    stored = _read_days(connection, accounts, programme, month.name, sums)
    built = _build_days(connection, accounts, histories, state, programme, month, sums)
    # Where the zone was changed, a month begins with its first day, not when the calendar of now says.
    start = stored if stored is not None else built if built is not None else month.start
    servers = servers_to_look_at(histories, month.start, until)
    looked_at = read_stays_on(connection, accounts, servers, month.start, until)
    account = MonthAccount(
        programme=programme,
        provider=provider,
        month=month.name,
        start=month.start,
        end=month.end,
        zone=state.calendars.of(programme).zone,
        until=until,
        lines=_lines(sums, provider, names),
        corrections=_corrections(connection, accounts, programme, provider, month.name, names),
        awards=awards_of(
            (
                (cell, amount)
                for of_day in sums.days.values()
                for cell, amount in of_day.items()
                if cell.account.provider == provider
            ),
            histories.of(GrantTerms),
            until,
            names,
        ),
        incidents=incidents_of(histories, looked_at, programme, provider, month.start, until),
        identities=_identities(
            sums,
            provider,
            held(connection, accounts, histories, programme, max(start, state.opened_at), until),
        ),
        days=_digests(connection, programme, provider, month.name),
        **_rules(connection, programme, month.end),
        previous_manifest=_previous(connection, programme, provider, month),
        shortfall=_shortfall(sums, histories, programme, provider),
        absences=absences_of(histories, programme, provider, month.start, until),
    )
    return account, names


# -- days ------------------------------------------------------------------------------------------------


def _read_days(
    connection: Connection, accounts: Accounts, programme: str, month: str, sums: _Sums
) -> int | None:
    """Read the stored days of a month; return where the first one starts, None where there is none."""
    mine = (days.c.programme == programme) & (days.c.month == month)
    columns = (cells.c.account_id, cells.c.fabric, cells.c.condition, cells.c.reason, cells.c.gpu_seconds)
    query = select(days.c.name, *columns).join(days, days.c.id == cells.c.day_id).where(mine)
    for day, number, fabric, condition, reason, amount in connection.execute(query):
        sums.days[day][Cell(accounts.by_id(number), fabric, Condition(condition), reason)] = amount
    pools = select(day_pools).join(days, days.c.id == day_pools.c.day_id).where(mine)
    for row in connection.execute(pools):
        sums.expected[row.provider, row.pool] += row.expected
        sums.held[row.provider, row.pool] += row.held
        sums.shortfall[row.provider, row.pool] += row.shortfall
    first = connection.execute(select(func.min(days.c.start_at)).where(mine)).scalar()
    return None if first is None else int(first)


def open_days(connection: Connection, state: State, histories: Histories, programme: str) -> Iterator[Day]:
    """Yield a programme's days that are not stored, the last one up to the watermark."""
    calendar = state.calendars.of(programme)
    until = select(func.max(days.c.end_at)).where(days.c.programme == programme)
    at = connection.execute(until).scalar()
    if at is None:
        begin = _begin(connection, histories, programme)
        if begin is None:
            return
        at = first_second(calendar, begin, state.opened_at)
    last = select(months.c.name, months.c.end_at).where(months.c.programme == programme)
    closed = connection.execute(last.order_by(months.c.end_at.desc()).limit(1)).first() or ("", 0)
    while at < state.watermark:
        day = day_from(calendar, at, *closed)
        yield replace(day, end=min(day.end, state.watermark))
        at = day.end


def _begin(connection: Connection, histories: Histories, programme: str) -> int | None:
    """Return the first moment of a programme of which no day is stored."""
    moments = [
        one.since
        for one in histories.all_of(Placed, Seated, Contracted)
        if isinstance(one, Placed | Seated | Contracted) and one.programme == programme
    ]
    mine = (account_rows.c.programme == programme) & (account_rows.c.pool != "")
    first = (
        select(func.min(holdings.c.held_from))
        .join(account_rows, account_rows.c.id == holdings.c.account_id)
        .where(mine)
    )
    bound = connection.execute(first).scalar()
    return min([*moments, *([] if bound is None else [int(bound)])], default=None)


def _build_days(
    connection: Connection,
    accounts: Accounts,
    histories: Histories,
    state: State,
    programme: str,
    month: Month,
    sums: _Sums,
) -> int | None:
    """Add the month's days that are not stored; return where the first one starts, None where there is none."""
    wanted = [day for day in open_days(connection, state, histories, programme) if day.month == month.name]
    if not wanted:
        return None
    stays = read_stays(connection, accounts, wanted[0].start, wanted[-1].end)
    facts = facts_of(histories, stays)
    for day in wanted:
        built = build(facts, programme, day.start, day.end)
        sums.days[day.name] = dict(built.cells)
        sums.expected.update(built.expected)
        sums.held.update(built.held)
        sums.shortfall.update(built.shortfall)
    return wanted[0].start


# -- the parts of an account -----------------------------------------------------------------------------


def _lines(sums: _Sums, provider: str, names: Mapping[str, str]) -> tuple[Any, ...]:
    return summed(
        line_of(cell, day, amount, names)
        for day, of_day in sums.days.items()
        for cell, amount in of_day.items()
        if cell.account.provider == provider
    )


def _corrections(
    connection: Connection,
    accounts: Accounts,
    programme: str,
    provider: str,
    month: str,
    names: Mapping[str, str],
) -> tuple[Correction, ...]:
    query = (
        select(corrections, days.c.name, days.c.month)
        .join(days, days.c.id == corrections.c.day_id)
        .where(days.c.programme == programme, corrections.c.booked_in == month)
    )
    found = []
    for row in connection.execute(query):
        cell = Cell(accounts.by_id(row.account_id), row.fabric, Condition(row.condition), row.reason)
        if cell.account.provider == provider:
            line = line_of(cell, row.name, row.gpu_seconds, names)
            found.append(Correction(row.month, line, row.why))
    return tuple(sorted(found))


def _identities(sums: _Sums, provider: str, held: Mapping[PoolOf, int]) -> tuple[Identity, ...]:
    pools = {
        (provider, cell.account.pool)
        for of_day in sums.days.values()
        for cell in of_day
        if cell.account.provider == provider
    }
    counted = sums.counted()
    return tuple(
        sorted(
            identity
            for pool in pools
            for identity in (
                Identity(SEATS_IDENTITY, pool[1], sums.expected[pool], counted[pool]),
                Identity(HELD_IDENTITY, pool[1], held.get(pool, 0), sums.held[pool]),
            )
        )
    )


def _shortfall(sums: _Sums, histories: Histories, programme: str, provider: str) -> tuple[Shortfall, ...]:
    """Return by how much promises were not met; a pool of which nothing is installed has one too."""
    pools = {
        pool
        for pool, plans in histories.of(Contracted).items()
        if any((one.programme, one.provider) == (programme, provider) for one in plans)
    }
    return tuple(
        Shortfall(pool, amount) for pool in sorted(pools) if (amount := sums.shortfall[provider, pool])
    )


def _digests(connection: Connection, programme: str, provider: str, month: str) -> tuple[DayDigest, ...]:
    """Return a month's closed days; one in which a provider had nothing has the digest of no lines."""
    mine = (day_digests.c.day_id == days.c.id) & (day_digests.c.provider == provider)
    query = (
        select(days.c.name, day_digests.c.sha256, day_digests.c.revision)
        .outerjoin(day_digests, mine)
        .where(days.c.programme == programme, days.c.month == month)
        .order_by(days.c.start_at)
    )
    nothing = day_digest(())
    return tuple(
        DayDigest(row.name, row.sha256 or nothing, row.revision or 0) for row in connection.execute(query)
    )


def _rules(connection: Connection, programme: str, end: int) -> dict[str, Any]:
    """Return what the settings in force at a month's end say of it.

    But for the limit of what is Unobserved, which can still be raised for a month that is over and does not close.
    """
    digest, found = _settings_before(connection, programme, end)
    _, now = _settings_before(connection, programme, None)
    return {
        "settings_digest": digest,
        "owner": found.owner or "",
        "caps": tuple(sorted((name, gpus) for name, gpus in found.caps.items() if gpus is not None)),
        "unobserved_limit": max(one.report.unobserved_limit_gpu_seconds for one in (found, now)),
        "own_use_detail": found.report.own_use_detail,
    }


def _settings_before(connection: Connection, programme: str, end: int | None) -> tuple[str, Programme]:
    """Return the digest of the last settings before a moment, or of all, and a programme's rules in them."""
    query = select(settings_versions).order_by(
        settings_versions.c.since.desc(), settings_versions.c.id.desc()
    )
    if end is not None:
        query = query.where(settings_versions.c.since < end)
    row = connection.execute(query.limit(1)).first()
    if row is None:
        return "", Programme()
    try:
        return row.digest, load_settings(row.text).programmes.get(programme) or Programme()
    except SettingsError:
        return row.digest, Programme()  # written by another version of the operator; the digest names it


def _previous(connection: Connection, programme: str, provider: str, month: Month) -> str:
    query = select(months.c.manifest).where(
        months.c.programme == programme, months.c.provider == provider, months.c.end_at < month.end
    )
    return connection.execute(query.order_by(months.c.end_at.desc()).limit(1)).scalar() or ""


# -- which there are -------------------------------------------------------------------------------------


def reported(connection: Connection) -> list[tuple[str, str, Month]]:
    """Return every programme, provider and month in which it had servers, a contract or GPU-seconds."""
    state = read_state(connection)
    found: dict[tuple[str, str, str], Month] = {}
    for programme, provider, start, end in _presence(connection, state):
        calendar = state.calendars.of(programme)
        month = calendar.month_of(start)
        while month.start < end:
            found[programme, provider, month.name] = month
            month = calendar.month_of(month.end)
    for row in connection.execute(select(months)):
        found[row.programme, row.provider, row.name] = Month(row.name, row.start_at, row.end_at)
    return [(programme, provider, month) for (programme, provider, _), month in sorted(found.items())]


def _presence(connection: Connection, state: State) -> Iterable[tuple[str, str, int, int]]:
    """Yield programme, provider and [start, end) in which there is something to report."""
    histories = Histories()
    histories.read(connection, [Placed, Contracted])
    spans: set[tuple[str, str, int, int]] = set()
    for kind in (Placed, Contracted):
        for history in histories.of(kind).values():
            spans.update(_spans(history, state.watermark))
    query = select(account_rows.c.programme, account_rows.c.provider, totals.c.month).join(
        totals, totals.c.account_id == account_rows.c.id
    )
    for programme, provider, name in connection.execute(query.distinct()):
        with suppress(ValueError):  # cut by a calendar that was another one
            month = state.calendars.of(programme).month_named(name)
            spans.add((programme, provider, month.start, month.end))
    return sorted(one for one in spans if one[0] and one[1])


def _spans(history: Sequence[Any], watermark: int) -> Iterator[tuple[str, str, int, int]]:
    for number, one in enumerate(history):
        is_there = one.seats if isinstance(one, Placed) else one.instalments
        end = history[number + 1].since if number + 1 < len(history) else watermark
        if is_there and one.since < min(end, watermark):
            yield one.programme, one.provider, one.since, min(end, watermark)


def name_of(programme: str, provider: str, month: Month) -> str:
    """Return the name of a month's report."""
    return f"{programme}-{provider}-{month.name}"


def find_month(connection: Connection, name: str) -> tuple[str, str, Month]:
    """Return the programme, provider and month of a report's name; raises LookupError."""
    for programme, provider, month in reported(connection):
        if name_of(programme, provider, month) == name:
            return programme, provider, month
    raise LookupError(f"the ledger knows no month {name}; `gpugrant report list` shows those it knows")


def frozen(account: MonthAccount, names: dict[str, str], closed_at: int) -> Frozen:
    """Return what is kept of an account as it closes."""
    return Frozen(replace(account, closed_at=closed_at, lines=()), names)
