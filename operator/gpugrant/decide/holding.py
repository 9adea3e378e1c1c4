"""Pods that hold or reserve seats: each counted once, and counted back exactly as it was counted."""

from __future__ import annotations

import heapq
from typing import Any

from msgspec.structs import replace

from gpugrant import names
from gpugrant.decide.actions import ReleasePod
from gpugrant.decide.state import OWN_USE, Entry, Gang
from gpugrant.decide.waiting import Waiting
from gpugrant.model.pod import Pod


class Holding(Waiting):
    """Waiting, and the pods that were released or run."""

    def put_pod(self, pod: Pod) -> None:
        """Take a pod with GPUs."""
        pod = self.accounted(pod)
        old = self.pods.get(pod.uid)
        if old is not None and old.version == pod.version and old == pod:
            return
        self._count_back(pod.uid)
        if not self.parked.get(pod.uid, 1):
            del self.parked[pod.uid]  # it changed: judge it again
        self._count(pod)

    def accounted(self, pod: Pod) -> Pod:
        """Return a pod with the grant that its seats are on, which its marks need not say.

        The guard keeps marks as the operator wrote them, as long as it is there. Where gpugrant was taken out and
        installed again, pods that ran on have lost theirs, and what came meanwhile may have any. So what the ledger
        has a pod's hold on goes before its marks, and no mark books a pod on a grant of another tenant.
        """
        entry = self.entries.get(pod.uid)
        if entry is not None and entry.grant and entry.grant == pod.grant_uid:
            return pod  # counted so: its namespace may have become another tenant's
        return self._accounted_anew(pod)

    def _accounted_anew(self, pod: Pod) -> Pod:
        if (booked := self.booked.get(pod.uid)) is not None:
            return pod if booked[1] == pod.grant_uid else replace(pod, grant=booked[0], grant_uid=booked[1])
        return replace(pod, grant="", grant_uid="") if self._is_marked_as_anothers(pod) else pod

    def _is_marked_as_anothers(self, pod: Pod) -> bool:
        state = self.grants.get(pod.grant_uid) if pod.grant_uid else None
        if state is None or state.grant.namespace == pod.namespace:
            return False
        known = pod.namespace in self.namespaces and state.grant.namespace in self.namespaces
        return known and self.tenant_of(pod.namespace) != self.tenant_of(state.grant.namespace)

    def take_booked(self, booked: dict[str, tuple[str, str]]) -> None:
        """Take which grants the ledger has pods on that hold still."""
        self.booked = booked
        self.account_anew()

    def account_anew(self) -> list[Pod]:
        """Count pods again whose grant is another one than was thought when they were seen; return these."""
        found = [(pod, self._accounted_anew(pod)) for pod in self.pods.values()]
        changed = [anew for pod, anew in found if anew is not pod]
        for pod in changed:
            self.put_pod(pod)
        return changed

    def drop_pod(self, uid: str) -> None:
        """Forget a pod."""
        self.booked.pop(uid, None)
        self._count_back(uid)
        self.pods.pop(uid, None)
        key = self.gang_of_ended.pop(uid, None)
        if key and key in self.gangs:
            self.gangs[key].bound_once.pop(uid, None)
            self.gangs[key].succeeded.pop(uid, None)
            self._tidy_gang(key)
        self._forget_memory(uid)

    def assume(self, pod: Pod, release: ReleasePod) -> None:
        """Count a pod as released from now on, until the API confirms or denies it."""
        self._count_back(pod.uid)
        self.assumed[pod.uid] = release
        self.places[pod.uid] = release.server
        gang = self.gangs.get(self.gang_key(pod) or ("", ""))
        if gang:
            gang.released_here = True
        self._count(pod)

    def bind_deadline(self, pod: Pod) -> int:
        """Return when a released pod that is still unbound is taken back."""
        return (pod.released_at or pod.created) + self.settings.bind_timeout_seconds

    def oldest_unbound(self) -> int | None:
        """Return when the first of the unbound pods was released."""
        while self.releases:
            at, uid = self.releases[0]
            entry = self.entries.get(uid)
            if entry is not None and entry.kind == "reserved":
                return at
            self.releases.popleft()
        return None

    def _count(self, pod: Pod) -> None:
        gang_key = self.gang_key(pod)
        if pod.ended:
            self.pods.pop(pod.uid, None)
            self._forget_memory(pod.uid)
            if gang_key and pod.scheduled_at:
                self.gang_of_ended[pod.uid] = gang_key
                ended_at = pod.finished_at or pod.disrupted_at or pod.terminal_at or 1
                gang = self._gang(gang_key, pod)
                gang.bound_once[pod.uid] = ended_at
                if pod.phase == "Succeeded" and pod.released_at:
                    gang.succeeded[pod.uid] = pod.released_at
            return
        self.pods[pod.uid] = pod
        self.told.pop(pod.uid, None) if pod.waiting else None
        entry = Entry("loose", self.seats_of(pod))
        entry.tenant = self.tenant_of(pod.namespace)
        self.entries[pod.uid] = entry
        if not pod.gpu_label:
            self.unlabelled.add(pod.uid)
        if names.GATE in pod.gates:
            release = self.assumed.get(pod.uid)
            if pod.deleting:
                pass
            elif release:
                self._reserve(pod, entry, release.grant_uid, release.server)
            else:
                self._wait(pod, entry)
        else:
            self._count_released(pod, entry)
        if gang_key and entry.kind != "loose":
            entry.gang = gang_key
            gang = self._gang(gang_key, pod)
            if entry.kind == "waiting":
                gang.waiting.add(pod.uid)
                if len(gang.waiting) + len(gang.living) == gang.size:
                    self.unpark(gang.waiting)
            else:
                gang.living.add(pod.uid)
                if entry.kind == "held":
                    gang.bound_once[pod.uid] = 0
                    if self._all_were_bound(gang):
                        gang.whole = True

    def _all_were_bound(self, gang: Gang) -> bool:
        """Say whether every member of this try was bound once; what ended before its release is of an earlier one."""
        if gang.whole or len(gang.bound_once) < gang.size:
            return gang.whole
        first = min(
            self.assumed[uid].at if uid in self.assumed else self.pods[uid].released_at for uid in gang.living
        )
        early = self.ran_ahead(gang)
        return sum(not at or at > first or uid in early for uid, at in gang.bound_once.items()) >= gang.size

    def ran_ahead(self, gang: Gang) -> set[str]:
        """Return the members of this try that succeeded before the others were released.

        An operator that is killed amid a release leaves a gang in parts, and a short member may be done when the next
        one comes. It had waited with those that still do: they were all there when it was released, as the members of
        a later try never are. Nobody makes it anew, so that the others would wait for it for ever.
        """
        if not gang.succeeded:
            return set()
        newest = max((self.pods[uid].created for uid in gang.living | gang.waiting), default=0)
        return {uid for uid, released in gang.succeeded.items() if released >= newest > 0}

    def _count_released(self, pod: Pod, entry: Entry) -> None:
        self.assumed.pop(pod.uid, None)
        if pod.node:
            self.places.pop(pod.uid, None)
            entry.kind, entry.server, entry.grant = "held", pod.node, pod.grant_uid
            if pod.grant_uid and not pod.replacement and self.gang_key(pod):
                heapq.heappush(self.deadlines, (self.bind_deadline(pod), pod.uid))  # was all of it bound?
            if pod.grant_uid:
                usage = self.usage[pod.grant_uid]
                usage.held += entry.seats
                usage.pods[pod.uid] = entry.seats
                self._grant_figures(pod.grant_uid)
            self._occupy(pod, pod.node)
            if pod.grant_uid:
                self._note_user(entry)
            if not pod.grant_uid and self.servers[pod.node].share != OWN_USE:
                self._server_changed(
                    self.servers[pod.node]
                )  # nobody's grant: no grant is placed here meanwhile
        elif pod.deleting:
            pass  # core refuses to bind what is being deleted: it holds nothing and never will
        elif pod.grant_uid:
            place = self.places.get(pod.uid) or self.by_hostname.get(
                dict(pod.shape.selector).get(names.HOSTNAME_LABEL, ""), ""
            )
            self._reserve(pod, entry, pod.grant_uid, place)
            heapq.heappush(self.deadlines, (self.bind_deadline(pod), pod.uid))
        else:
            provider = dict(pod.shape.selector).get(names.OWN_USE_LABEL, "")
            if provider:
                entry.kind, entry.tenant = "fenced", provider
                self.fenced[provider].add(pod.uid)

    def _reserve(self, pod: Pod, entry: Entry, grant_uid: str, place: str) -> None:
        entry.kind, entry.grant, entry.server = "reserved", grant_uid, place
        usage = self.usage[grant_uid]
        usage.reserved += entry.seats
        usage.pods[pod.uid] = entry.seats
        usage.unbound.add(pod.uid)
        self.unbound += 1
        self.releases.append((pod.released_at or self.now, pod.uid))
        if not place:
            usage.placeless.add(pod.uid)
        self._grant_figures(grant_uid)
        if place:
            self._occupy(pod, place)
        self._note_user(entry)

    def _note_user(self, entry: Entry) -> None:
        """Note whose limits a grant's seats count against; that outlives the grant."""
        usage, state = self.usage[entry.grant], self.grants.get(entry.grant)
        usage.tenant = entry.tenant
        self.users[entry.tenant].add(entry.grant)
        server = self.servers.get(entry.server)
        pool = self.pools.get(server.pool) if server else None
        if state:
            usage.line = self.line_of(state.grant)
        elif server and pool and pool.pool.spec:
            usage.line = (
                pool.pool.spec.programme,
                pool.pool.spec.gpu_type,
                server.share or server.label(names.SHARE_LABEL),
            )

    def _count_back(self, uid: str) -> None:
        entry = self.entries.pop(uid, None)
        if entry is None:
            return
        pod = self.pods[uid]
        if entry.kind == "waiting":
            assert entry.lane is not None
            self.waiting_seats[entry.tenant][entry.lane] -= entry.seats
            if not self.waiting_seats[entry.tenant][entry.lane]:
                del self.waiting_seats[entry.tenant][entry.lane]
            if uid not in self.parked:
                self._dequeue(pod, entry)
            self.unexplained[entry.tenant].discard(uid)
            self.dirty_tenants.add(entry.tenant)
            for grant in self.grants_of(entry.tenant):
                self._grant_figures(grant)
        elif entry.kind == "fenced":
            self.fenced[entry.tenant].discard(uid)
            self.dirty_servers |= self.fence_waits
            self.fence_waits.clear()
            for state in self.pools.values():
                self.share_may_change(state.pool.name)
        if entry.grant:
            usage = self.usage[entry.grant]
            if entry.kind == "held":
                usage.held -= entry.seats
            else:
                usage.reserved -= entry.seats
                usage.unbound.discard(uid)
                self.unbound -= 1
                while self.held_back:
                    self._tenant_waits(self.held_back.pop())
                usage.placeless.discard(uid)
                if not usage.unbound:
                    self.dirty_servers |= self.leaving.pop(entry.grant, set())
            usage.pods.pop(uid, None)
            self._grant_figures(entry.grant)
            self._tenant_waits(entry.tenant)
            if not usage.pods:
                self.users[usage.tenant].discard(entry.grant)
                if not self.users[usage.tenant]:
                    del self.users[usage.tenant]
                if entry.grant not in self.grants:
                    self.usage.pop(entry.grant, None)
        if entry.server and entry.kind in ("held", "reserved"):
            server = self.servers.get(entry.server)
            if server and server.pods.pop(uid, None):
                self._use(server, pod, -1)
                self.stand(server)
                self._usage_changed(server)
                self.dirty_servers.add(server.name)
                if not server.pods:
                    self.share_may_change(server.pool)
                if not entry.grant and server.share != OWN_USE:
                    self._server_changed(server)
                if server.node is None and not server.pods:
                    del self.servers[server.name]
        if entry.gang:
            gang = self.gangs[entry.gang]
            if len(gang.waiting) + len(gang.living) == gang.size:
                self.unpark(gang.waiting - {uid})  # not whole any more
            gang.waiting.discard(uid)
            gang.living.discard(uid)
            gang.bound_once.pop(uid, None)
            self._tidy_gang(entry.gang)

    def _forget_memory(self, uid: str) -> None:
        memories: tuple[dict[str, Any], ...] = (
            self.assumed,
            self.places,
            self.told,
            self.evicting,
            self.parked,
        )
        for memory in memories:
            memory.pop(uid, None)
        self.why_waiting.pop(uid, None)
        self.labelling.discard(uid)
        for key in (uid, f"explain/{uid}"):
            self.failures.pop(key, None)
            self.retry_at.pop(key, None)

    def _recount_namespace(self, name: str) -> None:
        self._tenants_stale = True
        self.all_dirty = True
        for pod in [p for p in self.pods.values() if p.namespace == name]:
            self._count_back(pod.uid)
            self._count(pod)

    def _recount_all(self) -> None:
        for server in self.servers.values():
            self._recount_server(server)
            self.stand(server)
        for pod in list(self.pods.values()):
            self._count_back(pod.uid)
            self._count(pod)
        self.all_dirty = True
