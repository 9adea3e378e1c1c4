"""The operator beside a real Prometheus that scrapes it.

prometheus   (function) a server with a database of its own -> prometheus.server.Prometheus
operator     (function) the real process on a ledger of its own -> cluster_kit.operator.OperatorProcess
site         (function) the platform engineer's hands -> cluster_kit.site.Site
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster_kit.operator import OperatorProcess
from cluster_kit.site import Site
from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane
from gpugrant import names
from prometheus.server import Prometheus

LEASE = (
    f"/apis/coordination.k8s.io/v1/namespaces/{names.SYSTEM_NAMESPACE}/leases/{names.LEASE}"
)


@pytest.fixture
async def prometheus(tmp_path: Path) -> AsyncIterator[Prometheus]:
    """Run a Prometheus for one test. Fails where there is none: what it proves is not left out."""
    server = Prometheus(tmp_path / "prometheus")
    try:
        await server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def operator(
    installed: ControlPlane, admin: KubeClient, tmp_path: Path
) -> AsyncIterator[OperatorProcess]:
    """Run the operator on a ledger of the test's own."""
    process = OperatorProcess(installed, tmp_path)
    # Tests of the lease leave one behind; a standby would be scraped, and do nothing.
    await admin.delete(LEASE, missing_ok=True)
    try:
        await process.start(admin)
        yield process
    finally:
        process.stop()


@pytest.fixture
async def site(operator: OperatorProcess, admin: KubeClient) -> AsyncIterator[Site]:
    """Build what the operator looks after, and remove it afterwards."""
    site = Site(admin)
    try:
        yield site
    finally:
        await site.clean_up()
