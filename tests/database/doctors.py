"""Two servers to make sick: the bundled one as the embedded server, and a PostgreSQL 15 reached over TLS."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import OLDER_PROGRAMS, foreign_server, free_port, new_directory, tls_settings, until
from tests.database.moves import Row, ask, change

from tatame_db import doctor, evolve, roles
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.doctor import Examined, Finding, Limits, Setup, Verdict
from tatame_db.roles import Names
from tatame_db.server.embedded import EmbeddedServer

BUNDLED, OLDER = "bundled", "older"
_TEMPLATE = "healthy"
# To libpq the address of this machine; to `is_local`, a name like any other.
ELSEWHERE = "127.1"


@dataclass
class Clinic:
    """A server, with a healthy database as a template."""

    kind: str
    maintenance: URL
    """The address of the superuser."""
    address: URL
    """The address of the app, without a database."""
    setup: Setup
    programs: Path
    owner: EmbeddedServer
    """Knows the user who runs the server."""

    def reload(self, **settings: str) -> None:
        """Change settings of the server, or reset those without a value, and wait until sessions have them."""
        for name, value in settings.items():
            change(self.maintenance, f"ALTER SYSTEM SET {name} = '{value}'" if value else f"ALTER SYSTEM RESET {name}")
        change(self.maintenance, "SELECT pg_reload_conf()")
        for name, value in settings.items():
            until(partial(self._has, name, value))

    def _has(self, name: str, value: str) -> bool:
        return not value or ask(self.maintenance, f"SHOW {name}") == [(value,)]


@dataclass
class Ward:
    """A healthy database, which a test makes sick."""

    clinic: Clinic
    address: URL
    setup: Setup
    request: pytest.FixtureRequest
    limits: Limits = field(default_factory=Limits)
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def direct(self) -> URL:
        """The address of the superuser."""
        return self.clinic.maintenance.set(database=self.address.database)

    def run(self, *statements: str) -> None:
        """Run statements as a superuser."""
        change(self.direct, *statements)

    def ask(self, query: str) -> list[Row]:
        """Ask as a superuser."""
        return ask(self.direct, query)

    def limit(self, **limits: float) -> None:
        """Lower thresholds."""
        self.limits = replace(self.limits, **limits)  # type: ignore[arg-type]  # numbers

    def open(self) -> psycopg.Connection[Row]:
        """Open a session that lasts as long as the test."""
        connection = psycopg.connect(readable(self.direct), autocommit=True)
        self.stack.callback(connection.close)
        return connection

    def start(self, statement: str) -> psycopg.Connection[Row]:
        """Start a statement in a session of its own, which is cancelled at the end."""
        connection = self.open()

        def execute() -> None:
            with contextlib.suppress(psycopg.Error):
                connection.execute(statement.encode())

        thread = Thread(target=execute)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(connection.cancel_safe)
        return connection

    def reload(self, **settings: str) -> None:
        """Change settings of the server until the end of the test."""
        self.stack.callback(self.clinic.reload, **dict.fromkeys(settings, ""))
        self.clinic.reload(**settings)

    def another(self) -> URL:
        """Create another healthy database on the server."""
        return self.stack.enter_context(database_of(self.clinic))

    def examine(self, *names: str) -> Examined:
        """Examine these lines, or all."""
        return doctor.examine(self.address, self.setup, limits=self.limits, names=names or None)

    def cure(self, name: str) -> None:
        """Type in the advice of a line until it is good, which it must become."""
        deadline = time.monotonic() + 60
        while (finding := self.finding(name)).verdict is not Verdict.GOOD:
            assert time.monotonic() < deadline, finding
            for statement, role in statements(finding.fix or ""):
                address = self.direct.set(username=role or self.address.username)
                with psycopg.connect(readable(address), autocommit=True) as connection:
                    cursor = connection.execute(statement.encode())
                    printed = cursor.fetchall() if statement.startswith(_PRINTS) else []
                    for [another] in printed:
                        connection.execute(another.encode())

    def finding(self, name: str) -> Finding:
        """Return one line."""
        [finding] = self.examine(name).findings
        return finding


_CODE = re.compile(r"((?:`[^`]*`(?:; )?)+)(?:, as ([^;,]+))?")
_VERBS = {"ALTER", "ANALYZE", "CREATE", "DELETE", "DROP", "REINDEX", "SELECT", "VACUUM"}
_PRINTS = "SELECT format("
_ACTS = (_PRINTS, "SELECT pg_", "SELECT setval(")


def statements(fix: str) -> list[tuple[str, str | None]]:
    """Return the statements of an advice, and as which role to type them; `None` is that of the address."""
    return [
        (statement, role.replace("a superuser", "postgres") or None)
        for code, role in _CODE.findall(fix)
        for statement in re.findall("`([^`]*)`", code)
        if statement.split()[0] in _VERBS
    ]


def cures(fix: str) -> list[str]:
    """Return the statements of an advice that are no question."""
    return [found for found, _ in statements(fix) if not found.startswith("SELECT") or found.startswith(_ACTS)]


_names = iter(range(1_000_000))


@contextlib.contextmanager
def database_of(clinic: Clinic, options: str = f"TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY") -> Generator[URL]:
    """Create a database, and drop it at the end."""
    name = f"patient_{next(_names)}"
    change(clinic.maintenance, f"CREATE DATABASE {name} {options}")
    if clinic.kind == OLDER:
        # A copy has the rights of its template on tables, and not those on the database.
        change(
            clinic.maintenance,
            f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC",
            f"GRANT CREATE, TEMPORARY ON DATABASE {name} TO {Names.owner}",
        )
    yield clinic.address.set(database=name)
    change(clinic.maintenance, f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def bundled_clinic() -> Generator[Clinic]:
    """Start the embedded server with what a sickness needs from the start on."""
    server = EmbeddedServer(new_directory() / "server")
    server.start()
    change(
        server.address.set(database="postgres"),
        "ALTER SYSTEM SET max_prepared_transactions = 5",
        "ALTER SYSTEM SET archive_mode = on",
        "ALTER SYSTEM SET archive_command = 'true'",
    )
    server.stop()
    server.start()
    clinic = Clinic(
        BUNDLED,
        server.address.set(database="postgres"),
        server.address,
        Setup(server=server),
        server.program("postgres").parent,
        server,
    )
    _create_template(clinic)
    yield clinic
    server.delete()


@contextlib.contextmanager
def older_clinic() -> Generator[Clinic]:
    """Start a PostgreSQL 15 with a certificate, which the app knows and reaches by a name."""
    home = new_directory()
    owner = EmbeddedServer(home / "owner")
    port, settings = free_port(), tls_settings(home, ELSEWHERE)
    settings |= {"listen_addresses": "127.0.0.1", "port": str(port), "fsync": "on", "timezone": "UTC"}
    settings |= {"max_prepared_transactions": "5", "archive_mode": "on", "log_timezone": "UTC"}
    settings |= {"shared_preload_libraries": "pg_stat_statements"}
    with foreign_server(OLDER_PROGRAMS, home / "server", **settings) as socket:
        maintenance = socket.set(database="postgres").update_query_dict({"port": str(port)})
        change(
            maintenance,
            "ALTER SYSTEM SET archive_command = 'true'",
            "SELECT pg_reload_conf()",
        )
        query = {"sslmode": "verify-full", "sslrootcert": settings["ssl_cert_file"]}
        address = URL.create("postgresql+psycopg", Names.app, host=ELSEWHERE, port=port, query=query)
        clinic = Clinic(OLDER, maintenance, address, Setup(), OLDER_PROGRAMS, owner)
        _create_template(clinic)
        yield clinic


def _create_template(clinic: Clinic) -> None:
    address = clinic.maintenance.set(database=_TEMPLATE)
    create_missing_database(address)
    with Database(address) as database:
        evolve.migrate(database.engine)
        if clinic.kind == OLDER:
            with database.engine.connect() as connection:
                roles.apply(connection)
            change(
                address,
                "CREATE EXTENSION pg_stat_statements",
                f"GRANT pg_monitor TO {Names.app}",
                f"ALTER ROLE {Names.app} SET statement_timeout = '15s'",
                f"ALTER ROLE {Names.app} SET idle_in_transaction_session_timeout = '60s'",
            )


@contextlib.contextmanager
def lagging_standby(ward: Ward) -> Generator[None]:
    """Let a program read the WAL as a standby does, stop it, and write 2 MB."""
    home = new_directory()
    ward.clinic.owner._hand_over(home, 0o700)
    query = ward.clinic.maintenance.query
    options = f"-D {home} -h {query['host']} -p {query.get('port', 5432)} -U postgres --status-interval=1"
    receiver = subprocess.Popen(
        [str(ward.clinic.programs / "pg_receivewal"), *options.split()],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=home,
        **ward.clinic.owner._as_owner,
    )
    try:
        until(lambda: ward.ask("SELECT FROM pg_stat_replication WHERE write_lsn IS NOT NULL"))
        receiver.send_signal(signal.SIGSTOP)
        ward.run("SELECT pg_logical_emit_message(false, 'x', repeat('x', 2097152))")
        yield
    finally:
        receiver.kill()
        receiver.wait()
        until(lambda: not ward.ask("SELECT FROM pg_stat_replication"))
