"""Feeds a ledger a small history, as pods' events would; as a program, it can kill itself on the way.

python -m meter_kit.feed URL SHOWN STEP: SIGKILL at that step of the store, 0 for never. What counters show is
written to the file SHOWN each time they are read.
"""

import json
import os
import signal
import sys
from pathlib import Path

from gpugrant.meter.facts import Aspect, GrantTerms, Health
from gpugrant.meter.months import Calendars
from gpugrant.meter.store import Store
from meter_kit import NOVEMBER as T
from meter_kit import a_place, a_server, ended, held

CALENDARS = Calendars(period=50)


def shown_by(store: Store) -> dict[str, int]:
    """Return what the counters show."""
    return {
        f"{account.owner} {condition}": amount
        for account, counters in store.tally.read().counters.items()
        for condition, amount in counters.items()
    }


def feed(url: str, shown: Path, kill_at: int = 0) -> None:
    """Write batches: binds, an end that the next bind cuts, ends, a term that runs out, a server that failed.

    Days close between them; then facts come late for closed ones, one of them of a closed month.
    """
    left = kill_at

    def on_step(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store = Store(url, CALENDARS, now=lambda: T, on_step=on_step)

    def show() -> None:
        shown.write_text(json.dumps(shown_by(store)))

    def settle() -> None:
        while store.settle():
            show()

    store.open()
    show()
    two = a_place(server="server-2")
    placed = [a_server("server-1", T), a_server("server-2", T)]
    terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", T, T + 120, since=T)
    store.commit([*placed, terms, held("a", T), held("b", T, two)])
    store.commit([ended("a", T, T + 90), held("c", T + 88)], T + 100)
    show()
    settle()
    month = min(store.reported(), key=lambda one: one[2].start)[2]
    store.close_month(f"purchase-2025-nhn-cloud-{month.name}", "f" * 64, T + 100)
    down = Health("server-1", Aspect.READY, T + 40, 0, T + 100)
    store.commit([down, ended("b", T, T + 95, two), ended("c", T + 88, T + 130)], T + 140)
    show()
    settle()
    store.close()


if __name__ == "__main__":
    feed(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
