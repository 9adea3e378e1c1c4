"""What a scraper gets: names and labels by the design, exact integers, clean by promtool."""

import asyncio
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gpugrant.act.writer import Writer
from gpugrant.expose.admission import AdmissionWaits
from gpugrant.expose.figures import (
    Figures,
    GrantFigures,
    QuotaFigures,
    ReportFigures,
    ShareFigures,
    WaitingFigures,
)
from gpugrant.expose.metrics import Metrics, ReportMetrics, render
from gpugrant.meter.facts import (
    Account,
    Aspect,
    Claimed,
    Contracted,
    Failure,
    GrantTerms,
    Health,
    Instalment,
    Owner,
    Placed,
)
from gpugrant.meter.meter import LedgerHealth
from gpugrant.meter.months import Calendars
from gpugrant.observe.credentials import Credentials
from gpugrant.observe.health import CacheMetrics
from gpugrant.run.operator import Operator, Options
from gpugrant.run.parts import Parts
from gpugrant.run.planner import Planner
from meter_kit import DECEMBER, a_place, a_store, an_account, ended, held

T = DECEMBER - 100
POOL = {
    "programme": "purchase-2025",
    "provider": "nhn-cloud",
    "pool": "nhn-b200",
    "gpu_type": "NVIDIA-B200",
    "share": "Public",
}
OF_GRANT = {**POOL, "tenant": "hangang", "tenant_namespace": "hangang-lm", "grant": "pretrain"}
FIGURES = Figures(
    shares=(
        ShareFigures(**POOL, promised=64, free=24, granted=8, held=16, reserved=4, failed=8, maintenance=4),
    ),
    grants=(
        GrantFigures(
            **OF_GRANT,
            uid="uid-of-pretrain",
            award="2025-017",
            track="foundation",
            state="Active",
            wanted=32,
            granted=8,
            held=16,
            reserved=4,
            failed=4,
            end=1_800_000_000,
            budget_gpu_seconds=3600 * 5000,
        ),
        GrantFigures(
            programme="purchase-2025",
            gpu_type="NVIDIA-B200",
            share="Public",
            tenant="saebyeok",
            tenant_namespace="saebyeok",
            grant="eval",
            uid="uid-of-eval",
            state="Waitlisted",
            end=1_800_000_000,
        ),
    ),
    quotas=(
        QuotaFigures("purchase-2025", "NVIDIA-B200", "Public", "hangang", limit=128, granted=32, held=16),
    ),
    waiting=(WaitingFigures("purchase-2025", "NVIDIA-B200", "hangang", "GrantFull", 8),),
)
HEALTH = LedgerHealth(
    ready=True,
    detail="",
    watermark=T,
    queued=2,
    queue_age=0.25,
    held_pods=3,
    commits=7,
    failed_commits=1,
    refused_facts=0,
    last_commit_seconds=0.004,
)


@pytest.fixture
def store(tmp_path):
    store = a_store(tmp_path, now=T)
    store.open()
    yield store
    store.close()


def page(store=None, figures=FIGURES, health=HEALTH, waits=None, accept=""):
    registry = CollectorRegistry()
    tally = (lambda: store.tally) if store else (lambda: None)
    registry.register(Metrics(lambda: figures, tally, lambda: health, waits or AdmissionWaits()))
    return render(registry, accept)[0].decode()


def samples(text, name):
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def value(text, name, **labels):
    return samples(text, name)[tuple(sorted(labels.items()))]


def test_seconds_are_counted_by_owner_and_condition_with_the_labels_of_the_design(store):
    terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", T - 100, T + 60, since=T)
    own = an_account("", owner=Owner.OWN_USE, share="OwnUse", tenant="", tenant_namespace="nhn-render")
    store.commit([terms, held("a", T), ended("b", T, T + 10, a_place(own, "server-9", seats=2))], T + 90)
    text = page(store)
    for condition, seconds in (("Used", 8 * 60), ("Grace", 8 * 30)):
        assert (
            value(text, "gpugrant_gpu_seconds_total", **OF_GRANT, owner="grant", condition=condition)
            == seconds
        )
    labels = {**POOL, "share": "OwnUse", "tenant": "", "tenant_namespace": "nhn-render", "grant": ""}
    assert value(text, "gpugrant_gpu_seconds_total", **labels, owner="own-use", condition="Used") == 20


def test_months_are_shown_apart_the_running_one_and_the_last_two(tmp_path):
    store = a_store(tmp_path, now=T - 80 * 86_400)
    store.open()
    facts = [ended("old", T - 70 * 86_400, T - 69 * 86_400), ended("a", T, T + 140)]
    store.commit(facts, T + 200)
    text = page(store)
    months = {
        dict(labels)["month"]: seconds
        for labels, seconds in samples(text, "gpugrant_month_gpu_seconds").items()
    }
    assert months == {"2026-11": 800, "2026-12": 320}
    total = value(text, "gpugrant_gpu_seconds_total", **OF_GRANT, owner="grant", condition="Used")
    assert total == 800 + 320 + 8 * 86_400
    store.close()


@pytest.mark.parametrize("amount", [1, 999_999, 1_000_000, 1_234_567, 12_345_678_901, 2**53 - 1])
def test_integers_come_out_exactly(store, amount):
    store.commit([ended("a", T, T + 1, a_place(seats=amount))], T + 1)
    labels = {**OF_GRANT, "owner": "grant", "condition": "Used"}
    assert value(page(store), "gpugrant_gpu_seconds_total", **labels) == amount


def test_integers_are_written_as_integers(store):
    store.commit([ended("a", T, T + 1, a_place(seats=12_345_678_901))], T + 1)
    assert '{programme="purchase-2025",' in page(store)
    assert "} 12345678901\n" in page(store)


def test_the_page_says_the_same_as_the_general_encoder_would(store):
    odd = WaitingFigures("purchase-2025", "NVIDIA-B200", 'a "quoted" \\ name\nof two lines', "GrantFull", 8)
    waits = AdmissionWaits()
    waits.observe(an_account(), 7)
    store.commit([ended("a", T, T + 200)], T + 300)
    registry = CollectorRegistry()
    figures = Figures(shares=FIGURES.shares, grants=FIGURES.grants, waiting=(odd,))
    registry.register(Metrics(lambda: figures, lambda: store.tally, lambda: HEALTH, waits))
    ours, theirs = (
        [
            (one.name, one.type, one.documentation, one.samples)
            for one in text_string_to_metric_families(text.decode())
        ]
        for text in (render(registry)[0], generate_latest(registry))
    )
    assert ours == theirs


def test_the_metrics_of_other_parts_are_on_the_same_page_as_prometheus_reads_them():
    registry = CollectorRegistry()
    Counter("gpugrant_events", "Events.", ["kind"], registry=registry).labels("pods").inc(3)
    Histogram("gpugrant_plan_seconds", "Plans.", registry=registry, buckets=(0.001, 1)).observe(0.25)
    Info("gpugrant_build", "Build.", registry=registry).info({"version": "1"})
    Gauge("gpugrant_lag_seconds", "Lag.", registry=registry).set(0.000012)
    text = render(registry)[0].decode()
    assert value(text, "gpugrant_events_total", kind="pods") == 3
    assert value(text, "gpugrant_plan_seconds_bucket", le="1.0") == 1
    assert value(text, "gpugrant_build_info", version="1") == 1
    assert value(text, "gpugrant_lag_seconds") == 0.000012
    assert "_created" not in text


def test_two_grants_one_after_the_other_under_one_name_are_one_series(store):
    again = an_account("pretrain", grant_uid="another-uid")
    store.commit([ended("a", T, T + 10), ended("b", T + 10, T + 20, a_place(again))], T + 20)
    labels = {**OF_GRANT, "owner": "grant", "condition": "Used"}
    assert value(page(store), "gpugrant_gpu_seconds_total", **labels) == 160


@pytest.mark.parametrize("condition", ["Used", "Idle", "Failed"])
def test_an_allocated_grant_has_a_series_from_zero_before_anything_happened(store, condition):
    labels = {**OF_GRANT, "owner": "grant", "condition": condition}
    assert value(page(store), "gpugrant_gpu_seconds_total", **labels) == 0


def placed(server, at, **given):
    return Placed(server, at, *POOL.values(), "fabric-1", 8, **given)


def test_every_seat_second_is_on_one_series_whoever_owns_it_and_in_whatever_condition(store):
    """Four servers are contracted, three are there: one of a grant, one failed, one free."""
    plan = (Instalment(T - 100, 32, 32),)
    where = [POOL[name] for name in ("programme", "provider", "gpu_type")]
    terms = GrantTerms("uid-of-pretrain", "hangang-lm", "pretrain", T, T + 900, tenant="hangang", gpus=8)
    facts = [Contracted("nhn-b200", T, *where, plan, 32), terms, Claimed("server-1", "uid-of-pretrain", T)]
    facts += [placed(f"server-{number}", T) for number in (1, 2, 3)]
    facts += [Health("server-2", Aspect.READY, T + 10, 0), held("a", T + 5, a_place(seats=3))]
    store.commit(facts, T + 30)
    text = page(store)
    seconds = {
        (dict(labels)["owner"], dict(labels)["condition"]): amount
        for labels, amount in samples(text, "gpugrant_gpu_seconds_total").items()
        if amount
    }
    assert seconds == {
        ("grant", "Used"): 3 * 25,
        ("grant", "Idle"): 8 * 30 - 3 * 25,
        ("free", "Failed"): 8 * 20,
        ("free", "Idle"): 8 * 10 + 8 * 30,
        ("free", "Undelivered"): 8 * 30,
    }
    assert sum(seconds.values()) == 32 * 30
    months = samples(text, "gpugrant_month_gpu_seconds")
    assert sum(months.values()) == 32 * 30
    assert value(text, "gpugrant_share_shortfall_gpu_seconds_total", **POOL) == 8 * 30


def test_a_closed_day_has_its_digest_and_a_late_fact_another_one(tmp_path):
    store = a_store(tmp_path, now=T, calendars=Calendars((("purchase-2025", "UTC"),)))
    store.open()
    tomorrow = T - T % 86_400 + 86_400
    store.commit([placed("server-1", T), ended("a", T, T + 10)], tomorrow + 7200)
    assert store.settle()
    (first,) = samples(page(store), "gpugrant_ledger_day_digest_info").items()
    assert first[1] == 1
    assert dict(first[0]).keys() == {"programme", "provider", "day", "sha256"}
    assert dict(first[0])["provider"] == "nhn-cloud"
    store.commit([ended("late", T + 50, T + 60)], tomorrow + 7300)
    assert store.settle()
    (second,) = samples(page(store), "gpugrant_ledger_day_digest_info").items()
    assert {**dict(second[0]), "sha256": ""} == {**dict(first[0]), "sha256": ""}
    assert dict(second[0])["sha256"] != dict(first[0])["sha256"]
    store.close()


def test_what_is_on_no_pool_is_kept_in_the_ledger_and_shown_on_no_series(store):
    store.commit([ended("a", T, T + 10, a_place(Account(tenant_namespace="stray")))])
    assert "stray" not in page(store, Figures())


def test_use_of_a_budget_holds_over_re_creation_of_the_grant(store):
    first = an_account("pretrain", grant_uid="first", award="2025-017")
    second = an_account("pretrain", grant_uid="uid-of-pretrain", award="2025-017")
    store.commit([ended("a", T, T + 10, a_place(first)), ended("b", T + 10, T + 20, a_place(second))], T + 20)
    assert value(page(store), "gpugrant_grant_budget_used_gpu_seconds", **OF_GRANT) == 160


def test_failures_are_counted_by_cause(store):
    gone = {"server": "server-1", "cause": "NotReady", "seats": 8}
    store.commit([Failure(**POOL, **gone, since=T), Failure(**POOL, **gone, since=T + 50)])
    assert value(page(store), "gpugrant_failures_total", **POOL, cause="NotReady") == 2


def test_the_states_of_a_share_add_up_to_what_is_installed():
    states = samples(page(), "gpugrant_gpus")
    assert {dict(labels)["state"] for labels in states} == {
        "free",
        "granted",
        "held",
        "reserved",
        "failed",
        "maintenance",
    }
    assert sum(states.values()) == 64


def test_grants_quotas_and_what_waits_are_shown():
    text = page()
    assert value(text, "gpugrant_promised_gpus", **POOL) == 64
    assert value(text, "gpugrant_grant_gpus", **OF_GRANT, state="held") == 16
    assert value(text, "gpugrant_grant_info", **OF_GRANT, award="2025-017", track="foundation") == 1
    assert value(text, "gpugrant_grant_end_timestamp_seconds", **OF_GRANT) == 1_800_000_000
    assert value(text, "gpugrant_grant_budget_gpu_seconds", **OF_GRANT) == 18_000_000
    quota = {"programme": "purchase-2025", "gpu_type": "NVIDIA-B200", "share": "Public", "tenant": "hangang"}
    for kind, gpus in (("limit", 128), ("granted", 32), ("held", 16)):
        assert value(text, "gpugrant_quota_gpus", **quota, kind=kind) == gpus
    waiting = {
        "programme": "purchase-2025",
        "gpu_type": "NVIDIA-B200",
        "tenant": "hangang",
        "reason": "GrantFull",
    }
    assert value(text, "gpugrant_waiting_gpus", **waiting) == 8


def test_waits_fall_into_buckets_that_reach_to_days():
    waits = AdmissionWaits()
    for seconds in (0, 1, 2, 600, 3 * 86_400, 40 * 86_400):
        waits.observe(an_account(), seconds)
    text = page(waits=waits)
    of_pool = {key: POOL[key] for key in ("programme", "provider", "pool")}
    for bound, count in (("1.0", 2), ("5.0", 3), ("900.0", 4), ("345600.0", 5), ("+Inf", 6)):
        assert value(text, "gpugrant_admission_wait_seconds_bucket", **of_pool, le=bound) == count
    assert value(text, "gpugrant_admission_wait_seconds_sum", **of_pool) == 603 + 43 * 86_400


def test_a_replica_that_does_not_lead_shows_no_ledger_and_no_figures():
    text = page(store=None, figures=None, health=None)
    assert "gpugrant_gpu_seconds_total{" not in text
    assert "gpugrant_gpus{" not in text


def test_no_label_names_a_pod_a_uid_a_node_or_the_scrapers_own_namespace(store):
    store.commit([ended("a", T, T + 10)])
    for family in text_string_to_metric_families(page(store)):
        for sample in family.samples:
            assert not {"pod", "uid", "node", "server", "namespace", "instance", "job"} & sample.labels.keys()


def two_thousand_grants(store):
    """Return a page: 2,000 grants on servers of their own, in their third month, each used, idle and failed."""
    grants, facts = [], []
    months = (DECEMBER - 40 * 86_400, DECEMBER - 10 * 86_400, DECEMBER)  # in October, November, December
    for number in range(2000):
        name, uid, server = f"grant-{number}", f"uid-of-grant-{number}", f"server-{number}"
        grants.append(
            GrantFigures(**{**OF_GRANT, "grant": name}, uid=uid, end=T, budget_gpu_seconds=1, wanted=8)
        )
        facts += [
            GrantTerms(uid, "hangang-lm", name, months[0], T + 86_400 * 90, tenant="hangang", gpus=8),
            placed(server, months[0]),
            Claimed(server, uid, months[0]),
        ]
        for month, start in enumerate(months):
            facts.append(ended(f"pod-{number}-{month}", start, start + 9, a_place(an_account(name), server)))
            facts.append(Health(server, Aspect.READY, start + 100, 0))
            facts.append(Health(server, Aspect.READY, start + 200, 1))
    store.commit(facts, DECEMBER + 300)
    return page(store, Figures(grants=tuple(grants)))


@pytest.fixture(scope="module")
def large_page(tmp_path_factory):
    store = a_store(tmp_path_factory.mktemp("large"), now=DECEMBER - 50 * 86_400)
    store.open()
    yield two_thousand_grants(store)
    store.close()


def test_two_thousand_grants_have_as_many_series_as_the_documentation_says(large_page):
    """Per grant three counters, three sums in each of three months, four states, end, info, budget and its use."""
    lines = [line for line in large_page.splitlines() if not line.startswith("#")]
    of_grants = [line for line in lines if 'grant="grant-' in line]
    assert len(of_grants) == 2000 * (3 + 3 * 3 + 4 + 4)
    assert len(lines) < 41_000
    assert "At 2,000 grants, each used, idle and failed in all three months, 40,000" in DOCS.read_text()


DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def full_page(store):
    waits = AdmissionWaits()
    waits.observe(an_account(), 7)
    facts = [
        held("a", T),
        Failure(**POOL, server="server-1", cause="NotReady", since=T),
        placed("server-1", T),
    ]
    store.commit(facts, T + 90)
    registry = CollectorRegistry()
    registry.register(Metrics(lambda: FIGURES, lambda: store.tally, lambda: HEALTH, waits))
    registry.register(
        ReportMetrics(lambda: (ReportFigures("purchase-2025", "nhn-cloud", "2026-10", True, T),))
    )
    return render(registry)[0].decode()


def promtool(*arguments, given=""):
    assert shutil.which("promtool"), (
        "promtool is not here: install the Debian package `prometheus`, as .ci/run does"
    )
    found = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    return found.returncode, found.stdout + found.stderr


def test_promtool_finds_nothing_to_complain_about(store):
    assert promtool("check", "metrics", given=full_page(store)) == (0, "")


def test_promtool_finds_nothing_to_complain_about_at_two_thousand_grants(large_page):
    assert promtool("check", "metrics", given=large_page) == (0, "")


def test_every_query_of_the_documentation_is_one(tmp_path):
    queries = re.findall(r"```\n(.*?)```", DOCS.read_text(), re.DOTALL)
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "docs", "rules": rules}]}))
    status, said = promtool("check", "rules", str(tmp_path / "rules.yaml"))
    assert (status, f"{len(queries)} rules found" in said) == (0, True), said


def documented_query(title):
    """Return the query that follows a line beginning so."""
    return re.search(rf"^{title}[^\n]*\n(?:[^`\n]*\n)*```\n(.*?)```", DOCS.read_text(), re.DOTALL | re.MULTILINE)[1]


def test_the_queries_answer_for_pools_in_which_nothing_failed_and_leave_out_those_without_grants(tmp_path):
    def month(pool, condition, seconds):
        labels = f'share="Public", month="2026-11", pool="{pool}", condition="{condition}"'
        return {"series": f"gpugrant_month_gpu_seconds{{{labels}}}", "values": str(seconds)}

    def gpus(pool, state, count):
        return {"series": f'gpugrant_gpus{{share="Public", pool="{pool}", state="{state}"}}', "values": str(count)}

    states = [gpus("whole", "held", 6), gpus("whole", "granted", 2), gpus("new", "held", 0), gpus("new", "granted", 0)]
    parts = [month("whole", "Used", 80), month("lame", "Used", 60), month("lame", "Failed", 20)]
    parts.append(month("new", "Idle", 0))

    def asked(title, *expected):
        samples = [{"labels": f'{{pool="{pool}"}}', "value": value} for pool, value in expected]
        return {"expr": documented_query(title), "eval_time": "0m", "exp_samples": samples}

    tests = [
        asked("Availability of the public share", ("whole", 100), ("lame", 75)),
        asked("Share of what is granted that is held", ("whole", 0.75)),
    ]
    given = {"tests": [{"interval": "1m", "input_series": [*states, *parts], "promql_expr_test": tests}]}
    (tmp_path / "test.yaml").write_text(json.dumps(given))
    status, said = promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert status == 0, said


async def of_the_process():
    """Return name, type and labels of what the operator's parts say of themselves."""
    operator = Operator(Options(), Credentials("http://127.0.0.1:1", None), Parts())
    registry = operator._registry
    CacheMetrics(registry)
    Planner(None, None, None, asyncio.Event(), None, registry)
    Writer(None, None, None, registry, None)
    found = set()
    for collector in registry._collector_to_names:
        if getattr(collector, "_name", "").startswith("gpugrant_"):
            suffix = "_total" if collector._type == "counter" else ""
            found.add((collector._name + suffix, collector._type, tuple(collector._labelnames)))
    await operator._client.close()
    return found


@functools.cache  # a second operator of one process would have no lock of its own
def metrics_of_the_process():
    return asyncio.run(of_the_process())


def test_the_operators_own_metrics_are_documented_with_their_types_and_labels():
    text = DOCS.read_text().partition("## Is the operator well?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(gpugrant_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    documented = {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == metrics_of_the_process()


def test_the_documentation_names_every_metric_there_is_and_no_other(store):
    there = {family.name for family in text_string_to_metric_families(full_page(store))}
    there |= {name for name, _, _ in metrics_of_the_process()}
    named = {name.removesuffix("_total") for name in re.findall(r"gpugrant_[a-z_]+", DOCS.read_text())}
    assert {name.removesuffix("_total") for name in there} == named
