"""The studio in a real Chromium, started by the installed command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)
from sqlalchemy import ARRAY, Table, Text
from tests.conftest import new_directory

from tatame_db.schema import Base

# Long enough for a busy machine. A passing test does not wait for it.
TIMEOUT_MS = 20_000
expect.set_options(timeout=TIMEOUT_MS)

COMMAND = Path(sys.executable).with_name("tatame-db")

HOSTILE = {
    "markup": "<script>alert('first')</script>",
    "attribute": "\"><img src=x onerror=alert('second')>",
    "address": "javascript:alert('third')",
    "right-to-left": "\u202egnp.exe\u202c \u2067abc\u2069",
    "long": "<b>" + "x" * 1_000_000,
}


@dataclass(frozen=True)
class Home:
    """A seeded embedded server with its own directory."""

    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            [COMMAND, *arguments], env=self.environment, check=True, capture_output=True, text=True, timeout=120
        ).stdout.strip()

    @cached_property
    def url(self) -> str:
        return self.run("url")

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True)


@dataclass
class Visit:
    """A page in its own browser context, and the unexpected events on it."""

    page: Page
    base: str
    wrong: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    """Parts of console messages that the test causes on purpose, such as a rejected request."""

    def go(self, path: str) -> Page:
        self.page.goto(self.base + path)
        self.page.locator("header.bar").wait_for()
        return self.page

    def cell(self, row: int, column: str) -> Locator:
        return self.page.locator(f'.ag-row[row-index="{row}"] .ag-cell[col-id="{column}"]')

    def cell_of(self, key: object, column: str) -> Locator:
        return self.page.locator(f'.ag-row[row-id="{key}"] .ag-cell[col-id="{column}"]')

    def unexpected(self) -> list[str]:
        return [text for text in self.wrong if not any(part in text for part in self.expected)]


@pytest.fixture(scope="session")
def chromium() -> str:
    # Debian's Chromium without windows takes two thirds of the CPU of the whole one.
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None and "STUDIO_BROWSER_IS_THERE" in os.environ:
        pytest.fail("STUDIO_BROWSER_IS_THERE is set, but chromium is not on the PATH")
    if path is None:
        pytest.skip("chromium is not on the PATH; install it with `apt-get install chromium`")
    return path


# One browser per module: Playwright keeps an event loop in the thread, which breaks other tests of the worker.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Generator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's sandbox does not start for root, the user of most containers.
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False)
        yield browser
        browser.close()


def new_home(directory: Path) -> Home:
    home = Home({"PATH": os.environ["PATH"], "HOME": str(directory), "TATAME_DATA_DIR": str(directory / "data")})
    home.run("up")
    return home


def insert_everywhere(connection: psycopg.Connection, table: Table, text: str) -> None:
    """Insert a row with this text in every text column."""
    values: dict[str, Any] = {}
    for column in table.columns:
        if column.foreign_keys:
            values |= {} if column.nullable else {column.name: 1}
        elif isinstance(column.type, ARRAY):
            values[column.name] = [text, text]
        elif isinstance(column.type, Text):
            values[column.name] = text
    # An index or a key cannot hold the longest text.
    if len(text) < 1000 or table.name == "notifications":
        names = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join(f"%({name})s" for name in values)
        values |= {"recipients": [text[:2000]]} if table.name == "notifications" else {}
        connection.execute(f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})', values)


@pytest.fixture(scope="session")
def home(chromium: str) -> Generator[Home]:  # noqa: ARG001, without a browser nothing is started
    directory = new_directory()
    home = new_home(directory)
    with home.connect() as connection:
        for text in HOSTILE.values():
            for table in Base.metadata.tables.values():
                insert_everywhere(connection, table, text)
    yield home
    home.run("down", "--yes")
    shutil.rmtree(directory)


@contextmanager
def studio_of(home: Home, *options: str) -> Generator[str]:
    """Run a studio and yield its opening address."""
    process = subprocess.Popen(
        [COMMAND, "studio", "--no-browser", *options],
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    opening = process.stdout.readline().strip()
    if not opening:
        process.wait()
        pytest.fail(process.stderr.read())
    yield opening
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


@pytest.fixture(scope="session")
def reading(home: Home) -> Generator[str]:
    """Yield the opening address of a read-only studio."""
    with studio_of(home) as opening:
        yield opening


@pytest.fixture(scope="session")
def writing(home: Home) -> Generator[str]:
    """Yield the opening address of a studio in write mode."""
    with studio_of(home, "--write") as opening:
        yield opening


@contextmanager
def visit_to(context: BrowserContext, opening: str) -> Generator[Visit]:
    """Yield a page that is logged in to a studio, and check that nothing unexpected happened on it."""
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    base = re.sub(r"/\?token=.*", "", opening)
    visit = Visit(page, base)

    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            visit.wrong.append(f"console: {message.text}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: visit.wrong.append(f"error: {error}"))

    def on_dialog(dialog: Dialog) -> None:
        visit.wrong.append(f"dialog: {dialog.message}")
        dialog.accept()

    def on_request(request: Request) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            visit.wrong.append(f"request to {request.url}")

    page.on("dialog", on_dialog)
    page.on("request", on_request)
    # Exchange the token without a page, because a page costs a second on a busy machine.
    context.request.get(opening)
    yield visit
    page.close()
    assert visit.unexpected() == []


Open = Callable[..., Visit]


@pytest.fixture
def contexts(browser: Browser) -> Generator[Callable[..., BrowserContext]]:
    made: list[BrowserContext] = []

    def make(**options: object) -> BrowserContext:
        made.append(browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture
def visit(contexts: Callable[..., BrowserContext], reading: str) -> Generator[Visit]:
    """Yield a page of a read-only studio."""
    with visit_to(contexts(), reading) as visit:
        yield visit


@pytest.fixture
def edit(contexts: Callable[..., BrowserContext], writing: str) -> Generator[Visit]:
    """Yield a page of a studio in write mode."""
    # Wide enough for the grid to draw all columns.
    with visit_to(contexts(viewport={"width": 4000, "height": 900}), writing) as visit:
        yield visit


@pytest.fixture
def database(home: Home) -> Generator[psycopg.Connection]:
    """Connect to the database directly."""
    with home.connect() as connection:
        yield connection
