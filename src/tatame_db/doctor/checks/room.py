"""What runs out one day: ids, transaction ids, connections, and the space of the write-ahead log."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, get_args

from sqlalchemy.exc import DBAPIError

from tatame_db.doctor import advice
from tatame_db.doctor.failures import not_checked
from tatame_db.doctor.finding import NAMED, bad, good, named, size, unknown, warn, worst
from tatame_db.doctor.lines import line
from tatame_db.evolve.ids import IdUse, Unread, read_uses
from tatame_db.evolve.placement import is_worker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Row

    from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer

_GROUP = "Room"
# A vacuum freezes what is older; beyond it, PostgreSQL refuses writes.
_TRANSACTION_IDS = 2**31
_READ_ALL = (
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}"
)


@line(
    _GROUP,
    warns="{ids_warn:.0%} are used, they end within {ids_warn_days} days, or a sequence comes to the id of a row",
    bad="{ids_bad:.0%} are used, they end within {ids_bad_days} days, or the next id of a sequence is that of a row",
    right=_READ_ALL,
)
def ids(examination: Examination) -> Answer | None:
    """How many ids each key and sequence has left, about when they end, and whether a sequence is behind its rows."""
    read = _Reading(examination)
    # A sequence of a worker of Citus begins at the highest ids.
    uses = [] if is_worker(examination.rows) else read_uses(read.rows)
    if not uses:
        if read.failure:
            raise read.failure
        return None
    checks = (_answer_of_key, _behind)
    answers = [check(examination, use, uses) for check in checks for use in uses]
    unread = [*_unread(examination, uses, read), *_computed(uses)]
    most = uses[0]
    return worst([*answers, *unread], good(f"{most.name} has used the most: {most.share:.1%} of {most.largest:,}"))


class _Reading:
    """Queries of which some may fail, so that a table that is locked, or away, does not hide the others."""

    def __init__(self, examination: Examination) -> None:
        self.examination = examination
        self.failure: DBAPIError | None = None
        self.left = NAMED

    def rows(self, query: str) -> Sequence[Row[Any]]:
        try:
            return self.examination.rows(query)
        except DBAPIError as error:
            if self.left == 0 or self.examination.expired:
                raise
            self.left -= 1
            self.failure = error
            return []


def _answer_of_key(examination: Examination, use: IdUse, uses: list[IdUse]) -> Answer | None:
    limits, days = examination.limits, math.inf if use.days_left is None else use.days_left
    if use.share < limits.ids_warn and days >= limits.ids_warn_days:
        return None
    text = f"{use.name} has used {use.share:.0%} of {abs(use.largest - use.first):,} ids"
    if use.end:
        text += f", which end about {use.end:%B %Y} at the present rate"
    worse = use.share >= limits.ids_bad or days < limits.ids_bad_days
    enlarge = (
        "before they end and each new row fails, change the key and what refers to it to bigint by a migration, which"
        f" rewrites the tables while nothing can read them: {advice.sql(examination, (use.enlarge, use.owner))};"
        ' the page "From int to bigint" shows the change without a stop'
    )
    if use.of_rows and use.of_sequence and use.of_rows > use.of_sequence * 2 > 0:
        text += f": a row has the id {use.of_rows:,}, and the sequence is at {use.of_sequence:,}"
    rows = _last_of_rows(use, uses) or use.first
    known = all(other.compared for other in _filled(use, uses))
    if use.place and known and use.of_sequence and use.of_sequence > rows * 2 >= 0:
        # By hand, or by an import that skipped ids.
        statement = f"SELECT setval({use.sequence}, {max(rows, 1)}, {str(rows > 0).lower()})"
        back = advice.sql(examination, (statement, use.sequence_owner or use.owner))
        return (bad if worse else warn)(
            f"{text}, and the largest id of a row is {rows:,}",
            f"if no row ever had a larger one, set the sequence back: {back}; otherwise, {enlarge}",
        )
    return (bad if worse else warn)(text, enlarge)


def _behind(examination: Examination, use: IdUse, uses: list[IdUse]) -> Answer | None:
    """Rows were added with ids of their own, by hand or by a copy, and the sequence was not set."""
    if use.taken is None:
        return None
    statement = f"SELECT setval({use.sequence}, {_last_of_rows(use, uses)})"
    forward = advice.sql(examination, (statement, use.sequence_owner or use.owner))
    return (bad if use.next_is_taken else warn)(
        use.behind or "",
        f"set the sequence to the last id, unless it is a mistake: {forward}",
    )


def _filled(use: IdUse, uses: list[IdUse]) -> list[IdUse]:
    """Return the columns that the sequence of a key fills: the key, and perhaps others."""
    return [other for other in uses if other == use or (use.sequence and other.sequence == use.sequence)]


def _last_of_rows(use: IdUse, uses: list[IdUse]) -> int | None:
    """Return the last id of a row in all columns that the sequence fills."""
    found = [other.of_rows for other in _filled(use, uses) if other.of_rows is not None]
    return max(found, key=lambda last: last * use.step, default=None)


def _unread(examination: Examination, uses: list[IdUse], read: _Reading) -> Iterator[Answer]:
    role = examination.known.role
    names = {reason: [use.name for use in uses if use.unread == reason] for reason in get_args(Unread)}
    if hidden := names["no right"]:
        grant = _READ_ALL.format(role=role), advice.SUPERUSER
        yield unknown(f"{role} may not read {named(hidden)}", advice.sql(examination, grant))
    if hidden := names["hidden rows"]:
        yield unknown(
            f"row-level security hides rows of {named(hidden)} from {role}",
            "examine the database with the address of the owner of the tables, or of a role with BYPASSRLS",
        )
    if large := names["no index"]:
        yield unknown(
            f"to find the last row by {named(large)} takes long without an index that begins with the column",
            "create one, or compare the last id of a row with the sequence by hand",
        )
    if failed := names["failed"]:
        assert read.failure is not None  # noqa: S101, for the type checker
        yield not_checked(examination, read.failure, named(failed))


def _computed(uses: list[IdUse]) -> Iterator[Answer]:
    if names := [use.name for use in uses if use.computed and use.unique]:
        yield unknown(
            f"whether the next default of {named(names)} is that of a row cannot be checked: it computes with a"
            " sequence, does not show which one it is, or fills a column that is no number",
            "compare the last row with the next value of the default by hand",
        )


@line(
    _GROUP,
    warns="{transaction_ids_warn:.0%} are used since the oldest row was frozen",
    bad="{transaction_ids_bad:.0%} are used",
)
def transaction_ids(examination: Examination) -> Answer:
    """How many ids of transactions are left until PostgreSQL refuses writes, so that none is used twice."""
    return _ages(examination, "age(datfrozenxid)", "transaction ids")


@line(_GROUP, warns="{transaction_ids_warn:.0%} are used", bad="{transaction_ids_bad:.0%} are used")
def multixact_ids(examination: Examination) -> Answer:
    """The same for the ids of rows that several transactions lock at once."""
    return _ages(examination, "mxid_age(datminmxid)", "multixact ids")


def _ages(examination: Examination, age: str, noun: str) -> Answer:
    limits = examination.limits
    database, oldest = examination.row(
        f"SELECT format('%I', datname), {age}::bigint FROM pg_database ORDER BY 2 DESC LIMIT 1"
    )
    share = oldest / _TRANSACTION_IDS
    text = f"{share:.1%} of the {noun} are used since the oldest row was frozen"
    if share < limits.transaction_ids_warn:
        return good(text)
    return (bad if share >= limits.transaction_ids_bad else warn)(
        f"{text}, in the database {database}",
        "find what holds vacuum back (a long transaction, a slot, a prepared transaction), then run"
        f" `VACUUM (FREEZE, VERBOSE)` in that database{advice.as_role(examination, advice.SUPERUSER)}",
    )


@line(
    _GROUP,
    warns="{connections_warn:.0%} of the connections are in use, or two processes with full pools do not fit",
    bad="{connections_bad:.0%} are in use, or one pool does not fit",
)
def connections(examination: Examination) -> Answer:
    """How many connections the server has for this role, how many are in use, and how many pools fit."""
    limits, pool = examination.limits, examination.setup.pool_size
    row = examination.row(_CONNECTIONS)
    fitting = row.available // pool
    fit = f"{fitting} {'process' if fitting == 1 else 'processes'} with a pool of {pool} fit{'s' * (fitting == 1)}"
    text = f"{row.used} of {row.available} are in use; {fit}"
    if row.used >= row.available * limits.connections_warn:
        return (bad if row.used >= row.available * limits.connections_bad else warn)(
            text, "lower `TATAME_POOL_SIZE`, put PgBouncer between the app and the server, or raise `max_connections`"
        )
    # Behind a pooler, the connections of a pool are not those of the server.
    if examination.known.pooled or row.available >= 2 * pool:
        return good(text if not examination.known.pooled else f"{row.used} of {row.available} are in use")
    return (bad if row.available < pool else warn)(
        text, "lower `TATAME_POOL_SIZE`, or raise the limit of the server, of the role or of the database"
    )


_CONNECTIONS = """
SELECT least(
        current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true)::integer, 0),
        nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1),
        nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1)) AS available,
    (SELECT sum(numbackends)::integer FROM pg_stat_database) AS used
"""


@line(
    _GROUP,
    warns="the write-ahead log takes {wal_warn_times:g} times `max_wal_size` or more",
    right="GRANT pg_monitor TO {role}",
)
def space(examination: Examination) -> Answer:
    """The size of the database and of the write-ahead log."""
    database, wal, most = examination.row(
        "SELECT pg_database_size(current_database()), (SELECT sum(size) FROM pg_ls_waldir())::bigint,"
        " pg_size_bytes(current_setting('max_wal_size'))"
    )
    text = f"the database has {size(database)}, the write-ahead log {size(wal)}"
    if wal < most * examination.limits.wal_warn_times:
        return good(text)
    return warn(
        f"{text}, and `max_wal_size` is {size(most)}",
        "look at the lines `slots` and `archiving`; under a heavy load, raise `max_wal_size`",
    )
