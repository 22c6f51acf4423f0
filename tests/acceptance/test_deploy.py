"""The page about deployments, followed to the letter: its commands, its files, its pooler, and its container."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
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
import psutil
import psycopg
import pytest
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import ProgrammingError
from tests.acceptance.conftest import COMMAND
from tests.acceptance.test_tutorial import wait_for
from tests.conftest import (
    OLDER_PROGRAMS,
    foreign_server,
    free_port,
    require_older_programs,
    run_sql,
    tls_settings,
)
from tests.database.conftest import pgbouncer_program
from tests.database.moves import ask, change

from tatame_db import Database, seed
from tatame_db.database.address import parse_address, readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
FIRST = "migrations/versions/payments_20261127101500123_add_payments.py"
PASSWORD = "as long as it is secret"
PLAN = seed.SeedPlan(gyms=1, members=30, days=7, until=date(2026, 3, 1))


def titled(page: str) -> dict[str, str]:
    return {title: content for language, title, content in BLOCK.findall(page) if title and language != "diff"}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The app of the tutorial, with its table and its migration."""
    app = tmp_path / "checkin-app"
    (app / "migrations" / "versions").mkdir(parents=True)
    files = titled(TUTORIAL) | {name: titled(PAGE)[name] for name in ("pyproject.toml", "payments.py", FIRST)}
    for name, content in files.items():
        (app / name).write_text(content)
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


def addresses(page: str, server: URL) -> dict[str, str]:
    """Return the variables of the page, with a server of this machine in place of the example's."""
    found = re.findall(r"^(\w+)=postgresql://(\w+)@db\.example/(\w+)\?sslmode=verify-full$", page, re.MULTILINE)
    return {name: readable(server.set(username=role, database=database)) for name, role, database in found}


@pytest.mark.long
def test_the_commands_of_the_page_print_what_it_shows_in_an_empty_folder(
    durable_server: EmbeddedServer, environment: dict[str, str], directory: Path, tmp_path: Path
) -> None:
    server = durable_server
    server.start()
    programs = f"{COMMAND.parent}:{server._server_programs}:{environment['PATH']}"
    variables: dict[str, str] = {}

    def sh(command: str, cwd: Path, typed: str = "", **as_user: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-uc", command],
            check=False,
            cwd=cwd,
            # Unbuffered, both outputs have the order that they have at a terminal.
            env=environment | variables | {"PATH": programs, "PYTHONUNBUFFERED": "1"},
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            # psql asks at the terminal, if there is one.
            start_new_session=True,
            **as_user,
        )

    def follow(page: str, cwd: Path, **as_user: Any) -> None:
        for language, title, content in BLOCK.findall(page):
            if language == "diff":
                (cwd / title).write_text(edited((cwd / title).read_text(), content))
            elif title:
                (cwd / title).parent.mkdir(parents=True, exist_ok=True)
                (cwd / title).write_text(content)
            elif language == "sh" and "=postgresql://" in content:
                variables.update(addresses(content, server.address))
            elif language == "sh" and r"\password" in content:
                done = sh(content, cwd, f"{PASSWORD}\n" * 2 * content.count("password"), **as_user)
                assert done.returncode == 0, done.stdout
            if language != "console":
                continue
            for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", content, flags=re.MULTILINE):
                done = sh(command, cwd, **as_user)
                assert plain(done.stdout) == plain(shown), f"{command}\n{done.stdout}"
                # After `echo $?`, the code is in what is shown.
                fails = "\nerror: " in f"\n{shown}" and "echo $?" not in command
                assert done.returncode == (3 if fails else 0), command

    for_app, heading, for_server = PAGE.partition("### Copy the whole server")
    assert heading
    follow(for_app, tmp_path)
    home = directory / "copy"
    home.mkdir()
    server._hand_over(home, 0o755)
    try:
        follow(for_server.partition("## A container")[0], home, **server._as_owner)
    finally:
        if (home / "base" / "postmaster.pid").exists():
            os.kill(int((home / "base" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    hashes = "SELECT bool_and(rolpassword LIKE 'SCRAM%') FROM pg_authid WHERE rolname LIKE 'tatame%'"
    assert ask(server.address, hashes) == [(True,)]


def test_the_pooler_of_the_page_reaches_a_server_that_demands_tls(directory: Path) -> None:
    require_older_programs()
    program, home, owner = pgbouncer_program(), directory / "pgbouncer", EmbeddedServer(directory / "owner")
    home.mkdir()
    port, listens = free_port(), free_port()
    tls = tls_settings(directory, "localhost")
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "password_encryption": "scram-sha-256"} | tls
    with foreign_server(OLDER_PROGRAMS, directory / "server", **settings) as address:
        admin = address.update_query_dict({"port": str(port)})
        create_missing_database(admin)
        change(admin, f"CREATE ROLE tatame_app LOGIN PASSWORD '{PASSWORD}'")
        (directory / "server" / "data" / "pg_hba.conf").write_text(
            "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        )
        change(admin, "SELECT pg_reload_conf()")
        [command] = re.findall(r"^\$ (.*userlist\.txt\))$", PAGE, re.MULTILINE)
        path = f"{OLDER_PROGRAMS}:{os.environ['PATH']}"
        subprocess.run(["bash", "-c", command], check=True, cwd=home, env={"PATH": path, "admin": readable(admin)})
        changed = {"db.example port=5432": f"localhost port={port}", "6432": str(listens)}
        changed |= {"/etc/ssl/certs/ca-certificates.crt": tls["ssl_cert_file"]}
        changed |= dict.fromkeys(("/etc/pgbouncer", "/var/log/postgresql", "/var/run/postgresql"), str(home))
        configuration = titled(PAGE)["pgbouncer.ini"]
        for old, new in changed.items():
            assert old in configuration
            configuration = configuration.replace(old, new)
        (home / "pgbouncer.ini").write_text(configuration)
        for file in (home, *home.iterdir()):
            owner._hand_over(file, 0o700)
        [start] = re.findall(r"^sudo -u postgres pgbouncer (.*) /etc/pgbouncer/pgbouncer.ini$", PAGE, re.MULTILINE)
        subprocess.run([program, start, home / "pgbouncer.ini"], check=True, cwd=home, **owner._as_owner)
        # The daemon listens and writes its number after the program has ended.
        process = home / "pgbouncer.pid"
        _wait(lambda: process.exists() and process.read_text().strip() and _listens(listens))
        try:
            pooled = parse_address(f"postgresql://tatame_app:{PASSWORD}@127.0.0.1:{listens}/tatame")
            with Database(pooled) as database, database.session() as session:
                assert session.scalar(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")) is True
            with pytest.raises(psycopg.OperationalError, match=r"password|SASL"):
                psycopg.connect(readable(pooled.set(password="another")))
        finally:
            daemon = psutil.Process(int(process.read_text()))
            daemon.terminate()
            daemon.wait(30)


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


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _wait(condition: Callable[[], object]) -> None:
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
