"""Prometheus in a pod: Debian's, which knows no Kubernetes and finds the operator's replicas by a Service's name."""

import json
import tempfile
import urllib.parse
from pathlib import Path

from cluster_kit.pods import is_ready
from devcluster.client import JsonObject, KubeClient
from kind.archives import Image, write_archive
from kind.cluster import KindCluster
from kind.rootfs import RootFileSystem, find_or_make
from kind_kit.postgres import control_plane_of

NAMESPACE = "monitoring"
_SELECTOR = {"app.kubernetes.io/name": "gpugrant", "app.kubernetes.io/component": "operator"}
PORT = 9090
_ROOT = RootFileSystem("prometheus", ("prometheus",))
_CONFIG = """
global: {scrape_interval: 2s, scrape_timeout: 2s}
scrape_configs:
- job_name: gpugrant
  dns_sd_configs: [{names: [replicas.gpugrant-system.svc.cluster.local], type: A, port: 8080, refresh_interval: 2s}]
- job_name: service
  static_configs: [{targets: [gpugrant.gpugrant-system.svc.cluster.local:8080]}]
"""


class Prometheus:
    """The server; asked by way of the API server."""

    def __init__(self, cluster: KindCluster) -> None:
        self._cluster = cluster
        self._node = control_plane_of(cluster)

    async def start(self, admin: KubeClient) -> None:
        """Start it and wait until it answers."""
        image = f"localhost/gpugrant/prometheus:{_ROOT.digest()}"
        with tempfile.TemporaryDirectory(prefix="gpugrant-prometheus-") as folder:
            archive = Path(folder) / "image.tar"
            write_archive(archive, [Image(image, [find_or_make(_ROOT)], {"Env": ["PATH=/usr/bin:/bin"]})])
            self._cluster.load_archive(archive, nodes=[self._node])
        for manifest in _manifests(image, self._node):
            await admin.apply(manifest)
        await admin.wait_for(f"/api/v1/namespaces/{NAMESPACE}/pods/prometheus", is_ready, 120)

    def ask(self, query: str) -> float | None:
        """Return the one value of a query; None where there is none."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/prometheus:{PORT}/proxy/api/v1/query"
        answer = self._cluster.kubectl("get", "--raw", f"{path}?{urllib.parse.urlencode({'query': query})}")
        found = json.loads(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else None


def _manifests(image: str, node: str) -> list[JsonObject]:
    container = {
        "name": "prometheus", "image": image, "imagePullPolicy": "Never",
        "command": ["prometheus", "--config.file=/etc/test/prometheus.yml", "--storage.tsdb.path=/data"],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/etc/test"}],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "prometheus", "namespace": NAMESPACE}},
        # As the chart's Service, but each replica by itself: only the one that leads knows the ledger.
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "replicas", "namespace": "gpugrant-system"},
         "spec": {"clusterIP": "None", "selector": _SELECTOR, "ports": [{"port": 8080}]}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus", "namespace": NAMESPACE},
         "data": {"prometheus.yml": _CONFIG}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "prometheus", "namespace": NAMESPACE},
         "spec": {"containers": [container], "nodeName": node, "serviceAccountName": "prometheus",
                  "tolerations": [{"operator": "Exists"}],
                  "volumes": [{"name": "data", "emptyDir": {}},
                              {"name": "config", "configMap": {"name": "prometheus"}}]}},
    ]
