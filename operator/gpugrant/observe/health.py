"""How the caches are doing: what /healthz judges and /metrics shows. No I/O, no asyncio."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge


class CacheMetrics:
    """The series that all caches share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "gpugrant_cache_events",
            "Changes seen, by kind and what became of them.",
            ["kind", "result"],
            registry=registry,
        )
        self.relists = Counter("gpugrant_cache_lists", "Whole LISTs done.", ["kind"], registry=registry)
        self.broken = Counter(
            "gpugrant_cache_interruptions",
            "Watches that ended with an error.",
            ["kind", "reason"],
            registry=registry,
        )
        self.age = Gauge(
            "gpugrant_cache_age_seconds",
            "Time since the API server was heard last.",
            ["kind"],
            registry=registry,
        )
        self.objects = Gauge(
            "gpugrant_cache_objects", "Objects held after the last LIST.", ["kind"], registry=registry
        )


class CacheHealth:
    """When one cache heard from the API server last."""

    def __init__(self, kind: str, metrics: CacheMetrics) -> None:
        self.kind = kind
        self.heard_at = time.monotonic()
        self.current_at = self.heard_at
        self.connected = False
        self._emitted = metrics.events.labels(kind, "emitted")
        self._dropped = metrics.events.labels(kind, "unchanged")
        self._unparsed = metrics.events.labels(kind, "unparsed")
        self._relists = metrics.relists.labels(kind)
        self._objects = metrics.objects.labels(kind)
        self._broken = metrics.broken
        metrics.age.labels(kind).set_function(self.age)

    def age(self) -> float:
        """Return the seconds since the API server was heard last."""
        return time.monotonic() - self.heard_at

    def fresh_at(self, reached_at: float) -> float:
        """Return until when (monotonic) all changes are known to have been seen.

        Pages of a LIST are heard, but what they do not hold is known to be gone only after the last one.

        A quiet watch says nothing for a minute. While it is open, the API server having been reached by
        another request at ``reached_at`` is taken as proof that it is not merely cut off.
        """
        return max(self.current_at, reached_at) if self.connected else self.current_at

    def heard(self) -> None:
        """Note that bytes came."""
        self.heard_at = time.monotonic()

    def current(self, at: float | None = None) -> None:
        """Note that all changes until ``at`` (monotonic; left out: now) have been seen."""
        self.current_at = time.monotonic() if at is None else at
        self.connected = True

    def missed(self) -> float | None:
        """Return since when (monotonic) changes may go unseen; None while the watch sees them."""
        return None if self.connected else self.current_at

    def emitted(self) -> None:
        """Count a change passed on."""
        self._emitted.inc()

    def dropped(self) -> None:
        """Count an event that changed nothing."""
        self._dropped.inc()

    def unparsed(self) -> None:
        """Count an object or line that does not parse."""
        self._unparsed.inc()

    def listed(self, objects: int) -> None:
        """Count a whole LIST."""
        self._relists.inc()
        self._objects.set(objects)

    def broke(self, reason: str) -> None:
        """Count a watch that ended with an error."""
        self.connected = False
        self._broken.labels(self.kind, reason).inc()
