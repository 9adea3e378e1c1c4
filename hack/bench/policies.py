"""What the admission policies add to creating a pod, in milliseconds, as JSON.

One client, one connection, real creates of small pods on an idle API server. Each kind of pod goes in turn
into a namespace that the policies see and into one like it that they do not (their bindings get one more
namespace selector for that), so that whatever else the machine does meets both. Scheduler, controllers and
kwok are stopped meanwhile.

    PYTHONPATH=operator:hack python hack/bench/policies.py [--pods 1000]
"""

import argparse
import copy
import http.client
import json
import ssl
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from devcluster.client import load_manifests, path_of
from devcluster.controlplane import ControlPlane

Json = dict[str, Any]
MANIFESTS = Path(__file__).resolve().parents[2] / "charts" / "gpugrant" / "manifests"
UNSEEN = "bench.gpugrant.io/unseen"  # a namespace with this label is none of the policies' business
BASELINE = {"pod-security.kubernetes.io/enforce": "baseline"}
PLACES: dict[str, dict[str, str]] = {
    "tenant": {"gpugrant.io/tenant": "bench", **BASELINE},
    "provider": {"gpugrant.io/provider": "bench"},
    "nobody": {},
}
CASES = {
    "a CPU pod in nobody's namespace": ("nobody", False),
    "a CPU pod in a tenant's namespace": ("tenant", False),
    "a GPU pod in a tenant's namespace": ("tenant", True),
    "a GPU pod in a provider's namespace": ("provider", True),
}
WARM_UP = 50


class Connection:
    """One kept-alive connection as the platform engineer; http.client, since its own cost is the smallest."""

    def __init__(self, plane: ControlPlane) -> None:
        address = urlsplit(plane.server)
        assert address.hostname
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        self._http = http.client.HTTPSConnection(address.hostname, address.port, context=context, timeout=30)
        self._headers = {"Authorization": f"Bearer {plane.admin_token}"}

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json"
    ) -> tuple[int, Json]:
        """Send one request; return the status and what came with it."""
        headers = {**self._headers, "Content-Type": kind}
        self._http.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self._http.getresponse()
        return answer.status, json.loads(answer.read())

    def must(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Json:
        """Send one request that has to succeed."""
        status, answer = self.send(method, path, body, kind)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer.get('message')}")
        return answer


def a_pod(*, with_gpus: bool) -> Json:
    """Return a pod as a training Job's would be, of about 2 KB."""
    container = {
        "name": "train",
        "image": "registry.example/train:1",
        "env": [{"name": f"SETTING_{i}", "value": "x" * 20} for i in range(10)],
        "resources": {
            "limits": {"cpu": "8", "memory": "64Gi"} | ({"nvidia.com/gpu": "8"} if with_gpus else {})
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "bench-", "labels": {"app": "bench"}},
        "spec": {"containers": [container], "restartPolicy": "Never"},
    }


def prepare(connection: Connection) -> None:
    """Make each place twice, seen and unseen, and install the policies for the seen ones."""
    for place, labels in PLACES.items():
        for name, more in ((f"{place}-seen", {}), (f"{place}-unseen", {UNSEEN: "true"})):
            namespace = {"metadata": {"name": name, "labels": {**labels, **more}}}
            connection.must("POST", "/api/v1/namespaces", namespace)
            while connection.send("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")[0] != 200:
                time.sleep(0.1)
    for document in load_manifests(*sorted(MANIFESTS.glob("*.yaml"))):
        if "AdmissionPolicy" in document["kind"]:
            path = path_of(document["apiVersion"], document["kind"], None, document["metadata"]["name"])
            connection.must(
                "PATCH",
                f"{path}?fieldManager=bench&force=true",
                _for_seen(document),
                "application/apply-patch+yaml",
            )
    while not _all_act(connection):
        time.sleep(0.1)


def _for_seen(document: Json) -> Json:
    if not document["kind"].endswith("Binding"):
        return document
    narrowed = copy.deepcopy(document)
    selector = narrowed["spec"].setdefault("matchResources", {}).setdefault("namespaceSelector", {})
    selector.setdefault("matchExpressions", []).append({"key": UNSEEN, "operator": "DoesNotExist"})
    return narrowed


def _all_act(connection: Connection) -> bool:
    gpu_pod, forged = a_pod(with_gpus=True), a_pod(with_gpus=False)
    forged["spec"]["nodeName"] = "elsewhere"

    def answer(place: str, pod: Json) -> tuple[int, Json]:
        return connection.send("POST", f"/api/v1/namespaces/{place}-seen/pods?dryRun=All", pod)

    return (
        "schedulingGates" in answer("tenant", gpu_pod)[1].get("spec", {})
        and "nodeSelector" in answer("provider", gpu_pod)[1].get("spec", {})
        and answer("nobody", gpu_pod)[0] == 403
        and answer("tenant", forged)[0] == 403
    )


def measure(connection: Connection, place: str, *, with_gpus: bool, pods: int) -> Json:
    """Return the medians of creates that go in turn into the seen and the unseen place."""
    pod = a_pod(with_gpus=with_gpus)
    taken: dict[str, list[float]] = {"seen": [], "unseen": []}
    for number in range(WARM_UP + pods):
        for sight, times in taken.items():
            start = time.perf_counter()
            connection.must("POST", f"/api/v1/namespaces/{place}-{sight}/pods", pod)
            if number >= WARM_UP:
                times.append((time.perf_counter() - start) * 1000)
    for sight in taken:
        connection.must("DELETE", f"/api/v1/namespaces/{place}-{sight}/pods", {"gracePeriodSeconds": 0})
    without, policed = statistics.median(taken["unseen"]), statistics.median(taken["seen"])
    # On a machine that others use too, the fastest tenth is what nobody has disturbed.
    fast = {sight: statistics.quantiles(times, n=10)[0] for sight, times in taken.items()}
    return {
        "without_ms": round(without, 3),
        "with_ms": round(policed, 3),
        "added_ms": round(policed - without, 3),
        "added_p10_ms": round(fast["seen"] - fast["unseen"], 3),
    }


def run(pods: int) -> Json:
    """Start a control plane, measure every case, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        plane = ControlPlane(Path(folder) / "plane")
        plane.start(guarded=True)
        try:
            connection = Connection(plane)
            prepare(connection)
            for component in ("kwok", "kube-scheduler", "kube-controller-manager"):
                plane.stop_component(component)
            return {
                case: measure(connection, place, with_gpus=with_gpus, pods=pods)
                for case, (place, with_gpus) in CASES.items()
            }
        finally:
            plane.stop(at_once=True)


def main() -> None:
    """Print the medians as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pods", type=int, default=1000, help="creates a case and side")
    print(json.dumps({"aim_added_ms": 1.0, "create_p50": run(parser.parse_args().pods)}, indent=2))


if __name__ == "__main__":
    main()
