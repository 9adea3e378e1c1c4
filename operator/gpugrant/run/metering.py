"""The meter, wired to the world: what the observer tells it and what it asks for."""

import time
from collections.abc import Callable

from gpugrant.config import Settings
from gpugrant.meter.facts import Account, Dimensions
from gpugrant.meter.intervals import NodeFacts
from gpugrant.meter.meter import Meter
from gpugrant.meter.store import Store
from gpugrant.model.objects import Grant
from gpugrant.model.pod import Pod
from gpugrant.run.accounts import World, calendars_of, dimensions_of, terms_of


class Metering:
    """The observer's meter. Made before observer and writer: ``strip``, ``gone``, ``fresh`` come later."""

    def __init__(self, url: str, world: World, on_admitted: Callable[[Account, int], None]) -> None:
        self.strip: Callable[[Pod], None] = lambda _: None
        self.gone: dict[str, int] = {}
        self.fresh: Callable[[], float] = lambda: 0.0
        self._world = world
        self.store = Store(url, now=time.time)
        self.meter = Meter(
            self.store,
            resolve=self._resolve,
            on_recorded=self._recorded,
            clock=self._now,
            node_facts=lambda name: NodeFacts(self.gone.get(name, 0)),
            on_admitted=on_admitted,
        )

    def _recorded(self, pod: Pod) -> None:
        self.strip(pod)

    def _now(self) -> float:
        return self.fresh()

    def _resolve(self, pod: Pod) -> Dimensions | None:
        found = dimensions_of(self._world, pod)
        if found is None and pod.node in self.gone:
            return Dimensions(Account(tenant_namespace=pod.namespace), server=pod.node)
        return found

    def observe_pod(self, pod: Pod) -> None:
        """Take note of a pod as it is now."""
        self.meter.observe_pod(pod)

    def pod_gone(self, pod: Pod, at: int, seen: int | None = None) -> None:
        """Take note that a pod's object is gone."""
        self.meter.pod_gone(pod, at, seen)

    def observe_grant(self, grant: Grant, settings: Settings) -> None:
        """Take note of a grant's term."""
        terms = terms_of(grant, settings, self._world.namespaces)
        if terms is not None:
            self.meter.observe_terms(terms)

    def observe_settings(self, digest: str, text: str, settings: Settings) -> None:
        """Take note of the settings now in force."""
        self.meter.observe_settings(digest, text, calendars_of(settings))
