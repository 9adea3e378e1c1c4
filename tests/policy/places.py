"""The tables' namespaces and people, for any cluster that the policies are installed in."""

from collections.abc import Iterator
from typing import Any

from gpugrant import names

from .api import Api, wait_for_default_account
from .attempts import ADMIN, ANY_PLACES, BOTH, EDITOR, LAX, OWN, PLAIN, RIVAL, STRANGER, TEAM
from .install import apply_all

POD_SUBRESOURCES = [f"pods/{name}" for name in ("binding", "status", "resize", "ephemeralcontainers")]
BASELINE = {names.POD_SECURITY_LABEL: "baseline"}
PLACES: dict[str, dict[str, str]] = {
    TEAM: {names.TENANT_LABEL: "hangang", **BASELINE},
    RIVAL: {names.TENANT_LABEL: "seorak", **BASELINE},
    LAX: {names.TENANT_LABEL: "hangang"},
    OWN: {names.PROVIDER_LABEL: "kakao"},
    BOTH: {names.TENANT_LABEL: "hangang", names.PROVIDER_LABEL: "kakao", **BASELINE},
    PLAIN: {},
}


def furnish(api: Api) -> None:
    """Make the namespaces and the people; wait until pods can be made there."""
    for name, labels in PLACES.items():
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        apply_all(api, [namespace])
    apply_all(api, people())
    for name in ANY_PLACES:
        wait_for_default_account(api, name)


def people() -> Iterator[dict[str, Any]]:
    """Yield the tables' people, as roles and bindings, and the priority classes they name."""
    everything_on_pods = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "test-every-pod-subresource"},
        "rules": [
            {"apiGroups": [""], "resources": [*POD_SUBRESOURCES, "bindings"], "verbs": ["*"]},
        ],
    }
    yield everything_on_pods
    for namespace in PLACES:
        for user, role in (
            (EDITOR, "edit"),
            (STRANGER, "edit"),
            (ADMIN, "admin"),
            (ADMIN, "test-every-pod-subresource"),
        ):
            yield {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": f"{role}-{user.name.replace(':', '-')}", "namespace": namespace},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user.name}],
            }
    for name, value, preemption in (
        ("test-preempts", 1000, "PreemptLowerPriority"),
        ("test-polite", 1000, "Never"),
        ("test-below-zero", -1, "Never"),
    ):
        yield {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "preemptionPolicy": preemption,
        }


def kubelets() -> dict[str, Any]:
    """Return what lets kubelets in where the Node authorizer does not run."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "test-kubelets"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:nodes"}],
    }
