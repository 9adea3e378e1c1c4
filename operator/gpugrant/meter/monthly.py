"""A month's account from the ledger's rows: provisional while it is open, as it closed for ever after."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, select

from gpugrant.config import Programme, SettingsError, load_settings
from gpugrant.meter.absences import absences_of
from gpugrant.meter.awards import awards_of
from gpugrant.meter.day_tables import corrections, day_digests, days, months
from gpugrant.meter.days import line_of
from gpugrant.meter.digests import day_digest, summed
from gpugrant.meter.facts import Condition, Contracted, GrantTerms, Named
from gpugrant.meter.histories import Histories
from gpugrant.meter.incidents import incidents_of, servers_to_look_at
from gpugrant.meter.month import Correction, DayDigest, Identity, MonthAccount, Shortfall
from gpugrant.meter.month_days import MonthSums, build_days, read_days
from gpugrant.meter.months import Month
from gpugrant.meter.raw_sums import held_by_pool
from gpugrant.meter.reading import histories_of, read_state, read_stays_on
from gpugrant.meter.rows import Accounts
from gpugrant.meter.spans import in_force
from gpugrant.meter.tables import settings_versions
from gpugrant.meter.window import Cell, PoolOf

HeldByPool = Callable[[Connection, Accounts, Histories, str, int, int], Mapping[PoolOf, int]]

SEATS_IDENTITY = "seats x seconds"
HELD_IDENTITY = "held"


class Frozen(Struct, frozen=True):
    """What is kept of a closed month beside its cells. ``account`` is without lines."""

    account: MonthAccount
    names: dict[str, str]  # tenants' display names


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
        sums = MonthSums()
        read_days(connection, accounts, programme, month.name, sums)
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
    sums = MonthSums()
    stored = read_days(connection, accounts, programme, month.name, sums)
    built = build_days(connection, accounts, histories, state, programme, month, sums)
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


def frozen(account: MonthAccount, names: dict[str, str], closed_at: int) -> Frozen:
    """Return what is kept of an account as it closes."""
    return Frozen(replace(account, closed_at=closed_at, lines=()), names)


# -- the parts of an account -----------------------------------------------------------------------------


def _lines(sums: MonthSums, provider: str, names: Mapping[str, str]) -> tuple[Any, ...]:
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


def _identities(sums: MonthSums, provider: str, held: Mapping[PoolOf, int]) -> tuple[Identity, ...]:
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


def _shortfall(sums: MonthSums, histories: Histories, programme: str, provider: str) -> tuple[Shortfall, ...]:
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
