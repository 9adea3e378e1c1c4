"""A made-up but lifelike month of the first call: its servers, its projects, what went wrong, every pod.

159 projects on 528 servers (4,224 GPUs), by sector and under the caps of first-call.yaml. Trainings over whole
grants that run for days, fail and are tried again; sweeps of thousands of one-GPU pods; notebooks. Servers fail, are
cordoned, have windows announced, lose a GPU; one delivery comes half a month late. The same seed, the same month.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec import Struct

from devcluster.fleet import apportion
from gpugrant.meter.facts import (
    Account,
    Announced,
    Aspect,
    Claimed,
    Contracted,
    EndReason,
    Failure,
    GrantTerms,
    Health,
    Instalment,
    Owner,
    Placed,
    Seated,
    SettingsVersion,
)
from gpugrant.meter.histories import Dated
from gpugrant.meter.months import Calendar, Month

PROGRAMME = "purchase-2025"
SEATS = 8
DAY = 86_400
# Offered servers, and the cap of a project in servers.
_POOLS = (
    ("naver-h200", "naver-cloud", "NVIDIA-H200", 287, 32),
    ("kakao-b200", "kakao", "NVIDIA-B200", 255, 16),
)
_GRANTED = 528
_PROJECTS = 159
_SECTORS = {"academia": 328, "industry": 161, "research": 39}  # servers
_LATE = 24  # servers of the first pool that come on the 16th instead of the 1st
_NOTICE = 3 * DAY
# Mean seconds of a sweep's pods; with it the whole first call has about 1.5 million pods.
_SWEEP_SECONDS = 3_950
SETTINGS = """\
programmes:
  purchase-2025:
    owner: NIPA
    caps: {NVIDIA-H200: 256, NVIDIA-B200: 128}
    report: {unobservedLimitGpuSeconds: 1000000}
"""


class Pod(Struct, frozen=True, gc=False):
    """A pod's hold as the ledger keeps it; ``gone`` is set where its end was not seen."""

    uid: str
    name: str
    account: Account
    server: str
    fabric: str
    seats: int
    start: int
    end: int | None
    reason: EndReason | None = EndReason.FINISHED
    gone: int = 0


@dataclass
class Server:
    """A server of the fleet. ``bad``: when all of it was failed, in maintenance or doubted, in order."""

    name: str
    pool: int
    fabric: str
    since: int
    bad: list[tuple[int, int]]
    lame: tuple[int, int] = (0, 0)  # when one of its GPUs was unhealthy


@dataclass
class Project:
    """A grant and its servers; one without any is on shared servers."""

    terms: GrantTerms
    account: Account
    servers: list[Server]
    work: str  # training, sweep, notebooks
    ends_early: bool = False


class Lifelike:
    """One month of a fleet that is so many times the first call's."""

    def __init__(self, scale: float = 1.0, month: str = "2026-05", seed: int = 20_260_303) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self.month: Month = Calendar().month_named(month)
        self._before = self.month.start - 3 * DAY  # from when on there is work
        self.facts: list[Dated | Failure | SettingsVersion] = []
        sizes = [max(2, round(servers * scale)) for *_, servers, _ in _POOLS]
        self.servers = [self._servers(number, size, scale) for number, size in enumerate(sizes)]
        self.projects = self._projects(scale)
        self.shared: list[Project] = []
        self._tell_servers()
        self._tell_grants()
        self._tell_contracts()

    # -- servers -------------------------------------------------------------------------------------

    def _servers(self, pool: int, count: int, scale: float) -> list[Server]:
        name, *_ = _POOLS[pool]
        stem = name.split("-")[0]
        late = round(_LATE * scale) if pool == 0 else 0
        mid = self.month.start + 15 * DAY + 9 * 3600
        size = max(1, round(255 * scale))
        return [
            Server(
                f"{stem}-{number:04}",
                pool,
                f"{name}-f{1 + number // size}",
                mid + 90 * (number - count + late) if number >= count - late else self._before,
                self._troubles(),
            )
            for number in range(count)
        ]

    def _troubles(self) -> list[tuple[int, int]]:
        """Return when a server is down: one in six fails in a month, for minutes or a working day."""
        found = []
        if self._random.random() < 1 / 6:
            start = self._moment()
            found.append((start, start + int(self._random.lognormvariate(8.2, 1.2)) + 60))
        return found

    def _moment(self) -> int:
        return self._random.randrange(self.month.start, self.month.end)

    def _tell_servers(self) -> None:
        for server in (server for pool in self.servers for server in pool):
            pool, provider, gpu_type, *_ = _POOLS[server.pool]
            since = max(server.since, self.month.start)  # when the ledger began, or it came
            placed = Placed(
                server.name, since, PROGRAMME, provider, pool, gpu_type, "Public", server.fabric, SEATS
            )
            self.facts.append(placed)
            for start, end in server.bad:
                self._tell_down(server, start, end)
            luck = self._random.random()
            if luck < 0.03:
                self._window(server, 4 * 3600, announced=luck < 0.02)
            elif luck < 0.07:
                start = self._moment()
                server.lame = (start, start + self._random.randrange(3600, 2 * DAY))
                self._aspect(server, Aspect.OFFERED, server.lame[0], SEATS - 1)
                self._aspect(server, Aspect.OFFERED, server.lame[1], SEATS)
                self._fail(server, "Unhealthy", start, 1)
            elif luck < 0.09:
                start = self._moment()
                server.bad.append((start, start + 45))
                self._aspect(server, Aspect.DOUBTED, start, SEATS)
                self._aspect(server, Aspect.DOUBTED, start + 45, 0)
            server.bad = _joined(server.bad)

    def _tell_down(self, server: Server, start: int, end: int) -> None:
        self._aspect(server, Aspect.READY, start, 0)
        self._aspect(server, Aspect.READY, end, 1)
        self._fail(server, "NotReady", start, SEATS)

    def _window(self, server: Server, seconds: int, *, announced: bool) -> None:
        """Cordon a server, in a window that was announced or without one."""
        start = self._moment()
        end = start + seconds
        if announced:
            self.facts.append(Announced(server.name, start - 7 * DAY, start, end, _NOTICE))
        else:
            self._fail(server, "Cordoned", start, SEATS)
        server.bad.append((start, end))
        self._aspect(server, Aspect.CORDONED, start, 1)
        self._aspect(server, Aspect.CORDONED, end, 0)

    def _aspect(self, server: Server, aspect: Aspect, since: int, value: int) -> None:
        self.facts.append(Health(server.name, aspect, since, value, since + self._random.randrange(1, 4)))

    def _fail(self, server: Server, cause: str, since: int, seats: int) -> None:
        pool, provider, gpu_type, *_ = _POOLS[server.pool]
        self.facts.append(
            Failure(PROGRAMME, provider, pool, gpu_type, "Public", server.name, cause, since, seats)
        )

    # -- projects ------------------------------------------------------------------------------------

    def _projects(self, scale: float) -> list[Project]:
        """Deal the granted servers to projects: most have one or two, some as many as the cap allows."""
        count = max(3, round(_PROJECTS * scale))
        free = [list(pool) for pool in self.servers]
        granted = min(round(_GRANTED * scale), sum(map(len, free)) - 2)
        sectors = apportion(count, list(_SECTORS.values()), at_least=1)
        names = [name for name, many in zip(_SECTORS, sectors, strict=True) for _ in range(many)]
        sizes = self._sizes(count, granted)
        found = []
        for number, (size, sector) in enumerate(zip(sizes, names, strict=True)):
            fits = [at for at, pool in enumerate(free) if len(pool) >= size and size <= _POOLS[at][4]]
            at = max(fits or [0, 1], key=lambda one: len(free[one]))
            mine, free[at] = free[at][:size], free[at][size:]
            if mine:
                found.append(self._project(number, at, sector, mine))
        self.spare = free
        return found

    def _sizes(self, count: int, total: int) -> list[int]:
        weights = sorted((self._random.lognormvariate(0, 1.1) for _ in range(count)), reverse=True)
        sizes = apportion(total, [round(1000 * weight) for weight in weights])
        while max(sizes) > _POOLS[0][4]:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[sizes.index(min(sizes))] += 1
        return sizes

    def _project(self, number: int, pool: int, sector: str, servers: list[Server]) -> Project:
        name, provider, gpu_type, *_ = _POOLS[pool]
        tenant, uid = f"{sector}-{number:03}", f"{self._random.getrandbits(128):032x}"
        award = f"2026-1-{number:03}"
        # Some end in the month, after a stage evaluation: what still runs is Grace for half an hour.
        ends_early = self._random.random() < 0.06
        end = self._moment() if ends_early else self.month.end + 120 * DAY
        terms = GrantTerms(
            uid,
            tenant,
            "first-call",
            self._before,
            end,
            3600,
            tenant,
            award,
            len(servers) * SEATS,
            self._before,
        )
        account = Account(
            PROGRAMME, provider, name, gpu_type, "Public", Owner.GRANT, tenant, tenant, terms.name, uid, award
        )
        work = self._random.choices(("training", "sweep", "notebooks"), (45, 45, 10))[0]
        return Project(terms, account, servers, work, ends_early)

    def _tell_grants(self) -> None:
        for project in self.projects:
            self.facts.append(project.terms)
            for server in project.servers:
                self.facts.append(Claimed(server.name, project.terms.grant_uid, server.since))
        for number, pool in enumerate(self.spare):
            if len(pool) < 1:
                continue
            project = self._project(900 + number, number, "evaluation", pool[: max(1, len(pool) // 2)])
            project.terms = GrantTerms(*_with_gpus(project.terms, 4 * len(pool)))
            project.work = "notebooks"
            name, provider, gpu_type, *_ = _POOLS[number]
            self.facts.append(project.terms)
            self.facts.append(
                Seated(
                    project.terms.grant_uid,
                    self._before,
                    PROGRAMME,
                    provider,
                    name,
                    gpu_type,
                    "Public",
                    project.terms.gpus,
                )
            )
            self.shared.append(project)

    def _tell_contracts(self) -> None:
        for number, (name, provider, gpu_type, *_) in enumerate(_POOLS):
            gpus = len(self.servers[number]) * SEATS
            plan = (Instalment(self.month.start - 30 * DAY, gpus, gpus),)
            self.facts.append(Contracted(name, self.month.start, PROGRAMME, provider, gpu_type, plan, gpus))
        self.facts.append(
            SettingsVersion(hashlib.sha256(SETTINGS.encode()).hexdigest(), self._before, SETTINGS)
        )

    # -- pods ----------------------------------------------------------------------------------------

    def losses(self) -> Iterator[tuple[str, int, int, bool]]:
        """Yield server, start, end of what no pod is charged for: all its seats, or one where all eight are held."""
        for server in (server for pool in self.servers for server in pool):
            yield from ((server.name, start, end, True) for start, end in server.bad)
            start, end = server.lame
            for down, up in server.bad:
                if down < end and start < up:
                    if start < down:
                        yield server.name, start, down, False
                    start = max(start, up)
            if start < end:
                yield server.name, start, end, False

    def pods(self) -> Iterator[Pod]:
        """Yield every pod that touches the month, by projects; the same ones whenever it is asked."""
        self._random.seed(self._seed + 1)
        for project in (*self.projects, *self.shared):
            work = {"training": self._training, "sweep": self._sweep, "notebooks": self._notebooks}
            yield from work[project.work](project)

    def _pod(
        self, project: Project, server: Server, seats: int, start: int, end: int, kind: str
    ) -> Iterator[Pod]:
        """Yield a pod's hold, as its server and its grant's term let it be; pods of before the month are left out."""
        reason, gone = EndReason.FINISHED, 0
        last = project.terms.end + 1800
        end = min(end, last)
        for down, _ in server.bad:
            if start < down < end:  # it is evicted five minutes after its server went
                end, reason = min(end, down + 300), EndReason.DISRUPTED
        if self._random.random() < 2e-5:
            reason, gone = EndReason.UNOBSERVED, end + 60
        if start >= end or end <= self.month.start or start >= project.terms.end:
            return
        uid = f"{self._random.getrandbits(128):032x}"
        uid = f"{uid[:8]}-{uid[8:12]}-{uid[12:16]}-{uid[16:20]}-{uid[20:]}"
        name = f"{kind}-{uid[-5:]}"
        if end > self.month.end + 600:
            yield Pod(uid, name, project.account, server.name, server.fabric, seats, start, None, None)
        else:
            yield Pod(uid, name, project.account, server.name, server.fabric, seats, start, end, reason, gone)

    def _training(self, project: Project) -> Iterator[Pod]:
        """Yield one pod a server, all together, for hours or days; some fail early and are tried again."""
        at = max(server.since for server in project.servers) + self._random.randrange(1, DAY)
        while at < self.month.end:
            fails = self._random.random() < 0.3
            length = self._random.randrange(20, 900) if fails else self._random.randrange(4 * 3600, 5 * DAY)
            broken = min(
                (down for server in project.servers for down, _ in server.bad if at < down < at + length),
                default=0,
            )
            end = broken + 20 if broken else at + length
            for server in project.servers:
                late = self._random.randrange(3)
                if _is_well(server, at, at + late + 1):
                    yield from self._pod(project, server, SEATS, at + late, end, "train")
            at = end + self._random.randrange(10, 400)
            if self._random.random() < 0.15:
                at += self._random.randrange(3600, DAY)

    def _sweep(self, project: Project) -> Iterator[Pod]:
        """Yield one-GPU pods, seat by seat: minutes each, now and then one that crashes at once."""
        for server in project.servers:
            for seat in range(SEATS):
                yield from self._on_seat(project, server, seat, 1, _SWEEP_SECONDS, 20, "sweep")

    def _notebooks(self, project: Project) -> Iterator[Pod]:
        for server in project.servers:
            for seat in range(0, SEATS, 2):
                yield from self._on_seat(project, server, seat, 2, 9_000, 5_000, "notebook")

    def _on_seat(
        self, project: Project, server: Server, seat: int, seats: int, mean: int, pause: int, kind: str
    ) -> Iterator[Pod]:
        at = server.since + self._random.randrange(1, 600)
        lame = server.lame if seat + seats == SEATS else (0, 0)
        while at < min(self.month.end, project.terms.end):
            if self._random.random() < 0.06:
                length = self._random.randrange(1, 30)
            else:
                length = 1 + int(self._random.expovariate(1 / mean))
            following = _well_from(server, at)
            if lame[0] < at + length and at < lame[1]:
                following = max(following, lame[1])
            if following == at:
                for pod in self._pod(project, server, seats, at, at + length, kind):
                    yield pod
                    length = (pod.end or at + length) - at + (60 if pod.gone else 0)
                following = at + length
            at = following + 1 + int(self._random.expovariate(1 / pause))


def _with_gpus(terms: GrantTerms, gpus: int) -> tuple[object, ...]:
    values = [getattr(terms, name) for name in GrantTerms.__struct_fields__]
    values[GrantTerms.__struct_fields__.index("gpus")] = gpus
    return tuple(values)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans in order, those that meet as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _is_well(server: Server, start: int, end: int) -> bool:
    away = server.lame[0] < end and start < server.lame[1]  # a pod of all eight does not fit
    return not away and all(end <= down or up <= start for down, up in server.bad)


def _well_from(server: Server, at: int) -> int:
    """Return from when on, not before ``at``, a server takes pods."""
    for down, up in server.bad:
        if down <= at < up:
            at = up
    return at
