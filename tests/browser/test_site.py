"""The documentation site, built as `make docs` builds it and opened as files in a real Chromium."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={place}"]
    built = subprocess.run(
        program, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False, capture_output=True, text=True
    )
    assert (built.returncode, built.stderr) == (0, "")
    return place


@pytest.fixture
def requests() -> list[str]:
    return []


@pytest.fixture
def page(browser: Browser, requests: list[str]) -> Generator[Page]:
    page = browser.new_page(color_scheme="light")
    page.on("request", lambda request: requests.append(request.url))
    yield page
    page.close()


def test_no_page_asks_another_host_for_anything(site: Path, page: Page, requests: list[str]) -> None:
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
    assert requests
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_search_finds_a_page_without_a_server(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("upsert")
    expect(page.locator(".md-search-result__link[href*='read-and-write.html']").first).to_be_visible()


def test_the_site_turns_dark(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    body = page.locator("body")
    expect(body).to_have_attribute("data-md-color-scheme", "default")
    page.get_by_title("Switch to dark mode").click()
    expect(body).to_have_attribute("data-md-color-scheme", "slate")


def test_the_diagram_of_the_tables_is_drawn(site: Path, page: Page) -> None:
    page.goto((site / "schema.html").as_uri())
    # Material draws into a closed shadow root; before that, the place holds the text.
    drawn = page.locator("div.mermaid")
    expect(drawn).to_have_count(1)
    assert (drawn.bounding_box() or {"height": 0})["height"] > 200


def test_the_reference_shows_the_signature_of_every_name_of_the_front_door(site: Path) -> None:
    import tatame_db

    text = (site / "api.html").read_text()
    functions = [name for name in tatame_db.__all__ if not name.islower() or callable(getattr(tatame_db, name))]
    missing = [name for name in functions if not re.search(rf'id="tatame_db\.[\w.]*\b{name}"', text)]
    assert missing == []
