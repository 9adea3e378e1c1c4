"""A closed month never changes: the object may be acknowledged, once, and nothing else (R12)."""

import copy
from collections.abc import Callable

import pytest
import yaml

from gpugrant import names

from .api import MERGE, OPERATOR, Api, Json, User, eventually, fresh_name
from .install import CRDS, apply_all

REPORTS = f"/apis/{names.API_VERSION}/usagereports"
OFFICER = User("olga")
REFUSAL = "the month is closed"


def condition(kind: str, status: str = "True") -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": kind,
        "message": "",
        "lastTransitionTime": "2026-12-05T00:00:00Z",
        "observedGeneration": 1,
    }


CLOSED = {
    "conditions": [condition("Closed")],
    "totals": [{"share": "Public", "gpuType": "NVIDIA-B200", "condition": "Used", "gpuSeconds": 1200}],
    "digests": [{"name": "report.json", "sha256": "a" * 64}],
    "summary": {"state": "Closed", "heldHours": "0.33", "failedHours": "0", "why": ""},
}


@pytest.fixture(scope="module")
def reports(api: Api) -> Api:
    """Install the kind, let an officer write it, and wait until it is served and guarded."""
    crd = yaml.safe_load((CRDS / "usagereports.yaml").read_text())
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "test-officer"},
        "rules": [
            {"apiGroups": [names.GROUP], "resources": ["usagereports", "usagereports/status"], "verbs": ["*"]}
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "test-officer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test-officer"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": OFFICER.name}],
    }
    apply_all(api, [crd, role, binding])
    eventually(lambda: api.send("GET", REPORTS).accepted, "usagereports are served")

    def guarded() -> bool:
        return REFUSAL in api.send("PATCH", path, {"metadata": {"labels": {"probe": "x"}}}, MERGE).message

    path = f"{REPORTS}/{_make(api, CLOSED)}"
    eventually(guarded, "usagereports are guarded")
    return api


def _make(api: Api, status: Json | None) -> str:
    """Make a report as the operator does; return its name."""
    provider = fresh_name("provider")
    name = f"purchase-2025-{provider}-2026-11"
    spec = {"programme": "purchase-2025", "provider": provider, "month": "2026-11"}
    operator = api.as_user(OPERATOR)
    report = {
        "apiVersion": names.API_VERSION,
        "kind": "UsageReport",
        "metadata": {"name": name},
        "spec": spec,
    }
    operator.must("POST", REPORTS, report)
    if status is not None:
        operator.must("PATCH", f"{REPORTS}/{name}/status", {"status": status}, MERGE)
    return name


@pytest.fixture
def closed(reports: Api) -> str:
    return f"{REPORTS}/{_make(reports, CLOSED)}"


def status_with(edit: Callable[[Json], object]) -> Json:
    status = copy.deepcopy(CLOSED)
    edit(status)
    return {"status": status}


ACKNOWLEDGED = status_with(lambda s: s["conditions"].append(condition("Acknowledged")))
STATUS_CHANGES = {
    "a total is made smaller": status_with(lambda s: s["totals"][0].update(gpuSeconds=1)),
    "a total goes": status_with(lambda s: s.update(totals=[])),
    "a digest is changed": status_with(lambda s: s["digests"][0].update(sha256="b" * 64)),
    "the month is opened again": status_with(lambda s: s["conditions"][0].update(status="False")),
    "the closing goes": status_with(lambda s: s.update(conditions=[])),
    "a total is changed while acknowledging": status_with(
        lambda s: (s["conditions"].append(condition("Acknowledged")), s["totals"][0].update(gpuSeconds=1))
    ),
    "the hours are changed while acknowledging": status_with(
        lambda s: (s["conditions"].append(condition("Acknowledged")), s["summary"].update(heldHours="9"))
    ),
    "the whole status goes": {"status": None},
}


@pytest.mark.parametrize(
    "who", [pytest.param(OPERATOR, id="operator"), pytest.param(None, id="platform engineer")]
)
@pytest.mark.parametrize("change", [pytest.param(body, id=what) for what, body in STATUS_CHANGES.items()])
def test_a_closed_reports_figures_do_not_change(
    reports: Api, closed: str, change: Json, who: User | None
) -> None:
    answer = reports.as_user(who).send("PATCH", f"{closed}/status", change, MERGE)
    assert answer.code == 403
    assert names.POLICY_REPORTS in answer.message
    assert REFUSAL in answer.message


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": {"labels": {"a": "b"}}}, id="a label"),
        pytest.param({"metadata": {"annotations": {"a": "b"}}}, id="an annotation"),
        pytest.param({"metadata": {"finalizers": ["a.b/c"]}}, id="a finalizer"),
        pytest.param(
            {"spec": {"acknowledgedBy": "Olga"}, "metadata": {"labels": {"a": "b"}}},
            id="a label while acknowledging",
        ),
    ],
)
def test_a_closed_reports_spec_and_metadata_do_not_change(reports: Api, closed: str, change: Json) -> None:
    answer = reports.send("PATCH", closed, change, MERGE)
    assert answer.code == 403
    assert REFUSAL in answer.message


@pytest.mark.parametrize(
    "who", [pytest.param(None, id="platform engineer"), pytest.param(OFFICER, id="officer")]
)
def test_a_closed_report_is_not_deleted(reports: Api, closed: str, who: User | None) -> None:
    assert REFUSAL in reports.as_user(who).send("DELETE", closed).message
    assert REFUSAL in reports.as_user(who).send("DELETE", REPORTS).message
    assert reports.send("GET", closed).accepted


def test_a_person_acknowledges_then_the_operator_and_then_nobody(reports: Api, closed: str) -> None:
    officer, operator = reports.as_user(OFFICER), reports.as_user(OPERATOR)
    officer.must("PATCH", closed, {"spec": {"acknowledgedBy": "Olga Kim, NIPA"}}, MERGE)
    assert REFUSAL in officer.send("PATCH", closed, {"spec": {"acknowledgedBy": "Somebody"}}, MERGE).message
    assert REFUSAL in officer.send("PATCH", f"{closed}/status", ACKNOWLEDGED, MERGE).message
    operator.must("PATCH", f"{closed}/status", ACKNOWLEDGED, MERGE)
    assert REFUSAL in operator.send("PATCH", f"{closed}/status", {"status": CLOSED}, MERGE).message
    in_other_words = status_with(
        lambda s: s["conditions"].append(condition("Acknowledged") | {"message": "by somebody else"})
    )
    assert REFUSAL in operator.send("PATCH", f"{closed}/status", in_other_words, MERGE).message


@pytest.mark.parametrize("acknowledged", [False, True], ids=["closed", "acknowledged"])
def test_the_operator_says_what_became_of_a_closed_month_and_nobody_else_does(
    reports: Api, closed: str, acknowledged: bool
) -> None:
    operator = reports.as_user(OPERATOR)
    if acknowledged:
        operator.must("PATCH", f"{closed}/status", ACKNOWLEDGED, MERGE)

    def tell(status: Json) -> None:
        if acknowledged:
            status["conditions"].append(condition("Acknowledged"))
        status["conditions"] += [condition("Overdue"), condition("FilesValid", "False")]
        status["summary"].update(why="the folder is not what was closed")

    told = status_with(tell)
    assert REFUSAL in reports.send("PATCH", f"{closed}/status", told, MERGE).message
    operator.must("PATCH", f"{closed}/status", told, MERGE)
    told["status"]["conditions"].append(condition("Open"))
    assert REFUSAL in operator.send("PATCH", f"{closed}/status", told, MERGE).message


def test_the_operator_says_why_a_closed_month_is_not_acknowledged(reports: Api, closed: str) -> None:
    told = status_with(lambda s: s["conditions"].append(condition("Acknowledged", "False")))
    reports.as_user(OPERATOR).must("PATCH", f"{closed}/status", told, MERGE)
    reports.as_user(OPERATOR).must("PATCH", f"{closed}/status", ACKNOWLEDGED, MERGE)


def test_an_open_report_is_the_operators_to_write_and_anybodys_with_the_right_to_delete(reports: Api) -> None:
    open_status = status_with(lambda s: s["conditions"][0].update(status="False"))["status"]
    path = f"{REPORTS}/{_make(reports, open_status)}"
    change: Json = {"status": {"totals": []}}
    reports.as_user(OPERATOR).must("PATCH", f"{path}/status", change, MERGE)
    reports.must("DELETE", path)
