"""Kopf, embedded: it watches our own kinds and passes what it sees to the store, nothing more.

It runs in a thread with a loop of its own, since on its end it cancels every task of the loop it runs on and
takes over the loop's signal handlers. Its import (0.4 s) happens there too, beside the first LISTs.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from gpugrant import names
from gpugrant.observe.credentials import Credentials
from gpugrant.observe.kinds import OWN_KINDS, OwnKinds

log = logging.getLogger(__name__)

_TOKEN_LIFE = timedelta(minutes=10)


class Watching:
    """Kopf's thread."""

    def __init__(self, credentials: Credentials, own: OwnKinds, broken: Callable[[], None]) -> None:
        self._credentials = credentials
        self._own = own
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it dies with the process in any case."""
        self._stop.set()

    def join(self) -> None:
        """Wait until the thread has ended; blocks."""
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except Exception:
            log.exception("Kopf has failed")
        if not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._broken)

    async def _watch(self) -> None:
        import kopf

        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._log_in)
        for kind in OWN_KINDS.values():
            kopf.on.event(names.GROUP, names.VERSION, kind.plural, id=kind.plural, registry=registry)(
                self._handler(kind.kind)
            )
        # It warns that it does not handle signals: that is what the thread is for.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
        await kopf.operator(
            registry=registry,
            settings=_settings(),
            standalone=True,
            # Else it asks for the user's name, and in a container there is none. Kopf does not export the type.
            identity="gpugrant",  # type: ignore[arg-type]
            clusterwide=True,
            stop_flag=self._stop,
        )
        # aiohttp closes TLS connections a moment after their session:
        # https://docs.aiohttp.org/en/stable/client_advanced.html#graceful-shutdown
        await asyncio.sleep(0.25)

    def _handler(self, kind: str) -> Callable[..., Any]:
        # async, though it awaits nothing: Kopf would run a plain function in a pool of threads.
        async def seen(event: Mapping[str, Any], **_: object) -> None:
            self._loop.call_soon_threadsafe(self._take, kind, event["type"], dict(event["object"]))

        return seen

    def _take(self, kind: str, change: str | None, body: dict[str, Any]) -> None:
        self._own.feed(kind, body, deleted=change == "DELETED")
        if change is None:  # from a LIST of Kopf's: deletions in between are only found by listing
            self._own.want_sweep(kind)

    def _log_in(self, **_: object) -> Any:
        import kopf

        token = self._credentials.token()
        return kopf.ConnectionInfo(
            server=self._credentials.server,
            scheme="Bearer" if token else None,
            token=token or None,
            expiration=datetime.now(UTC) + _TOKEN_LIFE,
            **self._credentials.parts,
        )


def _settings() -> Any:
    import kopf

    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.queueing.worker_limit = None
    settings.posting.enabled = False
    settings.posting.level = logging.WARNING
    settings.scanning.disabled = True
    # As long as it takes: an API server that is away for minutes is no reason to end.
    settings.networking.error_backoffs = [1, 1, 2, *([3] * 100_000)]
    # Kopf is asked to store nothing on objects; should it ever, then not under its own names.
    settings.persistence.finalizer = f"{names.GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{names.GROUP}")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{names.GROUP}")
    return settings
