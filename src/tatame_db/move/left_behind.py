"""What a move does not bring: the objects and services of the source that its tables hang on, and links to its host.

Read from the source's catalogue, as of the moment of the plan. What the role may not read is named, and no value of a
row is returned except the names of buckets and cron jobs.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg

from tatame_db.database.dialect import MOVE_SCHEMA, literal, quoted
from tatame_db.errors import TatameError, counted
from tatame_db.evolve.addresses import MOVE_PUBLICATIONS, MOVE_TRIGGERS
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.rest import RestReading

MAX_NAMES = 1_000
# Counting reads every text of the source. It must not double the time of a plan for a project of any size.
READING_SECONDS = 300
LOCK_TIMEOUT_MS = 5_000
_DOMAIN, _POOLER_DOMAIN = ".supabase.co", ".pooler.supabase.com"
_SUPABASE_HOST = re.compile(r"(?:db\.)?([a-z0-9-]+)\.supabase\.(?:co|in)")
# A tunnel, or a project on this machine: its links are no links to it from elsewhere.
_HERE = {"", "localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class LeftObjects:
    """Objects of one kind: their number, and the names of the first `MAX_NAMES`, if they have names."""

    kind: str
    number: int
    names: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Bucket:
    """A bucket of Supabase Storage; `size_bytes` is the sum of the sizes that Storage has recorded.

    `without_size` counts the objects whose size is not recorded, or not readable, and is unknown.
    """

    name: str
    objects: int
    size_bytes: int
    without_size: int


@dataclass(frozen=True)
class Links:
    """The number of values of a column that contain a host of the project."""

    column: str
    values: int


@dataclass(frozen=True)
class NotReadable:
    """A table that could not be read, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class LeftBehind:
    """What a move does not bring. Over REST, `objects` has only views, because the catalogue is out of reach."""

    objects: list[LeftObjects]
    buckets: list[Bucket]
    hosts: list[str]
    links: list[Links]
    not_readable: list[NotReadable]
    over_rest: bool


def read_left_behind(source: MoveConnection, addresses: Iterable[str] = ()) -> LeftBehind:
    """Read what a move does not bring; `addresses` are those of the project, beside that of the source itself."""
    reader = _Reader(source)
    hosts = project_hosts(source, addresses)
    return LeftBehind(
        objects=_views(source.rest) if source.rest else reader.objects(),
        buckets=[] if source.rest else reader.buckets(),
        hosts=hosts,
        links=reader.links(hosts),
        not_readable=reader.not_readable,
        over_rest=source.rest is not None,
    )


def _views(rest: RestReading) -> list[LeftObjects]:
    return [LeftObjects("views", len(rest.views), rest.views[:MAX_NAMES])] if rest.views else []


def project_hosts(source: MoveConnection, addresses: Iterable[str] = ()) -> list[str]:
    """Return the hosts of the project, as its addresses name them; `*` stands for the name of any project.

    All hosts of a Supabase project contain its name, and the address of a pooler has it in the name of the user.
    """
    hosts: set[str] = set()
    for host in [*map(_host, addresses), *_hosts_of(source)]:
        project = _SUPABASE_HOST.fullmatch(host)
        if project or host not in _HERE:
            hosts.add(f"{project[1]}{_DOMAIN}" if project else host)
    # If no address names the project, values that point at any project are worth a look.
    return sorted(hosts if any(host.endswith(_DOMAIN) for host in hosts) else hosts | {f"*{_DOMAIN}"})


def _hosts_of(source: MoveConnection) -> list[str]:
    if source.rest:
        return [_host(source.rest.address)]
    user, _, project = str(source.address.username or "").partition(".")
    named = source.address.query.get("host", ())
    hosts = [str(source.address.host or ""), *([named] if isinstance(named, str) else named)]
    return [
        f"{project}{_DOMAIN}" if user and project and host.endswith(_POOLER_DOMAIN) else host
        for host in ",".join(hosts).lower().split(",")
        if not host.startswith("/") and not (host.endswith(_POOLER_DOMAIN) and not project)
    ]


def _host(address: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(address).hostname or ""
    return ""


def _condition(value: str, hosts: Sequence[str]) -> str:
    """Return the condition that a text contains one of the hosts, also with a subdomain before it."""
    names = "|".join(map(_pattern, hosts))
    pattern = rf"(?<![a-z0-9.-])(?:[a-z0-9-]+\.)*(?:{names})(?![a-z0-9-]|\.[a-z0-9])"
    # The search for a constant is fifteen times as fast as the pattern.
    constants = {"supabase" if host.startswith("*") else host.removesuffix(_DOMAIN) for host in hosts}
    found = " OR ".join(f"strpos(lower({value}), {literal(constant)}) > 0" for constant in sorted(constants))
    return f"({found}) AND {value} ~* {literal(pattern)}"


def _pattern(host: str) -> str:
    if not host.endswith(_DOMAIN):
        return re.escape(host)
    project = host.removesuffix(_DOMAIN)
    # `functions` may follow the name, and files of older projects have the other domain.
    return ("[a-z0-9-]+" if project == "*" else re.escape(project)) + r"(?:\.[a-z]+)?\.supabase\.(?:co|in)"


class _Reader:
    """Reads a source; `not_readable` collects what could not be read."""

    def __init__(self, source: MoveConnection) -> None:
        self.source = source
        self.not_readable: list[NotReadable] = []
        self.deadline = time.monotonic() + READING_SECONDS
        self.services = {row[0] for row in source.rows(_SERVICES, {"names": list(_SERVICE_TABLES)})}

    def objects(self) -> list[LeftObjects]:
        """Return the team's objects in the catalogue, and the rows of Supabase's own tables that count."""
        parameters = {"moved": list(phases()), "supabase": _SUPABASE_SCHEMAS, "preinstalled": _PREINSTALLED}
        found: dict[str, LeftObjects] = {}
        for kind, number, name in self.source.rows(_OBJECTS, parameters | {"most": MAX_NAMES}):
            found.setdefault(kind, LeftObjects(kind, number)).names.append(name)
        jobs = self._service("cron.job", _CRON_JOBS)
        if jobs:
            found["cron jobs"] = LeftObjects("cron jobs", jobs[0][0], [row[1] for row in jobs])
        for table, kind in (("auth.users", "users of Supabase Auth"), ("vault.secrets", "secrets of the vault")):
            for [count] in self._service(table, f"SELECT count(*) FROM {table}"):
                found[kind] = LeftObjects(kind, count)
        return [found[kind] for kind in KINDS if kind in found and found[kind].number]

    def buckets(self) -> list[Bucket]:
        """Return the buckets of Supabase Storage, the largest first."""
        tables = "storage.buckets", "storage.objects"
        rows = self._rows(" and ".join(tables), _BUCKETS) if self.services.intersection(tables) else []
        return [Bucket(name, objects, int(size), without_size) for name, objects, size, without_size in rows]

    def links(self, hosts: Sequence[str]) -> list[Links]:
        """Count, in each column with text, the values that contain one of the hosts."""
        found: list[Links] = []
        for schema, table, columns, only in self.source.rows(_TEXT_COLUMNS, {"supabase": _SUPABASE_SCHEMAS}):
            # A collation of the column's own may not support patterns.
            values = (f'({quoted(column)}::text COLLATE "C")' for column in columns)
            counts = ", ".join(f"count(*) FILTER (WHERE {_condition(value, hosts)})" for value in values)
            place = table if schema == "public" else f"{schema}.{table}"
            query = f"SELECT {counts} FROM {'ONLY ' * only}{quoted(schema)}.{quoted(table)}"
            for row in self._rows(place, query):
                found += [
                    Links(f"{place}.{column}", count) for column, count in zip(columns, row, strict=True) if count
                ]
        return found

    def _service(self, table: str, query: str) -> list[tuple[Any, ...]]:
        return self._rows(table, query) if table in self.services else []

    def _rows(self, name: str, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, or none and a note if the table cannot be read."""
        remaining_ms = int((self.deadline - time.monotonic()) * 1000)
        if remaining_ms <= 0:
            self._note(name, _too_slow())
            return []
        driver = self.source.driver
        try:
            # A savepoint, which undoes the time limit too: an error must not end the transaction of the plan.
            with driver.transaction(force_rollback=True):
                self.source.execute(f"SET LOCAL statement_timeout = {remaining_ms}")
                self.source.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                return self.source.rows(query)
        except (psycopg.DatabaseError, TatameError) as error:
            # Whatever the reason is, the plan is not about this table: it names the table and continues.
            if driver.closed:
                raise
            self._note(name, _reason(error.__cause__ if isinstance(error, TatameError) else error))
            return []

    def _note(self, name: str, reason: str) -> None:
        self.not_readable.append(NotReadable(name, reason))


def _reason(error: BaseException | None) -> str:
    match error:
        case psycopg.errors.InsufficientPrivilege():
            return "no permission"
        case psycopg.errors.LockNotAvailable():
            return "locked by another session"
        case psycopg.errors.QueryCanceled():
            return _too_slow()
        case _:
            # The message itself may repeat a value.
            return f"error {getattr(error, 'sqlstate', None)}"


def _too_slow() -> str:
    return f"not read within {counted(READING_SECONDS, 'second')}"


# The schemas that Supabase creates; their objects are part of the service and not of the team's project.
_SUPABASE_SCHEMAS = [
    *("_analytics", "_realtime", "_supavisor", "auth", "cron", "extensions", "graphql", "graphql_public", "net"),
    *("pgbouncer", "pgmq", "pgsodium", "pgsodium_masks", "pgtle", "realtime", "storage", "vault"),
]
# The extensions that each project has from the beginning; they count only if an object of the team uses them.
_PREINSTALLED = [
    *("pg_graphql", "pg_stat_statements", "pgcrypto", "pgjwt", "pgsodium", "supabase_vault", "uuid-ossp"),
]
_SERVICE_TABLES = ("auth.users", "cron.job", "storage.buckets", "storage.objects", "vault.secrets")
_SERVICES = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY(%(names)s)
"""
_CRON_JOBS = f"""
SELECT count(*) OVER (), coalesce(jobname, 'job ' || jobid) FROM cron.job WHERE database = current_database()
ORDER BY jobid LIMIT {MAX_NAMES}
"""
_BUCKETS = f"""
SELECT b.id, count(o.bucket_id), coalesce(sum(o.size), 0), count(o.bucket_id) FILTER (WHERE o.size IS NULL)
FROM storage.buckets b LEFT JOIN (
    SELECT bucket_id,
        -- The sizes are JSON that the service wrote, and a client of it may have changed.
        CASE WHEN metadata ->> 'size' ~ '^[0-9]{{1,18}}$' THEN (metadata ->> 'size')::numeric END AS size
    FROM storage.objects
) o ON o.bucket_id = b.id
GROUP BY b.id ORDER BY 3 DESC, 1 LIMIT {MAX_NAMES}
"""
_TEAM = f"""
WITH members AS MATERIALIZED (
    SELECT classid, objid, refobjid AS extension FROM pg_depend
    WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
), schemas AS MATERIALIZED (
    SELECT n.oid, n.nspname, CASE WHEN n.nspname = 'public' THEN '' ELSE n.nspname || '.' END AS prefix
    FROM pg_namespace n
    WHERE n.nspname !~ '^(pg_|supabase_)' AND n.nspname NOT IN ('information_schema', '{MOVE_SCHEMA}')
        AND n.nspname <> ALL(%(supabase)s)
        AND n.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_namespace'::regclass)
)"""
# A column of an array of texts counts too, and JSON, but no enumeration, whose values are part of the schema.
_TEXT_COLUMNS = f"""
{_TEAM}
SELECT s.nspname, c.relname, array_agg(a.attname ORDER BY a.attnum), c.relkind = 'r'
FROM pg_class c
JOIN schemas s ON s.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
LEFT JOIN pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass)
    AND ('S' IN (t.typcategory, e.typcategory) OR b.typname IN ('json', 'jsonb', 'hstore', 'xml', '_json', '_jsonb'))
GROUP BY s.nspname, c.oid, c.relname, c.relkind
ORDER BY s.nspname <> 'public', s.nspname, c.relname
"""
KINDS = [
    *("tables without a model", "views", "materialized views", "functions", "procedures", "aggregates", "triggers"),
    *("rules", "event triggers", "policies", "foreign keys", "sequences", "types", "publications", "realtime tables"),
    *("subscriptions", "foreign servers", "extensions", "cron jobs", "users of Supabase Auth", "secrets of the vault"),
]
_OBJECTS = f"""
{_TEAM}, relations AS MATERIALIZED (
    SELECT c.oid, c.relkind, s.prefix || c.relname AS place, s.prefix = '' AND c.relname = ANY(%(moved)s) AS moves
    FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace
    WHERE NOT c.relispartition AND c.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass)
), functions AS MATERIALIZED (
    SELECT p.oid, p.prokind, s.prefix || p.proname || '(' || oidvectortypes(p.proargtypes) || ')' AS place
    FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace
    WHERE p.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_proc'::regclass)
), places AS (
    SELECT c.oid, c.relkind, CASE WHEN n.nspname = 'public' THEN '' ELSE n.nspname || '.' END || c.relname AS place
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass)
), objects (kind, name) AS (
    SELECT CASE relkind WHEN 'v' THEN 'views' WHEN 'm' THEN 'materialized views' ELSE 'tables without a model' END,
        place
    FROM relations WHERE relkind IN ('v', 'm') OR relkind IN ('r', 'p', 'f') AND NOT moves
    UNION ALL
    SELECT CASE prokind WHEN 'p' THEN 'procedures' WHEN 'a' THEN 'aggregates' ELSE 'functions' END, place FROM functions
    UNION ALL
    -- Also those on tables of Supabase that call a function of the team.
    SELECT 'triggers', t.tgname || ' of ' || p.place FROM pg_trigger t JOIN places p ON p.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.oid NOT IN ({MOVE_TRIGGERS})
        AND (t.tgrelid IN (SELECT oid FROM relations) OR t.tgfoid IN (SELECT oid FROM functions))
    UNION ALL
    SELECT 'rules', r.rulename || ' of ' || t.place FROM pg_rewrite r JOIN relations t ON t.oid = r.ev_class
    WHERE r.rulename <> '_RETURN'
    UNION ALL
    SELECT 'event triggers', e.evtname FROM pg_event_trigger e WHERE e.evtfoid IN (SELECT oid FROM functions)
    UNION ALL
    -- Supabase creates no policies itself, so those on its tables are the team's.
    SELECT 'policies', p.polname || ' of ' || t.place FROM pg_policy p JOIN places t ON t.oid = p.polrelid
    UNION ALL
    SELECT 'foreign keys', k.conname || ' of ' || t.place || ' to ' || parent.place
    FROM pg_constraint k JOIN relations t ON t.oid = k.conrelid JOIN places parent ON parent.oid = k.confrelid
    WHERE k.contype = 'f' AND k.conparentid = 0
        AND (t.moves AND k.confrelid NOT IN (SELECT oid FROM relations WHERE moves)
            OR k.confrelid NOT IN (SELECT oid FROM relations))
    UNION ALL
    -- A sequence that belongs to a column comes or stays with its table.
    SELECT 'sequences', q.place FROM relations q
    WHERE q.relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = q.oid AND d.refclassid = 'pg_class'::regclass
            AND d.deptype IN ('a', 'i')
    ) AND NOT EXISTS (
        SELECT FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid JOIN relations t ON t.oid = f.adrelid AND t.moves
        WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = q.oid
    )
    UNION ALL
    SELECT 'types', s.prefix || t.typname FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace
    WHERE (t.typtype IN ('e', 'd', 'r') OR t.typrelid IN (SELECT oid FROM relations WHERE relkind = 'c'))
        AND t.oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass)
        AND NOT EXISTS (
            SELECT FROM pg_attribute a JOIN relations r ON r.oid = a.attrelid AND r.moves
            WHERE NOT a.attisdropped AND a.atttypid IN (t.oid, t.typarray)
        )
    UNION ALL
    SELECT 'publications', pubname FROM pg_publication
    WHERE pubname !~ '^supabase_realtime' AND oid NOT IN ({MOVE_PUBLICATIONS})
    UNION ALL
    SELECT 'realtime tables', CASE WHEN schemaname = 'public' THEN '' ELSE schemaname || '.' END || tablename
    FROM pg_publication_tables WHERE pubname = 'supabase_realtime'
    UNION ALL
    SELECT 'subscriptions', subname FROM pg_subscription
    WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT 'foreign servers', srvname FROM pg_foreign_server
    WHERE oid NOT IN (SELECT objid FROM members WHERE classid = 'pg_foreign_server'::regclass)
    UNION ALL
    SELECT 'extensions', x.extname FROM pg_extension x
    WHERE x.extname <> 'plpgsql' AND (x.extname <> ALL(%(preinstalled)s) OR EXISTS (
        SELECT FROM members m
        JOIN pg_depend d ON d.refclassid = m.classid AND d.refobjid = m.objid AND d.deptype <> 'e',
            pg_identify_object_as_address(d.classid, d.objid, d.objsubid) AS a
        WHERE m.extension = x.oid AND a.object_names[1] IN (SELECT nspname FROM schemas)
            AND (d.classid, d.objid) NOT IN (SELECT classid, objid FROM members)
    ))
)
SELECT kind, number, name FROM (
    SELECT kind, name, count(*) OVER (PARTITION BY kind) AS number,
        row_number() OVER (PARTITION BY kind ORDER BY name COLLATE "C") AS place FROM objects
) AS numbered
WHERE place <= %(most)s ORDER BY kind, place
"""
