"""What time it is by the API server's clock, as far as its answers tell.

Every stamp the accounts rest on is the API server's (bind, deletion, terms, deadlines). The clock of the operator's
host is believed within what the server's answers allow, a second and the time an answer took, and no further: a host
that is set wrong by weeks must neither end grants nor close months.
"""

import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

log = logging.getLogger(__name__)

# The Date of an answer is cut to the whole second (RFC 9110, 5.6.7): the moment lies within one after it.
_RESOLUTION = 1.0
WORTH_SAYING_SECONDS = 2.0


class ServerClock:
    """The host's clock, kept within what the API server's last answer says. No I/O; any thread may ask.

    ``wall`` gives epoch seconds, ``steady`` seconds that never jump.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._bounds: tuple[float, float] | None = None  # of (server's time - steady)
        self._parsed: tuple[str, float] = ("", 0.0)
        self._said = False

    def heard(self, date: str | None, sent_at: float, answered_at: float) -> None:
        """Take the Date header of an answer; the request was sent and answered at these steady times."""
        if not date:
            return
        if date != self._parsed[0]:
            try:
                self._parsed = (date, parsedate_to_datetime(date).timestamp())
            except ValueError:
                return  # a proxy's nonsense: the last good answer stands
        second = self._parsed[1]
        self._bounds = (second - answered_at, second + _RESOLUTION - sent_at)
        self._say()

    def now(self) -> float:
        """Return the time, in epoch seconds; the host's before the first answer."""
        wall = self._wall()
        if self._bounds is None:
            return wall
        steady = self._steady()
        lowest, highest = self._bounds
        return min(max(wall, lowest + steady), highest + steady)

    def offset(self) -> float:
        """Return by how many seconds at least the host's clock is ahead of the server's; below 0: behind."""
        return self._wall() - self.now()

    def _say(self) -> None:
        offset = self.offset()
        wrong = abs(offset) >= WORTH_SAYING_SECONDS
        if wrong and not self._said:
            log.warning(
                "the clock of this host is %.0f s %s the API server's, whose time is used: set this host's clock",
                abs(offset),
                "ahead of" if offset > 0 else "behind",
            )
        elif self._said and not wrong:
            log.info("the clock of this host agrees with the API server's again")
        self._said = wrong
