"""The operator, run as it ships, and the builders for what it looks after.

operator        (package) the real process under its supervisor, as its own service account
                -> cluster_kit.operator.OperatorProcess: .kill() .back() .restart() .stop() .start() .samples()
site            (function) `admin` beside the running operator, with builders that clean up after the test
                -> cluster_kit.site.Site: pool() tenant() grant() pod() gang() ready() running() told_to_wait()

Every test has its own provider and programme, so that tests do not meet in one pool.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from cluster_kit.operator import OperatorProcess
from cluster_kit.site import Site
from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane
from devcluster.install import apply_settings
from gpugrant import names

SETTINGS = """
programmes:
  capped: {caps: {NVIDIA-B200: 16}, longestTermMonths: 6}
  noticed: {maintenanceNoticeSeconds: 1}
bindTimeoutSeconds: 5
gracePeriodCeilingSeconds: 5
"""


@pytest.fixture(scope="package")
def operator(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """Run the operator for the tests of this folder."""
    process = OperatorProcess(installed, tmp_path_factory.mktemp("operator"))

    async def _start() -> None:
        async with KubeClient(installed.server, installed.ca_file, installed.admin_token) as client:
            await apply_settings(client, SETTINGS)
            await process.start(client)

    async def _forget_settings() -> None:
        async with KubeClient(installed.server, installed.ca_file, installed.admin_token) as client:
            await client.delete(f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/configmaps/{names.SETTINGS_CONFIGMAP}")

    try:
        asyncio.run(_start())
        yield process
    finally:
        process.stop()
        asyncio.run(_forget_settings())


@pytest.fixture
async def site(operator: OperatorProcess, installed: ControlPlane, admin: KubeClient) -> AsyncIterator[Site]:
    """Build what the operator looks after, and remove it afterwards."""
    assert operator.pid and installed.running()
    site = Site(admin)
    try:
        yield site
    finally:
        await site.clean_up()
