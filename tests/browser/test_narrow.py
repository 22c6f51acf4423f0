"""The studio on a narrow window and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no py.typed
from playwright.sync_api import BrowserContext, Page, Route, expect
from tests.browser.conftest import visit_to

PAGES = ["/", "/t/users", "/t/users/1", "/sql", "/schema", "/move", "/activity"]


def overflow(page: Page) -> list[str]:
    """Return the elements that are wider than the window, other than inside an element that scrolls."""
    found: list[str] = page.evaluate(
        """() => {
            const clips = (element) => /auto|scroll|hidden|clip/.test(getComputedStyle(element).overflowX);
            const scrolls = (element) => element && element !== document.body
                && (clips(element) || scrolls(element.parentElement));
            const main = document.querySelector("main");
            const wide = [...document.body.querySelectorAll("*")].filter((element) =>
                element.getBoundingClientRect().right > innerWidth + 1
                && !scrolls(element.parentElement === main ? null : element.parentElement)
                && element.checkVisibility());
            const named = wide.map((element) => `${element.tagName}.${element.className}`);
            return [...named, ...(main.scrollWidth > main.clientWidth ? ["main scrolls"] : [])];
        }"""
    )
    return found


def test_the_list_of_tables_is_a_drawer_on_a_narrow_window(
    contexts: Callable[..., BrowserContext], reading: str
) -> None:
    with visit_to(contexts(viewport={"width": 800, "height": 700}), reading) as visit:
        held: list[Route] = []
        visit.page.route("**/api/tables", lambda route: held.append(route))  # noqa: PLW0108, it marks its function
        page = visit.go("/")
        opener = page.get_by_role("button", name="Tables", exact=True)
        drawer = page.get_by_role("dialog", name="Tables")
        expect(page.get_by_role("navigation", name="Tables")).to_have_count(0)
        opener.press("Enter")
        expect(drawer.get_by_role("link").first).to_be_focused()
        # The list is drawn again when all tables are known.
        with page.expect_response("**/api/tables"):
            held[0].continue_()
        page.unroute("**/api/tables")
        expect(drawer.get_by_role("link").first).to_be_focused()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [violation["id"] for violation in found if violation["impact"] in {"critical", "serious"}] == []
        page.keyboard.press("Escape")
        expect(drawer).to_have_count(0)
        expect(opener).to_be_focused()
        opener.press("Enter")
        drawer.get_by_role("link", name="gyms").press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("gyms")
        expect(drawer).to_have_count(0)
        opener.click()
        expect(drawer.get_by_role("link", name="gyms")).to_have_attribute("aria-current", "page")
        # A wide window shows the list beside the page again.
        page.set_viewport_size({"width": 1200, "height": 700})
        expect(drawer).to_have_count(0)
        expect(page.get_by_role("navigation", name="Tables").get_by_role("link", name="gyms")).to_be_visible()
        expect(opener).to_be_hidden()


def test_a_phone_finds_a_member_and_reads_the_row(
    contexts: Callable[..., BrowserContext], reading: str, database: psycopg.Connection
) -> None:
    row = database.execute(
        "SELECT id, first_name, email FROM users WHERE length(first_name) BETWEEN 2 AND 20"
    ).fetchone()
    assert row
    key, name, email = row
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with visit_to(contexts(**phone), reading) as visit:
        page = visit.go("/")
        small = "element => [...element.querySelectorAll('a, button')].filter((one) => one.checkVisibility() &&"
        small += " Math.min(one.offsetWidth, one.offsetHeight) < 40).map((one) => one.textContent)"
        assert page.locator("header.bar").evaluate(small) == []
        page.get_by_role("button", name="Find a table or a row").tap()
        page.get_by_role("combobox").fill(email)
        page.get_by_role("option", name=f"users {key}").tap()
        expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(f"^users {key}"))
        page.get_by_role("button", name="Tables", exact=True).tap()
        page.get_by_role("dialog", name="Tables").get_by_role("link", name="users", exact=True).tap()
        visit.cell(0, "id").wait_for()
        page.get_by_role("button", name="+ Filter").tap()
        form = page.get_by_role("dialog")
        form.locator("select").first.select_option("email")
        form.locator("input").last.fill(email)
        page.keyboard.press("Enter")
        expect(visit.cell(0, "id")).to_have_text(str(key))
        assert overflow(page) == []
        visit.cell(0, "id").get_by_role("link").tap()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"users {key}")
        expect(page.locator("main")).to_contain_text(name)
        for path in PAGES:
            visit.go(path)
            expect(page.locator("main > section")).to_be_visible()
            expect(page).not_to_have_title(re.compile("Loading"))
            page.wait_for_load_state("networkidle")
            assert (path, overflow(page)) == (path, [])
