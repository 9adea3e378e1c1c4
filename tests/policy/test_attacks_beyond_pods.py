"""The way in is closed: everything round the pod - grants, labels, policies, the operator's own things."""

from dataclasses import dataclass
from typing import Any

import pytest

from gpugrant import names

from .api import MERGE, OPERATOR, Api, User
from .attempts import ADMIN, EDITOR, IMPOSTOR, PLAIN, STRANGER, TEAM

GROUP = f"/apis/{names.API_VERSION}"
POLICIES = "/apis/admissionregistration.k8s.io/v1"
SYSTEM = f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{names.SYSTEM_NAMESPACE}/leases"
OPERATORS_TOKEN = f"{SYSTEM}/serviceaccounts/{names.SERVICE_ACCOUNT}/token"


@dataclass(frozen=True)
class Errand:
    """A request that core's RBAC answers with no."""

    id: str
    who: User
    method: str
    path: str
    body: Any = None


def label(key: str, value: str | None) -> dict[str, Any]:
    return {"metadata": {"labels": {key: value}}}


ERRANDS = [
    Errand("a tenant user awards itself a grant", EDITOR, "POST", f"{GROUP}/namespaces/{TEAM}/gpugrants", {}),
    Errand(
        "a namespace admin awards itself a grant", ADMIN, "POST", f"{GROUP}/namespaces/{TEAM}/gpugrants", {}
    ),
    Errand(
        "a grant is made larger",
        ADMIN,
        "PATCH",
        f"{GROUP}/namespaces/{TEAM}/gpugrants/x",
        {"spec": {"gpus": 9}},
    ),
    Errand("a grant's status is forged", ADMIN, "PATCH", f"{GROUP}/namespaces/{TEAM}/gpugrants/x/status", {}),
    Errand("a grant is deleted", ADMIN, "DELETE", f"{GROUP}/namespaces/{TEAM}/gpugrants/x"),
    Errand("a quota is raised", ADMIN, "PATCH", f"{GROUP}/tenantquotas/hangang", {"spec": {}}),
    Errand("a quota is made", EDITOR, "POST", f"{GROUP}/tenantquotas", {}),
    Errand("a pool is made", EDITOR, "POST", f"{GROUP}/gpupools", {}),
    Errand("a pool's promise is lowered", ADMIN, "PATCH", f"{GROUP}/gpupools/nhn-b200", {"spec": {}}),
    Errand("a report is written", ADMIN, "PATCH", f"{GROUP}/usagereports/x/status", {}),
    Errand("another tenant's grants are read", User("nosy"), "GET", f"{GROUP}/namespaces/{TEAM}/gpugrants"),
    Errand(
        "a tenant leaves the gate by its namespace's label",
        ADMIN,
        "PATCH",
        f"/api/v1/namespaces/{TEAM}",
        label(names.TENANT_LABEL, None),
    ),
    Errand(
        "a tenant becomes a provider",
        ADMIN,
        "PATCH",
        f"/api/v1/namespaces/{TEAM}",
        label(names.PROVIDER_LABEL, "kakao"),
    ),
    Errand(
        "a tenant lowers its Pod Security",
        ADMIN,
        "PATCH",
        f"/api/v1/namespaces/{TEAM}",
        label(names.POD_SECURITY_LABEL, "privileged"),
    ),
    Errand(
        "somebody makes a namespace that is a tenant's",
        ADMIN,
        "POST",
        "/api/v1/namespaces",
        {"metadata": {"name": "mine", "labels": {names.TENANT_LABEL: "hangang"}}},
    ),
    Errand(
        "a server is relabelled", ADMIN, "PATCH", "/api/v1/nodes/gpu-0", label(names.SHARE_LABEL, "OwnUse")
    ),
    Errand(
        "a server's taint is removed", STRANGER, "PATCH", "/api/v1/nodes/gpu-0", {"spec": {"taints": None}}
    ),
    Errand(
        "the gate is deleted", ADMIN, "DELETE", f"{POLICIES}/mutatingadmissionpolicies/{names.POLICY_GATE}"
    ),
    Errand(
        "the guard's binding is turned to warnings",
        ADMIN,
        "PATCH",
        f"{POLICIES}/validatingadmissionpolicybindings/{names.POLICY_GUARD}",
        {"spec": {"validationActions": ["Warn"]}},
    ),
    Errand("a PriorityClass is made", ADMIN, "POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {}),
    Errand("a pod beside the operator", EDITOR, "POST", f"{SYSTEM}/pods", {}),
    Errand("the operator's token is asked for", ADMIN, "POST", OPERATORS_TOKEN, {}),
    Errand("the operator's token is asked for by a neighbour", IMPOSTOR, "POST", OPERATORS_TOKEN, {}),
    Errand("the settings are edited", ADMIN, "PATCH", f"{SYSTEM}/configmaps/{names.SETTINGS_CONFIGMAP}", {}),
    Errand("the lease is stolen", STRANGER, "PATCH", f"{LEASES}/{names.LEASE}", {}),
    Errand(
        "a role that binds pods is handed out",
        ADMIN,
        "POST",
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{TEAM}/roles",
        {
            "metadata": {"name": "writes-grants"},
            "rules": [{"apiGroups": [names.GROUP], "resources": ["gpugrants"], "verbs": ["create"]}],
        },
    ),
    Errand("another namespace's pods", User("mallory"), "POST", f"/api/v1/namespaces/{PLAIN}/pods", {}),
]


@pytest.mark.parametrize("errand", [pytest.param(errand, id=errand.id) for errand in ERRANDS])
def test_what_only_platform_engineers_write_is_out_of_reach(api: Api, errand: Errand) -> None:
    content_type = MERGE if errand.method == "PATCH" else "application/json"
    answer = api.as_user(errand.who).send(errand.method, errand.path, errand.body, content_type)
    assert answer.code == 403, f"{answer.code} {answer.message}"
    assert (
        f'User "{errand.who.name}" cannot' in answer.message or "attempting to grant RBAC" in answer.message
    )


def test_a_tenant_user_cannot_speak_as_the_operator(api: Api) -> None:
    """edit may impersonate service accounts, of its own namespace only."""
    url = f"/apis/authorization.k8s.io/v1/namespaces/{names.SYSTEM_NAMESPACE}/localsubjectaccessreviews"
    for who in (EDITOR, ADMIN, STRANGER):
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "LocalSubjectAccessReview",
            "metadata": {"namespace": names.SYSTEM_NAMESPACE},
            "spec": {
                "user": who.name,
                "groups": list(who.groups),
                "resourceAttributes": {
                    "namespace": names.SYSTEM_NAMESPACE,
                    "verb": "impersonate",
                    "resource": "serviceaccounts",
                    "name": names.SERVICE_ACCOUNT,
                },
            },
        }
        assert api.must("POST", url, review)["status"]["allowed"] is False, who


# -- what the operator itself may not do -----------------------------------------------------------
BEYOND_THE_OPERATOR = [
    ("make pods", "create", "", "pods", TEAM, ""),
    ("bind pods", "create", "", "pods/binding", TEAM, ""),
    ("read secrets", "get", "", "secrets", TEAM, ""),
    ("read secrets of its own namespace", "get", "", "secrets", names.SYSTEM_NAMESPACE, ""),
    ("delete nodes", "delete", "", "nodes", "", "gpu-0"),
    ("write node status", "patch", "", "nodes/status", "", "gpu-0"),
    ("label namespaces", "patch", "", "namespaces", "", TEAM),
    ("award grants", "create", names.GROUP, "gpugrants", TEAM, ""),
    ("edit grants", "patch", names.GROUP, "gpugrants", TEAM, "pretrain"),
    ("edit quotas", "patch", names.GROUP, "tenantquotas", "", "hangang"),
    ("edit pools", "patch", names.GROUP, "gpupools", "", "nhn-b200"),
    ("delete reports", "delete", names.GROUP, "usagereports", "", "x"),
    ("edit its settings", "patch", "", "configmaps", names.SYSTEM_NAMESPACE, names.SETTINGS_CONFIGMAP),
    ("read other config", "get", "", "configmaps", names.SYSTEM_NAMESPACE, "other"),
    ("take other leases", "update", "coordination.k8s.io", "leases", names.SYSTEM_NAMESPACE, "other"),
    ("take leases elsewhere", "create", "coordination.k8s.io", "leases", "kube-system", ""),
    (
        "edit others' policies",
        "patch",
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        "",
        "other",
    ),
    (
        "edit the policy on reports",
        "patch",
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        "",
        names.POLICY_REPORTS,
    ),
    (
        "delete its policies",
        "delete",
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        "",
        names.POLICY_GATE,
    ),
    ("hand out roles", "create", "rbac.authorization.k8s.io", "clusterrolebindings", "", ""),
]
WITHIN_THE_OPERATOR = [
    ("watch pods everywhere", "watch", "", "pods", "", ""),
    ("release pods", "patch", "", "pods", TEAM, "x"),
    ("evict pods", "create", "", "pods/eviction", TEAM, "x"),
    ("delete pods", "delete", "", "pods", TEAM, "x"),
    ("label and taint servers", "patch", "", "nodes", "", "gpu-0"),
    ("watch namespaces", "watch", "", "namespaces", "", ""),
    ("watch its settings", "watch", "", "configmaps", names.SYSTEM_NAMESPACE, names.SETTINGS_CONFIGMAP),
    ("hold its lease", "update", "coordination.k8s.io", "leases", names.SYSTEM_NAMESPACE, names.LEASE),
    ("make its lease", "create", "coordination.k8s.io", "leases", names.SYSTEM_NAMESPACE, ""),
    ("say events", "create", "", "events", TEAM, ""),
    ("write grants' status", "patch", names.GROUP, "gpugrants/status", TEAM, "pretrain"),
    ("make reports", "create", names.GROUP, "usagereports", "", ""),
    (
        "edit the gate's lists",
        "patch",
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        "",
        names.POLICY_GATE,
    ),
    (
        "edit the guard's lists",
        "patch",
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        "",
        names.POLICY_GUARD,
    ),
]
Right = tuple[str, str, str, str, str, str]


def operator_may(api: Api, right: Right) -> bool:
    _, verb, group, resource, namespace, name = right
    resource, _, subresource = resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": OPERATOR.name,
            "groups": list(OPERATOR.groups),
            "resourceAttributes": {
                "verb": verb,
                "group": group,
                "resource": resource,
                "subresource": subresource,
                "namespace": namespace,
                "name": name,
            },
        },
    }
    answer = api.must("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize("right", [pytest.param(right, id=right[0]) for right in BEYOND_THE_OPERATOR])
def test_the_operator_may_not(api: Api, right: Right) -> None:
    assert not operator_may(api, right)


@pytest.mark.parametrize("right", [pytest.param(right, id=right[0]) for right in WITHIN_THE_OPERATOR])
def test_the_operator_may(api: Api, right: Right) -> None:
    assert operator_may(api, right)
