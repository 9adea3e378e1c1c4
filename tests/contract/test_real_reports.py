"""The months' life on a real API server, as the operator's service account, with the policy on closed reports."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster_kit.pods import condition
from cluster_kit.world import World
from devcluster.client import JsonObject, KubeClient, Refused, load_manifests
from devcluster.install import MANIFESTS
from gpugrant.expose.figures import ReportFigures
from gpugrant.expose.report.checking import verify
from gpugrant.observe.client import Client
from gpugrant.run.report_folder import Shelf
from gpugrant.run.report_objects import PATH, Reports
from gpugrant.run.reporting import Reporting
from report_kit.ledger import DAY, Ledger

POLICY = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/gpugrant-reports"


class Killed(BaseException):
    """The process ends here."""


class Office:
    """One operator after another over one ledger; the test says what time it is."""

    def __init__(self, client: Client, admin: KubeClient, ledger: Ledger, folder: Any) -> None:
        self.client, self.admin, self.ledger, self.folder = client, admin, ledger, folder
        self.now = ledger.month.start + DAY
        self.told: list[tuple[str, bool, str]] = []
        self.reports = Reports(client)
        self.reporting: Reporting | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def path(self) -> str:
        return f"{PATH}/{self.ledger.name}"

    @property
    def place(self) -> Any:
        return self.folder / "reports" / self.ledger.name

    async def start(self, die_at: str = "") -> None:
        """Start a new operator; the one before is no more."""
        await self.stop()

        def on_step(step: str) -> None:
            if step == die_at:
                raise Killed

        self.reports = Reports(self.client)
        shelf = Shelf(f"sqlite:///{self.folder / 'ledger.db'}", on_step=on_step)
        self.reporting = Reporting(
            self.ledger.ask,
            self.reports,
            shelf,
            self._tell,
            lambda: self.now,
            folder_seconds=0,
            on_step=on_step,
        )
        self._watch = asyncio.create_task(self.reports.run())
        async with asyncio.timeout(20):
            while not self.reports.are_known:  # noqa: ASYNC110 (told by a flag alone)
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def _tell(self, about: Any, reason: str, message: str, at: int, *, warning: bool = False) -> None:
        assert about.name == self.ledger.name and at == self.now
        self.told.append((reason, warning, message))

    async def round(self, watermark: int | None = None) -> JsonObject:
        """Let the operator look once, the ledger being complete to now; return the object."""
        assert self.reporting is not None
        self.ledger.count_to(self.now if watermark is None else watermark)
        await self.reporting.round()
        return await self.seen()

    async def seen(self) -> JsonObject:
        """Return the object, once the operator's own view of it is as new."""
        there = await self.admin.get(self.path)
        async with asyncio.timeout(20):
            while (known := self.reports.get(self.ledger.name)) is None or (
                known.version != there["metadata"]["resourceVersion"]
            ):
                await asyncio.sleep(0.02)
                there = await self.admin.get(self.path)
        return there

    def figures(self) -> ReportFigures:
        """Return what /metrics shows of the month."""
        assert self.reporting is not None
        return next(one for one in self.reporting.figures if one.month == self.ledger.month.name)

    async def closed(self) -> JsonObject:
        """Let the month close; return the object."""
        self.now = self.ledger.month.end + 5 * DAY
        await self.round()
        seen = await self.round()
        assert state(seen) == "Closed"
        return seen

    async def delete_object(self) -> None:
        """Delete the object while the policy is away."""
        binding = next(
            one
            for one in load_manifests(MANIFESTS / "22-reports.yaml")
            if one["kind"] == "ValidatingAdmissionPolicyBinding"
        )
        await self.admin.delete(POLICY)
        try:
            await self.until_deleted()
        finally:
            await self.admin.apply(binding)

    async def until_deleted(self) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.admin.delete(self.path, missing_ok=True)
                    break
                except Refused as refused:  # the policy still acts for a moment
                    if refused.status != 403:
                        raise
                    await asyncio.sleep(0.1)
            while self.reports.get(self.ledger.name) is not None:  # noqa: ASYNC110 (told by a watch of ours)
                await asyncio.sleep(0.02)


@pytest.fixture
async def office(
    operator_client: Client, admin: KubeClient, world: World, tmp_path: Any
) -> AsyncIterator[Office]:
    ledger = Ledger(tmp_path, world.name("cloud"))
    office = Office(operator_client, admin, ledger, tmp_path)
    await office.start()
    try:
        yield office
    finally:
        await office.stop()
        ledger.stop()


def state(seen: JsonObject) -> str:
    return str(seen["status"]["summary"]["state"])


def version(seen: JsonObject) -> str:
    return str(seen["metadata"]["resourceVersion"])


def content(folder: Any) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- open ----------------------------------------------------------------------------------------------


async def test_the_running_month_has_an_object_and_nothing_is_written_while_little_changes(
    office: Office,
) -> None:
    first = await office.round()
    assert state(first) == "Open"
    assert first["status"]["totals"]
    office.now += 1800
    assert version(await office.round()) == version(first)
    office.now += 1801
    later = await office.round()
    assert version(later) != version(first)
    assert later["status"]["countedUntil"] > first["status"]["countedUntil"]


async def test_a_restarted_operator_writes_nothing_anew(office: Office) -> None:
    first = await office.round()
    await office.start()
    office.now += 60
    assert version(await office.round()) == version(first)


async def test_who_asks_for_it_gets_newer_figures_at_once(office: Office) -> None:
    first = await office.round()
    office.now += 60
    office.ledger.mark("build", "kim", "", office.now - 1)
    asked = await office.round()
    assert asked["status"]["countedUntil"] > first["status"]["countedUntil"]
    assert version(await office.round()) == version(asked)


async def test_a_deleted_object_is_made_again(office: Office) -> None:
    first = await office.round()
    await office.admin.delete(office.path)
    await office.until_deleted()
    again = await office.round()
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    assert again["status"]["totals"] == first["status"]["totals"]


# -- closing -------------------------------------------------------------------------------------------


async def test_a_month_goes_through_closing_and_closes_by_itself(office: Office) -> None:
    await office.round()
    office.now = office.ledger.month.end + 60
    assert state(await office.round()) == "Open"
    office.now = office.ledger.month.end + 2 * DAY
    seen = await office.round()
    assert state(seen) == "Closing"
    assert condition(seen, "Closed")["reason"] == "BeforeCloseDay"
    office.now = office.ledger.month.end + 4 * DAY
    await office.round()
    seen = await office.seen()
    assert state(seen) == "Closed"
    assert verify(office.place) == []
    closing = office.ledger.closed()
    assert closing is not None
    digests = {one["name"]: one["sha256"] for one in seen["status"]["digests"]}
    assert digests["manifest.json"] == closing.manifest_sha256 and set(digests) == set(content(office.place))
    assert closing.closed_at == office.now
    assert [reason for reason, *_ in office.told] == ["Closed"]
    with pytest.raises(Refused, match="the month is closed"):
        await office.admin.patch(f"{office.path}/status", {"status": {"corrections": 7}})
    assert version(await office.round()) == version(seen)


async def test_a_month_that_does_not_reconcile_stays_closing_and_says_which_sum(office: Office) -> None:
    office.now = office.ledger.month.end + 2 * DAY
    await office.round()
    office.ledger.tamper(7)
    office.now = office.ledger.month.end + 5 * DAY
    seen = await office.round()
    assert state(seen) == "Closing"
    assert condition(seen, "Closed")["reason"] == "NotReconciled"
    seconds = 8 * (office.ledger.month.end - office.ledger.month.start)
    words = f"pool {office.ledger.provider}-b200: expected {seconds}, counted {seconds + 7} GPU-seconds (+7)"
    assert words in seen["status"]["summary"]["why"]
    assert office.ledger.closed() is None and not office.place.exists()
    office.ledger.tamper(-7)
    office.ledger.mark("build", "kim", "", office.now + 1)
    office.now += 10
    assert state(await office.round()) == "Closed"


async def test_unobserved_time_holds_a_month_up_until_the_limit_is_raised(office: Office) -> None:
    office.ledger.lose_sight(100)
    office.now = office.ledger.month.end + 5 * DAY
    seen = await office.round()
    assert condition(seen, "Closed")["reason"] == "TooMuchUnobserved"
    assert (
        f"800 GPU-seconds are Unobserved (pool {office.ledger.provider}-b200: 800)"
        in seen["status"]["summary"]["why"]
    )
    rules = "programmes: {purchase-2025: {report: {unobservedLimitGpuSeconds: 800}}}"
    office.ledger.set_rules(rules, office.now)
    assert state(await office.round()) == "Closed"
    assert verify(office.place) == []


async def test_a_mark_closes_before_the_day(office: Office) -> None:
    office.now = office.ledger.month.end + 3600
    assert state(await office.round()) == "Open"
    office.ledger.mark("close", "kim", "", office.now)
    office.now += 1
    await office.round()
    assert state(await office.seen()) == "Closed"


STEPS = ["rendered", "staged", "closed", "published", "made", "written"]


@pytest.mark.parametrize("step", STEPS)
async def test_whatever_step_the_process_ends_at_one_month_is_closed_with_one_set_of_bytes(
    office: Office, step: str
) -> None:
    office.now = office.ledger.month.end + 5 * DAY
    await office.start(die_at=step)
    with pytest.raises(Killed):
        await office.round()
    staged = office.folder / "reports" / f".{office.ledger.name}.closing"
    before = next((content(folder) for folder in (office.place, staged) if folder.exists()), None)
    await office.start()
    office.now += 100
    await office.round()
    seen = await office.seen()
    assert state(seen) == "Closed"
    assert verify(office.place) == []
    assert before in (None, content(office.place))
    closing = office.ledger.closed()
    assert closing is not None
    digests = {one["name"]: one["sha256"] for one in seen["status"]["digests"]}
    assert digests["manifest.json"] == closing.manifest_sha256
    assert [path.name for path in office.place.parent.iterdir()] == [office.ledger.name]


# -- closed --------------------------------------------------------------------------------------------


async def test_signed_off_and_acknowledged_by_marks(office: Office) -> None:
    seen = await office.closed()
    assert condition(seen, "Acknowledged")["reason"] == "NotSignedOff"
    office.ledger.mark("sign-off", "Lee", "", office.now)
    assert condition(await office.round(), "Acknowledged")["reason"] == "SignedOff"
    office.ledger.mark("acknowledge", "Kim", "NIPA-118", office.now)
    seen = await office.round()
    assert state(seen) == "Acknowledged"
    assert "reference NIPA-118" in condition(seen, "Acknowledged")["message"]
    assert [reason for reason, *_ in office.told] == ["Closed", "Acknowledged"]


async def test_acknowledged_by_a_person_on_the_object_once_it_is_signed_off(office: Office) -> None:
    await office.closed()
    await office.admin.patch(office.path, {"spec": {"acknowledgedBy": "H. Kim, NIPA"}})
    await office.seen()
    seen = await office.round()
    assert condition(seen, "Acknowledged")["reason"] == "NotSignedOff"
    assert "H. Kim, NIPA" in condition(seen, "Acknowledged")["message"]
    office.ledger.mark("sign-off", "Lee", "", office.now)
    await office.round()
    assert state(await office.round()) == "Acknowledged"
    assert [mark.by for mark in office.ledger.marks()] == ["Lee", "H. Kim, NIPA"]


async def test_marks_made_while_nobody_was_there_are_carried_out(office: Office) -> None:
    await office.closed()
    await office.stop()
    office.ledger.mark("sign-off", "Lee", "", office.now)
    office.ledger.mark("acknowledge", "Kim", "NIPA-118", office.now)
    await office.start()
    assert state(await office.round()) == "Acknowledged"


async def test_overdue_is_told_once_over_restarts_and_ends_with_the_acknowledgement(office: Office) -> None:
    await office.closed()
    office.told.clear()
    office.now = office.ledger.month.end + 20 * DAY
    seen = await office.round()
    assert condition(seen, "Overdue")["status"] == "True"
    await office.start()
    await office.round()
    assert [(reason, warning) for reason, warning, _ in office.told] == [("Overdue", True)]
    assert office.figures().closed and office.figures().due_at < office.now
    office.ledger.mark("sign-off", "Lee", "", office.now)
    office.ledger.mark("acknowledge", "Kim", "NIPA-118", office.now)
    assert condition(await office.round(), "Overdue")["status"] == "False"
    assert office.figures().closed and office.figures().due_at == 0


async def test_a_closed_object_that_is_gone_is_made_again_from_the_ledger(office: Office) -> None:
    await office.closed()
    office.ledger.mark("sign-off", "Lee", "", office.now)
    office.ledger.mark("acknowledge", "Kim", "NIPA-118", office.now)
    before = await office.round()
    await office.delete_object()
    await office.start()
    office.now += DAY
    await office.round()
    after = await office.seen()
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    for status in (before["status"], after["status"]):
        for one in status["conditions"]:
            if one["type"] in ("Overdue", "FilesValid"):  # since when they are so is not in the ledger
                del one["lastTransitionTime"]
    assert after["status"] == before["status"]
    assert after["spec"]["acknowledgedBy"] == "Kim"


async def test_a_lost_folder_is_written_again_with_the_same_bytes(office: Office) -> None:
    seen = await office.closed()
    before = content(office.place)
    shutil.rmtree(office.place)
    assert version(await office.round()) == version(seen)
    assert content(office.place) == before


async def test_a_changed_folder_is_told_and_left_alone_until_it_is_moved_away(office: Office) -> None:
    await office.closed()
    before = content(office.place)
    usage = office.place / "usage.csv"
    usage.write_bytes(before["usage.csv"] + b"one more\r\n")
    seen = await office.round()
    assert condition(seen, "FilesValid")["reason"] == "FolderDiffers"
    assert "usage.csv was changed" in condition(seen, "FilesValid")["message"]
    assert usage.read_bytes().endswith(b"one more\r\n")
    office.place.rename(office.folder / "aside")
    assert condition(await office.round(), "FilesValid")["status"] == "True"
    assert content(office.place) == before


async def test_a_ledger_that_forgot_a_closed_month_closes_it_to_nothing_else(office: Office) -> None:
    office.now = office.ledger.month.end + 2 * DAY
    await office.round()
    backup = office.folder / "backup.db"
    office.ledger.back_up(backup)
    seen = await office.closed()
    before = content(office.place)
    office.ledger.restore(backup)
    office.ledger.set_rules(
        "programmes: {purchase-2025: {owner: somebody else}}", office.ledger.month.end - 10
    )
    await office.start()
    again = await office.round()
    assert office.ledger.closed() is None
    assert condition(again, "FilesValid")["reason"] == "NotInLedger"
    assert again["status"]["digests"] == seen["status"]["digests"]
    office.ledger.restore(backup)
    await office.start()
    office.now += DAY
    await office.round()
    assert condition(await office.round(), "FilesValid")["status"] == "True"
    assert content(office.place) == before
    closing = office.ledger.closed()
    assert closing is not None and closing.closed_at < office.now


async def test_where_the_lease_is_in_doubt_nothing_is_written(office: Office) -> None:
    first = await office.round()
    assert office.reporting is not None
    office.reporting.pause()
    office.now += 7200
    assert version(await office.round()) == version(first)
    office.reporting.resume()
    assert version(await office.round()) != version(first)
