"""The operator, wired: lease, caches, own kinds, first plan, then the loop, until a signal or a lost lease.

The order matters: nothing is decided before everything has been seen once.
"""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Coroutine
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Gauge

from gpugrant import names
from gpugrant.act.events import About
from gpugrant.act.writer import Writer
from gpugrant.config import Settings
from gpugrant.observe.client import Client
from gpugrant.observe.cluster_kinds import SettingsText
from gpugrant.observe.credentials import Credentials, load_credentials
from gpugrant.observe.observer import Observer
from gpugrant.run.identity import identity
from gpugrant.run.lease import Lease, LeaseLostError
from gpugrant.run.parts import Parts
from gpugrant.run.planner import Planner
from gpugrant.run.probes import OVERDUE_SECONDS, STALLED_SECONDS, Probes
from gpugrant.run.watching import Watching

log = logging.getLogger(__name__)

_FAILURES_TOLERATED = 3
_ON_ITS_WAY = 1.0
_LANDING_SECONDS = 2.0


class Options(msgspec.Struct, frozen=True):
    """What the command line says."""

    kubeconfig: str = ""
    metrics_port: int = names.METRICS_PORT
    ledger: str = ""
    reports: str = ""
    signing_key: str = ""


class Operator:
    """One process's life."""

    def __init__(self, options: Options, credentials: Credentials, parts: Parts) -> None:
        self._options = options
        self._credentials = credentials
        self._parts = parts
        self._registry = CollectorRegistry()
        self._probes = Probes(self._registry)
        self._client = Client(credentials)
        Gauge(
            "gpugrant_host_clock_offset_seconds",
            "By how much at least the host's clock is ahead of the API server's, whose time is used.",
            registry=self._registry,
        ).set_function(self._client.clock.offset)
        self._lease = Lease(self._client, identity(credentials.server, options.ledger))
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._leading = False
        self._planner: Planner[Any] | None = None
        self._watching: Watching | None = None
        self._writer: Writer | None = None
        self._metering: Any = None
        self._reporting: Any = None

    async def run(self) -> int:
        """Run until a signal; return the exit status."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._end, 0)
        self._probes.ready["lead"] = self._not_ready
        server = await self._probes.serve(self._options.metrics_port)
        self._spawn("loop lag", self._probes.beat())
        self._spawn("lead", self._lead())
        try:
            return await self._over
        finally:
            if self._watching is not None:
                self._watching.stop()
            if self._writer is not None:
                await self._writer.land(_LANDING_SECONDS)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=5)
            if self._metering is not None:
                await self._metering.meter.stop()
            if self._leading:
                await self._lease.release()
            await server.cleanup()
            await self._client.close()

    def _clock(self) -> int:
        """Return the time in epoch seconds, by the API server's clock."""
        return int(self._client.clock.now())

    def _end(self, status: int) -> None:
        if not self._over.done():
            self._over.set_result(status)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a task that is to run for ever; its end is the process's end."""

        async def guarded() -> None:
            try:
                await work
            except LeaseLostError as lost:
                # At once and without manners: whoever leads now must not meet a write of ours.
                log.error("%s; ending", lost)
                logging.shutdown()
                os._exit(3)
            except asyncio.CancelledError:
                raise
            except BaseException:
                log.exception("%s has failed; ending", name)
                self._end(1)

        self._tasks.append(asyncio.create_task(guarded(), name=name))

    async def _lead(self) -> None:
        """Wait for the lease, look at everything once, then plan and write."""
        begun = time.monotonic()
        await self._lease.acquire()
        gc.disable()  # what the first look brings stays: searching it for garbage again and again is waste
        self._leading = True
        log.info("leading as %s", self._lease.identity)
        world = self._parts.make_world(Settings())
        metering = self._parts.make_metering(
            self._options.ledger, world, self._registry, self._client.clock.now
        )
        observer = Observer(self._client, world, self._registry, self._clock, metering, self._settings_told)
        writer = self._writer = Writer(self._client, observer, world, self._registry, self._clock)
        if metering is not None:
            remembered = await asyncio.to_thread(metering.store.newest_settings)
            if remembered:
                observer.remember_settings(remembered)
            await self._start_meter(metering, observer, writer, world)
            self._report(metering, writer)
        self._spawn("lease", self._lease.keep(self._doubt, self._sure))
        for loop in observer.loops():
            self._spawn("observing", loop)
        self._spawn("events", writer.events.run())
        self._watching = Watching(self._credentials, observer.own, lambda: self._end(1))
        await observer.own.sweep_all()  # Kopf looks for the kinds once only: they must be there
        self._watching.start()
        await observer.first_look()
        if metering is not None:
            metering.first_look_complete()
        log.info(
            "seen once after %.1f s: %d nodes, %d GPU pods, %d grants",
            time.monotonic() - begun,
            len(observer.nodes),
            len(observer.pods),
            len(observer.own.of("GpuGrant")),
        )
        planner = Planner(
            world, self._parts.make_plan, writer.submit, observer.changed, self._clock, self._registry
        )
        self._planner = planner
        self._check(observer, planner)
        self._spawn("planner", planner.run())
        await planner.planned.wait()
        # Out of the collector's sight: the cost of an event must not grow with the fleet.
        gc.collect()
        gc.freeze()
        gc.enable()
        log.info("first plan after %.1f s", time.monotonic() - begun)
        if self._reporting is not None:
            self._spawn("reports", self._reporting.run())
        await asyncio.Event().wait()

    async def _start_meter(self, metering: Any, observer: Observer, writer: Writer, world: Any) -> None:
        """Wire the meter: ends that are in the ledger take finalizers off; the clock is the cache's."""
        pods = observer.health["pods"]
        metering.strip = writer.strip_finalizer
        metering.gone = observer.nodes_gone
        # A second less: what the API server says now may still be on its way to us.
        metering.fresh = lambda: (
            self._client.clock.now() - (time.monotonic() - pods.fresh_at(self._lease.renewed_at)) - _ON_ITS_WAY
        )
        await metering.meter.start()
        self._probes.before_scrape = metering.meter.refresh
        health = metering.meter.health
        self._probes.ready["ledger"] = lambda: None if health().ready else str(health().detail)
        self._metering = metering
        self._spawn("exchange", self._parts.exchange(world, metering, self._client.clock.now, observer.changed))

    def _report(self, metering: Any, writer: Writer) -> None:
        """Wire the reports to the ledger."""
        from gpugrant.expose.metrics import ReportMetrics
        from gpugrant.run.report_folder import Shelf
        from gpugrant.run.report_objects import Reports
        from gpugrant.run.reporting import Reporting

        options = self._options
        shelf = Shelf(options.ledger, options.reports, options.signing_key)
        reports = Reports(self._client)
        reporting = self._reporting = Reporting(metering.meter.ask, reports, shelf, writer.events.tell, self._clock)
        self._registry.register(ReportMetrics(lambda: reporting.figures))

    def _doubt(self) -> None:
        """Begin no more writes: the lease is not ours at the moment."""
        for one in (self._writer, self._reporting):
            if one is not None:
                one.pause()

    def _sure(self) -> None:
        """Go on writing."""
        for one in (self._writer, self._reporting):
            if one is not None:
                one.resume()

    def _check(self, observer: Observer, planner: Planner[Any]) -> None:
        for kind, health in observer.health.items():
            self._probes.healthy[f"cache {kind}"] = lambda health=health: (  # type: ignore[misc]
                f"nothing heard for {health.age():.0f} s" if health.age() > STALLED_SECONDS else None
            )
        self._probes.healthy["plan"] = lambda: (
            f"failed {planner.failing} times in a row"
            if planner.failing > _FAILURES_TOLERATED
            else f"due for {planner.overdue():.0f} s"
            if planner.overdue() > OVERDUE_SECONDS
            else None
        )

    def _not_ready(self) -> str | None:
        if self._planner is not None and self._planner.planned.is_set():
            return None
        if self._leading:
            return "leading, first plan not made yet"
        return None if self._lease.other else "not leading yet"

    def _settings_told(
        self, text: SettingsText, settings: Settings | None, digest: str, message: str
    ) -> None:
        """Record a version of the settings, loaded or refused, where people look: on the ConfigMap."""
        if self._writer is None:
            return
        tell = self._writer.events.tell
        about = About("ConfigMap", text.namespace, text.name, text.uid)
        if settings is None:
            words = f"settings {digest[:12]} refused, the last good ones stay: {message}"
            tell(about, "SettingsRefused", words, self._clock(), warning=True)
        else:
            tell(about, "SettingsLoaded", f"settings {digest} loaded", self._clock())


def _not_enforced(settings: Settings) -> list[str]:
    """Return what the settings ask for that this version does not do; whoever asks is to know."""
    found = []
    if settings.enforcement == "Observe":
        found.append("enforcement Observe (what runs is enforced as with Enforce)")
    for name, programme in sorted(settings.programmes.items()):
        if programme.idle_window_seconds is not None:
            found.append(f"programmes.{name}.idleWindowSeconds and recallNoticeSeconds (no lending)")
    return found


async def run(options: Options) -> int:
    """Run the operator. Raises ValueError where no ledger can ever be where the options say."""
    if options.ledger:
        _check_ledger(options.ledger)
    return await Operator(options, load_credentials(options.kubeconfig or None), Parts()).run()


def _check_ledger(url: str) -> None:
    from gpugrant.meter.database import NoLedgerError, check_ledger

    try:
        check_ledger(url)
    except NoLedgerError as error:
        raise ValueError(str(error)) from None
    except OSError as error:  # away, as a volume may be: the meter goes on asking, and /readyz says so
        log.warning("the ledger cannot be looked at yet: %s", error)
