"""The real helm, and one control plane that the charts are put into and taken out of again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chart.helm import Helm
from devcluster.controlplane import ControlPlane


@pytest.fixture
def offline(tmp_path: Path) -> Helm:
    """Return a helm that knows no cluster."""
    return Helm(tmp_path)


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start a control plane of this folder's own: the charts come and go in it."""
    plane = ControlPlane(tmp_path_factory.mktemp("chart"))
    plane.start(guarded=True)
    try:
        yield plane
    finally:
        plane.stop(at_once=True)


@pytest.fixture
def helm(plane: ControlPlane, tmp_path: Path) -> Helm:
    """Return a helm of the platform engineer's."""
    return Helm(tmp_path, plane.kubeconfig)
