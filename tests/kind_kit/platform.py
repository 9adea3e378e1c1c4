"""The operator as a platform engineer installs it: two replicas on PostgreSQL, by the charts, with helm."""

import asyncio
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client.parser import text_string_to_metric_families

from cluster_kit.pods import is_ready
from devcluster.client import JsonObject, KubeClient
from devcluster.runfolder import ROOT
from gpugrant import names
from gpugrant.run.lease import LEASE_PATH
from kind.binaries import helm as find_helm
from kind.cluster import SHARED_FOLDER, KindCluster
from kind_kit.postgres import Postgres

CHARTS = ROOT / "charts"
RELEASE, CRDS = "gpugrant", "gpugrant-crds"
NAMESPACE = names.SYSTEM_NAMESPACE
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
# How long a release may take: images are there, pods start within seconds.
_TIMEOUT = "180s"
_LEADING_SECONDS = 60.0


class Platform:
    """A cluster with a database, and what helm does to it."""

    def __init__(self, cluster: KindCluster, postgres: Postgres, settings: JsonObject) -> None:
        self.cluster = cluster
        self.postgres = postgres
        self.settings = settings

    # -- helm ------------------------------------------------------------------------------------------

    def helm(self, *arguments: str) -> str:
        """Run helm; return what it prints. Raises AssertionError with its words where it fails."""
        done = subprocess.run([str(find_helm()), "--kubeconfig", str(self.cluster.kubeconfig), *arguments],
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def values(self, **more: Any) -> JsonObject:
        """Return the values of this installation."""
        return {
            "settings": self.settings,
            "ledger": {"store": "PostgreSQL", "postgresql": {"secretName": "ledger"}},
            "signingKey": {"secretName": "signing-key"},
            "persistence": {"existingClaim": "reports"},
            # Workers are GPU servers here, and tests switch off the one that the leader is on.
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "affinity": _on_workers(),
            **more,
        }

    def release(self, verb: str, *arguments: str, **more: Any) -> str:
        """Run `helm install` or `helm upgrade` of the operator's chart; wait until it is ready."""
        with tempfile.TemporaryDirectory(prefix="gpugrant-values-") as folder:
            values = Path(folder) / "values.yaml"
            values.write_text(yaml.safe_dump(self.values(**more)))
            return self.helm(verb, RELEASE, str(CHARTS / RELEASE), "--namespace", NAMESPACE, "--values", str(values),
                             "--wait", "--timeout", _TIMEOUT, *arguments)

    async def install(self, admin: KubeClient) -> None:
        """Install both charts, after what they ask for: the namespace, the Secrets, the volume."""
        await asyncio.to_thread(self.helm, "upgrade", "--install", CRDS, str(CHARTS / CRDS), "--wait")
        for manifest in self._before():
            await admin.apply(manifest)
        await asyncio.to_thread(self.release, "upgrade", "--install")
        await self.leader(admin)

    def _before(self) -> list[JsonObject]:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        volume: JsonObject = {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "",
            "hostPath": {"path": SHARED_FOLDER, "type": "Directory"},
            "claimRef": {"namespace": NAMESPACE, "name": "reports"},
        }
        claim = {"accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": "reports",
                 "resources": {"requests": {"storage": "1Gi"}}}
        return [
            {"apiVersion": "v1", "kind": "Namespace",
             "metadata": {"name": NAMESPACE, "labels": labels}},
            _secret("ledger", url=self.postgres.url),
            _secret("signing-key", **{"signing-key.pem": _new_key()}),
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "reports"}, "spec": volume},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
             "metadata": {"name": "reports", "namespace": NAMESPACE}, "spec": claim},
        ]

    # -- the operator ----------------------------------------------------------------------------------

    async def leader(self, admin: KubeClient, *, other_than: str = "") -> str:
        """Wait until one of the replicas leads, another one than ``other_than``; return its pod's name."""
        def leads(seen: JsonObject | None) -> bool:
            holder = _holder(seen)
            return bool(holder) and holder != other_than

        lease = await admin.wait_for(LEASE_PATH, leads, _LEADING_SECONDS)
        holder = _holder(lease)
        await admin.wait_for(f"{PODS}/{holder}", is_ready, _LEADING_SECONDS)
        return holder

    def page_of(self, pod: str, path: str = "/metrics") -> str:
        """Return a page of one replica."""
        return self.cluster.kubectl("get", "--raw", f"{PODS}/{pod}:8080/proxy{path}")

    def samples(self, pod: str, metric: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the samples of a metric of one replica whose labels include ``labels``."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.page_of(pod))
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        }


def _on_workers() -> JsonObject:
    off_control_planes = {"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"}
    apart = {"topologyKey": "kubernetes.io/hostname",
             "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "gpugrant"}}}
    return {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [off_control_planes]}]}},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": apart}]},
    }


def _holder(lease: JsonObject | None) -> str:
    """Return the pod that a lease names."""
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "").partition("_")[0]


def _new_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _secret(name: str, **content: str) -> JsonObject:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": content}
