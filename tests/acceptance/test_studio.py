from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.conftest import new_directory

COMMAND = Path(sys.executable).with_name("tatame-db")
REPOSITORY = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home() -> Generator[dict[str, str]]:
    """Return an environment with a seeded embedded server, for the tests of this file that only read."""
    directory = new_directory()
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "TATAME_DATA_DIR": str(directory / "data")}
    subprocess.run([COMMAND, "up"], env=environment, check=True, capture_output=True)
    yield environment
    subprocess.run([COMMAND, "down", "--yes"], env=environment, check=True, capture_output=True)
    shutil.rmtree(directory)


@contextmanager
def started(
    environment: dict[str, str], *options: str, cwd: Path | None = None
) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Start the studio; yield its process and the address that opens it."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [COMMAND, "studio", *options], cwd=cwd, env=environment, text=True, stdout=pipe, stderr=pipe
    ) as process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def opened(address: str) -> tuple[int, str]:
    host, _, path = address.removeprefix("http://").partition("/")
    connection = HTTPConnection(host, timeout=30)
    connection.request("GET", f"/{path}")
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.headers["Location"] or ""


def test_the_studio_prints_its_address_once_and_stops_with_ctrl_c(home: dict[str, str]) -> None:
    with started(home, "--no-browser") as (process, address):
        token = re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=([\w-]{32})", address)
        assert token
        assert [opened(address), opened(address)] == [(303, "/"), (303, "/")]
        assert opened(address.replace(token[1], "wrong"))[0] == 401
        process.send_signal(signal.SIGINT)
        rest, messages = process.communicate(timeout=30)

    assert (process.returncode, rest) == (0, "")
    assert "read-only, as tatame_studio" in messages
    assert token[1] not in messages
    assert messages.count("\n") == 1
    with pytest.raises(ConnectionRefusedError):
        opened(address)


def test_the_browser_gets_a_one_time_token(home: dict[str, str], directory: Path) -> None:
    browser = directory / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {directory}/url.new && mv {directory}/url.new {directory}/url\n')
    browser.chmod(0o755)
    with started(home | {"BROWSER": str(browser)}) as (_, address):
        while not (directory / "url").exists():
            time.sleep(0.01)
        url = (directory / "url").read_text()
        assert url.partition("=")[0] == address.partition("=")[0]
        assert url != address
        assert [opened(url)[0], opened(url)[0], opened(address)[0]] == [303, 401, 303]


def test_a_taken_default_port_is_replaced_and_a_taken_port_option_is_an_error(run: Run, home: dict[str, str]) -> None:
    with started(home, "--no-browser") as (_, first), started(home, "--no-browser") as (_, second):
        assert first.partition("?")[0] != second.partition("?")[0]
        port = second.partition("/?")[0].rpartition(":")[2]
        taken = run("studio", "--no-browser", "--port", port, **home)
    assert (taken.returncode, taken.stdout) == (1, "")
    assert f"cannot listen on port {port} of 127.0.0.1" in taken.stderr
    assert "--port" in taken.stderr


def test_without_a_server_the_studio_prints_how_to_start_one(run: Run) -> None:
    done = run("studio", "--no-browser")
    assert (done.returncode, done.stdout) == (1, "")
    assert "tatame-db start" in done.stderr


def test_a_superuser_of_another_server_is_refused(run: Run, bare_address_url: str) -> None:
    done = run("studio", "--no-browser", DATABASE_URL=bare_address_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it is a superuser" in done.stderr
    assert "--read-only-role" in done.stderr


def test_a_read_only_role_cannot_write(run: Run) -> None:
    assert run("studio", "--write", "--read-only-role", "ana").returncode == 2


def test_a_read_only_role_has_its_own_password(run: Run, guarded_url: str) -> None:
    wrong = run("studio", "--no-browser", "--read-only-role", "bia", DATABASE_URL=guarded_url, PGPASSWORD="wrong")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "rejected the login of bia" in wrong.stderr
    assert "hint: check the role after `--read-only-role`" in wrong.stderr
    assert "p%@" not in wrong.stderr


def read_until(terminal: int, pattern: str) -> str:
    seen = ""
    while not re.search(pattern, seen):
        ready, _, _ = select.select([terminal], [], [], 120)
        assert ready, seen
        seen += os.read(terminal, 65536).decode()
    return seen


@pytest.fixture
def make_start(environment: dict[str, str]) -> list[str]:
    """Return the command that runs `make start` in the installed environment."""
    environment["MAKEFLAGS"] = ""
    venv = Path(sys.prefix)
    return ["make", f"VENV={venv}", f"--assume-old={venv}/installed", "--directory", str(REPOSITORY), "start"]


def test_make_start_ends_in_the_studio(run: Run, environment: dict[str, str], make_start: list[str]) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        make_start, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    try:
        seen = read_until(controller, r"token=\S+\s")
        assert "seeded" in seen
        address = re.search(r"http://\S+", seen)
        assert address
        assert opened(address[0])[0] == 303
        # As a terminal does on Ctrl-C.
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os.close(controller)
    assert run("status", "--check").returncode == 0


def test_make_start_without_a_terminal_ends_before_the_studio(
    run: Run, environment: dict[str, str], make_start: list[str]
) -> None:
    done = subprocess.run(
        make_start, env=environment, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "next: `tatame-db studio`" in done.stdout
    assert "token=" not in done.stdout
    assert run("status", "--check").returncode == 0


def test_the_help_loads_no_web_server() -> None:
    code = "import sys, tatame_db.cli.commands; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "tatame_db.cli.studio" in loaded
    assert {"starlette", "uvicorn", "sqlalchemy", "psycopg", "tatame_db.studio"}.isdisjoint(loaded)


WIDE = ", ".join(f"repeat('x', 20000) AS c{number}" for number in range(300))
HUGE = {
    "one value": "SELECT repeat(repeat('x', 10000), 10000)",
    "values below the limit": "SELECT repeat('é', 3000000) FROM generate_series(1, 10)",
    "wide rows": f"SELECT {WIDE} FROM generate_series(1, 20)",
    "many rows": "SELECT repeat('x', 9000) FROM generate_series(1, 8000)",
    "a notice": "DO $$ BEGIN RAISE NOTICE '%', repeat(repeat('x', 10000), 10000); END $$",
    "an error": "DO $$ BEGIN RAISE EXCEPTION '%', repeat(repeat('x', 10000), 700); END $$",
    "a long text": "SELECT '" + "😀" * 240_000 + "'",
}


AT_ONCE = {
    "rows": ("/api/sql", "SELECT repeat(repeat('x', 10000), 790) FROM generate_series(1, 2)"),
    "errors": ("/api/sql", HUGE["an error"]),
    "exports": ("/api/sql/export/json", "SELECT repeat('é', 3000000) FROM generate_series(1, 2)"),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux reports the most memory of a process")
def test_no_statement_fills_the_memory_of_the_studio(home: dict[str, str]) -> None:
    with started(home, "--no-browser") as (process, address):
        host, _, path = address.removeprefix("http://").partition("/")

        def ask(method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> str:
            with contextlib.closing(HTTPConnection(host, timeout=120)) as connection:
                connection.request(method, path, json.dumps(body), headers or {})
                response = connection.getresponse()
                while response.read(100_000):
                    pass
                return (response.headers["Set-Cookie"] or "").partition(";")[0]

        headers = {"Cookie": ask("GET", f"/{path}"), "Content-Type": "application/json", "Origin": f"http://{host}"}

        def run(name: str, path: str, statement: str) -> None:
            is_export = path != "/api/sql"
            body = {"text": statement} | ({} if is_export else {"id": name, "tab": name, "limit": 20_000})
            ask("POST", path, body, headers)

        def refuse_much(name: str) -> None:
            [most] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            assert int(most) < 250_000, name

        for name, statement in HUGE.items():
            run("one", "/api/sql", statement)
            refuse_much(name)
        with ThreadPoolExecutor(20) as pool:
            for name, (path, statement) in AT_ONCE.items():
                tabs = [f"tab {number}" for number in range(20)]
                list(pool.map(run, tabs, [path] * 20, [statement] * 20))
                refuse_much(f"{name} of 20 tabs at once")
