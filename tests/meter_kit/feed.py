"""Feeds a ledger a small history, as pods' events would; as a program, it can kill itself on the way.

python -m meter_kit.feed FOLDER STEP: SIGKILL at that step of the store, 0 for never.
"""

import os
import signal
import sys
from pathlib import Path

from gpugrant.meter.facts import Aspect, GrantTerms, Health
from gpugrant.meter.months import Calendars
from meter_kit import NOVEMBER as T
from meter_kit import a_place, a_server, a_store, ended, held


def feed(folder: Path, kill_at: int = 0) -> None:
    """Write batches: binds, an end that the next bind cuts, ends, a term that runs out, a server that failed.

    Days close between them; then facts come late for closed ones, one of them of a closed month.
    """
    left = kill_at

    def on_step(step: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store = a_store(folder, now=T, calendars=Calendars(period=50), on_step=on_step)
    store.open()
    two = a_place(server="server-2")
    placed = [a_server("server-1", T), a_server("server-2", T)]
    terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", T, T + 120, since=T)
    store.commit([*placed, terms, held("a", T), held("b", T, two)])
    store.commit([ended("a", T, T + 90), held("c", T + 88)], T + 100)
    while store.settle():
        pass
    store.tally.read()
    down = Health("server-1", Aspect.READY, T + 40, 0, T + 100)
    store.commit([down, ended("b", T, T + 95, two), ended("c", T + 88, T + 130)], T + 140)
    while store.settle():
        pass
    store.close()


if __name__ == "__main__":
    feed(Path(sys.argv[1]), int(sys.argv[2]))
