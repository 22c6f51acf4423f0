"""The fence: triggers that refuse every writer of a table whose home is the other database.

On the source it stands after a switch, on the target while a table follows the source. The statement-level trigger
refuses everything that a session does, and also TRUNCATE; the row-level one refuses what a subscription applies, which
fires no trigger of a statement. Both are ENABLE ALWAYS, because `session_replication_role` would turn others off. A
session that has the token passes. Readers pass too, with SELECT FOR UPDATE, which changes no row.

Opening disables the triggers and leaves them there: to drop one, the server would stop the readers of the table.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import literal, public, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.blockers import blockers
from tatame_db.evolve.lock import LOCK_TIMEOUT_MS, ignore
from tatame_db.evolve.migrate import RETRY_PAUSES_SECONDS
from tatame_db.move.catalogue import placed_tables
from tatame_db.move.follow.errors import objects_in_words
from tatame_db.move.record import SCHEMA
from tatame_db.move.switch.token import SETTING
from tatame_db.schema import Base, optional_in_source, phases

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from tatame_db.move.connection import MoveConnection

# For all tables together, so that whoever needs one of them waits behind the lock for that long at most. Shorter than
# PostgreSQL's `deadlock_timeout`, so that a deadlock never ends the app's transaction.
FENCE_LOCK_TIMEOUT_MS = 500
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence", "c": "a type"}


@fact
class TablesNotFenceable(TatameError):
    """Something that stands for a table cannot have the triggers that refuse writers, so its home cannot change."""

    database: str
    reasons: list[str]
    what = "writers of the {database} cannot be refused: {reasons}"
    means = "Nothing was changed: every table is where it was."
    fix = "replace it by a table, or leave the table out of the command"


@fact
class TablesPlaced(TatameError):
    """Citus has placed tables of the target on its nodes, and takes no triggers, which refuse writers."""

    tables: list[str]
    what = "the home of tables cannot change, because Citus has placed {tables} and takes no triggers"
    means = "Nothing was changed: every table is where it was."
    fix = (
        "`tatame-db move copy` works; to move without a stop, move to a database without Citus, and after"
        " `tatame-db move finish` create Citus and run `tatame-db distribute`"
    )


@fact
class FenceForbidden(TatameError):
    """The role may not create the triggers that refuse writers, or their function."""

    database: str
    role: str
    reason: str
    what = "the role {role} may not create or change the triggers that refuse writers of the {database}: {reason}"
    means = "Nothing was changed: every table is where it was."
    fix = (
        "use the role that owns the tables and may create a schema: in `SUPABASE_DB_URL` for the source, in"
        " `DATABASE_URL` for the target"
    )


@fact
class FenceDamaged(TatameError):
    """Some of the triggers that refuse writers of a table are missing or disabled, so its home is not certain."""

    database: str
    tables: list[str]
    what = "some triggers that refuse writers of the {database} are missing or were disabled: {tables}"
    means = "Other programs may have written to these tables of the {database} meanwhile. Nothing was changed now."
    fix = (
        "find out who changed the triggers `tatame_move…`, then enable them with `ALTER TABLE … ENABLE ALWAYS"
        " TRIGGER …`, and compare with `tatame-db move verify`"
    )


@fact
class WritersNotStopped(TatameError):
    """Other sessions use the tables for longer than a short wait, again and again."""

    database: str
    tables: list[str]
    attempts: int
    blockers: list[str]
    what = "tables of the {database} stayed in use during {attempts:attempt} to lock them: {tables}{holders}"
    means = "Nothing was changed: every table is where it was, and all programs can go on."
    fix = "wait until these transactions end, or end them with `SELECT pg_terminate_backend(…)`, then try again"

    @property
    def holders(self) -> str:
        """The sessions that held the locks at the last attempt; none if the role may not see them."""
        return f"; held by {', '.join(self.blockers)}" if self.blockers else ""


@dataclass(frozen=True)
class Fence:
    """The fence of a table: closed, or opened again. The hash is that of the token that passes it."""

    table: str
    closed: bool
    token_hash: str


@dataclass(frozen=True)
class Words:
    """The names of the triggers of one database, and what a writer reads.

    Without an address: PostgREST passes an error on to anonymous callers.
    """

    trigger: str
    function: str
    message: str
    hint: str

    @property
    def row_trigger(self) -> str:
        """The name of the trigger of rows."""
        return f"{self.trigger}_row"

    @property
    def triggers(self) -> list[str]:
        """The names of both triggers."""
        return [self.trigger, self.row_trigger]


_WORDS = {
    "source": Words(
        trigger="tatame_move_moved",
        function="refuse_moved",
        message="the table %s has moved: its home is another database now",
        hint="Write to the database that the table moved to. The rows here can still be read, and get older.",
    ),
    "target": Words(
        trigger="tatame_move_follows",
        function="refuse_following",
        message="the table %s follows the source: its home is still there",
        hint="Write to the source until `tatame-db move switch` has moved the table.",
    ),
}


@dataclass(frozen=True)
class Relation:
    """A table, or a partition of one, with its place in a statement and the triggers of the fence that it has."""

    table: str
    is_root: bool
    kind: str
    sql: str
    enabled: int
    hashes: list[str]


def close(connection: MoveConnection, tables: Collection[str], token_hash: str) -> None:
    """Refuse all writers of these tables, from the commit of the caller's transaction on; they wait until then.

    Waits for writers that are running. The optional tables that a source lacks are left out. Raises
    `LockNotAvailable` of psycopg, `TablesNotFenceable`, `FenceForbidden`; the transaction is of no use then.
    """
    _set(connection, tables, token_hash, closed=True)


def open_(connection: MoveConnection, tables: Collection[str], token_hash: str) -> None:
    """Let all writers of these tables in, from the commit of the caller's transaction on. Raises what `close` raises.

    The triggers stay, disabled: on the target they are the mark of a table whose home it is.
    """
    _set(connection, tables, token_hash, closed=False)


def closing(
    connection: MoveConnection,
    tables: Collection[str],
    token_hash: str,
    *,
    pause_at_most_seconds: float,
    on_retry: Callable[[float, list[str]], None] = ignore,
) -> None:
    """Close these tables in a new transaction, which stays open.

    The server ends it after the longest pause if this client no longer does anything, and from PostgreSQL 17 on in any
    case; before, the caller has to watch the clock. Each attempt waits for the locks for half a second, so that no
    queue of writers forms behind it. `on_retry` is called before the next attempt with the pause until then, in
    seconds, and the sessions that held the locks. The caller commits. Raises `WritersNotStopped`, and what `close`
    raises.
    """
    pauses = iter(RETRY_PAUSES_SECONDS)
    attempts = 0
    while True:
        attempts += 1
        blocking = list[str]()
        _begin(connection, pause_at_most_seconds)
        [pid] = connection.row("SELECT pg_backend_pid()")
        try:
            with blockers(connection.server_address, pid, FENCE_LOCK_TIMEOUT_MS / 2_000) as blocking:
                close(connection, tables, token_hash)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            connection.driver.rollback()
            pause = next(pauses, None)
            if pause is None:
                raise WritersNotStopped(
                    database=connection.name, tables=list(tables), attempts=attempts, blockers=blocking
                ) from error
            on_retry(pause, blocking)
            time.sleep(pause)
        except BaseException:
            connection.driver.rollback()
            raise
        else:
            return


def fences(connection: MoveConnection) -> dict[str, Fence]:
    """Return the fence of each table of the models that ever had one here. Raises `FenceDamaged`."""
    relations: defaultdict[str, list[Relation]] = defaultdict(list)
    for relation in relations_of(connection, phases()):
        relations[relation.table].append(relation)
    found: dict[str, Fence] = {}
    damaged: list[str] = []
    for table, parts in relations.items():
        hashes = {hashed for part in parts for hashed in part.hashes}
        closed = all(part.enabled == len(words_of(connection).triggers) for part in parts)
        if not hashes:
            continue
        if len(hashes) > 1 or (not closed and any(part.enabled for part in parts)):
            damaged.append(table)
        else:
            found[table] = Fence(table, closed, *hashes)
    if damaged:
        raise FenceDamaged(database=connection.name, tables=damaged)
    return found


def closed_tables(connection: MoveConnection) -> set[str]:
    """Return the tables whose writers are refused here. Raises `FenceDamaged`."""
    return {table for table, fence in fences(connection).items() if fence.closed}


def words_of(connection: MoveConnection) -> Words:
    """Return the names and texts of the triggers of this database."""
    return _WORDS[connection.name]


def _begin(connection: MoveConnection, pause_at_most_seconds: float) -> None:
    """Begin a transaction that the server ends if this client does not do it in time."""
    connection.driver.rollback()
    connection.pin_settings(for_transaction=True)
    names = ["idle_in_transaction_session_timeout", "statement_timeout"]
    if connection.driver.info.server_version >= 170_000:
        names.append("transaction_timeout")
    limits = [f"SET LOCAL {name} = {max(1, round(pause_at_most_seconds * 1_000))}" for name in names]
    # Whatever the role prefers: this transaction writes, and sees what was committed before it got the locks.
    connection.execute("; ".join(["SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE", *limits]))


def _set(connection: MoveConnection, tables: Collection[str], token_hash: str, *, closed: bool) -> None:
    words = words_of(connection)
    names = [relation.table for relation in _fenceable(connection, tables) if relation.is_root]
    if not names:
        return
    with _in_words(connection):
        # A crash must not undo what the other database is about to build on, whatever the role prefers.
        connection.rows(
            "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
        )
        connection.execute(_lock(names))
        # A partition may have been attached before the lock. Few messages, because writers wait meanwhile.
        statements = [_create_function(words)]
        for relation in _fenceable(connection, tables):
            statements += _trigger_statements(words, relation, token_hash, closed=closed)
        connection.execute("; ".join([*statements, f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"]))


def _lock(names: list[str]) -> str:
    tables = ", ".join(literal(public(name)) for name in names)
    body = f"""
DECLARE
    until timestamptz := clock_timestamp() + interval '{FENCE_LOCK_TIMEOUT_MS} ms';
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[{tables}]::text[] LOOP
        PERFORM set_config(
            'lock_timeout', greatest(1, ceil(1000 * extract(epoch FROM until - clock_timestamp())))::integer::text, true
        );
        EXECUTE 'LOCK TABLE ' || name || ' IN SHARE ROW EXCLUSIVE MODE';
    END LOOP;
END
"""
    return f"DO {literal(body)}"


def _create_function(words: Words) -> str:
    # The text of a function cannot have parameters, and this one is a constant.
    return f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE OR REPLACE FUNCTION {SCHEMA}.{words.function}() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = pg_catalog.format('{words.message}', TG_TABLE_NAME),
        HINT = '{words.hint}',
        SCHEMA = TG_TABLE_SCHEMA,
        TABLE = TG_TABLE_NAME;
END
$$
"""


def _trigger_statements(words: Words, relation: Relation, token_hash: str, *, closed: bool) -> Iterator[str]:
    # The condition is a parsed expression, which no `search_path` of a writer changes, and is faster than a function.
    unless_admitted = (
        "WHEN (pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.current_setting"
        rf"('{SETTING}', true), 'UTF8')) IS DISTINCT FROM '\x{token_hash}'::pg_catalog.bytea)"
        f" EXECUTE FUNCTION {SCHEMA}.{words.function}()"
    )
    yield (
        f"CREATE OR REPLACE TRIGGER {words.trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {relation.sql}"
        f" FOR EACH STATEMENT {unless_admitted}"
    )
    # Partitions inherit the triggers of rows.
    if relation.is_root:
        yield (
            f"CREATE OR REPLACE TRIGGER {words.row_trigger} BEFORE INSERT OR UPDATE OR DELETE ON {relation.sql}"
            f" FOR EACH ROW {unless_admitted}"
        )
    state = "ENABLE ALWAYS" if closed else "DISABLE"
    yield f"ALTER TABLE {relation.sql} {', '.join(f'{state} TRIGGER {trigger}' for trigger in words.triggers)}"


def refuse_placed(target: MoveConnection) -> None:
    """Raise `TablesPlaced` before anything is written, if tables of the models are on the nodes of Citus."""
    if placed := placed_tables(target, phases()):
        raise TablesPlaced(tables=placed)


def refuse_unfenceable(connection: MoveConnection, tables: Collection[str]) -> None:
    """Raise `TablesNotFenceable` if one of these is something that cannot have the triggers."""
    _fenceable(connection, tables)


def _fenceable(connection: MoveConnection, tables: Collection[str]) -> list[Relation]:
    relations = relations_of(connection, tables)
    existing = {relation.table for relation in relations}
    missing = [table for table in tables if table not in existing and not _may_lack(connection, table)]
    reasons = [f"{table} does not exist" for table in missing]
    reasons += [
        f"{relation.table} {'is' if relation.is_root else 'has a partition that is'} {_KINDS[relation.kind]}"
        for relation in relations
        if relation.kind in _KINDS
    ]
    if reasons:
        raise TablesNotFenceable(database=connection.name, reasons=reasons)
    return relations


def _may_lack(connection: MoveConnection, table: str) -> bool:
    model = Base.metadata.tables.get(table)
    return connection.name == "source" and model is not None and optional_in_source(model)


def relations_of(connection: MoveConnection, tables: Collection[str]) -> list[Relation]:
    """Return these tables and their partitions, parents first."""
    words = words_of(connection)
    parameters = {
        "tables": list(tables),
        "schema": SCHEMA,
        "function": words.function,
        "triggers": words.triggers,
    }
    return [
        Relation(table, depth == 0, kind, f"{quoted(schema)}.{quoted(name)}", enabled, hashes)
        for table, depth, kind, schema, name, enabled, hashes in connection.rows(_RELATIONS, parameters)
    ]


@contextlib.contextmanager
def _in_words(connection: MoveConnection) -> Generator[None]:
    try:
        with objects_in_words(connection):
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        connection.driver.rollback()
        [role] = connection.row("SELECT current_user")
        connection.driver.rollback()
        raise FenceForbidden(database=connection.name, role=role, reason=str(error.diag.message_primary)) from error


_RELATIONS = r"""
WITH RECURSIVE tree (root, oid, kind, depth) AS (
    SELECT c.relname, c.oid, c.relkind, 0 FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('public') AND c.relname = ANY(%(tables)s)
    UNION ALL
    SELECT t.root, c.oid, c.relkind, t.depth + 1
    FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class c ON c.oid = i.inhrelid WHERE t.kind = 'p'
), triggers AS (
    SELECT g.tgrelid, g.tgenabled, substring(pg_get_triggerdef(g.oid) FROM '\\x([0-9a-f]{64})') AS hash
    FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = %(schema)s AND p.proname = %(function)s AND g.tgname = ANY(%(triggers)s)
)
SELECT t.root, t.depth, t.kind::text, n.nspname, c.relname,
    (SELECT count(*) FROM triggers g WHERE g.tgrelid = t.oid AND g.tgenabled = 'A'),
    ARRAY(SELECT DISTINCT coalesce(g.hash, '') FROM triggers g WHERE g.tgrelid = t.oid)
FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY array_position(%(tables)s::text[], t.root::text), t.depth, n.nspname, c.relname
"""
