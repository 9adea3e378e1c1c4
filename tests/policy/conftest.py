"""A control plane with the shipped manifests installed, and the people and places of the tables."""

from collections.abc import Iterator

import pytest

from devcluster.controlplane import ControlPlane

from .api import Api
from .install import MANIFESTS, apply_all, documents, wait_until_policies_act
from .places import furnish, kubelets


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
    furnish(bare_api)
    apply_all(bare_api, [kubelets()])
    wait_until_policies_act(bare_api)
    return bare_api
