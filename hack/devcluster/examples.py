"""The examples, made to fit a smaller fleet and today's date.

Only numbers change: a pool's publicShare becomes what the smaller fleet has, grants' whole servers and Jobs'
pods shrink by the same factor and never below one, terms keep their length and begin yesterday.
"""

import copy
import re
from datetime import date, datetime, timedelta
from pathlib import Path

import yaml

from devcluster.client import JsonObject
from devcluster.fleet import GPUS_PER_SERVER, Fleet, whole_fleet

_GANG_SIZE = "gpugrant.io/gang-size"


def write_examples(source: Path, target: Path, fleet: Fleet, today: date) -> list[Path]:
    """Write all YAML files of ``source`` to ``target``, fitted to ``fleet`` and ``today``; return their paths."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(source.glob("*.yaml")):
        text = path.read_text()
        if path.name != "settings.yaml":  # not Kubernetes objects, and nothing in it depends on size or date
            text = fit_text(text, fleet, today)
        (target / path.name).write_text(text)
        written.append(target / path.name)
    return written


def fit_text(text: str, fleet: Fleet, today: date) -> str:
    """Return a YAML stream with every object fitted; comments above an object stay."""
    whole = whole_fleet().servers
    size = f"{fleet.servers:,} of {whole:,} servers" if fleet.servers != whole else f"all {whole:,} servers"
    note = f"# Made from examples/ for {size}, terms moved to {today}. Comments tell of the whole fleet.\n"
    documents = []
    for document in re.split(r"^---\s*$", text, flags=re.MULTILINE):
        found = yaml.safe_load(document)
        if found:
            comment = "".join(re.findall(r"^#.*\n", document, flags=re.MULTILINE))
            fitted = yaml.safe_dump(fit(found, fleet, today), sort_keys=False, allow_unicode=True, width=110)
            documents.append(comment + fitted)
    return note + "---\n".join(documents)


def fit(manifest: JsonObject, fleet: Fleet, today: date) -> JsonObject:
    """Return one object, fitted. Kinds and fields that do not depend on size or date stay as they are."""
    fitted = copy.deepcopy(manifest)
    spec = fitted.get("spec", {})
    match fitted.get("kind"):
        case "GpuPool" if "publicShare" in spec and "gpus" in spec["publicShare"]:
            spec["publicShare"]["gpus"] = _public_gpus(fitted, fleet)
        case "GpuGrant":
            servers, rest = divmod(spec["gpus"], GPUS_PER_SERVER)
            if servers and not rest:  # less than a server, on shared ones, is small enough for any fleet
                spec["gpus"] = shrunk(servers, fleet) * GPUS_PER_SERVER
            spec["term"].update(_moved(spec["term"], today))
        case "Job":
            for field in ("parallelism", "completions"):
                if field in spec:
                    spec[field] = shrunk(spec[field], fleet)
            annotations = spec["template"].get("metadata", {}).get("annotations", {})
            if _GANG_SIZE in annotations:
                annotations[_GANG_SIZE] = str(shrunk(int(annotations[_GANG_SIZE]), fleet))
    return fitted


def shrunk(count: int, fleet: Fleet) -> int:
    """Return ``count`` (servers, or pods of a server each) in proportion to the fleet: rounded down, at least one.

    Down, so that what fitted together still fits together. A fleet larger than the whole changes nothing.
    """
    whole = whole_fleet().servers
    return max(1, count * min(fleet.servers, whole) // whole)


def _public_gpus(pool: JsonObject, fleet: Fleet) -> int:
    """Return the promise: what the fleet has in public, more or less by as much as the example's differs."""
    name = pool["metadata"]["name"]
    promised: int = pool["spec"]["publicShare"]["gpus"]
    try:
        installed, here = whole_fleet().pool(name).public, fleet.pool(name).public
    except KeyError:
        return promised
    return promised * here // installed // GPUS_PER_SERVER * GPUS_PER_SERVER


def _moved(term: JsonObject, today: date) -> JsonObject:
    start, end = str(term["start"]), str(term["end"])
    if len(start) == len("2026-11-01") == len(end):
        first, last = date.fromisoformat(start), date.fromisoformat(end)
        # Yesterday has begun in every zone.
        moved = today - timedelta(days=1)
        return {"start": moved.isoformat(), "end": (moved + (last - first)).isoformat()}
    begin, finish = datetime.fromisoformat(start), datetime.fromisoformat(end)
    begun = datetime.combine(today - timedelta(days=1), begin.timetz())
    return {"start": begun.isoformat(), "end": (begun + (finish - begin)).isoformat()}
