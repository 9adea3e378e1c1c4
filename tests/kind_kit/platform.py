"""The operator as a platform engineer installs it: two replicas on PostgreSQL, by the charts, with helm."""

import asyncio
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Version:
    """What one version is installed from: two charts, and an image (name:tag) where not the one that they name."""

    chart: Path
    crds: Path
    image: str = ""

    def values(self) -> JsonObject:
        """Return the values that name the image."""
        repository, _, tag = self.image.rpartition(":")
        return {"image": {"repository": repository, "tag": tag}} if self.image else {}


TODAYS = Version(CHARTS / RELEASE, CHARTS / CRDS)


def released(folder: Path, image: str) -> Version:
    """Return a version that was released, as a folder of tests/released has it."""
    (chart,), (crds,) = folder.glob(f"{RELEASE}-[0-9]*.tgz"), folder.glob(f"{CRDS}-*.tgz")
    return Version(chart, crds, image)


class Platform:
    """A cluster with a database, and what helm does to it."""

    def __init__(
        self, cluster: KindCluster, postgres: Postgres, settings: JsonObject, version: Version = TODAYS
    ) -> None:
        self.cluster = cluster
        self.postgres = postgres
        self.settings = settings
        self.version = version

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
            **self.version.values(),
            **more,
        }

    def release(self, verb: str, *arguments: str, **more: Any) -> str:
        """Run `helm install` or `helm upgrade` of the operator's chart; wait until it is ready."""
        with tempfile.TemporaryDirectory(prefix="gpugrant-values-") as folder:
            values = Path(folder) / "values.yaml"
            values.write_text(yaml.safe_dump(self.values(**more)))
            return self.helm(verb, RELEASE, str(self.version.chart), "--namespace", NAMESPACE,
                             "--values", str(values), "--wait", "--timeout", _TIMEOUT, *arguments)

    async def install(self, admin: KubeClient) -> None:
        """Install both charts, after what they ask for: the namespace, the Secrets, the volume."""
        await asyncio.to_thread(self.helm, "upgrade", "--install", CRDS, str(self.version.crds), "--wait")
        for manifest in self._before():
            await admin.apply(manifest)
        await asyncio.to_thread(self.release, "upgrade", "--install")
        await self.leader(admin)

    async def upgrade(self, admin: KubeClient, version: Version) -> None:
        """Bring the kinds, then the operator, to another version; wait until a replica of that leads."""
        self.version = version
        await asyncio.to_thread(self.helm, "upgrade", CRDS, str(version.crds), "--wait")
        await self._hand_over(admin, self.release, "upgrade")

    async def roll_back(self, admin: KubeClient) -> None:
        """Roll the operator, not the kinds, back to the revision before; wait until a replica of that leads."""
        await self._hand_over(admin, self.helm, "rollback", RELEASE, "--namespace", NAMESPACE, "--wait",
                              "--timeout", _TIMEOUT)

    async def _hand_over(self, admin: KubeClient, change: Callable[..., str], *arguments: str) -> None:
        before = frozenset(pod["metadata"]["name"] for pod in await self.replicas(admin))
        await asyncio.to_thread(change, *arguments)
        await self.leader(admin, other_than=before)

    def uninstall(self) -> str:
        """Run `helm uninstall` of the operator's chart, if it is installed; return what it prints."""
        return self.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait",
                         "--timeout", _TIMEOUT)

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

    async def replicas(self, admin: KubeClient) -> list[JsonObject]:
        """Return the operator's pods, but for those that go, and that of the Job which uninstalls."""
        listed = await admin.list(PODS, labelSelector="app.kubernetes.io/component=operator")
        return [pod for pod in listed if not pod["metadata"].get("deletionTimestamp")]

    async def leader(self, admin: KubeClient, *, other_than: str | frozenset[str] = "") -> str:
        """Wait until one of the replicas leads, none of ``other_than``; return its pod's name."""
        others = frozenset((other_than,)) if isinstance(other_than, str) else other_than

        def leads(seen: JsonObject | None) -> bool:
            holder = _holder(seen)
            return bool(holder) and holder not in others

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


def ours(found: JsonObject) -> list[str]:
    """Return what of ours is on an object."""
    metadata, spec = found["metadata"], found.get("spec", {})
    marks = [*(metadata.get("labels") or {}), *(metadata.get("annotations") or {}), *(metadata.get("finalizers") or [])]
    marks += [taint["key"] for taint in spec.get("taints") or ()]
    return [mark for mark in marks if "gpugrant.io" in mark]


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
