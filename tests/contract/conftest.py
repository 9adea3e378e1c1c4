"""The operator's own hands on a real control plane: its client with its service account's token."""

from collections.abc import AsyncIterator

import pytest

from devcluster.client import KubeClient
from devcluster.controlplane import ControlPlane
from gpugrant import names
from gpugrant.observe.client import Client
from gpugrant.observe.credentials import Credentials


@pytest.fixture
async def operator_client(installed: ControlPlane, admin: KubeClient) -> AsyncIterator[Client]:
    """The operator's client: its service account, exactly the RBAC that ships."""
    import ssl

    token = await admin.token_for(names.SYSTEM_NAMESPACE, names.SERVICE_ACCOUNT)
    tls = ssl.create_default_context(cafile=str(installed.ca_file))
    async with Client(Credentials(installed.server, tls, token=token)) as client:
        yield client
