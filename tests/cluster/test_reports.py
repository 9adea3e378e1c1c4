"""Short months of a real operator: they open, close by themselves, are acknowledged, and nothing undoes them."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cluster_kit.operator import OperatorProcess
from cluster_kit.pods import condition
from cluster_kit.site import Pool, Site, reason
from devcluster.client import JsonObject, KubeClient, Refused, load_manifests
from devcluster.controlplane import ControlPlane
from devcluster.install import CRDS, MANIFESTS, apply_settings, install
from gpugrant.expose.report.checking import verify
from gpugrant.expose.report.signing import load_key
from gpugrant.run.report_objects import PATH

PERIOD = 8
CLOSED_SECONDS = 60
_TLS_SECONDS = 0.25  # aiohttp closes TLS connections a moment after their session
POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/gpugrant-reports"
# Seconds in which the operator was killed are Unobserved where they cannot be known: an officer who allows that.
SETTINGS = f"""
period: {PERIOD}s
programmes:
  purchase-2025: {{report: {{unobservedLimitGpuSeconds: 1000000}}}}
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start a control plane of this file's own: its months are short."""
    plane = ControlPlane(tmp_path_factory.mktemp("reports") / "control-plane")
    plane.start(guarded=True)
    try:
        yield plane
    finally:
        plane.stop(at_once=True)


@pytest.fixture(scope="module")
def process(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    process = OperatorProcess(plane, tmp_path_factory.mktemp("operator"))

    async def start() -> None:
        async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as client:
            await install(client)
            await apply_settings(client, SETTINGS)
            await process.start(client)

    try:
        asyncio.run(start())
        yield process
    finally:
        process.stop()


class Months:
    """The reports of one provider, as people see them."""

    def __init__(self, site: Site, process: OperatorProcess, pool: Pool) -> None:
        self.site, self.process, self.pool = site, process, pool
        self.folder = process.ledger.parent / "reports"

    def place(self, report: JsonObject) -> Path:
        return self.folder / str(report["metadata"]["name"])

    async def all(self) -> list[JsonObject]:
        """Return them by time."""
        found = await self.site.admin.list(PATH)
        mine = [one for one in found if one["spec"]["provider"] == self.pool.provider]
        return sorted(mine, key=lambda one: str(one["spec"]["month"]))

    async def closed(self, count: int) -> list[JsonObject]:
        """Wait until so many are closed; return them by time."""
        async with asyncio.timeout(CLOSED_SECONDS + count * PERIOD):
            while True:
                found = [one for one in await self.all() if condition(one, "Closed").get("status") == "True"]
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.5)

    async def told(self, name: str, kind: str, wanted: str) -> JsonObject:
        """Wait until a condition has a reason; return the report."""
        return await self.site.admin.wait_for(f"{PATH}/{name}", lambda seen: reason(seen, kind) == wanted)


@pytest.fixture(scope="module")
def pool(plane: ControlPlane, process: OperatorProcess) -> Pool:
    """Have a pool with a grant under which a pod runs."""
    assert process.pid

    async def make() -> Pool:
        async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as admin:
            site = Site(admin)
            pool = await site.pool([2], programme="purchase-2025")
            tenant = await site.tenant(pool)
            await site.grant(tenant, pool, 16)
            await site.running(await site.pod(tenant, 8))
        await asyncio.sleep(_TLS_SECONDS)
        return pool

    return asyncio.run(make())


@pytest.fixture
async def months(plane: ControlPlane, process: OperatorProcess, pool: Pool) -> AsyncIterator[Months]:
    async with KubeClient(plane.server, plane.ca_file, plane.admin_token) as admin:
        yield Months(Site(admin), process, pool)
    await asyncio.sleep(_TLS_SECONDS)


def gpugrant(*arguments: str) -> str:
    """Run a command as an officer does; return what it printed."""
    command = [sys.executable, "-m", "gpugrant", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_month_closes_by_itself_is_acknowledged_and_cannot_be_changed(months: Months) -> None:
    report = (await months.closed(1))[0]
    name, admin = report["metadata"]["name"], months.site.admin
    key = load_key(months.process.ledger.parent / "signing-key.pem").public_key()
    assert verify(months.place(report), key) == []
    gpugrant("report", "verify", str(months.place(report)))
    assert report["status"]["reconciliation"]["reconciles"]
    with pytest.raises(Refused, match="the month is closed"):
        await admin.patch(f"{PATH}/{name}/status", {"status": {"totals": []}})
    with pytest.raises(Refused, match="the month is closed"):
        await admin.delete(f"{PATH}/{name}")
    await admin.patch(f"{PATH}/{name}", {"spec": {"acknowledgedBy": "H. Kim, NIPA"}})
    early = await admin.wait_for(
        f"{PATH}/{name}", lambda seen: "H. Kim, NIPA" in condition(seen, "Acknowledged").get("message", "")
    )
    assert reason(early, "Acknowledged") == "NotSignedOff"
    ledger = f"sqlite:///{months.process.ledger}"
    await asyncio.to_thread(
        gpugrant, "report", "sign-off", name, "--by", "Lee, NHN Cloud", "--ledger", ledger
    )
    done = await months.told(name, "Acknowledged", "Acknowledged")
    assert done["status"]["summary"]["state"] == "Acknowledged"
    assert {key: done["status"][key] for key in ("totals", "digests", "closedAt")} == {
        key: report["status"][key] for key in ("totals", "digests", "closedAt")
    }


async def test_an_acknowledged_object_that_is_gone_is_made_again(months: Months) -> None:
    name = (await months.closed(1))[0]["metadata"]["name"]
    ledger = f"sqlite:///{months.process.ledger}"
    admin = months.site.admin
    before = await admin.get(f"{PATH}/{name}")
    if reason(before, "Acknowledged") != "Acknowledged":
        gpugrant("report", "sign-off", name, "--by", "Lee", "--ledger", ledger)
        gpugrant("report", "ack", name, "--reference", "NIPA-118", "--ledger", ledger)
        before = await months.told(name, "Acknowledged", "Acknowledged")
    binding = next(
        one
        for one in load_manifests(MANIFESTS / "22-reports.yaml")
        if one["kind"] == "ValidatingAdmissionPolicyBinding"
    )
    await admin.delete(POLICY)
    async with asyncio.timeout(30):
        while True:
            try:
                await admin.delete(f"{PATH}/{name}")
                break
            except Refused as refused:  # the policy still acts for a moment
                if refused.status != 403:
                    raise
                await asyncio.sleep(0.1)
    await admin.apply(binding)
    after = await months.told(name, "Acknowledged", "Acknowledged")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    for one in ("totals", "digests", "closedAt", "dueAt", "reconciliation", "summary"):
        assert after["status"][one] == before["status"][one]


async def test_a_kind_that_is_installed_anew_has_its_closed_months_again(months: Months) -> None:
    admin, before = months.site.admin, await months.closed(2)
    (definition,) = load_manifests(CRDS / "usagereports.yaml")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/usagereports.gpugrant.io"
    await admin.delete(path)
    await admin.wait_gone(path)
    await admin.apply(definition)
    await _is_served(admin)
    for one in before:
        again = await admin.wait_for(
            f"{PATH}/{one['metadata']['name']}", lambda seen: reason(seen, "Closed") == "Closed"
        )
        assert again["metadata"]["uid"] != one["metadata"]["uid"]
        for field in ("totals", "digests", "closedAt", "dueAt", "reconciliation"):
            assert again["status"][field] == one["status"][field]


async def _is_served(admin: KubeClient) -> None:
    """Wait until a kind installed anew is served: until then it is not found, or its storage is not ready."""
    async with asyncio.timeout(60):
        while True:
            try:
                await admin.list(PATH)
                return
            except Refused as refused:
                if refused.status not in (404, 429):
                    raise
            await asyncio.sleep(0.2)  # nothing tells when the storage is ready


async def test_a_month_that_nobody_acknowledges_is_overdue_and_an_event_says_so_once(months: Months) -> None:
    report = (await months.closed(2))[1]
    name = report["metadata"]["name"]
    await months.told(name, "Overdue", "Overdue")
    event = await months.site.event(f"/api/v1/namespaces/default/x/{name}", "Overdue")
    assert event["type"] == "Warning" and "is not acknowledged" in event["message"]
    month = report["spec"]["month"]
    provider = months.pool.provider
    (closed,) = (
        await months.process.samples("gpugrant_report_closed", provider=provider, month=month)
    ).values()
    (due,) = (
        await months.process.samples("gpugrant_report_due_timestamp_seconds", provider=provider, month=month)
    ).values()
    assert closed == 1 and due % PERIOD == 0
    await months.process.restart()
    await months.closed(4)
    told = await months.site.events(f"/api/v1/namespaces/default/x/{name}", "Overdue")
    assert len(told) == 1


async def test_killed_again_and_again_every_month_closes_once_and_is_chained(months: Months) -> None:
    done = len(await months.closed(1))
    for number in range(1, 4):
        await months.closed(done + number)  # the next one is about to close, or closing
        await months.process.back(months.process.kill())
    reports = (await months.closed(done + 4))[: done + 4]
    previous = None
    for report in reports:
        place = months.place(report)
        assert verify(place, previous=previous) == []
        previous = place
    with closing(sqlite3.connect(f"file:{months.process.ledger}?mode=ro", uri=True)) as ledger:
        query = "select name, manifest from months where provider = ? order by start_at"
        kept = dict(ledger.execute(query, (months.pool.provider,)))
    for report in reports:
        digests = {one["name"]: one["sha256"] for one in report["status"]["digests"]}
        assert kept[report["spec"]["month"]] == digests["manifest.json"]
