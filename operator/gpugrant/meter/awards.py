"""What each grant was awarded and had. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gpugrant.meter.facts import Account, Condition, GrantTerms, Owner
from gpugrant.meter.month import AwardRow
from gpugrant.meter.spans import terms_at
from gpugrant.meter.window import Cell


def awards_of(
    cells: Iterable[tuple[Cell, int]],
    terms: Mapping[str, Sequence[GrantTerms]],
    until: int,
    names: Mapping[str, str],
) -> tuple[AwardRow, ...]:
    """Return a row for every grant that owned or held something, its terms as they were in the last second."""
    sums: dict[Account, dict[Condition, int]] = defaultdict(lambda: defaultdict(int))
    for cell, amount in cells:
        if cell.account.owner is Owner.GRANT:
            sums[cell.account][cell.condition] += amount
    return tuple(
        sorted(
            _row(account, of_grant, terms_at(terms.get(account.grant_uid, ()), until - 1), names)
            for account, of_grant in sums.items()
        )
    )


def _row(
    account: Account, sums: Mapping[Condition, int], terms: GrantTerms | None, names: Mapping[str, str]
) -> AwardRow:
    grace = sums.get(Condition.GRACE, 0)
    return AwardRow(
        programme=account.programme,
        provider=account.provider,
        pool=account.pool,
        share=account.share,
        gpu_type=account.gpu_type,
        tenant=account.tenant,
        tenant_display_name=names.get(account.tenant, ""),
        award=account.award,
        grant=account.grant,
        gpus=terms.gpus if terms else 0,
        term_start=terms.start if terms else 0,
        term_end=terms.end if terms else 0,
        granted_gpu_seconds=sum(sums.values()) - grace,
        held_gpu_seconds=sums.get(Condition.USED, 0),
        failed_gpu_seconds=sums.get(Condition.FAILED, 0),
        grace_gpu_seconds=grace,
    )
