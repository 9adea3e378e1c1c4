"""/healthz, /readyz and /metrics: what a kubelet, a person and Prometheus ask.

/healthz fails on what a restart would mend: a cache that has not heard from the API server, a plan that is
due and does not come, an event loop that lags. /readyz says whether this process does its part: it leads and
has planned, or it stands by while another leads.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

STALLED_SECONDS = 180.0  # bookmarks come every minute
OVERDUE_SECONDS = 60.0
LAG_SECONDS = 15.0
_BEAT = 0.25

Check = Callable[[], str | None]


class Probes:
    """The HTTP server and the checks behind it; each check says what is wrong, or None."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.healthy: dict[str, Check] = {"loop": self._loop_lags}
        self.ready: dict[str, Check] = {}
        self.before_scrape: Callable[[], Awaitable[None]] | None = None
        self._registry = registry
        self._beat_at = time.monotonic()
        self._worst: list[tuple[float, float]] = []
        self._lag = Histogram(
            "gpugrant_loop_lag_seconds",
            "How late the event loop came round.",
            registry=registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        )
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    async def serve(self, port: int) -> web.AppRunner:
        """Start serving on all addresses; returns the runner, to be cleaned up."""
        app = web.Application()
        app.router.add_get("/healthz", lambda _: self._answer(self.healthy))
        app.router.add_get("/readyz", lambda _: self._answer(self.ready))
        app.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, None, port, reuse_address=True).start()
        return runner

    async def beat(self) -> None:
        """Measure the loop's lag, for ever."""
        while True:
            self._beat_at = time.monotonic()
            await asyncio.sleep(_BEAT)
            lag = time.monotonic() - self._beat_at - _BEAT
            self._lag.observe(max(0.0, lag))
            now = time.monotonic()
            self._worst = [(at, seen) for at, seen in self._worst if now - at < 60 and seen > lag]
            self._worst.append((now, lag))

    def _loop_lags(self) -> str | None:
        worst = max((lag for _, lag in self._worst), default=0.0)
        return f"the event loop lagged {worst:.1f} s" if worst > LAG_SECONDS else None

    @staticmethod
    async def _answer(checks: dict[str, Check]) -> web.Response:
        told = {name: check() for name, check in checks.items()}
        text = "".join(f"[{'-' if wrong else '+'}] {name}: {wrong or 'ok'}\n" for name, wrong in told.items())
        return web.Response(status=503 if any(told.values()) else 200, text=text or "ok\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        from gpugrant.expose.metrics import render

        if self.before_scrape is not None:
            await self.before_scrape()
        body, content_type = render(self._registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
