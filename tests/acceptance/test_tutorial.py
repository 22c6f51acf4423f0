"""The tutorial, followed to the letter: its files, its tests, and its calls of a running app."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine
from tests.conftest import free_port

from tatame_db import seed

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
FILES = dict(re.findall(r'^```python title="([\w.]+)"\n(.*?)^```$', PAGE, flags=re.DOTALL | re.MULTILINE))
ANSWERS = re.findall(r"^```json\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
BODY = json.loads(re.findall(r"-d '(.*?)'", PAGE)[0])


@pytest.fixture
def app(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def base(app: Path, engine: Engine) -> Generator[str]:
    """Run the app on a seeded database, as the page does."""
    with engine.begin() as connection:
        seed.seed(connection, seed.SeedPlan(gyms=1, members=30, days=7, until=date(2026, 3, 1)))
    port = free_port()
    environment = os.environ | {"DATABASE_URL": engine.url.render_as_string(hide_password=False)}
    program = [sys.executable, "-W", "error", "-m", "uvicorn", "app:app", "--port", str(port)]
    with (app / "log").open("wb") as log:
        process = subprocess.Popen(program, cwd=app, env=environment, stdout=log, stderr=log)
    try:
        wait_for(port, process, app / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


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


def test_the_tests_of_the_tutorial_pass(app: Path) -> None:
    program = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(program, cwd=app, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    without_time = re.compile(r" in \d+\.\d+s")
    assert without_time.sub("", done.stdout) in without_time.sub("", PAGE)


def test_the_app_of_the_tutorial_answers_as_the_page_says(base: str) -> None:
    first = httpx.post(f"{base}/checkins", json=BODY)
    assert first.status_code == 201
    answer, expected = first.json(), json.loads(ANSWERS[0])
    assert answer.keys() == expected.keys()
    assert answer["user"]["id"] == expected["user"]["id"] == BODY["user_id"]
    assert answer["date"] == datetime.now(UTC).date().isoformat()

    again = httpx.post(f"{base}/checkins", json=BODY)
    assert again.status_code == 409
    assert again.text in PAGE

    present = httpx.get(f"{base}/classes/{BODY['class_id']}/checkins", params={"date": answer["date"]})
    assert present.json() == [answer]
    assert httpx.post(f"{base}/checkins", json=BODY | {"class_id": 10**6}).status_code == 404
    assert httpx.post(f"{base}/checkins", json=BODY | {"user_id": 10**6}).status_code == 404


def test_two_taps_at_once_check_in_once(base: str) -> None:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.post(f"{base}/checkins", json=BODY).status_code, range(8)))
    assert sorted(answers) == [201, *[409] * 7]
