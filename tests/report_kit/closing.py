"""Closes the first month of a small ledger, as the operator does; as a program, it can kill itself on the way.

python -m report_kit.closing FOLDER STEP: SIGKILL at that step of shelf and store, 0 for never.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from gpugrant.meter.facts import Aspect, GrantTerms, Health
from gpugrant.meter.months import Calendars
from gpugrant.run.report_books import Clerk, Seen
from gpugrant.run.report_folder import Shelf
from gpugrant.run.report_rules import Standing, days_of
from meter_kit import NOVEMBER, a_server, a_store, ended, held

NOW = NOVEMBER + 140
CALENDARS = Calendars(period=50)


def fill(folder: Path) -> None:
    """Make a ledger of two short months that are over and one that runs."""
    store = a_store(folder, now=NOVEMBER, calendars=CALENDARS)
    store.open()
    terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", NOVEMBER, NOVEMBER + 120, since=NOVEMBER)
    down = Health("server-2", Aspect.READY, NOVEMBER + 40, 0, NOVEMBER + 41)
    store.commit([a_server("server-1"), a_server("server-2"), terms, down, held("a", NOVEMBER + 7)])
    store.commit([ended("a", NOVEMBER + 7, NOVEMBER + 90)], NOW)
    while store.settle():
        pass
    store.close()


def close(folder: Path, on_step: Callable[[str], None] = lambda _: None) -> Seen:
    """Do what the operator does in its rounds until the first month is closed and published; return it."""
    store = a_store(folder, now=NOW, calendars=CALENDARS, on_step=on_step)
    shelf = Shelf(f"sqlite:///{folder / 'ledger.db'}", on_step=on_step)
    clerk = Clerk(shelf, lambda: NOW, on_step)
    store.open()
    try:
        look = clerk.look(store)
        first = look.months[0]
        if first.closing is None:
            clerk.close(store, first, _standing(first, look.watermark), "")
            first = clerk.look(store).months[0]
        assert first.closing is not None
        shelf.publish(first.name, first.closing.manifest_sha256)
    finally:
        store.close()
    return first


def _standing(seen: Seen, watermark: int) -> Standing:
    return Standing(
        programme=seen.programme,
        month=seen.month,
        zone=seen.rules.time_zone,
        days=days_of(seen.month, seen.rules),
        now=NOW,
        watermark=watermark,
    )


def _killer(kill_at: int) -> Callable[[str], None]:
    left = kill_at

    def on_step(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


if __name__ == "__main__":
    close(Path(sys.argv[1]), _killer(int(sys.argv[2])))
