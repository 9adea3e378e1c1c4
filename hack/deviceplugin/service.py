"""All of it, started and stopped."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from deviceplugin import devices, metrics
from deviceplugin.control import Control
from deviceplugin.log import Log
from deviceplugin.node import Node, Refused
from deviceplugin.plugin import Allocating, Plugin
from deviceplugin.podresources import Holder, Unreachable, list_holders
from deviceplugin.profiles import Profile
from deviceplugin.registration import Registration
from deviceplugin.stock import Stock

PLUGIN_FOLDER = Path("/var/lib/kubelet/device-plugins")
POD_RESOURCES = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
_LABEL_AGAIN_SECONDS = 10.0
# Requests in flight are short; a scraper that hangs does not hold up the end.
_END_SECONDS = 1.0
# (host, port); port 0 takes a free one.
Address = tuple[str, int]


@dataclass(frozen=True)
class Options:
    """How it is run. api: the Node to label, or None."""

    profile: Profile
    node: str
    count: int | None = None
    plugin_folder: Path = PLUGIN_FOLDER
    pod_resources: Path = POD_RESOURCES
    metrics: Address = ("0.0.0.0", 9400)  # noqa: S104 -- Prometheus scrapes it from outside the pod
    control: Address = ("127.0.0.1", 9401)
    log_file: Path | None = None
    api: Node | None = None
    look_every_seconds: float = 0.5


class Service:
    """The plugin of one node."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.log = Log(sys.stdout, options.log_file)
        profile = options.profile
        self.stock = Stock(devices.devices_of(profile, options.node, options.count), self.log)
        self.allocating = Allocating()

        def _plugin(endpoint: str) -> Plugin:
            return Plugin(endpoint, profile, self.stock, self.allocating, self.log)

        self.registration = Registration(
            options.plugin_folder, profile.resource, _plugin, self.log, options.look_every_seconds)
        self.control = Control(profile, self.stock, self.allocating, self.registration, self.log)
        self.metrics_port = self.control_port = 0
        self._told = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it for the time of a with block. Raises OSError where a port is taken."""
        profile = self.options.profile
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.log.close)
            self.control_port = await stack.enter_async_context(
                _served(self.control.application(), self.options.control))
            self.metrics_port = await stack.enter_async_context(_served(self._pages(), self.options.metrics))
            self.log.write("started", profile=profile.name, resource=profile.resource, node=self.options.node,
                           devices=dict(devices.listed(self.stock.devices)), metrics_port=self.metrics_port,
                           control_port=self.control_port)
            stack.callback(lambda: self.log.write("stopped"))
            await stack.enter_async_context(_background(self.registration.run()))
            if self.options.api is not None:
                await stack.enter_async_context(_background(self._keep_labelled(self.options.api)))
            yield

    # -- pages --------------------------------------------------------------------------------------------

    def _pages(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/metrics", self._on_metrics)
        application.router.add_get("/healthz", self._on_healthz)
        return application

    async def _on_metrics(self, _: web.Request) -> web.Response:
        holders = await self._holders()
        page = metrics.exposition(self.options.profile, self.options.node, self.stock.devices, holders)
        return web.Response(body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _on_healthz(self, _: web.Request) -> web.Response:
        # Not whether it is registered: to be unknown to the kubelet may be what a test asked for.
        return web.Response(text="ok")

    async def _holders(self) -> dict[str, Holder] | None:
        try:
            holders = await list_holders(self.options.pod_resources, self.options.profile.resource)
            problem = ""
        except Unreachable as error:
            holders, problem = None, str(error)
        if problem != self._told:
            self._told = problem
            self.log.write("pod-resources", up=not problem, message=problem)
        return holders

    # -- labels -------------------------------------------------------------------------------------------

    async def _keep_labelled(self, node: Node) -> None:
        """Label the node, and again whenever devices come or go: feature discovery counts those that are there."""
        while True:
            version = self.stock.version
            count = len(devices.listed(self.stock.devices))
            try:
                await node.label(self.options.profile.labels(count))
            except (Refused, OSError) as error:
                self.log.write("labels", node=node.name, refused=str(error))
                await asyncio.sleep(_LABEL_AGAIN_SECONDS)
            else:
                self.log.write("labels", node=node.name, count=count)
                await self.stock.wait_past(version)


@contextlib.asynccontextmanager
async def _served(application: web.Application, address: Address) -> AsyncIterator[int]:
    """Serve HTTP; yield the port."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=_END_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, *address)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _background(work: "asyncio._CoroutineLike[None]") -> AsyncIterator[None]:
    """Run something beside a with block, and end it with the block; what it raises ends the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        task.cancel()
