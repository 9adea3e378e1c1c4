"""What ``gpugrant report show`` says of a month in words."""

from collections.abc import Iterator

import msgspec

from gpugrant.expose.report.amounts import hours, local_time
from gpugrant.expose.report.rows import UsageFile
from gpugrant.meter.facts import Condition
from gpugrant.meter.month import MonthAccount


def headline(account: MonthAccount) -> str:
    """Return the first line: which month of whom, and how far it is."""
    if account.closed_at:
        state = f"closed {local_time(account.closed_at, account.zone)}"
    else:
        state = f"provisional, counted to {local_time(account.until, account.zone)}"
    return f"{account.name} · {state}"


def verdicts(account: MonthAccount) -> Iterator[str]:
    """Yield what holds and what does not, a line each."""
    failing = [one for one in account.identities if one.difference]
    for one in failing:
        more = "too many" if one.difference > 0 else "too few"
        yield (
            f"does not hold: {one.name} of {one.pool}: {abs(one.difference)} GPU-seconds {more} "
            f"(expected {one.expected}, counted {one.counted})"
        )
    if not failing:
        yield f"reconciles to the second: {len(account.identities)} identities hold"
    unobserved = sum(line.gpu_seconds for line in account.lines if line.condition == Condition.UNOBSERVED)
    if unobserved > account.unobserved_limit:
        yield (
            f"does not hold: {unobserved} GPU-seconds ({hours(unobserved)} GPU-hours) are Unobserved; "
            f"{account.unobserved_limit} are allowed"
        )
    for short in account.shortfall:
        yield (
            f"share shortfall of {short.pool}: {short.gpu_seconds} GPU-seconds ({hours(short.gpu_seconds)} GPU-hours) "
            "of public GPUs that are promised and not installed"
        )
    if account.corrections:
        yield f"{len(account.corrections)} lines correct earlier months"


def as_json(usage: UsageFile) -> str:
    """Return a month's figures without its rows, as JSON for people and programs."""
    rows = ("lines", "awards", "incidents", "corrections")
    fields = {name: getattr(usage, name) for name in usage.__struct_fields__ if name not in rows}
    return msgspec.json.format(msgspec.json.encode(fields), indent=2).decode()
