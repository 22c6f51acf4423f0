"""The screenshots of the studio in `docs/images`, taken in Chromium on a freshly seeded database.

`python docs/screenshots.py` takes them; `--width 800 --to DIRECTORY` takes others for a look.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import psycopg
from playwright.sync_api import Browser, Page, sync_playwright

from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).with_name("tatame-db")
STUDENTS = '{"all":[{"column":"role","op":"is","value":"STUDENT"},{"any":[{"column":"email","op":"null"},'
STUDENTS += '{"column":"first_name","op":"starts","value":"A"}]}]}'
# So that the line of the lag has a length.
SECONDS_OF_WRITES = 20
QUERY = """SELECT g.name AS gym, c.modality, count(*) AS visits, count(DISTINCT k.user_id) AS people
FROM checkins k
JOIN class c ON c.id = k.class_id
JOIN gyms g ON g.id = c.gym_id
GROUP BY g.id, c.modality
ORDER BY visits DESC;"""


def run(environment: dict[str, str], *arguments: str) -> str:
    """Run `tatame-db` and return its output."""
    done = subprocess.run([COMMAND, *arguments], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def studio(environment: dict[str, str], *options: str) -> Iterator[str]:
    """Run a studio and yield its opening address."""
    program = [str(COMMAND), "studio", "--no-browser", *options]
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if process.stdout:
        yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    process.communicate()


@contextmanager
def moving_project(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield the settings of the move of a small Supabase project into a second database, of which two tables moved."""
    seeded = run(environment, "url")
    source, target = (seeded.replace("/tatame?", f"/{name}?") for name in ("supabase", "moved"))
    with psycopg.connect(seeded, autocommit=True) as connection:
        connection.execute("CREATE DATABASE supabase")
        connection.execute("CREATE DATABASE moved")
    moving = environment | {"SUPABASE_DB_URL": source, "DATABASE_URL": target}
    with psycopg.connect(source, autocommit=True) as connection:
        for file in (SUPABASE_SCHEMA, ROOT / "tests" / "supabase_rows.sql"):
            connection.execute(file.read_bytes())
        run(moving, "migrate")
        run(moving, "move", "copy")
        follow = [str(COMMAND), "move", "follow", "--write-to-source"]
        process = subprocess.Popen(follow, env=moving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for number in range(SECONDS_OF_WRITES * 2):
                connection.execute("UPDATE notifications SET title = %s", [f"Open mat, round {number}"])
                time.sleep(0.5)
            run(moving, "move", "switch", "users", "gyms", "--write-to-source")
            yield moving
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


@contextmanager
def waiting_sessions(environment: dict[str, str]) -> Iterator[None]:
    """Let a session wait for another one, both of the role that the studio logs in as."""
    url = run(environment, "url")
    with (
        psycopg.connect(url, user="tatame_studio_writer", application_name="evening-import") as holder,
        psycopg.connect(url, user="tatame_studio_writer", application_name="check-in kiosk") as waiter,
    ):
        holder.execute("UPDATE gyms SET name = name WHERE id = 1")
        waiting = Thread(target=waiter.execute, args=["UPDATE gyms SET since = now() WHERE id = 1"])
        waiting.start()
        yield
        holder.rollback()
        waiting.join()


def edits(page: Page) -> None:
    """Stage two edits and a new row."""
    page.locator('.ag-row[row-index="1"] .ag-cell[col-id="first_name"]').click()
    page.keyboard.press("Enter")
    page.locator(".editor textarea").wait_for()
    page.keyboard.type("Bruninho")
    page.keyboard.press("Enter")
    page.locator('.ag-row[row-index="4"] .ag-cell[col-id="email"]').click()
    page.keyboard.press("Enter")
    page.keyboard.type("marcelo@tatame.example")
    page.keyboard.press("Enter")
    page.keyboard.press("Insert")
    page.keyboard.press("Enter")
    page.keyboard.type("user_new")
    page.keyboard.press("Enter")


def review(page: Page) -> None:
    """Open the staged changes."""
    edits(page)
    page.keyboard.press("Control+s")
    page.locator(".statements pre").first.wait_for()


def query(page: Page) -> None:
    """Run a query."""
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(QUERY)
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".result-grid .ag-row").first.wait_for()


def chart(page: Page) -> None:
    """Draw the result of a query."""
    query(page)
    page.get_by_role("button", name="Chart", exact=True).click()
    page.get_by_role("combobox", name="Series").select_option("modality")
    page.locator(".chart svg g.series-3 rect").first.wait_for()


def plan(page: Page) -> None:
    """Explain a query."""
    query(page)
    page.get_by_role("button", name="Explain analyze").click()
    page.locator(".plan").wait_for()


def wait_until_loaded(page: Page) -> None:
    """Wait until the page has read its data."""
    page.wait_for_load_state("networkidle")


READING: list[tuple[str, str, Callable[[Page], None]]] = [
    ("overview", "/", wait_until_loaded),
    ("rows", f"/t/users?sort=first_name,-id&filter={STUDENTS}", wait_until_loaded),
    ("row", "/t/users/2", wait_until_loaded),
    ("sql", "/sql", chart),
    ("plan", "/sql", plan),
    ("schema", "/schema", wait_until_loaded),
]
WRITING: list[tuple[str, str, Callable[[Page], None]]] = [("edit", "/t/users", edits), ("review", "/t/users", review)]
ACTIVITY: list[tuple[str, str, Callable[[Page], None]]] = [
    ("activity", "/activity", lambda page: page.locator(".waits li li").first.wait_for()),
]
MOVE: list[tuple[str, str, Callable[[Page], None]]] = [
    ("move", "/move", lambda page: page.locator(".state").last.wait_for()),
]


def take(
    browser: Browser,
    options: argparse.Namespace,
    environment: dict[str, str],
    mode: list[str],
    pictures: list[tuple[str, str, Callable[[Page], None]]],
) -> None:
    """Take pictures of one studio, in both colour schemes."""
    with studio(environment, *mode) as opening:
        for scheme in ("light", "dark"):
            for name, path, steps in pictures:
                context = browser.new_context(
                    viewport={"width": options.width, "height": options.height}, color_scheme=scheme
                )
                page = context.new_page()
                page.goto(opening)
                page.goto(opening.partition("/?")[0] + path)
                page.locator("main h1").wait_for()
                steps(page)
                page.mouse.move(options.width - 1, options.height - 1)
                wait_until_loaded(page)
                page.screenshot(path=options.to / f"{name}-{scheme}.png", animations="disabled")
                context.close()


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=760)
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="tatame-pictures-"))
    directory.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "TATAME_DATA_DIR": str(directory / "data")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), chromium_sandbox=False)
        try:
            run(environment, "up")
            take(browser, options, environment, [], READING)
            take(browser, options, environment, ["--write"], WRITING)
            with waiting_sessions(environment):
                take(browser, options, environment, ["--write"], ACTIVITY)
            with moving_project(environment) as moving:
                take(browser, options, moving, ["--write"], MOVE)
        finally:
            browser.close()
            run(environment, "down", "--yes")
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
