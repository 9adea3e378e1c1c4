"""Several folders of one programme's month as one: clusters of a provider, providers of a programme.

Only folders that pass their own check are added, and only where they fit together: none twice, none missing a day.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from gpugrant.expose.report import tables
from gpugrant.expose.report.amounts import epoch, utc_time
from gpugrant.expose.report.checking import Checked, Told, check
from gpugrant.expose.report.content import is_calendar_month
from gpugrant.expose.report.files import file_entry, total_rows
from gpugrant.expose.report.rows import (
    AWARDS_CSV,
    TABLES,
    USAGE_CSV,
    AwardFileRow,
    FileEntry,
    Manifest,
    TotalRow,
)
from gpugrant.meter.digests import day_names

SUMMARY = "summary.json"
_PUBLIC = "Public"
_Pool = tuple[str, str]  # provider, pool


class MergeRefused(ValueError):
    """Folders that cannot be added. Each problem names folder, file and row, and what to do."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class Source(Struct, frozen=True, order=True):
    """One folder that was added."""

    report: str
    manifest_sha256: str
    public_key_sha256: str
    settings_sha256: str
    pools: tuple[str, ...]
    gpu_seconds: int


class Summary(Struct, frozen=True):
    """summary.json: what was added, what it sums to, and what to look at. It is not signed: its sources are."""

    programme: str
    month: str
    zone: str
    start: str
    end: str
    sources: tuple[Source, ...]
    flags: tuple[str, ...]
    totals: tuple[TotalRow, ...]
    files: dict[str, FileEntry]


class Merged(Struct, frozen=True):
    """The sum of several folders."""

    summary: Summary
    files: dict[str, bytes]


class _Part(Struct, frozen=True):
    folder: Path
    checked: Checked
    manifest: Manifest


def merge(
    folders: Sequence[Path],
    public_keys: Collection[Ed25519PublicKey] = (),
    partial: Collection[str] = (),
    told: Told | None = None,
) -> Merged:
    """Add the folders of one month. With ``public_keys`` each must be signed by one of them.

    ``partial`` names pools, as PROVIDER/POOL, that are known not to have been there all month. Raises MergeRefused:
    no folder, one that fails its check or is provisional, different programmes or months, the same pool and day
    twice, days missing.
    """
    if not folders:
        raise MergeRefused(["there is no folder to add: name at least one"])
    parts, problems = [], []
    for folder in folders:
        checked = check(folder, public_keys, told=told)
        problems += [
            str(problem) if problem.file == str(folder) else f"{folder}: {problem}"
            for problem in checked.problems
        ]
        if checked.manifest is not None:
            parts.append(_Part(folder, checked, checked.manifest))
    problems = problems or [*_strangers(parts)] or [*_overlaps(parts), *_gaps(parts, partial)]
    if problems:
        raise MergeRefused(problems)
    return _added(parts)


def _added(parts: Sequence[_Part]) -> Merged:
    content: dict[str, tuple[Any, ...]] = {
        name: tuple(sorted(row for part in parts for row in part.checked.tables[name])) for name in TABLES
    }
    files = {name: tables.to_csv(TABLES[name], table) for name, table in content.items()}
    first = parts[0].manifest
    summary = Summary(
        programme=first.programme,
        month=first.month,
        zone=first.zone,
        start=first.start,
        end=first.end,
        sources=tuple(sorted(_source(part) for part in parts)),
        flags=(
            *_settings_flags(parts),
            *_absence_flags(parts),
            *_cap_flags(parts, content[AWARDS_CSV]),
        ),
        totals=total_rows(content[USAGE_CSV]),
        files={name: file_entry(data, content[name]) for name, data in sorted(files.items())},
    )
    files[SUMMARY] = tables.to_json(summary, indent=2)
    return Merged(summary, files)


def _source(part: _Part) -> Source:
    lines, manifest = part.checked.tables[USAGE_CSV], part.manifest
    return Source(
        report=manifest.report,
        manifest_sha256=part.checked.manifest_sha256,
        public_key_sha256=manifest.signer.public_key_sha256,
        settings_sha256=manifest.settings_sha256,
        pools=tuple(sorted({line.pool for line in lines})),
        gpu_seconds=sum(line.gpu_seconds for line in lines),
    )


# -- what does not fit together ------------------------------------------------------------------------


def _strangers(parts: Sequence[_Part]) -> Iterator[str]:
    first = parts[0]
    for part in parts:
        if part.manifest.state != "Closed":
            yield (
                f"{part.folder}: {part.manifest.report} is provisional, counted to {part.manifest.until}: "
                "add it when it is closed"
            )
        for field in ("programme", "month", "zone", "start", "end"):
            own, other = getattr(part.manifest, field), getattr(first.manifest, field)
            if own != other:
                yield (
                    f"{part.folder}: {field} is {own}, that of {first.folder} is {other}: "
                    "only folders of the same programme and month can be added"
                )
                break


def _days(part: _Part) -> dict[_Pool, set[str]]:
    found: dict[_Pool, set[str]] = defaultdict(set)
    for line in part.checked.tables[USAGE_CSV]:
        found[line.provider, line.pool].add(line.day)
    return found


def _overlaps(parts: Sequence[_Part]) -> Iterator[str]:
    seen: dict[str, Path] = {}
    had: dict[_Pool, dict[str, Path]] = defaultdict(dict)
    for part in parts:
        if (twin := seen.setdefault(part.checked.manifest_sha256, part.folder)) is not part.folder:
            yield f"{part.folder} is the same report as {twin}: name it once"
            continue
        for pool, days in sorted(_days(part).items()):
            twice = sorted(day for day in days if day in had[pool])
            if twice:
                yield (
                    f"{part.folder}: pool {pool[1]} of {pool[0]} is also in {had[pool][twice[0]]}, on {_named(twice)}: "
                    "leave one out, or ask the supplier which of its clusters has it"
                )
            had[pool].update(dict.fromkeys(days - set(twice), part.folder))


def _gaps(parts: Sequence[_Part], partial: Collection[str]) -> Iterator[str]:
    first = parts[0].manifest
    month = set(day_names(epoch(first.start), epoch(first.end), first.zone))
    if not is_calendar_month(first.month):
        return  # the short months of tests are of one day
    together: dict[_Pool, set[str]] = defaultdict(set)
    for part in parts:
        for key, days in _days(part).items():
            together[key] |= days
    for (provider, pool), days in sorted(together.items()):
        missing = sorted(month - days)
        if missing and f"{provider}/{pool}" not in partial:
            yield (
                f"pool {pool} of {provider} has no rows on {_named(missing)}: add the folder of the cluster that had "
                f"it then; if it was not there yet, or no more, say so with --partial {provider}/{pool}"
            )


def _named(days: Sequence[str]) -> str:
    more = f" and {len(days) - 1} more days" if len(days) > 2 else f" and {days[1]}" if len(days) == 2 else ""
    return days[0] + more


# -- what somebody should look at ----------------------------------------------------------------------


def _settings_flags(parts: Sequence[_Part]) -> Iterator[str]:
    digests: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        digests[part.manifest.settings_sha256].append(part.manifest.report)
    if len(digests) > 1:
        told = "; ".join(f"{', '.join(names)}: {digest[:12]}" for digest, names in sorted(digests.items()))
        yield f"the settings were not the same everywhere at the month's end ({told})"


def _absence_flags(parts: Sequence[_Part]) -> Iterator[str]:
    for part in parts:
        for one in part.manifest.pool_absences:
            until = one.end or part.manifest.end
            yield (
                f"pool {one.pool} of {part.manifest.provider} did not exist from {one.start} to {until}: "
                f"{one.gpus} GPUs are in no sum, {one.promised_gpu_hours} promised GPU-hours in no shortfall"
            )


def _cap_flags(parts: Sequence[_Part], awards: Sequence[AwardFileRow]) -> Iterator[str]:
    """Yield which tenants had more public GPUs of a type at once than the programme grants, over all providers."""
    caps: dict[str, int] = {}
    for part in parts:
        for gpu_type, cap in part.manifest.caps.items():
            caps[gpu_type] = min(cap, caps.get(gpu_type, cap))
    start, end = epoch(parts[0].manifest.start), epoch(parts[0].manifest.end)
    by_tenant: dict[tuple[str, str], list[AwardFileRow]] = defaultdict(list)
    for award in awards:
        if award.share == _PUBLIC and award.gpu_type in caps:
            by_tenant[award.tenant, award.gpu_type].append(award)
    for (tenant, gpu_type), theirs in sorted(by_tenant.items()):
        moments = {max(start, epoch(award.term_start)) for award in theirs}
        at, had = max(
            ((at, _had_at(theirs, at)) for at in sorted(moments) if at < end),
            key=lambda found: (sum(found[1].values()), -found[0]),
            default=(0, {}),
        )
        if (gpus := sum(had.values())) > caps[gpu_type]:
            told = ", ".join(
                f"{provider} {award} {number}" for (provider, award), number in sorted(had.items())
            )
            yield (
                f"tenant {tenant} was granted {gpus} public {gpu_type} at once on {utc_time(at)} ({told}); "
                f"the programme's cap is {caps[gpu_type]}"
            )


def _had_at(awards: Sequence[AwardFileRow], at: int) -> dict[tuple[str, str], int]:
    """Return the GPUs of each award at a moment, by provider and award.

    What one award gives several grants adds up. A grant that was made anew under its name counts once.
    """
    grants: dict[tuple[str, str, str, str], int] = {}
    for award in awards:
        if epoch(award.term_start) <= at < epoch(award.term_end):
            grant = (award.provider, award.award or f"{award.pool}/{award.grant}", award.pool, award.grant)
            grants[grant] = max(award.gpus, grants.get(grant, 0))
    had: dict[tuple[str, str], int] = defaultdict(int)
    for (provider, number, _, _), gpus in grants.items():
        had[provider, number] += gpus
    return had
