"""The database under examination: its connection, and what the settings say beside its address."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text

from tatame_db.database.address import readable
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.options import POOL_SIZE
from tatame_db.database.pool import Database
from tatame_db.doctor.limits import LIMITS, Limits
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.move.connection import MoveConnection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from sqlalchemy import URL, Connection, Row
    from sqlalchemy.pool import ConnectionPoolEntry

    from tatame_db.errors import TatameError
    from tatame_db.server.embedded import EmbeddedServer


@dataclass(frozen=True)
class Setup:
    """What the settings of the app say beside the address of the database."""

    server: EmbeddedServer | None = None
    """The embedded server, if the address is its own."""
    production: bool = False
    pool_size: int = POOL_SIZE
    statement_timeout_ms: int | None = None
    use_postgres: Callable[[str], bool] | None = None
    """Whether the app uses a table in this database rather than in the source of a move."""
    source: URL | None = None
    """The source of a move, if it is a PostgreSQL."""
    source_problem: TatameError | None = None
    """Why its address cannot be read."""
    replica: URL | None = None
    """The standbys from which the app reads."""
    replica_problem: TatameError | None = None
    """Why their address cannot be read."""
    backup_folder: Path | None = None
    """The folder of the backups."""
    models_problem: TatameError | None = None
    """Why the models of the app are not loaded, so that nothing can be compared with them."""


@dataclass(frozen=True)
class Facts:
    """What a connection tells once."""

    version: str
    version_number: int
    role: str
    """Quoted for SQL."""
    superuser: bool
    roles: frozenset[str]
    """Those whose rights the role has, itself among them, quoted for SQL."""
    standby: bool
    pooled: bool
    """Whether a pooler is between here and the server."""
    encrypted: bool
    sslmode: str

    @property
    def major(self) -> int:
        """The major version."""
        return self.version_number // 10_000


_FACTS = text(
    "SELECT split_part(current_setting('server_version'), ' ', 1) AS version, quote_ident(current_user) AS role,"
    " current_setting('is_superuser') = 'on' AS superuser, pg_is_in_recovery() AS standby,"
    " ARRAY(SELECT quote_ident(rolname) FROM pg_roles WHERE pg_has_role(oid, 'USAGE')) AS roles,"
    " coalesce((SELECT encrypted FROM pg_stat_gssapi WHERE pid = pg_backend_pid()), false) AS gss"
)
_LOCK_SECONDS = 1


@dataclass
class Examination:
    """One connection, on which each query has a read-only transaction of its own and a limit of its time.

        with Examination(address) as examination:
            examination.value("SELECT 1")

    So nothing that one query does or suffers affects the next, no snapshot is held, and a pooler in transaction mode
    does. After `limits.whole_seconds` the connection is cut, whatever it waits for.
    """

    address: URL
    setup: Setup = field(default_factory=Setup)
    limits: Limits = LIMITS
    facts: Facts | None = None
    failure: DatabaseUnavailable | None = None
    """Why there is no connection."""
    expired: bool = False
    """Whether the time for all lines has run out."""

    def __post_init__(self) -> None:
        self.database = Database(
            self.address,
            pool_size=1,
            pool_timeout_seconds=self.limits.line_seconds,
            connect_timeout_seconds=max(2, self.limits.line_seconds),
            application_name="tatame-db doctor",
        )
        self.engine = self.database.engine.execution_options(postgresql_readonly=True)
        """The engine, in whose transactions PostgreSQL refuses every change."""
        self._watched: list[MoveConnection] = []
        event.listen(self.database.engine, "checkout", self._note)
        event.listen(self.database.engine, "begin", self._limit)
        self._timer = threading.Timer(self.limits.whole_seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        try:
            self.facts = self._read_facts()
        except DatabaseUnavailable as failure:
            self.failure = failure
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.database.engine.dispose()

    def watch(self, connection: MoveConnection) -> None:
        """Cut this connection too when the time has run out."""
        self._watched.append(connection)

    def _note(self, _: object, entry: ConnectionPoolEntry, __: object) -> None:
        self._watched[:1] = [MoveConnection("database", self.address, driver_connection(entry))]

    def _limit(self, connection: Connection) -> None:
        # For each transaction, because a pooler keeps no setting for a session.
        for name, seconds in (("statement_timeout", self.limits.line_seconds), ("lock_timeout", _LOCK_SECONDS)):
            connection.exec_driver_sql(f"SET LOCAL {name} = '{seconds}s'")

    def _expire(self) -> None:
        self.expired = True
        for connection in self._watched:
            connection.abort()

    # Queries

    def rows(self, query: str, **parameters: Any) -> list[Row[*tuple[Any, ...]]]:
        """Run a query and return its rows. Raises SQLAlchemy's errors, and `TimeoutError` when the time has run out."""
        if self.expired:
            raise TimeoutError
        with self.engine.connect() as connection:
            if parameters:
                return list(connection.execute(text(query), parameters).all())
            return list(run_verbatim(connection, query).all())

    def row(self, query: str, **parameters: Any) -> Any:
        """Run a query and return its only row."""
        [row] = self.rows(query, **parameters)
        return row

    def value(self, query: str, **parameters: Any) -> Any:
        """Run a query and return its only value."""
        return self.row(query, **parameters)[0]

    def names(self, query: str, **parameters: Any) -> list[str]:
        """Run a query and return the first value of each row."""
        return [str(row[0]) for row in self.rows(query, **parameters)]

    def setting(self, name: str) -> str:
        """Return the value with which a session of this role begins, before this package sets its own."""
        return str(self.value("SELECT reset_val FROM pg_settings WHERE name = :name", name=name))

    # What is known

    @property
    def where(self) -> str:
        """The address without its password."""
        return readable(self.address)

    @property
    def known(self) -> Facts:
        """The facts, for checks that run only with a connection."""
        assert self.facts is not None  # noqa: S101, for the type checker
        return self.facts

    @property
    def embedded(self) -> EmbeddedServer | None:
        """The embedded server, if the address is its own."""
        return self.setup.server

    def _read_facts(self) -> Facts:
        with self.engine.connect() as connection:
            driver = driver_connection(connection)
            row = connection.execute(_FACTS).one()
            options = {option.keyword: option.val for option in driver.pgconn.info}
            return Facts(
                version=row.version,
                version_number=driver.info.server_version,
                role=row.role,
                superuser=row.superuser,
                roles=frozenset(row.roles),
                standby=row.standby,
                pooled=bool(connection.info.get("pooled")),
                encrypted=driver.pgconn.ssl_in_use or row.gss,
                sslmode=(options.get(b"sslmode") or b"").decode(),
            )
