"""The operator in a real cluster, installed by its charts, beside fake GPUs that real kubelets believe in.

platform    (session) -> kind_kit.platform.Platform: helm() release() leader() samples() page()
servers     (session) -> kind_kit.servers.Servers: plugin() log() allocated() changes() offers()
site        (function) -> kind_kit.site.KindSite: workers() tenant() grant() runs() sees(); cleans up after the test
lab         (function) -> lab.Lab: a pool of all workers, a tenant, and its grant of all their GPUs
ledger      (function) a connection to the ledger's database, read from outside
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from devcluster.client import JsonObject, KubeClient
from kind.cluster import KindCluster
from kind_kit.platform import Platform
from kind_kit.postgres import Postgres
from kind_kit.servers import SEATS, Servers
from kind_kit.site import KindSite

from .lab import Lab

# Months are short, so that one closes while the tests run. Kills leave seconds that nobody watched: allowed here.
SETTINGS: JsonObject = {
    "period": "60s",
    "bindTimeoutSeconds": 20,
    "programmes": {"purchase": {"report": {"unobservedLimitGpuSeconds": 100_000_000}, "maintenanceNoticeSeconds": 1}},
}


@pytest.fixture(scope="session")
def servers(kind_cluster: KindCluster) -> Servers:
    """Give the workers GPUs."""
    found = Servers(kind_cluster)
    asyncio.run(_with_admin(kind_cluster, found.start))
    return found


@pytest.fixture(scope="session")
def platform(kind_cluster: KindCluster, servers: Servers, operator_image: str) -> Platform:
    """Install the operator, in two replicas on PostgreSQL."""
    kind_cluster.load(operator_image, nodes=servers.all)
    postgres = Postgres(kind_cluster)
    asyncio.run(_with_admin(kind_cluster, postgres.start))
    platform = Platform(kind_cluster, postgres, SETTINGS)
    asyncio.run(_with_admin(kind_cluster, platform.install))
    return platform


@pytest.fixture
async def site(
    platform: Platform, servers: Servers, python_image: str, kind_admin: KubeClient
) -> AsyncIterator[KindSite]:
    """Build what the operator looks after, and remove it afterwards."""
    site = KindSite(kind_admin, platform.cluster, servers, python_image)
    try:
        yield site
    finally:
        await site.clean_up()


@pytest.fixture
async def lab(site: KindSite) -> Lab:
    """Have a grant of all GPUs."""
    pool = await site.workers()
    tenant = await site.tenant(pool)
    return Lab(pool, tenant, await site.grant(tenant, pool, SEATS * len(pool.servers)))


@pytest.fixture
def ledger(platform: Platform) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Read the ledger."""
    with platform.postgres.connect() as connection:
        yield connection


async def _with_admin(cluster: KindCluster, work: Any) -> None:
    async with KubeClient(cluster.server, cluster.ca_file, cluster.admin_token) as admin:
        await work(admin)
