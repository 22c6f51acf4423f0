"""The tutorial and the page on FastAPI, followed to the letter: files, tests, and calls of a running app."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import free_port

from tatame_db import Database, evolve, seed
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "tutorial.md").read_text()
FASTAPI_PAGE = (DOCS / "with-fastapi.md").read_text()


def files(page: str) -> dict[str, str]:
    return dict(re.findall(r'^```(?:python|toml) title="([\w.]+)"\n(.*?)^```$', page, flags=re.DOTALL | re.MULTILINE))


def answers(page: str) -> list[Any]:
    return [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)]


CHECKED_IN, UNAVAILABLE = answers(PAGE)
BODY = json.loads(re.findall(r"-d '(.*?)'", PAGE)[0])


OWN_TABLE = "## 5. Add a table of your own"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The app before it has a table of its own."""
    for name, text in files(PAGE.partition(OWN_TABLE)[0]).items():
        (tmp_path / name).write_text(text)
    return tmp_path


@contextmanager
def running(app: Path, address: URL) -> Iterator[str]:
    """Run an app as the pages do, and return its address."""
    port = free_port()
    environment = os.environ | {"DATABASE_URL": readable(address)}
    program = [sys.executable, "-W", "error", "-m", "uvicorn", "app:app", "--port", str(port)]
    with (app / "log").open("wb") as log:
        process = subprocess.Popen(program, cwd=app, env=environment, stdout=log, stderr=log)
    try:
        wait_for(port, process, app / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def base(app: Path, engine: Engine) -> Generator[str]:
    """Run the app on a seeded database, as the page does."""
    with engine.begin() as connection:
        seed.seed(connection, seed.SeedPlan(gyms=1, members=30, days=7, until=date(2026, 3, 1)))
    with running(app, engine.url) as address:
        yield address


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(log.read_text())


def run_tests(folder: Path) -> str:
    program = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(program, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_tests_of_the_tutorial_pass(app: Path) -> None:
    without_time = re.compile(r" in \d+\.\d+s")
    assert without_time.sub("", run_tests(app)) in without_time.sub("", PAGE)


def test_the_table_of_the_tutorial_is_generated_migrated_and_tested(
    app: Path, loaded_fork: Callable[..., subprocess.CompletedProcess[str]], engine: Engine
) -> None:
    own = PAGE.partition(OWN_TABLE)[2]
    for name, text in files(own).items():
        (app / name).write_text(text)
    environment = dict(os.environ) | {"DATABASE_URL": readable(engine.url)}

    def run(*arguments: str) -> str:
        done = loaded_fork(*arguments, cwd=app, environment=environment)
        assert done.returncode == 0, done.stderr
        # As on the page: the answer follows what is said, without times, paths and the spaces at the ends of lines.
        return plain(done.stderr + done.stdout)

    def plain(text: str) -> str:
        text = re.sub(r"payments_\d{17}", "payments_…", text).replace(str(app), "…/checkin-app")
        return re.sub(r" +$|  \d\.\d+ s$", "", text, flags=re.MULTILINE).replace("/home/ana/tatame-db", "…").strip()

    [console] = re.findall(r"^```console\n(.*?)^```$", own, flags=re.DOTALL | re.MULTILINE)
    _, generated, migrated = (plain(part.partition("\n")[2]) for part in re.split(r"^\$ ", console, flags=re.MULTILINE))
    assert run("generate", "add payments") == generated
    assert run("migrate") == migrated
    without_time = re.compile(r" in \d+\.\d+s")
    assert without_time.sub("", run_tests(app)) in without_time.sub("", own)


def test_the_app_of_the_tutorial_answers_as_the_page_says(base: str) -> None:
    first = httpx.post(f"{base}/checkins", json=BODY)
    assert first.status_code == 201
    answer = first.json()
    assert answer.keys() == CHECKED_IN.keys()
    assert answer["user"]["id"] == CHECKED_IN["user"]["id"] == BODY["user_id"]
    assert answer["date"] == datetime.now(UTC).date().isoformat()

    again = httpx.post(f"{base}/checkins", json=BODY)
    assert again.status_code == 409
    assert again.text in PAGE

    present = httpx.get(f"{base}/classes/{BODY['class_id']}/checkins", params={"date": answer["date"]})
    assert present.json() == [answer]
    assert httpx.post(f"{base}/checkins", json=BODY | {"class_id": 10**6}).status_code == 404
    assert httpx.post(f"{base}/checkins", json=BODY | {"user_id": 10**6}).status_code == 404


@pytest.mark.long
def test_the_app_of_the_tutorial_survives_a_stop_of_the_server(app: Path, fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=1, members=30, days=7, until=date(2026, 3, 1)))
    with running(app, fresh_server.address) as base:
        assert httpx.get(f"{base}/health/ready").json().keys() == answers(FASTAPI_PAGE)[1].keys()
        assert httpx.post(f"{base}/checkins", json=BODY).status_code == 201
        fresh_server.stop()
        away = httpx.post(f"{base}/checkins", json=BODY)
        assert (away.status_code, away.json()) == (503, UNAVAILABLE)
        assert answers(FASTAPI_PAGE)[0] == UNAVAILABLE
        fresh_server.start()
        assert httpx.post(f"{base}/checkins", json=BODY).status_code == 409


def test_the_app_of_the_page_on_fastapi_and_its_tests_work(tmp_path: Path, engine: Engine) -> None:
    for name, text in files(FASTAPI_PAGE).items():
        (tmp_path / name).write_text(text)
    assert "2 passed" in run_tests(tmp_path)
    with engine.begin() as connection:
        seed.seed(connection, seed.SeedPlan(gyms=1, members=3, days=7, until=date(2026, 3, 1)))
    with running(tmp_path, engine.url) as base:
        assert httpx.put(f"{base}/gyms/1/name", json={"name": "Tatame Norte"}).status_code == 204
        members = httpx.get(f"{base}/gyms/1/members").json()
        assert [set(member) for member in members] == [{"id", "first_name"}] * len(members)
        assert members
        assert httpx.get(f"{base}/health/live").status_code == 200


def test_two_taps_at_once_check_in_once(base: str) -> None:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{base}/checkins", json=BODY).status_code, range(8)))
    assert sorted(answers) == [201, *[409] * 7]
