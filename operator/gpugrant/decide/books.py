"""Everything the planner remembers between plans, and what of it has to be looked at again.

Facts and indexes over them; decisions that are assumed until the API confirms them; memory that no object carries;
notes of what is dirty. The classes above it (fleet, waiting, holding, world) keep it in order.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque

from gpugrant import names
from gpugrant.config import Settings
from gpugrant.decide.actions import ReleasePod, SetPolicies, WriteServer
from gpugrant.decide.reasons import Verdict
from gpugrant.decide.seats import FreeSeats
from gpugrant.decide.state import Entry, Gang, GrantState, Lane, LaneKey, PoolState, Server, Tally, Usage
from gpugrant.model.objects import Grant, Namespace, Quota
from gpugrant.model.pod import Pod


class Books:
    """The planner's memory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.servers: dict[str, Server] = {}
        self.by_hostname: dict[str, str] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.spaces: dict[str, set[str]] = defaultdict(set)  # tenant -> its namespaces
        self.pools: dict[str, PoolState] = {}
        self.quotas: dict[str, Quota] = {}
        self.grants: dict[str, GrantState] = {}
        self.grant_at: dict[tuple[str, str], str] = {}
        self.pods: dict[str, Pod] = {}
        self.entries: dict[str, Entry] = {}
        self.usage: dict[str, Usage] = defaultdict(Usage)
        self.users: dict[str, set[str]] = defaultdict(
            set
        )  # tenant -> grants it holds seats of, gone ones too
        self.gangs: dict[tuple[str, str], Gang] = {}
        self.gang_of_ended: dict[str, tuple[str, str]] = {}
        self.lanes: dict[str, dict[LaneKey, Lane]] = defaultdict(dict)  # by tenant
        self.buckets: dict[tuple[str, ...], FreeSeats] = defaultdict(FreeSeats)
        self.fenced: dict[str, set[str]] = defaultdict(set)  # provider -> own pods without a server yet
        self.resources: frozenset[str] = frozenset({names.DEFAULT_RESOURCE})
        # decided, and assumed until confirmed
        self.assumed: dict[str, ReleasePod] = {}
        self.writing: dict[str, WriteServer] = {}
        self.telling: dict[tuple[str, str, str], dict[str, object]] = {}
        self.told: dict[str, str] = {}  # uid -> message on its way to the pod
        self.evicting: dict[str, int] = {}
        self.labelling: set[str] = set()
        self.policies: SetPolicies | None = None
        # memory that no object carries
        self.places: dict[str, str] = {}  # uid -> server where the seats of a released pod are reserved
        self.backoff: dict[str, tuple[int, int]] = {}  # unit -> (tries, until)
        self.parked: dict[str, int] = {}  # uid -> until (0: till something about its tenant changes)
        self.failures: dict[str, int] = defaultdict(int)
        self.largest_fabric: dict[tuple[str, str], int] = {}  # by pool and share; of the plan being made
        self.never_fits: dict[tuple[object, ...], Verdict | None] = {}
        self.why_waiting: dict[str, str] = {}
        self.recheck: list[tuple[int, str]] = []  # (when, server)
        self.retry_at: dict[str, int] = {}
        self.status_at: dict[tuple[str, str, str], int] = {}
        # what has to be decided again
        self.dirty_pools: set[str] = set()
        self.dirty_lines: set[tuple[str, str, str]] = set()
        self.dirty_servers: set[str] = set()
        self.dirty_tenants: set[str] = set()
        self.dirty_status: set[tuple[str, str, str]] = set()  # kind, namespace, name
        self.tally: dict[tuple[str, str], Tally] = defaultdict(Tally)  # by pool and share
        self.granted: dict[tuple[str, str], int] = {}
        self.waiting_seats: dict[str, dict[LaneKey, int]] = defaultdict(lambda: defaultdict(int))
        self.used_seconds: dict[str, int] = {}  # by grant uid, from the meter
        self.month_seconds: dict[str, int] = {}
        self.booked: dict[str, tuple[str, str]] = {}  # pod uid -> grant's name and uid, as the ledger has had it
        self.leaving: dict[str, set[str]] = {}  # grant -> servers it leaves once nothing could bind there
        self.fence_waits: set[str] = set()  # servers that a grant gets once no fenced pod could come there
        self.tainted: dict[str, set[str]] = defaultdict(set)  # resource -> nodes that carry our taint for it
        self.unlabelled: set[str] = set()
        self.unbound = 0  # pods of grants that are released and have no server yet
        self.releases: deque[tuple[int, str]] = deque()  # (when, uid) in order; some of them are bound since
        self.held_back: set[str] = set()  # tenants whose pods wait because these are so many
        self.stirred: set[str] = set()  # pools whose servers, shares or bookings may be others than before
        self.tell_again: set[tuple[str, str, str]] = set()
        self.metered = True  # a ledger is written: released pods get the finalizer
        self.policies_at = 0
        self.hour = 0
        self.now = 0  # of the plan being made
        self.figures_changed: set[tuple[str, str, str]] = set()
        self.unexplained: dict[str, set[str]] = defaultdict(set)  # tenant -> uids
        self.all_dirty = True
        self.placement_changed = False  # nodes' labels or taints: what never fitted may fit
        self._tenants_stale = True
        self._tenant_grants: dict[str, list[str]] = {}
        self.deadlines: list[tuple[int, str]] = []  # bind time-outs: (when, uid)
        self.wakes: list[int] = []
        self.edges: list[tuple[int, str]] = []  # (when a grant starts, ends, leaves grace; uid)

    def line_of(self, grant: Grant) -> tuple[str, str, str]:
        """Return the line a grant stands in: programme, GPU type, share."""
        if grant.spec is None:
            return ("", "", "")
        programme = grant.spec.programme
        state = self.grants.get(grant.uid)
        pool = self.pools.get(
            (state.pool if state else "") or (grant.allocation.pool if grant.allocation else "")
        )
        if programme is None and pool and pool.pool.spec:
            programme = pool.pool.spec.programme  # where it has its place, whatever pools come
        if programme is None:
            offering = {
                s.pool.spec.programme
                for s in self.pools.values()
                if s.pool.spec and s.pool.spec.gpu_type == grant.spec.gpu_type
            }
            known = offering if len(offering) == 1 else self.known_programmes()
            programme = next(iter(known)) if len(known) == 1 else ""
        return (programme, grant.spec.gpu_type, grant.spec.share)

    def known_programmes(self) -> set[str]:
        """Return the programmes that the settings or pools name."""
        return {
            *self.settings.programmes,
            *(s.pool.spec.programme for s in self.pools.values() if s.pool.spec),
        }

    def tenant_of(self, namespace: str) -> str:
        """Return the tenant a namespace belongs to, or ''."""
        known = self.namespaces.get(namespace)
        return known.tenant if known else ""

    def grants_of(self, tenant: str) -> list[str]:
        """Return the uids of a tenant's grants."""
        if self._tenants_stale:
            self._tenant_grants = defaultdict(list)
            for uid, state in self.grants.items():
                self._tenant_grants[self.tenant_of(state.grant.namespace)].append(uid)
            self._tenants_stale = False
        return self._tenant_grants.get(tenant, []) if tenant else []

    def resource_of_type(self, gpu_type: str) -> str:
        """Return the resource that pools of a GPU type offer, '' where there is none."""
        for state in self.pools.values():
            if state.pool.spec and state.pool.spec.gpu_type == gpu_type:
                return state.resource
        return ""

    def taken_by(self, tenant: str, line: tuple[str, str, str]) -> int:
        """Return the seats a tenant holds or has reserved of a line, of grants that are gone too."""
        return sum(self.usage[u].taken for u in self.users.get(tenant, ()) if self.usage[u].line == line)

    def held_by(self, tenant: str, line: tuple[str, str, str]) -> int:
        """Return the seats a tenant holds of a line."""
        return sum(self.usage[u].held for u in self.users.get(tenant, ()) if self.usage[u].line == line)

    def wake(self, at: int) -> None:
        """Ask for a plan at ``at`` though nothing happens."""
        heapq.heappush(self.wakes, at)

    def _later(self, key: str) -> None:
        self.failures[key] += 1
        self.retry_at[key] = -1  # the next plan, which knows the time, sets it

    def may_try(self, key: str) -> bool:
        """Say whether a write may be tried: not while one that failed has to wait for its next turn."""
        return key not in self.retry_at

    def retry_due(self, now: int) -> list[str]:
        """Return what may be tried again now; the delay doubles from none to half a minute."""
        due = []
        for key in list(self.retry_at):
            if self.retry_at[key] == -1:
                self.retry_at[key] = now + 2 ** min(self.failures[key], 6) // 2
                self.wake(self.retry_at[key])
            if self.retry_at[key] <= now:
                del self.retry_at[key]
                due.append(key)
        return due

    def take_used(self, used: dict[str, int], of_month: dict[str, int]) -> bool:
        """Take what each grant (by uid) has used, in GPU-seconds, ever and this month; say whether to tell it now.

        While a grant's pods run its figures grow all the time and are told with what else happens. What they came to
        when none runs any more is final, and told.
        """
        settled = [uid for uid, whole in used.items()
                   if whole != self.used_seconds.get(uid) and not (uid in self.usage and self.usage[uid].held)]
        self.used_seconds, self.month_seconds = used, of_month
        for uid in settled:
            self._grant_figures(uid)
        return bool(settled)

    def _grant_figures(self, uid: str) -> None:
        state = self.grants.get(uid)
        if state:
            self.figures_changed.add(("GpuGrant", state.grant.namespace, state.grant.name))
        tenants = {state.tenant if state else "", self.usage[uid].tenant if uid in self.usage else ""}
        self.figures_changed.update(("TenantQuota", "", tenant) for tenant in tenants if tenant)

    def _tenant_waits(self, tenant: str) -> None:
        if self.lanes.get(tenant):
            self.dirty_tenants.add(tenant)
