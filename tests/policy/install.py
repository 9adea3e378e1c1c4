"""Installing and removing the shipped manifests, and knowing when a policy acts."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gpugrant import names

from .api import APPLY, Api, eventually
from .attempts import OWN, PLAIN, TEAM
from .pods import a_gpu_pod, a_pod, gates_of, labels_of

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "charts" / "gpugrant" / "manifests"
CRDS = ROOT / "crds"

_PLURALS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "LimitRange": "/api/v1/namespaces/{namespace}/limitranges",
}
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def documents(folder: Path) -> Iterator[Json]:
    """Yield the folder's documents in install order, which is the files' order."""
    for path in sorted(folder.glob("*.yaml")):
        yield from (document for document in yaml.safe_load_all(path.read_text()) if document)


def path_of(document: Json) -> str:
    kind, metadata = document["kind"], document["metadata"]
    if kind in _PLURALS:
        collection = _PLURALS[kind].format(namespace=metadata.get("namespace", ""))
    else:
        plural = kind.lower()[:-1] + "ies" if kind.endswith("Policy") else kind.lower() + "s"
        collection = f"{_ADMISSION}/{plural}"
    return f"{collection}/{metadata['name']}"


def apply_all(api: Api, wanted: Iterable[Json]) -> None:
    for document in wanted:
        api.must("PATCH", path_of(document) + "?fieldManager=tests&force=true", document, APPLY)


def delete(api: Api, document: Json) -> None:
    answer = api.send("DELETE", path_of(document))
    assert answer.accepted or answer.code == 404, answer.message


def of_policy(name: str) -> list[Json]:
    """Return the policy and its binding."""
    return [d for d in documents(MANIFESTS) if d["metadata"]["name"] == name and "Admission" in d["kind"]]


# -- does it act? ----------------------------------------------------------------------------------
def _gate_acts(api: Api) -> bool:
    answer = api.create_pod(a_gpu_pod(), TEAM, dry_run=True)
    return answer.accepted and names.GATE in gates_of(answer.body)


def _fence_acts(api: Api) -> bool:
    answer = api.create_pod(a_gpu_pod(), OWN, dry_run=True)
    return answer.accepted and names.OWN_USE_LABEL in answer.body["spec"].get("nodeSelector", {})


def _exempt_acts(api: Api) -> bool:
    answer = api.create_pod(a_gpu_pod(), "kube-system", dry_run=True)
    return answer.accepted and names.GPU_LABEL in labels_of(answer.body)


def _guard_acts(api: Api) -> bool:
    return names.POLICY_GUARD in api.create_pod(a_gpu_pod(), PLAIN, dry_run=True).message


def _tenant_pods_acts(api: Api) -> bool:
    named = a_pod(nodeName="somewhere")
    return names.POLICY_TENANT_PODS in api.create_pod(named, TEAM, dry_run=True).message


ACTS = {
    names.POLICY_GATE: _gate_acts,
    names.POLICY_FENCE: _fence_acts,
    names.POLICY_EXEMPT: _exempt_acts,
    names.POLICY_GUARD: _guard_acts,
    names.POLICY_TENANT_PODS: _tenant_pods_acts,
}


def wait_until_policies_act(api: Api) -> None:
    for name, acts in ACTS.items():
        eventually(partial(acts, api), f"policy {name} acts")


def wait_until_policy_is_gone(api: Api, name: str) -> None:
    eventually(lambda: not ACTS[name](api), f"policy {name} no longer acts")
