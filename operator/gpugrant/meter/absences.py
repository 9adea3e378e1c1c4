"""When a pool did not exist: its object was deleted, and nothing of it was installed, owed or short. Pure."""

from gpugrant.meter.facts import Contracted, Placed
from gpugrant.meter.histories import Histories
from gpugrant.meter.month import Absence
from gpugrant.meter.spans import in_force


def absences_of(
    histories: Histories, programme: str, provider: str, start: int, until: int
) -> tuple[Absence, ...]:
    """Return when pools of a provider did not exist after they had, in as far as that lies in [start, until).

    Such a time counts in no sum: neither as contracted nor towards the promise of public GPUs.
    """
    found = []
    for plans in histories.of(Contracted).values():
        last: Contracted | None = None
        for number, plan in enumerate(plans):
            end = plans[number + 1].since if number + 1 < len(plans) else until
            left, right = max(start, plan.since), min(end, until)
            if plan.programme:
                last = plan
            elif last is not None and (last.programme, last.provider) == (programme, provider):
                if left < right:
                    found.append(_absence(histories, last, plan.since, left, right, until))
    return tuple(sorted(found))


def _absence(histories: Histories, plan: Contracted, since: int, start: int, end: int, until: int) -> Absence:
    place = (plan.programme, plan.provider, plan.pool)
    before = [in_force(history, since - 1) for history in histories.of(Placed).values()]
    installed = sum(one.seats for one in before if one and (one.programme, one.provider, one.pool) == place)
    contracted = sum(part.gpus for part in plan.instalments if part.due < since)
    return Absence(
        pool=plan.pool,
        start=start,
        end=end if end < until else 0,
        gpus=max(installed, contracted),
        promised_gpu_seconds=max(0, plan.promised) * (end - start),
    )
