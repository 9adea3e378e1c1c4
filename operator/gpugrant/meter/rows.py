"""Between the ledger's rows and its values: one function each way, and the reads the store makes of them."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Table, bindparam, insert, or_, select, update

from gpugrant.meter.booking import Holding
from gpugrant.meter.books import Books
from gpugrant.meter.facts import Account, Dimensions, EndReason, Owner
from gpugrant.meter.tables import accounts, holdings

_MOST_VARIABLES = 500  # in one IN list; SQLite and PostgreSQL take far more, their planners less gladly


def account_digest(account: Account) -> str:
    """Return the key under which an account is kept once."""
    return hashlib.sha256(msgspec.json.encode(account)).hexdigest()


def account_values(account: Account) -> dict[str, Any]:
    """Return an account's columns."""
    values = msgspec.to_builtins(account)
    values["grant_name"] = values.pop("grant")
    return {"digest": account_digest(account), **values}


def account_of(row: RowMapping) -> Account:
    """Return the account in a row."""
    return Account(
        programme=row["programme"],
        provider=row["provider"],
        pool=row["pool"],
        gpu_type=row["gpu_type"],
        share=row["share"],
        owner=Owner(row["owner"]),
        tenant=row["tenant"],
        tenant_namespace=row["tenant_namespace"],
        grant=row["grant_name"],
        grant_uid=row["grant_uid"],
        award=row["award"],
    )


def holding_values(row: Holding, account_id: int) -> dict[str, Any]:
    """Return a holding's columns."""
    return {
        "uid": row.uid,
        "account_id": account_id,
        "namespace": row.namespace,
        "name": row.name,
        "server": row.dimensions.server,
        "fabric": row.dimensions.fabric,
        "resource": row.dimensions.resource,
        "seats": row.dimensions.seats,
        "server_seats": row.dimensions.server_seats,
        "held_from": row.start,
        "waited": row.waited,
        **end_values(row),
    }


def end_values(row: Holding) -> dict[str, Any]:
    """Return the columns of a holding that change when it ends."""
    return {
        "held_until": row.end,
        "own_until": row.own_end,
        "is_cut": row.is_cut,
        "end_reason": row.reason or "",
        "observed": row.settled,
        "finished_at": row.finished_at,
        "disrupted_at": row.disrupted_at,
        "terminal_at": row.terminal_at,
        "gone_at": row.gone_at,
    }


def holding_of(row: RowMapping, account: Account) -> Holding:
    """Return the holding in a row."""
    return Holding(
        uid=row["uid"],
        namespace=row["namespace"],
        name=row["name"],
        dimensions=Dimensions(
            account=account,
            server=row["server"],
            fabric=row["fabric"],
            resource=row["resource"],
            seats=row["seats"],
            server_seats=row["server_seats"],
        ),
        start=row["held_from"],
        own_end=row["own_until"],
        end=row["held_until"],
        reason=EndReason(row["end_reason"]) if row["end_reason"] else None,
        finished_at=row["finished_at"],
        disrupted_at=row["disrupted_at"],
        terminal_at=row["terminal_at"],
        gone_at=row["gone_at"],
        waited=row["waited"],
    )


class Accounts:
    """Accounts and their ids, known ones from memory."""

    def __init__(self) -> None:
        self._ids: dict[Account, int] = {}
        self._accounts: dict[int, Account] = {}

    def load(self, connection: Connection) -> None:
        """Read all accounts."""
        self._ids, self._accounts = {}, {}
        for row in connection.execute(select(accounts)).mappings():
            self._know(row["id"], account_of(row))

    def _know(self, number: int, account: Account) -> None:
        self._ids[account] = number
        self._accounts[number] = account

    def by_id(self, number: int) -> Account:
        """Return the account with this id."""
        return self._accounts[number]

    def has(self, account: Account) -> bool:
        """Say whether an account is written for good."""
        return account in self._ids

    def all(self) -> list[Account]:
        """Return every account there is."""
        return list(self._ids)

    def ids(self, connection: Connection, wanted: Iterable[Account]) -> dict[Account, int]:
        """Return the ids of accounts, written now where they are new.

        What is new is known for good only by the next ``load`` or ``keep``: the transaction may fail.
        """
        found: dict[Account, int] = {}
        for account in wanted:
            if account in found:
                continue
            number = self._ids.get(account)
            if number is None:
                written = connection.execute(insert(accounts).values(account_values(account)))
                number = int((written.inserted_primary_key or (0,))[0])
            found[account] = number
        return found

    def keep(self, found: Mapping[Account, int]) -> None:
        """Remember accounts that a commit has written."""
        for account, number in found.items():
            self._know(number, account)


def holdings_by_uid(connection: Connection, known: Accounts, uids: Collection[str]) -> dict[str, Holding]:
    """Return the rows of these pods."""
    return _holdings(connection, known, holdings.c.uid, uids)


def holdings_on(
    connection: Connection, known: Accounts, servers: Mapping[str, int]
) -> dict[str, dict[str, Holding]]:
    """Return, by server, the rows that hold or end after the server's second."""
    found: dict[str, dict[str, Holding]] = {server: {} for server in servers}
    if not servers:
        return found
    earliest = min(servers.values())
    for row in _holdings(connection, known, holdings.c.server, servers, since=earliest).values():
        server = row.dimensions.server
        if row.own_end is None or row.own_end > servers[server]:
            found[server][row.uid] = row
    return found


def _holdings(
    connection: Connection, known: Accounts, column: Any, values: Collection[Any], since: int | None = None
) -> dict[str, Holding]:
    found: dict[str, Holding] = {}
    listed = list(values)
    for first in range(0, len(listed), _MOST_VARIABLES):
        query = select(holdings).where(column.in_(listed[first : first + _MOST_VARIABLES]))
        if since is not None:
            query = query.where(or_(holdings.c.own_until.is_(None), holdings.c.own_until > since))
        for row in connection.execute(query).mappings():
            found[row["uid"]] = holding_of(row, known.by_id(row["account_id"]))
    return found


def write_ends(connection: Connection, rows: Collection[Holding]) -> None:
    """Write the ends of rows that are there."""
    if rows:
        connection.execute(
            update(holdings).where(holdings.c.uid == bindparam("which")),
            [{"which": row.uid, **end_values(row)} for row in rows],
        )


def once(connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any]) -> bool:
    """Write a row unless one with this key is there; say whether it was written."""
    if connection.execute(select(table.c[next(iter(key))]).filter_by(**key)).first() is not None:
        return False
    connection.execute(insert(table).values(key | values))
    return True


def add_to(
    connection: Connection, table: Table, known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]
) -> None:
    """Add ``gpu_seconds`` to sums that are there, and write those that are not.

    Safe without an upsert: whoever writes has locked the ledger's row and knows which sums there are.
    """
    keys = [column.name for column in table.primary_key]
    if known:
        adding = update(table).values(gpu_seconds=table.c.gpu_seconds + bindparam("more"))
        for name in keys:
            adding = adding.where(table.c[name] == bindparam(f"key_{name}"))
        given = [{"more": row["gpu_seconds"], **{f"key_{name}": row[name] for name in keys}} for row in known]
        connection.execute(adding, given)
    if new:
        connection.execute(insert(table), list(new))


def set_to(connection: Connection, table: Table, key: dict[str, Any], amount: int) -> None:
    """Set the sum under a key."""
    changed = connection.execute(update(table).filter_by(**key).values(gpu_seconds=amount))
    if not changed.rowcount:
        connection.execute(insert(table).values(**key, gpu_seconds=amount))


def enter_accounts(books: Books, known: Accounts, found: Mapping[Account, int]) -> None:
    """Take note of accounts that are written now."""
    fresh = (pair for pair in found.items() if not known.has(pair[0]))
    books.add(accounts, ({"id": number, **account_values(account)} for account, number in fresh))
