"""Fixtures for tests on real kubelets. Not part of plain `make test`; `make kind-test` runs them.

kind_cluster    (session) a kind cluster of this run's own, or the one of `make kind-up` with GPUGRANT_KIND_REUSE=1
                -> kind.cluster.KindCluster: .kubeconfig .server .ca_file .admin_token .engine kubectl() load()
                   run_in_node() stop_node() start_node()
kind_admin      (function) the platform engineer's client of it -> devcluster.client.KubeClient
python_image    (session) an image with Python and no shell, which all nodes have
namespace       (function) the name of an empty namespace, gone afterwards
operator_image  (session) the operator's image, built of this checkout

Where no container engine can run a node, every test that needs one fails and says why: none is skipped.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from devcluster.client import KubeClient
from kind.__main__ import own_cluster
from kind.cluster import KindCluster
from kind.engine import Engine, find_engine
from kind.images import build_operator, find_or_make_base
from kind.rootfs import kind_cache


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Find the container engine that runs nodes; fail where there is none."""
    return find_engine()


@pytest.fixture(scope="session")
def only_run() -> Iterator[None]:
    """Wait until no other run of these tests uses the machine's containers: their names are fixed."""
    with (kind_cache() / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def kind_cluster(
    engine: Engine, only_run: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KindCluster]:
    """Start one cluster for all tests of this run, or take the one that is up."""
    if os.environ.get("GPUGRANT_KIND_REUSE"):
        cluster = own_cluster()
        assert cluster.kubeconfig.exists(), "GPUGRANT_KIND_REUSE is set, and no cluster is up: make kind-up"
        yield cluster
        return
    cluster = KindCluster("gpugrant-test", tmp_path_factory.mktemp("kind"), engine)
    cluster.end()  # what a run that was killed left behind
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
async def kind_admin(kind_cluster: KindCluster) -> AsyncIterator[KubeClient]:
    """Speak to the cluster as the platform engineer."""
    async with KubeClient(kind_cluster.server, kind_cluster.ca_file, kind_cluster.admin_token) as client:
        yield client


@pytest.fixture(scope="session")
def python_image(kind_cluster: KindCluster) -> str:
    """Load the image that workloads run."""
    image = find_or_make_base(kind_cluster.engine).runs
    kind_cluster.load(image)
    return image


@pytest.fixture
async def namespace(kind_admin: KubeClient) -> AsyncIterator[str]:
    """Make a namespace in which pods can be created."""
    name = f"test-{uuid4().hex[:8]}"
    await kind_admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    await kind_admin.wait_for(account, lambda found: found is not None)
    yield name
    await kind_admin.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def operator_image(engine: Engine, only_run: None) -> str:
    """Build the operator's image."""
    return build_operator(engine)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder for a cluster of the test's own."""
    return tmp_path / "kind"
