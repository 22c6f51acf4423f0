"""The server of the benchmark: its data, its CPU, the statements that it runs, and PgBouncer before it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db import Database, evolve
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Generator

DATABASE = "bench"
SETTINGS = {
    "max_connections": "400",  # each client has a pool of 20
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
    "autovacuum": "off",  # the runner vacuums after each job that writes
    "log_line_prefix": "%m ",
}
CHECKINS = 1_000_000
DATA = f"""
INSERT INTO roles (id) VALUES ('STUDENT'), ('INSTRUCTOR'), ('MANAGER');
INSERT INTO gyms (name, address, since, created_at)
    SELECT 'Gym ' || i, 'Rua ' || i, '2015-03-01', '2026-01-01' FROM generate_series(1, 100) i;
INSERT INTO users (clerk_user_id, email, first_name, last_name, birth, birth_day, gender, phone, role, gym_id, plan,
                   approved_at, created_at)
    SELECT 'user_' || i, 'user' || i || '@gym.example', 'Ana ' || i, 'da Silva', '1990-12-31', '12-31', 'FEMALE',
           '+55 11 90000-0000', CASE WHEN i % 20 = 0 THEN 'INSTRUCTOR' ELSE 'STUDENT' END, i % 100 + 1, 'MONTHLY',
           '2026-01-02 10:00:00', '2026-01-01 10:00:00'
    FROM generate_series(1, 20000) i;
INSERT INTO graduations (user_id, belt, degree, modality, created_at)
    SELECT i, 'BLUE', n, 'BJJ', '2026-01-01'::timestamp + n * interval '1 day'
    FROM generate_series(1, 20000) i, generate_series(1, 3) n;
INSERT INTO class (gym_id, instructor_id, created_by, day, start, "end", modality, description, created_at)
    SELECT i % 100 + 1, i * 10, i * 10, 'MONDAY', '18:00', '19:30', 'BJJ', 'Fundamentals for everybody', '2026-01-01'
    FROM generate_series(1, 2000) i;
INSERT INTO assets (class_id, title, content, type, created_at)
    SELECT i, 'Armbar', 'https://video.example/' || i, 'video', '2026-01-01'
    FROM generate_series(1, 2000) i, generate_series(1, 2);
INSERT INTO checkins (user_id, class_id, date, created_at)
    SELECT i % 20000 + 1, i % 2000 + 1, to_char('2025-01-01'::date + i / 20000 * 14, 'YYYY-MM-DD'), '2026-01-01'
    FROM generate_series(0, {CHECKINS - 1}) i;
INSERT INTO notifications (sent_by, title, content, channel, status, recipients, viewed_by, sent_at, created_at)
    SELECT i, 'Exam', 'On Saturday at ten', 'push', 'sent',
           ARRAY(SELECT ((i * 40 + n) % 20000 + 1)::text FROM generate_series(0, 39) n), '{{}}', '2026-01-02',
           '2026-01-01'::timestamp + i * interval '1 minute'
    FROM generate_series(1, 20000) i;
"""


class Server:
    """The embedded server with the data of the jobs, on a disk and with fsync on."""

    def __init__(self, directory: Path) -> None:
        self.embedded = EmbeddedServer(directory)
        self.embedded.start()
        self._administrate(*(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in SETTINGS.items()))
        self.embedded.stop()
        self.embedded.start()
        self.postmaster = int((self.embedded.data / "postmaster.pid").read_text().split()[0])
        self.address = self.embedded.address.set(database=DATABASE)
        self.socket = str(self.address.query["host"])
        self.port = str(self.address.query.get("port", 5432))
        create_missing_database(self.address)
        with Database(self.address) as database:
            evolve.migrate(database.engine)
        self.execute(DATA)
        self.vacuum()

    def vacuum(self) -> None:
        self.execute("VACUUM ANALYZE")
        self.execute("CHECKPOINT")

    def _administrate(self, *statements: str) -> None:
        with psycopg.connect(
            f"host={self.embedded.address.query['host']} user=postgres", autocommit=True
        ) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(f"host={self.socket} port={self.port} user=postgres dbname={DATABASE}", autocommit=True)

    def execute(self, statement: str) -> list[Any]:
        with self.connect() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def delete_new_checkins(self) -> list[Any]:
        """Delete what the writing jobs wrote; return how many rows it was, and their digest."""
        written = self.execute(
            "SELECT count(*), md5(string_agg(format('%s %s %s', user_id, class_id, date), ',' ORDER BY user_id)) "
            f"FROM checkins WHERE id > {CHECKINS}"
        )
        self.execute(f"DELETE FROM checkins WHERE id > {CHECKINS}")
        self.execute("VACUUM checkins")
        return written

    def cpu_seconds(self) -> dict[int, float]:
        """Return the CPU time of each process of the server, in nanoseconds' resolution."""
        used = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit():
                continue
            try:
                parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.postmaster or int(directory.name) == self.postmaster:
                    used[int(directory.name)] = int((directory / "schedstat").read_text().split()[0]) / 1e9
            except (OSError, ValueError):
                continue
        return used

    # The statements of a job

    @contextmanager
    def logged_statements(self) -> Generator[list[tuple[str, dict[str, str]]]]:
        """Collect the statements on the benchmark's tables, with their parameters, that the server runs meanwhile."""
        found: list[tuple[str, dict[str, str]]] = []
        self._log("all")
        size = self.embedded.log.stat().st_size
        yield found
        self._log("none")
        log = self.embedded.log.read_bytes()[size:].decode()
        entries = re.split(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC ", log, flags=re.MULTILINE)
        for position, entry in enumerate(entries):
            text = entry.replace("\n\t", "\n").strip()
            # A name of a prepared statement has no colon; a statement of the simple protocol has no parameters.
            match = re.match(r"LOG:  (?:execute [^:]+|statement): (.*)", text, re.DOTALL)
            if match and re.search(r"\b(users|class|checkins|notifications)\b", match[1]):
                following = entries[position + 1] if position + 1 < len(entries) else ""
                found.append((match[1], _parameters(following.replace("\n\t", "\n"))))

    def _log(self, kind: str) -> None:
        self._administrate(f"ALTER SYSTEM SET log_statement = '{kind}'", "SELECT pg_reload_conf()")
        # A session reads its configuration again before its next statement, once it has the signal.
        time.sleep(0.3)

    def parameter_types(self, sql: str) -> list[str]:
        """Return the types that the server gives to the parameters of a statement."""
        with self.connect() as connection:
            # Without a name, so that no text of the statement is touched.
            connection.pgconn.prepare(b"described", sql.encode())
            rows = connection.execute("SELECT parameter_types::text[] FROM pg_prepared_statements").fetchall()
            return list(rows[0][0]) if rows else []

    # Beside the jobs

    @contextmanager
    def locking(self) -> Generator[None]:
        """Lock the table `versions` for two seconds, again and again."""
        stop = threading.Event()

        def lock() -> None:
            with self.connect() as connection:
                while not stop.is_set():
                    with connection.transaction():
                        connection.execute("LOCK TABLE versions IN ACCESS EXCLUSIVE MODE")
                        stop.wait(2)

        thread = threading.Thread(target=lock)
        thread.start()
        yield
        stop.set()
        thread.join()

    @contextmanager
    def bouncer(self) -> Generator[tuple[str, str]]:
        """Run PgBouncer in transaction mode; return its socket directory and port."""
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise SystemExit(
                "PgBouncer is not installed: `apt-get install pgbouncer`, or leave out the job `pgbouncer`"
            )
        home = self.embedded.directory.with_name("pgbouncer")
        home.mkdir()
        (home / "pgbouncer.ini").write_text(
            f"""[databases]
{DATABASE} = host={self.socket} port={self.port} user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = 20
max_client_conn = 300
auth_type = any
listen_addr =
listen_port = 6543
unix_socket_dir = {home}
logfile = {home}/log
"""
        )
        self.embedded._hand_over(home, 0o755)
        process = subprocess.Popen(
            [program, "--quiet", home / "pgbouncer.ini"],
            cwd=home,
            stderr=subprocess.DEVNULL,
            **self.embedded._as_owner,
        )
        try:
            deadline = time.monotonic() + 20
            while not _listens(home / ".s.PGSQL.6543"):
                assert process.poll() is None, (home / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield str(home), "6543"
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(home)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _parameters(entry: str) -> dict[str, str]:
    """Read `DETAIL:  Parameters: $1 = 'a', $2 = 'it''s'`."""
    match = re.match(r"DETAIL:  Parameters: (.*)", entry, re.DOTALL | re.IGNORECASE)
    pairs = re.findall(r"(\$\d+) = (?:'((?:[^']|'')*)'|NULL)", match[1]) if match else []
    return {name: value.replace("''", "'") for name, value in pairs}


def file_system(directory: Path) -> str:
    """Return the type of the file system that holds a directory."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [mount for mount in mounts if directory.resolve().is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[1]))[2]
