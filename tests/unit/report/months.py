"""A lifelike month as a value: the figures of two grants, own use, free and failed seats, days of any length."""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from gpugrant.meter.digests import day_digest, day_digests, day_names, summed
from gpugrant.meter.month import (
    AwardRow,
    Correction,
    DayDigest,
    Identity,
    Incident,
    Line,
    MonthAccount,
    Shortfall,
)
from gpugrant.meter.months import Calendar

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
SETTINGS = "5e" * 32
PROGRAMME = "purchase-2025"
SEATS = 8 * 40  # of the pool


def a_month(
    month="2026-11",
    zone="Asia/Seoul",
    provider="nhn-cloud",
    pool="nhn-b200",
    at=None,
    until=None,
    closed=True,
    previous="",
    detail="Total",
    tenants=("hangang-lm", "saebyeok"),
    display_names=("한강 LM", "=SUM(A1:A9)"),
    gpus=64,
    awards=("A-2026-017", "+A-2026-018"),
    corrections=True,
    days=None,
):
    """Return the account of a month in which two grants have ``gpus`` each, and own use has 64."""
    start, end = _bounds(month, zone)
    place = (PROGRAMME, provider, pool)
    until = end if until is None else until
    calendar_days = day_names(start, until, zone)
    lines, granted = [], defaultdict(Counter)
    for number, day in enumerate(calendar_days):
        seconds = _length(day, zone, start, until)
        if days is not None and day not in days:
            continue
        lines += _day(provider, pool, day, seconds, number, tenants, display_names, gpus, awards, granted)
    expected = sum(
        SEATS * _length(day, zone, start, until) for day in calendar_days if days is None or day in days
    )
    lines = tuple(summed(lines))
    digests = day_digests(lines)
    used = sum(line.gpu_seconds for line in lines if line.condition == "Used")
    return MonthAccount(
        programme=PROGRAMME,
        provider=provider,
        month=month,
        start=start,
        end=end,
        zone=zone,
        until=until,
        lines=lines,
        corrections=_corrections(provider, pool, month) if corrections else (),
        awards=tuple(_awards(provider, pool, tenants, display_names, gpus, awards, granted, start, end)),
        incidents=(
            Incident(*place, "fab-1", "nhn-0412", start + 7_331, start + 7_342, start + 9_000, 8, "NotReady"),
            Incident(*place, "", "nhn-0413", start + 100_000, start + 100_001, 0, 1, "@Unhealthy"),
        ),
        identities=(
            Identity("seats x seconds", pool, expected, sum(line.gpu_seconds for line in lines)),
            Identity("held", pool, used, used),
        ),
        days=tuple(
            DayDigest(day, digests.get(day, day_digest(())), number % 2)
            for number, day in enumerate(calendar_days)
        ),
        settings_digest=SETTINGS,
        owner="NIPA 국가AI컴퓨팅",
        caps=(("NVIDIA-B200", 512),),
        own_use_detail=detail,
        previous_manifest=previous,
        closed_at=(at or end + 4 * 86_400) if closed else 0,
        shortfall=(Shortfall(pool, 5400),),
    )


def an_empty_month(**changes):
    """Return a closed month of a provider that has nothing yet."""
    whole = a_month(corrections=False, days=())
    return replace(whole, awards=(), incidents=(), identities=(), **changes)


def _bounds(month, zone):
    year, number = map(int, month.split("-"))
    found = Calendar(zone).month_of(int(datetime(year, number, 2, tzinfo=ZoneInfo(zone)).timestamp()))
    return found.start, found.end


def _length(day, zone, start, until):
    first = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    edges = [int(at.timestamp()) for at in (first, first + timedelta(days=1))]
    return min(edges[1], until) - max(edges[0], start)


def _day(provider, pool, day, seconds, number, tenants, display_names, gpus, awards, granted):
    def line(share, owner, condition, amount, fabric="fab-1", who=None, reason="", tenant=""):
        tenant, shown, award, grant = (
            (tenants[who], display_names[who], awards[who], f"grant-{who}")
            if who is not None
            else (tenant, "", "", "")
        )
        if who is not None:
            granted[who][condition] += amount
        return Line(
            PROGRAMME, provider, pool, fabric, "NVIDIA-B200", share, owner, tenant, shown, award, grant,
            condition, reason, day, amount,
        )  # fmt: skip

    public, own = SEATS - 128, 128
    lost = 8 * min(seconds, 1_669) if number == 0 else 0
    for who in range(len(tenants)):
        failed = lost if who == 0 else 0
        whole = gpus * seconds
        idle = whole // 7
        yield line("Public", "grant", "Used", whole - idle - failed, who=who)
        yield line("Public", "grant", "Idle", idle, who=who)
        yield line("Public", "grant", "Failed", failed, who=who, reason="NotReady")
    yield line("Public", "free", "Idle", (public - gpus * len(tenants)) * seconds - 5)
    yield line("Public", "unmanaged", "Used", 5, tenant='formerly, "quoted"\nname')
    yield line("OwnUse", "own-use", "Used", 64 * seconds, tenant="research")
    yield line("OwnUse", "own-use", "Used", 32 * seconds, tenant="web", fabric="fab-2")
    yield line("OwnUse", "own-use", "Idle", (own - 96) * seconds, fabric="")


def _awards(provider, pool, tenants, display_names, gpus, awards, granted, start, end):
    for who, tenant in enumerate(tenants):
        sums = granted[who]
        yield AwardRow(
            PROGRAMME, provider, pool, "Public", "NVIDIA-B200", tenant, display_names[who], awards[who],
            f"grant-{who}", gpus, start - 30 * 86_400, end + 90 * 86_400,
            sum(sums.values()), sums["Used"], sums["Failed"], 0,
        )  # fmt: skip


def _corrections(provider, pool, month):
    year, number = map(int, month.split("-"))
    before = f"{year:04d}-{number - 1:02d}" if number > 1 else f"{year - 1:04d}-12"
    line = Line(
        PROGRAMME, provider, pool, "fab-1", "NVIDIA-B200", "Public", "free", "", "", "", "",
        "Idle", "", f"{before}-28", -1_800,
    )  # fmt: skip

    again = replace(line, condition="Failed", reason="NotReady", gpu_seconds=1_800)
    return tuple(Correction(before, one, "a node reported an end late") for one in (line, again))
