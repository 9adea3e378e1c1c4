"""Pods that wait: lanes of pods with the same candidate grants, gangs, those set aside for now."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

from gpugrant import names
from gpugrant.decide.fleet import Fleet
from gpugrant.decide.state import Entry, Gang, GrantState, Lane
from gpugrant.model.pod import Pod

LARGEST_GANG = 100_000
# 1e30 is accepted as a GPU count; nothing real is left out, and sums stay within what statuses and metrics hold.
MOST_SEATS = 10**9


class Waiting(Fleet):
    """Fleet with the pods that wait."""

    def seats_of(self, pod: Pod) -> int:
        """Return how many seats a pod asks for, of whatever pools offer; at most a thousand million."""
        return min(MOST_SEATS, sum(count for name, count in pod.shape.resources if name in self.resources))

    def gang_key(self, pod: Pod) -> tuple[str, str] | None:
        """Return the gang a pod belongs to, None for a pod on its own.

        Its size is part of it: a pod that says another one cannot keep the rest waiting.
        """
        size = parse_gang_size(pod.gang_size) if pod.gang_size else None
        if size is None:
            return None
        return (pod.namespace, f"{pod.gang or pod.controller or pod.name}/{size}")

    def unit_key(self, pod: Pod) -> str:
        """Return what back-off is counted by: the gang, else the controller, else the pod's name."""
        gang = self.gang_key(pod)
        return "/".join(gang) if gang else f"{pod.namespace}/{pod.controller or pod.name}"

    def _wait(self, pod: Pod, entry: Entry) -> None:
        entry.kind = "waiting"
        product = dict(pod.shape.selector).get(names.PRODUCT_LABEL, "")
        resource = ",".join(name for name, _ in pod.shape.resources if name in self.resources)
        if pod.shape.dra:
            resource = "claims"
        entry.lane = (pod.namespace if pod.grant else "", pod.grant, resource, product)
        self.waiting_seats[entry.tenant][entry.lane] += entry.seats
        if pod.uid not in self.parked:
            self._enqueue(pod, entry)
        self.unexplained[entry.tenant].add(pod.uid)
        self.dirty_tenants.add(entry.tenant)
        for uid in self.grants_of(entry.tenant):
            self._grant_figures(uid)

    def _enqueue(self, pod: Pod, entry: Entry) -> None:
        assert entry.lane is not None
        lane = self.lanes[entry.tenant].get(entry.lane)
        if lane is None:
            lane = self.lanes[entry.tenant][entry.lane] = Lane(entry.lane)
        insort(lane.queue, queue_key(pod))

    def _dequeue(self, pod: Pod, entry: Entry) -> None:
        assert entry.lane is not None
        lane = self.lanes[entry.tenant].get(entry.lane)
        if lane is None:
            return
        key = queue_key(pod)
        at = bisect_left(lane.queue, key)
        if at < len(lane.queue) and lane.queue[at] == key:
            del lane.queue[at]
        if not lane.queue:
            del self.lanes[entry.tenant][entry.lane]
            if not self.lanes[entry.tenant]:
                del self.lanes[entry.tenant]

    def park(self, uid: str, until: int) -> None:
        """Take a waiting pod out of its lane: its turn cannot come before ``until`` (0: before a change)."""
        if uid in self.parked:
            self.parked[uid] = until
            return
        self._dequeue(self.pods[uid], self.entries[uid])
        self.parked[uid] = until
        if until:
            heapq.heappush(self.wakes, until)

    def unpark(self, uids: set[str]) -> None:
        """Bring waiting pods back into their lanes."""
        for uid in [u for u in uids if u in self.parked]:
            del self.parked[uid]
            entry = self.entries.get(uid)
            if entry and entry.kind == "waiting":
                self._enqueue(self.pods[uid], entry)
                self.unexplained[entry.tenant].add(uid)
                self.dirty_tenants.add(entry.tenant)

    def unpark_due(self, now: int) -> None:
        """Bring back those whose back-off is over."""
        self.unpark({uid for uid, until in self.parked.items() if until and until <= now})

    def ahead_of(self, uid: str) -> int:
        """Return how many pods of the same lane come before a waiting pod."""
        entry = self.entries[uid]
        lane = self.lanes.get(entry.tenant, {}).get(entry.lane) if entry.lane else None
        return bisect_left(lane.queue, queue_key(self.pods[uid])) if lane else 0

    def waiting_on(self, state: GrantState) -> int:
        """Return the seats of pods that wait for a grant: those that name it, and those it is the first for."""
        spec = state.grant.spec
        found = 0
        for (namespace, grant, resource, product), seats in self.waiting_seats.get(state.tenant, {}).items():
            if grant:
                own = self.grant_at.get((namespace, grant))
                found += seats if grant == state.grant.name and own in (None, state.grant.uid) else 0
                continue
            fitting = [
                s
                for s in (self.grants[u] for u in self.grants_of(state.tenant))
                if s.grant.spec
                and (not product or s.grant.spec.gpu_type == product)
                and self.resource_of_type(s.grant.spec.gpu_type) == resource
            ]
            first = min(fitting, key=lambda s: (s.end, s.grant.name, s.grant.namespace), default=None)
            found += seats if first is state else 0
        return found if spec else 0

    def reconsider(self, tenant: str) -> None:
        """Judge all waiting pods of a tenant again, those set aside too."""
        for uid in self.grants_of(tenant):
            self._grant_figures(uid)
        mine = {u for u in self.parked if u in self.entries and self.entries[u].tenant == tenant}
        self.unpark({u for u in mine if self.parked[u] == 0})
        for lane in self.lanes.get(tenant, {}).values():
            self.unexplained[tenant].update(key[3] for key in lane.queue)
        self.dirty_tenants.add(tenant)

    def _gang(self, key: tuple[str, str], pod: Pod) -> Gang:
        gang = self.gangs.get(key)
        if gang is None:
            gang = self.gangs[key] = Gang(key, parse_gang_size(pod.gang_size) or 1)
        return gang

    def _tidy_gang(self, key: tuple[str, str]) -> None:
        gang = self.gangs[key]
        if not gang.living and not gang.waiting:
            gang.whole = gang.released_here = False
            if not gang.bound_once:
                del self.gangs[key]
        elif not gang.living:
            gang.whole = gang.released_here = False


def queue_key(pod: Pod) -> tuple[int, int, str, str]:
    """Return a pod's place among those that wait: priority, then age."""
    return (-pod.priority, pod.created, pod.name, pod.uid)


def parse_gang_size(text: str) -> int | None:
    """Return a gang's size, None where the annotation makes no sense."""
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        return None
    size = int(text)
    return size if 1 <= size <= LARGEST_GANG else None
