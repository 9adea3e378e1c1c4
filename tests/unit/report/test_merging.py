"""Several folders as one: what is added, what is refused, what is flagged."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from gpugrant.expose.report.files import render, write_folder
from gpugrant.expose.report.merging import MergeRefused, merge
from gpugrant.meter.digests import day_names
from unit.report.months import KEY, OTHER_KEY, a_month

DAYS = day_names(a_month().start, a_month().end, "Asia/Seoul")


@pytest.fixture
def made(tmp_path: Path):
    """Return a function that writes a month's folder under a name."""

    def make(name, account=None, key=KEY, **changes):
        write_folder(render(account or a_month(**changes), key), tmp_path / name)
        return tmp_path / name

    return make


def naver(**changes):
    other = {"provider": "naver-cloud", "pool": "naver-b200", "awards": ("B-1", "B-2"), "tenants": ("x", "y")}
    return a_month(**(other | changes))


def refused(*folders, **options):
    with pytest.raises(MergeRefused) as error:
        merge(folders, **options)
    return " | ".join(error.value.problems)


def test_providers_of_a_programme_are_added(made):
    merged = merge(
        [made("nhn"), made("naver", naver(), OTHER_KEY)], [KEY.public_key(), OTHER_KEY.public_key()]
    )
    rows = list(csv.DictReader(io.StringIO(merged.files["usage.csv"].decode("utf-8-sig"), newline="")))
    assert {row["provider"] for row in rows} == {"nhn-cloud", "naver-cloud"}
    assert sum(int(row["gpu_seconds"]) for row in rows) == 2 * 320 * 30 * 86_400
    assert sum(total.gpu_seconds for total in merged.summary.totals) == 2 * 320 * 30 * 86_400
    summary = json.loads(merged.files["summary.json"])
    assert [source["report"] for source in summary["sources"]] == [
        "purchase-2025-naver-cloud-2026-11",
        "purchase-2025-nhn-cloud-2026-11",
    ]
    assert summary["flags"] == []


def test_clusters_of_one_provider_are_added(made):
    merged = merge([made("one"), made("two", pool="nhn-b200-b", awards=("C-1", "C-2"), tenants=("x", "y"))])
    assert {source.pools for source in merged.summary.sources} == {("nhn-b200",), ("nhn-b200-b",)}


def test_the_order_of_folders_changes_no_byte(made):
    folders = [made("nhn"), made("naver", naver())]
    assert merge(folders).files == merge(folders[::-1]).files


def test_the_same_pool_and_day_twice_is_refused(made):
    told = refused(made("one"), made("two", corrections=False))
    assert "pool nhn-b200 of nhn-cloud is also in" in told
    assert "on 2026-11-01 and 29 more days" in told


def test_the_same_folder_twice_is_refused(made, tmp_path):
    one = made("one")
    shutil.copytree(one, tmp_path / "copy")
    assert "is the same report as" in refused(one, tmp_path / "copy")


def test_a_pool_that_lacks_days_is_refused_unless_that_is_known(made):
    early = made("early", days=DAYS[:10])
    told = refused(early)
    assert "pool nhn-b200 of nhn-cloud has no rows on 2026-11-11 and 19 more days" in told
    assert merge([early], partial=["nhn-cloud/nhn-b200"]).summary.totals
    assert "has no rows on 2026-11-15" in refused(
        made("hole", days=[day for day in DAYS if day != "2026-11-15"])
    )


def test_a_pool_that_moved_between_clusters_is_whole(made):
    merged = merge([made("early", days=DAYS[:10]), made("late", days=DAYS[10:])])
    assert sum(total.gpu_seconds for total in merged.summary.totals) == 320 * 30 * 86_400


def test_other_programmes_and_months_are_refused(made):
    october = made("october", month="2026-10")
    assert "month is 2026-10, that of" in refused(made("november"), october)
    lease = a_month(corrections=False)
    lease = replace(
        lease,
        programme="lease-2025",
        lines=(),
        awards=(),
        incidents=(),
        identities=(),
        days=tuple(replace(day, sha256=EMPTY) for day in lease.days),
    )
    assert "programme is lease-2025" in refused(made("nhn"), made("lease", lease))


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_month_that_is_not_closed_is_refused(made):
    account = a_month(until=a_month().start + 86_400 * 3, closed=False)
    assert "is provisional, counted to 2026-11-04T00:00:00+09:00" in refused(made("early", account))


def test_what_fails_its_check_is_refused(made):
    folder = made("nhn")
    (folder / "awards.csv").write_bytes((folder / "awards.csv").read_bytes() + b"x")
    assert "awards.csv: its sha256 is" in refused(folder, made("naver", naver()))


def test_what_is_signed_by_a_stranger_is_refused(made):
    assert "not the one that was named" in refused(made("nhn", key=OTHER_KEY), public_keys=[KEY.public_key()])


def test_nothing_to_add_is_refused():
    assert "name at least one" in refused()


def test_settings_that_differ_are_flagged(made):
    merged = merge([made("nhn"), made("naver", replace(naver(), settings_digest="ab" * 32))])
    [flag] = merged.summary.flags
    assert "settings were not the same" in flag and "abababababab" in flag


def test_a_tenant_over_the_cap_across_providers_is_flagged(made):
    """64 at each of two providers, the programme grants 100."""
    mine = replace(a_month(), caps=(("NVIDIA-B200", 100),))
    theirs = replace(naver(tenants=("hangang-lm", "z")), caps=(("NVIDIA-B200", 100),))
    [flag] = merge([made("nhn", mine), made("naver", theirs)]).summary.flags
    assert "tenant hangang-lm was granted 128 public NVIDIA-B200 at once" in flag
    assert "naver-cloud B-1 64, nhn-cloud A-2026-017 64" in flag
    assert "the programme's cap is 100" in flag


def test_awards_that_follow_each_other_are_not_added_up(made):
    mine, theirs = a_month(), naver(tenants=("hangang-lm", "z"))
    middle = mine.start + 15 * 86_400
    mine = replace(mine, caps=(("NVIDIA-B200", 100),), awards=_terms(mine, mine.start, middle))
    theirs = replace(theirs, caps=(("NVIDIA-B200", 100),), awards=_terms(theirs, middle, theirs.end))
    assert merge([made("nhn", mine), made("naver", theirs)]).summary.flags == ()


def test_an_award_made_anew_counts_once(made):
    account = a_month()
    first, other = account.awards
    again = replace(first, granted_gpu_seconds=0, held_gpu_seconds=0, failed_gpu_seconds=0)
    account = replace(account, awards=(again, first, other), caps=(("NVIDIA-B200", 64),))
    assert merge([made("nhn", account)]).summary.flags == ()


def test_two_grants_of_one_award_add_up(made):
    account = a_month(tenants=("same", "same"), display_names=("", ""), awards=("A-1", "A-1"))
    [flag] = merge([made("nhn", replace(account, caps=(("NVIDIA-B200", 64),)))]).summary.flags
    assert "tenant same was granted 128 public NVIDIA-B200 at once" in flag and "A-1 128" in flag


def test_two_grants_of_one_award_at_two_providers_add_up(made):
    mine = a_month(tenants=("same", "z"), display_names=("", ""), awards=("A-1", "A-2"))
    theirs = naver(tenants=("same", "y"), awards=("A-1", "B-2"))
    caps = (("NVIDIA-B200", 100),)
    [flag] = merge(
        [made("nhn", replace(mine, caps=caps)), made("naver", replace(theirs, caps=caps))]
    ).summary.flags
    assert "tenant same was granted 128 public" in flag


def _terms(account, start, end):
    return tuple(replace(award, term_start=start, term_end=end) for award in account.awards)
