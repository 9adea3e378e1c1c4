"""Fixtures that all tests share. Nothing starts until a test asks for it.

control_plane   (session) a real etcd, API server, controllers, scheduler and kwok, with nothing of ours in it
                -> devcluster.controlplane.ControlPlane: .kubeconfig .server .ca_file .admin_token
                   .restart_apiserver(kill=False) .stop_component(name, kill=False) .start_component(name)
installed       (session) the same control plane, with crds/*.yaml and charts/gpugrant/manifests/*.yaml applied and
                acting -> ControlPlane. It is the same cluster: tests that need one without policies make their own
                with `own_control_plane`.
own_control_plane  (function) a control plane of the test's own, gone afterwards -> ControlPlane
admin           (function) the platform engineer's client of `control_plane`, entered
                -> devcluster.client.KubeClient: get list create apply patch replace delete watch wait_for wait_gone
                   as_user(name, *groups) as_service_account(namespace, name) token_for(namespace, name)
world           (function) `admin` on the installed cluster, with builders that clean up after the test
                -> cluster_kit.world.World: tenant_namespace() provider_namespace() plain_namespace() server() user()

Tests are async functions; no marker is needed. All tests of a run share one cluster: use the unique names that
`world` makes, never fixed ones, and never assert on what other tests may have created.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from cluster_kit.world import World
from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane
from devcluster.install import install

# How long an example takes is for benchmarks to say: this machine may be busy.
hypothesis.settings.register_profile("gpugrant", deadline=None)
hypothesis.settings.load_profile("gpugrant")


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start one control plane for all tests of this run."""
    yield from _running(tmp_path_factory.mktemp("control-plane"))


@pytest.fixture
def own_control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Start a control plane for this test alone."""
    yield from _running(tmp_path / "control-plane")


def _running(folder: Path) -> Iterator[ControlPlane]:
    plane = ControlPlane(folder)
    plane.start(guarded=True)
    try:
        yield plane
    finally:
        plane.stop(at_once=True)


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> ControlPlane:
    """Install CRDs, RBAC and policies once."""
    import asyncio

    async def _install() -> None:
        async with KubeClient(control_plane.server, control_plane.ca_file, control_plane.admin_token) as client:
            await install(client)

    # A loop of its own: tests' loops end with them.
    asyncio.run(_install())
    return control_plane


@pytest.fixture
async def admin(control_plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """Speak to the control plane as the platform engineer."""
    async with KubeClient(control_plane.server, control_plane.ca_file, control_plane.admin_token) as client:
        yield client


@pytest.fixture
async def world(installed: ControlPlane, admin: KubeClient) -> AsyncIterator[World]:
    """Build namespaces, servers and users under names of their own, and remove them afterwards."""
    assert installed.running()
    world = World(admin)
    try:
        yield world
    finally:
        await world.clean_up()
