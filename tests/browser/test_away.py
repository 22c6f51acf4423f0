from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import BrowserContext, expect
from tests.browser.conftest import Home, new_home, studio_of, visit_to


def test_the_page_reconnects_when_the_database_is_back(
    contexts: Callable[..., BrowserContext], directory: Path
) -> None:
    home = new_home(directory)
    with studio_of(home, "--write") as opening, visit_to(contexts(), opening) as visit:
        visit.expected.extend(["503", "ERR_", "Failed to load"])
        page = visit.go("/t/gyms")
        visit.cell(0, "name").dblclick()
        page.locator(".editor textarea").fill("Dojo")
        page.keyboard.press("Enter")
        expect(page.get_by_text("1 change staged")).to_be_visible()
        home.run("stop")
        page.get_by_role("button", name="Reload").click()
        banner = page.locator(".banner")
        expect(banner).to_contain_text("reconnects automatically")
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="SQL").click()
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator(".results .problem")).to_be_visible()
        page.go_back()
        home.run("start")
        expect(banner).to_be_hidden()
        expect(visit.cell(1, "name")).to_be_visible()
        expect(visit.cell(0, "name")).to_have_text("Dojo")
        page.keyboard.press("Control+s")
        page.get_by_role("button", name="Save 1 change").click()
        expect(page.get_by_text("Saved 1 change.")).to_be_visible()
    home.run("down", "--yes")


def test_the_page_reports_a_stopped_studio(contexts: Callable[..., BrowserContext], home: Home) -> None:
    context = contexts()
    with ExitStack() as open_page:
        with studio_of(home) as opening:
            visit = open_page.enter_context(visit_to(context, opening))
            visit.go("/t/gyms")
            visit.cell(0, "name").wait_for()
        visit.expected.append("ERR_")
        visit.page.get_by_role("button", name="Reload").click()
        expect(visit.page.locator(".banner")).to_contain_text("The studio is not responding")
        # Its code is loaded when it is first shown.
        visit.page.get_by_role("navigation", name="Pages").get_by_role("link", name="SQL").click()
        expect(visit.page.get_by_role("alert").last).to_contain_text("This page could not be loaded")
        visit.page.get_by_role("navigation", name="Pages").get_by_role("link", name="Move").click()
        expect(visit.page.get_by_role("heading", level=1)).to_have_text("Move out of Supabase")
