"""docs/reports.md says what the files are: every column, and the digest of a day, which is worked out here from it."""

import csv
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from gpugrant.expose.report.commands import report
from gpugrant.expose.report.files import render
from gpugrant.expose.report.rows import ALL_FILES, TABLES, USAGE_CSV
from gpugrant.meter.facts import Condition, Owner
from unit.report.months import KEY, a_month

TEXT = (Path(__file__).parents[3] / "docs" / "reports.md").read_text()


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_documented(name):
    section = TEXT.split(f"### {name}", 1)[1].split("\n### ", 1)[0]
    if name == "corrections.csv":
        section += TEXT.split("### usage.csv", 1)[1].split("\n### ", 1)[0]
    told = set(re.findall(r"`([a-z_]+)`", section))
    columns = set(TABLES[name].__struct_fields__)
    shortened = (
        {column for column in columns if column.endswith("_gpu_hours")} if "…_gpu_hours" in section else set()
    )
    assert columns - shortened <= told


def test_every_file_condition_owner_and_command_is_documented():
    for word in (*ALL_FILES, *(one.value for one in Condition), *(one.value for one in Owner)):
        assert word in TEXT, word
    for command in report.commands:
        assert f"gpugrant report {command}" in TEXT, command


@pytest.mark.parametrize("detail", ["Total", "Tenant"])
def test_the_digests_of_days_can_be_worked_out_as_documented(detail):
    files = render(a_month(detail=detail, display_names=("한강 LM", "x")), KEY)
    days = defaultdict(Counter)
    for row in csv.DictReader(io.StringIO(files[USAGE_CSV].decode("utf-8-sig"), newline="")):
        seconds = int(row.pop("gpu_seconds"))
        del row["tenant_display_name"], row["gpu_hours"]
        if row["owner"] == "own-use":
            row |= dict.fromkeys(("fabric", "tenant", "award", "grant", "reason"), "")
        days[row["day"]][tuple(cell.removeprefix("'") for cell in row.values())] += seconds
    for day in json.loads(files["manifest.json"])["days"]:
        lines = sorted(
            json.dumps([*cells, seconds], ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            for cells, seconds in days[day["day"]].items()
        )
        assert hashlib.sha256(b"".join(lines)).hexdigest() == day["sha256"]
