"""Facts that hold from a moment on: how each kind is kept, and the histories that the open days need.

The same for every kind: a fact that says nothing new at its moment writes nothing; else it is a row more. Of two
told for one second, the later told one counts.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, RowMapping, Table, select

from gpugrant.meter.facts import (
    Announced,
    Claimed,
    Contracted,
    GrantTerms,
    Health,
    Named,
    Placed,
    Seated,
    Unwell,
)
from gpugrant.meter.tables import (
    claims,
    contracts,
    grant_terms,
    health,
    maintenance,
    placements,
    shared_seats,
    tenant_names,
    unwell,
)

StockFact: TypeAlias = Placed | Health | Unwell | Announced | Claimed | Seated | Contracted | Named
Dated: TypeAlias = StockFact | GrantTerms
Key: TypeAlias = Any  # a string, or a tuple where a subject has two names
_F = TypeVar("_F", bound=Dated)

FOR_EVER = 1 << 60


class Kind(Struct, frozen=True):
    """How one kind of fact is kept: its table, whose history it is, and what is called otherwise there."""

    fact: type[Any]
    table: Table
    subject: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()  # field, column
    aside: tuple[str, ...] = ()  # fields that say nothing new by themselves

    def key(self, fact: Dated) -> Key:
        """Return whose history a fact belongs to."""
        if len(self.subject) == 1:
            return getattr(fact, self.subject[0])
        return tuple(getattr(fact, name) for name in self.subject)

    def says(self, fact: Dated) -> tuple[Any, ...]:
        """Return what a fact says, whenever it was."""
        return tuple(
            getattr(fact, name)
            for name in self.fact.__struct_fields__
            if name != "since" and name not in self.aside
        )

    def values(self, fact: Dated) -> dict[str, Any]:
        """Return a fact's columns."""
        values = cast("dict[str, Any]", msgspec.to_builtins(fact))
        for field, column in self.renamed:
            values[column] = values.pop(field)
        return {
            name: json.dumps(one) if isinstance(one, list | tuple) else one for name, one in values.items()
        }

    def of(self, row: RowMapping) -> Dated:
        """Return the fact in a row."""
        columns = dict(self.renamed)
        values = {name: row[columns.get(name, name)] for name in self.fact.__struct_fields__}
        if "instalments" in values:
            values["instalments"] = json.loads(values["instalments"])
        return cast("Dated", msgspec.convert(values, self.fact))


KINDS: Mapping[type[Any], Kind] = {
    kind.fact: kind
    for kind in (
        Kind(Placed, placements, ("server",)),
        Kind(Health, health, ("server", "aspect"), aside=("seen",)),
        Kind(Unwell, unwell, ("uid",)),
        Kind(Announced, maintenance, ("server",), (("start", "start_at"), ("end", "end_at"))),
        Kind(Claimed, claims, ("server", "grant_uid")),
        Kind(Seated, shared_seats, ("grant_uid",)),
        Kind(Contracted, contracts, ("pool",)),
        Kind(Named, tenant_names, ("tenant",)),
        Kind(GrantTerms, grant_terms, ("grant_uid",), (("start", "term_start"), ("end", "term_end"))),
    )
}


class Told(Struct, frozen=True):
    """A fact that says something new: what was so over [since, until) is otherwise."""

    fact: Dated
    until: int


def novel(kind: Kind, history: Sequence[Dated], fact: Dated) -> Told | None:
    """Return what a fact changes of its subject's history (sorted); None where it says nothing new."""
    after = bisect_right(history, fact.since, key=_since)
    if after and kind.says(history[after - 1]) == kind.says(fact):
        return None
    told_again = any(one.since == fact.since and kind.says(one) == kind.says(fact) for one in history[:after])
    if told_again:
        return None
    # A maintenance window may decide about moments after the next one was told.
    open_ended = after == len(history) or kind.fact is Announced
    return Told(fact, FOR_EVER if open_ended else history[after].since)


def put_in(history: list[Any], fact: Dated) -> None:
    """Put a fact where it belongs in a sorted history."""
    history.insert(bisect_right(history, fact.since, key=_since), fact)


class Histories:
    """Histories of every kind by subject, sorted; as far back as ``horizon`` needs."""

    def __init__(self) -> None:
        self.horizon = 0
        self._of: dict[type[Any], dict[Key, list[Any]]] = {kind: {} for kind in KINDS}
        self._claims: dict[str, list[Claimed]] | None = None

    def of(self, fact: type[_F]) -> Mapping[Key, list[_F]]:
        """Return the histories of one kind of fact."""
        return self._of[fact]

    def all_of(self, *kinds: type[Any]) -> Iterable[Dated]:
        """Yield every fact of some kinds."""
        for kind in kinds:
            for history in self._of[kind].values():
                yield from history

    def in_force(self) -> list[StockFact]:
        """Return the last fact of every history, but for the terms of grants."""
        return [
            history[-1]
            for kind, found in self._of.items()
            if kind is not GrantTerms
            for history in found.values()
        ]

    def claims_by_server(self) -> Mapping[str, list[Claimed]]:
        """Return claims as the timeline wants them."""
        if self._claims is None:
            self._claims = {}
            for (server, _), history in self._of[Claimed].items():
                self._claims.setdefault(server, []).extend(history)
            for joined in self._claims.values():
                joined.sort(key=_since)
        return self._claims

    def add(self, fact: Dated) -> None:
        """Take over a fact that is new."""
        kind = KINDS[type(fact)]
        put_in(self._of[kind.fact].setdefault(kind.key(fact), []), fact)
        self._claims = None

    def replace(self, fact: type[Any], key: Key, history: list[Any]) -> None:
        """Take over a subject's whole history."""
        self._of[fact][key] = list(history)
        self._claims = None

    def read(self, connection: Connection, kinds: Iterable[type[Any]] = tuple(KINDS)) -> None:
        """Read all there is of some kinds."""
        for fact in kinds:
            kind = KINDS[fact]
            table, found = kind.table, self._of[fact]
            for row in connection.execute(select(table).order_by(table.c.since, table.c.id)).mappings():
                one = kind.of(row)
                found.setdefault(kind.key(one), []).append(one)
        self._claims = None

    def forget(self, horizon: int, held: Callable[[str], bool]) -> None:
        """Let go of what no day from ``horizon`` on needs; ``held`` says which pods' seats still matter."""
        self.horizon = max(horizon, self.horizon)
        for fact, found in self._of.items():
            for key in list(found):
                history = found[key]
                first = max(0, bisect_right(history, horizon, key=_since) - 1)
                if fact is Announced:
                    while first > 0 and history[first].end > horizon:
                        first -= 1
                del history[:first]
                if fact is Unwell and history[-1].since <= horizon and not held(key):
                    del found[key]
        self._claims = None


def read_history(connection: Connection, kind: Kind, key: Key) -> list[Dated]:
    """Return one subject's whole history."""
    names = key if isinstance(key, tuple) else (key,)
    query = select(kind.table).filter_by(**dict(zip(kind.subject, map(str, names), strict=True)))
    rows = connection.execute(query.order_by(kind.table.c.since, kind.table.c.id)).mappings()
    return [kind.of(row) for row in rows]


def _since(fact: Any) -> int:
    return cast("int", fact.since)
