"""The page about deployments, followed to the letter: its commands, its files, its pooler, and its container."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import ProgrammingError
from tests.acceptance.conftest import COMMAND
from tests.acceptance.test_tutorial import wait_for
from tests.conftest import free_port, run_sql
from tests.database.conftest import pgbouncer_program

from tatame_db import Database, evolve, roles, seed
from tatame_db.database.address import parse_address, readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
FIRST = "payments_20261127101500123"
PLAN = seed.SeedPlan(gyms=1, members=30, days=7, until=date(2026, 3, 1))


def titled(page: str) -> dict[str, str]:
    return {title: content for language, title, content in BLOCK.findall(page) if title and language != "diff"}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The app of the tutorial, with its table and its migration."""
    app = tmp_path / "checkin-app"
    app.mkdir()
    for name, content in titled(TUTORIAL).items():
        (app / name).write_text(content)
    statements = re.findall(r"^(CREATE (?:TABLE|INDEX) .*?);$", TUTORIAL, flags=re.DOTALL | re.MULTILINE)
    assert len(statements) == 2
    steps = "".join(f"    op.execute({statement!r})\n" for statement in statements)
    versions = app / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / f"{FIRST}_add_payments.py").write_text(
        f"""\"\"\"Add payments.\"\"\"

from alembic import op

revision = "{FIRST}"
down_revision = None
depends_on = "20261123120000"


def upgrade() -> None:
{steps}

def downgrade() -> None:
    op.execute("DROP TABLE payments")
"""
    )
    return app


# --- The commands ----------------------------------------------------------------------------------------------------


def edited(content: str, diff: str) -> str:
    lines = diff.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
    assert old in content
    return content.replace(old, new)


def plain(output: str) -> str:
    """Return an output without times and the spaces at the ends of lines."""
    return re.sub(r"  \d+\.\d+ s$| +$", "", output, flags=re.MULTILINE)


@pytest.fixture
def durable_server(directory: Path) -> Generator[EmbeddedServer]:
    """A server that keeps what it commits, as the doctor demands of one in production."""
    server = EmbeddedServer(directory / "data")
    yield server
    server.delete()


@pytest.mark.long
def test_the_commands_of_the_page_print_what_it_shows(
    app: Path, durable_server: EmbeddedServer, environment: dict[str, str], directory: Path
) -> None:
    server, port = durable_server, free_port()
    server.start(port)
    create_missing_database(server.address)
    with Database(server.address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed.seed(connection, PLAN)
        with database.engine.connect() as connection:
            roles.apply(connection)
    names = {"admin": "postgres", "owner": "tatame_owner", "app": "tatame_app", "backup": "tatame_backup"}
    addresses = {name: readable(server.address.set(username=role)) for name, role in names.items()}
    restored = server.address.set(database="tatame_restored")
    addresses |= {"restored": readable(restored), "restored_app": readable(restored.set(username="tatame_app"))}
    programs = f"{COMMAND.parent}:{server._server_programs}:{environment['PATH']}"
    run_sql(server.address, "ALTER ROLE tatame_app PASSWORD 'as long as it is secret'")

    def follow(page: str, cwd: Path, **as_user: Any) -> None:
        for language, title, content in BLOCK.findall(page):
            if language == "diff":
                (cwd / title).write_text(edited((cwd / title).read_text(), content))
            elif title:
                (cwd / title).write_text(content)
            if title == "backfill.py":
                rows = "SELECT (SELECT min(id) FROM users), 100 FROM generate_series(1, 2500)"
                run_sql(server.address, f"INSERT INTO payments (user_id, cents) {rows}")
            if language != "console":
                continue
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", content, flags=re.MULTILINE):
                done = subprocess.run(
                    ["bash", "-c", command],
                    check=False,
                    cwd=cwd,
                    # Unbuffered, both outputs have the order that they have at a terminal.
                    env=environment | addresses | {"PATH": programs, "PYTHONUNBUFFERED": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=120,
                    **as_user,
                )
                assert plain(done.stdout) == plain(shown), command
                # After `echo $?`, the code is in what is shown.
                fails = "\nerror: " in f"\n{shown}" and "echo $?" not in command
                assert done.returncode == (3 if fails else 0), command

    for_app, heading, for_server = PAGE.partition("### Copy the whole server")
    assert heading
    follow(for_app, app)
    home = directory / "copy"
    home.mkdir()
    server._hand_over(home, 0o755)
    try:
        follow(for_server.partition("## A container")[0], home, **server._as_owner)
    finally:
        if (home / "base" / "postmaster.pid").exists():
            os.kill(int((home / "base" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    # Last, because it is skipped where there is no PgBouncer.
    _assert_that_the_pooler_works(app, directory / "pgbouncer", port, server)


def _assert_that_the_pooler_works(app: Path, home: Path, port: int, server: EmbeddedServer) -> None:
    home.mkdir()
    shutil.copy(app / "userlist.txt", home)
    listens = free_port()
    changed = {"port=5432": f"port={port}", "6432": str(listens), "/etc/pgbouncer": str(home)}
    settings = titled(PAGE)["pgbouncer.ini"]
    for old, new in changed.items():
        assert old in settings
        settings = settings.replace(old, new)
    (home / "pgbouncer.ini").write_text(settings)
    for path in (home, *home.iterdir()):
        server._hand_over(path, 0o700)
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [pgbouncer_program(), home / "pgbouncer.ini"], cwd=home, stdout=output, stderr=output, **server._as_owner
        )
    try:
        wait_for(listens, process, log)
        pooled = parse_address(f"postgresql://tatame_app:as long as it is secret@127.0.0.1:{listens}/tatame")
        with Database(pooled) as database, database.session() as session:
            assert session.scalar(text("SHOW statement_timeout")) == "15s"
            assert session.scalar(text("SELECT count(*) FROM payments")) == 2500
        with pytest.raises(psycopg.OperationalError, match=r"password|SASL"):
            psycopg.connect(readable(pooled.set(password="another")))
    finally:
        process.terminate()
        process.wait(30)


def test_each_step_of_a_rename_leaves_a_schema_for_two_versions(bare_engine: Engine) -> None:
    table = "CREATE TABLE payments (id serial PRIMARY KEY, cents integer NOT NULL)"
    # What each version writes, and which of it it reads.
    versions = [(["cents"], "cents"), (["cents", "amount"], "cents"), (["cents", "amount"], "amount")]
    versions.append((["amount"], "amount"))

    def use(number: int) -> None:
        written, read = versions[number]
        with bare_engine.begin() as connection:
            values = ", ".join("100" for _ in written)
            connection.execute(text(f"INSERT INTO payments ({', '.join(written)}) VALUES ({values})"))
            assert set(connection.scalars(text(f"SELECT {read} FROM payments"))) == {100}

    for step, running in [
        (table, [0]),
        ("ALTER TABLE payments ADD COLUMN amount integer", [0, 1]),
        ("UPDATE payments SET amount = cents WHERE amount IS NULL", [1]),
        ("ALTER TABLE payments ALTER amount SET NOT NULL, ALTER cents DROP NOT NULL", [1, 2]),
        ("SELECT", [2, 3]),
        ("ALTER TABLE payments DROP COLUMN cents", [3]),
    ]:
        with bare_engine.begin() as connection:
            connection.execute(text(step))
        for number in running * 2:
            use(number)
    with pytest.raises(ProgrammingError, match="cents"):
        use(2)


def test_the_connections_of_the_page_add_up() -> None:
    table = PAGE.partition("| Connections | Number |")[2].partition("\n\n")[0]
    *parts, together, there = map(int, re.findall(r"\| (\d+) \|", table))
    assert sum(parts) == together < there
    [limit] = re.findall(r"tatame_app CONNECTION LIMIT (\d+)", PAGE)
    assert parts[0] + parts[1] == int(limit)


# --- The container ---------------------------------------------------------------------------------------------------

PODMAN = next(content for language, _, content in BLOCK.findall(PAGE) if language == "sh" and "podman" in content)


@pytest.fixture
def context(app: Path) -> Path:
    """The folder from which the image is built: the app, its container file and the wheel."""
    uv = COMMAND.with_name("uv")
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", app / "dist", ROOT], check=True, cwd=app)
    return app


def container_file(port: int) -> str:
    return titled(PAGE)["Containerfile"].replace("8000", str(port))


@dataclass
class Image:
    """What a container file makes, in a virtual environment and a folder instead of an image."""

    root: Path
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, check=False, capture_output=True, text=True, **self.options(**variables))

    def options(self, **variables: str) -> dict[str, Any]:
        path = f"{self.root / 'venv' / 'bin'}:{os.environ['PATH']}"
        return {"cwd": self.root / "work", "env": {"PATH": path, "HOME": str(self.root)} | self.variables | variables}


def built(context: Path, root: Path, container_file: str) -> Image:
    image = Image(root)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    pip = root / "venv" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {COMMAND.with_name("uv")} --quiet pip "$@" --python {root / "venv"}\n')
    pip.chmod(0o755)
    for line in filter(None, container_file.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "ENV":
            image.variables |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif instruction == "WORKDIR":
            (root / "work").mkdir()
        elif instruction == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = root / "work" / target
                if (context / source).is_dir():
                    shutil.copytree(context / source, place)
                else:
                    shutil.copy(context / source, place)
        elif instruction == "RUN" and rest.startswith("pip "):
            # uv links what it has in its cache.
            path = f"{pip.parent}:{os.environ['PATH']}"
            command = ["sh", "-c", rest.replace(" --no-cache-dir", "")]
            subprocess.run(command, check=True, cwd=root / "work", env=dict(os.environ) | {"PATH": path})
        elif instruction == "HEALTHCHECK":
            image.health = json.loads(rest.partition("CMD ")[2])
        elif instruction == "CMD":
            image.command = json.loads(rest)
        else:
            # An image alone has these, and the test with an engine.
            assert instruction in {"FROM", "USER", "EXPOSE"} or rest.startswith("useradd "), line
    return image


@pytest.mark.long
def test_the_steps_of_the_container_file_work_without_an_engine(
    context: Path, tmp_path: Path, bare_address: URL
) -> None:
    port = free_port()
    image = built(context, tmp_path, container_file(port))
    assert "DATABASE_URL is not set" in image.run(["tatame-db", "migrate"]).stderr
    address = {"DATABASE_URL": readable(bare_address)}
    migrated = image.run(["tatame-db", "migrate"], **address)
    assert migrated.returncode == 0, migrated.stderr
    with Database(bare_address) as database, database.engine.begin() as connection:
        seed.seed(connection, PLAN)
    assert image.run(image.health).returncode != 0

    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(image.command, stdout=output, stderr=output, **image.options(**address))
    try:
        wait_for(port, process, log)
        assert image.run(image.health).returncode == 0
        assert httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        # A request that SIGTERM finds open gets its answer.
        with ThreadPoolExecutor() as pool, psycopg.connect(readable(bare_address)) as other:
            other.execute("SELECT FROM users WHERE id = 15 FOR UPDATE")
            body = {"user_id": 15, "class_id": 1}
            answer = pool.submit(httpx.post, f"http://127.0.0.1:{port}/checkins", json=body, timeout=60)
            _wait(lambda: _sessions(bare_address, "wait_event_type = 'Lock'") == 1)
            process.terminate()
            _wait(lambda: "Shutting down" in log.read_text())
            other.rollback()
            assert answer.result().status_code == 201
        # The first process of a container cannot be killed by the signal that uvicorn sends to itself in the end.
        assert process.wait(30) in {0, -signal.SIGTERM}
        assert "Application shutdown complete" in log.read_text()
        assert _sessions(bare_address, "true") == 0
    finally:
        process.kill()
        process.wait(30)


def _sessions(address: URL, condition: str) -> int:
    with psycopg.connect(readable(address)) as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        row = connection.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {others} AND {condition}").fetchone()
    assert row
    return int(row[0])


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def container_engine() -> str:
    for name in ("podman", "docker"):
        if shutil.which(name) and subprocess.run([name, "info"], check=False, capture_output=True).returncode == 0:
            return name
    missing = "no container engine runs: neither `podman info` nor `docker info` succeeds"
    if os.environ.get("CONTAINER_ENGINE_IS_THERE"):
        pytest.fail(missing)
    return pytest.skip(missing)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_container_is_built_and_runs(container_engine: str, context: Path, fresh_server: EmbeddedServer) -> None:
    port = free_port()
    server_port = free_port()
    fresh_server.start(port=server_port)
    create_missing_database(fresh_server.address)
    run_sql(fresh_server.address, "CREATE ROLE ana LOGIN PASSWORD 'secret'; ALTER DATABASE tatame OWNER TO ana")
    name = f"checkin-app-{port}"
    (context / "Containerfile").write_text(container_file(port))
    options = f"--file {context / 'Containerfile'}" + (" --format docker" if container_engine == "podman" else "")
    changed = {
        "--format docker": options,
        "podman": container_engine,
        "checkin-app": name,
        "--rm": "--rm --network=host",
        "--publish 8000:8000": "--network=host",
    }
    commands = PODMAN
    for old, new in changed.items():
        assert old in commands
        commands = commands.replace(old, new)
    address = f"postgresql://ana:secret@127.0.0.1:{server_port}/tatame"

    def sh(command: str) -> str:
        variables = os.environ | {"owner": address, "app": address}
        done = subprocess.run(
            ["sh", "-c", command], check=False, cwd=context, env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    build, migrate, start, stop = commands.splitlines()
    try:
        sh(build)
        sh(migrate)
        sh(start)
        _wait(lambda: sh(f"{container_engine} inspect --format '{{{{.State.Health.Status}}}}' {name}") == "healthy")
        assert httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        assert sh(f"{container_engine} exec {name} id -u") == "10001"
        sh(stop)
        assert sh(f"{container_engine} inspect --format '{{{{.State.ExitCode}}}}' {name}") == "0"
    finally:
        subprocess.run([container_engine, "rm", "--force", name], check=False, capture_output=True)
        subprocess.run([container_engine, "rmi", "--force", name], check=False, capture_output=True)
