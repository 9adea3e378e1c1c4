"""A control plane with the shipped manifests installed, and the people and places of the tables."""

from collections.abc import Iterator
from typing import Any

import pytest

from devcluster.controlplane import ControlPlane
from gpugrant import names

from .api import Api, wait_for_default_account
from .attempts import ADMIN, ANY_PLACES, BOTH, EDITOR, LAX, OWN, PLAIN, RIVAL, STRANGER, TEAM
from .install import MANIFESTS, apply_all, documents, wait_until_policies_act

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


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start a control plane of this folder's own: its tests take policies away and restart the API server."""
    plane = ControlPlane(tmp_path_factory.mktemp("policy"))
    plane.start(guarded=True)
    try:
        yield plane
    finally:
        plane.stop(at_once=True)


@pytest.fixture(scope="package")
def bare_api(plane: ControlPlane) -> Iterator[Api]:
    """Return the platform engineer's client; nothing is installed by it."""
    api = Api.from_kubeconfig(plane.kubeconfig)
    yield api
    api.client.close()


@pytest.fixture(scope="package")
def api(bare_api: Api) -> Api:
    """Install the manifests in order, the namespaces, the people; wait until the policies act."""
    apply_all(bare_api, documents(MANIFESTS))
    for name, labels in PLACES.items():
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        apply_all(bare_api, [namespace])
    for document in people():
        apply_all(bare_api, [document])
    for name in ANY_PLACES:
        wait_for_default_account(bare_api, name)
    wait_until_policies_act(bare_api)
    return bare_api


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
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "test-kubelets"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:nodes"}],
    }
