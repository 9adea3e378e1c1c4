"""What failed when, and when that was noticed. Pure."""

from collections import defaultdict
from collections.abc import Sequence

from gpugrant.meter.facts import Announced, Aspect, Health, Placed
from gpugrant.meter.histories import Histories
from gpugrant.meter.month import Incident
from gpugrant.meter.spans import Cause, History, Outage, in_force, outages

# What a cause is seen by.
_ASPECTS = {
    Cause.NOT_READY: Aspect.READY,
    Cause.CORDONED: Aspect.CORDONED,
    Cause.MISSING: Aspect.CAPACITY,
    Cause.UNHEALTHY: Aspect.OFFERED,
}


def incidents_of(
    histories: Histories, programme: str, provider: str, start: int, until: int
) -> tuple[Incident, ...]:
    """Return the failures of a provider's servers, in as far as they lie in [start, until)."""
    health: dict[str, dict[Aspect, Sequence[Health]]] = defaultdict(dict)
    for (server, aspect), history in histories.of(Health).items():
        health[server][aspect] = history
    found = []
    for server, placed in histories.of(Placed).items():
        if not any((one.programme, one.provider) == (programme, provider) for one in placed):
            continue
        announced = histories.of(Announced).get(server, ())
        of_server = History(placed, health.get(server, {}), announced)
        found += [
            _incident(server, outage, of_server, until)
            for outage in outages(of_server, start, until)
            if (outage.placed.programme, outage.placed.provider) == (programme, provider)
        ]
    return tuple(sorted(found))


def _incident(server: str, outage: Outage, history: History, until: int) -> Incident:
    told = in_force(history.health.get(_ASPECTS[Cause(outage.cause)], ()), outage.start)
    placed = outage.placed
    return Incident(
        programme=placed.programme,
        provider=placed.provider,
        pool=placed.pool,
        fabric=placed.fabric,
        server=server,
        start=outage.start,
        detected=max(outage.start, told.seen if told else 0),
        restored=outage.end if outage.end < until else 0,
        gpus=outage.seats,
        cause=outage.cause,
    )
