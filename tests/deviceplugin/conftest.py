"""The fake device plugin beside a kubelet's side of the API.

kubelet   (function) started in a folder with a short path -> kubelet_kit.kubelet.FakeKubelet
b200      (function) the whole service, on 8 B200, registered with it
          -> kubelet_kit.running.Running: lines() do() page() devices
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from deviceplugin.service import Service
from kubelet_kit.kubelet import FakeKubelet
from kubelet_kit.running import Running, options


@pytest.fixture
async def kubelet() -> AsyncIterator[FakeKubelet]:
    # A socket's path has room for 107 characters; pytest's own folders may take more.
    with tempfile.TemporaryDirectory(prefix="kubelet-") as folder:
        kubelet = FakeKubelet(Path(folder))
        await kubelet.start()
        try:
            yield kubelet
        finally:
            await kubelet.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


@pytest.fixture
async def b200(kubelet: FakeKubelet, http: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Running]:
    log = tmp_path / "log"
    service = Service(options(kubelet, log))
    running = Running(service, log, http)
    async with service.running():
        await kubelet.wait_for_list(running.devices)
        async with asyncio.timeout(10):  # the kubelet has its list before the plugin has its answer
            while not service.control.state()["registered"]:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0)
        yield running
