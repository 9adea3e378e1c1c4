"""The real helm, against one control plane or none."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from devcluster.binaries import KUBERNETES
from kind.binaries import helm as find_helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "gpugrant"
CRDS_CHART = ROOT / "charts" / "gpugrant-crds"
_RELEASED = ROOT / "tests" / "released" / "0.1.0"
PREVIOUS, PREVIOUS_CRDS = _RELEASED / "gpugrant-0.2.0.tgz", _RELEASED / "gpugrant-crds-0.2.0.tgz"
PREVIOUS_WHEEL = _RELEASED / "gpugrant-0.1.0-py3-none-any.whl"
VALUES = ROOT / "tests" / "chart" / "values"
NAMESPACE = "gpugrant-system"

Json = dict[str, Any]


class HelmFailed(Exception):
    """Helm said no; the message is what it printed."""


class Helm:
    """helm with files of its own in ``folder``; with a kubeconfig it speaks to that cluster."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None) -> None:
        self._program = find_helm()
        self._environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "HELM_CACHE_HOME": str(folder / "cache"),
            "HELM_CONFIG_HOME": str(folder / "config"), "HELM_DATA_HOME": str(folder / "data"),
            "KUBECONFIG": str(kubeconfig or "/nonexistent"),
        }

    def run(self, *arguments: str | Path, namespace: str = NAMESPACE) -> str:
        """Run one command; return what it printed. Raises HelmFailed."""
        command = [str(self._program), *map(str, arguments), "--namespace", namespace]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise HelmFailed(done.stdout + done.stderr)
        return done.stdout

    def template(self, chart: Path, *arguments: str | Path, namespace: str = NAMESPACE) -> list[Json]:
        """Return the objects that a chart becomes, hooks included, in helm's order."""
        text = self.run(
            "template", "gpugrant", chart, "--kube-version", KUBERNETES, *arguments, namespace=namespace)
        return objects(text)


def objects(text: str) -> list[Json]:
    """Return the objects of YAML text."""
    return [each for each in yaml.safe_load_all(text) if each]


def the(found: list[Json], kind: str, name: str = "gpugrant") -> Json:
    """Return the one object of this kind and name."""
    (one,) = (each for each in found if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return one
