"""The examples as they fit a smaller fleet, at any date."""

from datetime import date
from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from devcluster.examples import fit, fit_text, write_examples
from devcluster.fleet import Fleet, scaled, whole_fleet
from devcluster.runfolder import ROOT

EXAMPLES = ROOT / "examples"
TODAY = date(2026, 11, 22)
KINDS = sum(pool.kinds for pool in whole_fleet().pools)


def _objects(fleet: Fleet, today: date = TODAY) -> dict[tuple[str, str], dict]:
    fitted = [
        each
        for path in EXAMPLES.glob("*.yaml")
        if path.name != "settings.yaml"
        for each in yaml.safe_load_all(fit_text(path.read_text(), fleet, today))
    ]
    return {(each["kind"], each["metadata"]["name"]): each for each in fitted}


def test_on_the_whole_fleet_only_terms_change() -> None:
    for path in EXAMPLES.glob("*.yaml"):
        if path.name == "settings.yaml":
            continue
        for original in yaml.safe_load_all(path.read_text()):
            fitted = fit(original, whole_fleet(), TODAY)
            if original["kind"] == "GpuGrant":
                assert fitted["spec"].pop("term") == {
                    "start": "2026-11-21", "end": fitted_end(original, TODAY)}
                original["spec"].pop("term")
            assert fitted == original


def fitted_end(grant: dict, today: date) -> str:
    term = {key: date.fromisoformat(value) for key, value in grant["spec"]["term"].items()}
    return (date.fromordinal(today.toordinal() - 1) + (term["end"] - term["start"])).isoformat()


@given(st.integers(KINDS, 2000))
def test_what_fitted_still_fits_on_a_smaller_fleet(servers: int) -> None:
    fleet = scaled(servers)
    objects = _objects(fleet)
    pretrain, job = objects[("GpuGrant", "pretrain")], objects[("Job", "pretrain-0")]
    pods = job["spec"]["parallelism"]
    assert pretrain["spec"]["gpus"] == pods * 8 >= 8
    assert job["spec"]["completions"] == pods
    assert job["spec"]["template"]["metadata"]["annotations"]["gpugrant.io/gang-size"] == str(pods)
    assert max(size for pool in fleet.pools if pool.gpu_type == "NVIDIA-B200" for size in pool.public_fabrics) >= pods
    for pool in fleet.pools:
        promised = objects[("GpuPool", pool.name)]["spec"].get("publicShare", {"gpus": pool.public * 8})["gpus"]
        assert promised == pool.public * 8


def test_a_small_fleet_makes_pretrain_one_whole_server() -> None:
    objects = _objects(scaled(32))
    assert objects[("GpuGrant", "pretrain")]["spec"]["gpus"] == 8
    assert objects[("GpuGrant", "notebooks")]["spec"]["gpus"] == 6


@given(st.dates(date(2025, 1, 1), date(2040, 12, 31)))
def test_terms_run_today_and_keep_their_length(today: date) -> None:
    for (kind, _), grant in _objects(whole_fleet(), today).items():
        if kind == "GpuGrant":
            term = grant["spec"]["term"]
            assert date.fromisoformat(term["start"]) < today < date.fromisoformat(term["end"])
    assert _objects(whole_fleet(), today)[("GpuGrant", "pretrain")]["spec"]["term"]["end"] == fitted_end(
        yaml.safe_load((EXAMPLES / "grants.yaml").read_text().split("---")[0]), today)


def test_instants_move_with_their_time_of_day() -> None:
    grant = {"kind": "GpuGrant", "spec": {"gpus": 8, "term": {
        "start": "2026-11-01T09:00:00+09:00", "end": "2026-11-03T18:00:00+09:00"}}}
    assert fit(grant, whole_fleet(), TODAY)["spec"]["term"] == {
        "start": "2026-11-21T09:00:00+09:00", "end": "2026-11-23T18:00:00+09:00"}


def test_all_files_are_written_and_comments_stay(tmp_path: Path) -> None:
    written = write_examples(EXAMPLES, tmp_path, scaled(32), TODAY)
    assert {path.name for path in written} == {path.name for path in EXAMPLES.glob("*.yaml")}
    assert "# Rejected: ConflictOfInterest." in (tmp_path / "grants.yaml").read_text()
    assert "32 of 1,962 servers" in (tmp_path / "grants.yaml").read_text()
