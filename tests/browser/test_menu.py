"""The menu of a cell: by mouse and by keys, its copies and its filters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import psycopg
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no py.typed
from playwright.sync_api import BrowserContext, Locator, Page, expect
from tests.browser.conftest import Visit, visit_to


def choose(page: Page, name: str) -> None:
    page.get_by_role("menuitem", name=name).click()
    expect(page.get_by_role("menu")).to_have_count(0)


def walk_by_keys(page: Page, cell: Locator) -> None:
    cell.click(button="right", position={"x": 60, "y": 8})
    menu = page.get_by_role("menu", name="user_id of graduations")
    expect(menu.get_by_role("menuitem").first).to_be_focused()
    violations = Axe().run(page).response["violations"]
    assert [v["id"] for v in violations if v["impact"] in {"critical", "serious"}] == []
    # The whole menu by keyboard: a letter, an end, an arrow around the corner, Escape.
    page.keyboard.press("s")
    expect(menu.get_by_role("menuitem", name="Show value")).to_be_focused()
    page.keyboard.press("End")
    expect(menu.get_by_role("menuitem", name="Open the row")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(menu.get_by_role("menuitem", name="Filter by this value")).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(cell).to_be_focused()
    for key in ("ContextMenu", "Shift+F10"):
        page.keyboard.press(key)
        expect(menu).to_be_visible()
        page.keyboard.press("Tab")
        expect(menu).to_have_count(0)
    page.keyboard.press("Shift+F10")
    page.get_by_role("heading", level=1).click()
    expect(menu).to_have_count(0)


def test_the_menu_of_a_cell_copies_and_filters(
    contexts: Callable[..., BrowserContext], reading: str, database: psycopg.Connection
) -> None:
    context = contexts(permissions=["clipboard-read", "clipboard-write"])
    with visit_to(context, reading) as visit:
        page = visit.go("/t/graduations?sort=id")
        cell = visit.cell(0, "user_id")
        user = cell.get_by_role("link").inner_text()
        walk_by_keys(page, cell)
        columns = [column.name for column in database.execute("SELECT * FROM graduations LIMIT 0").description or []]
        rows = database.execute("SELECT * FROM graduations ORDER BY id LIMIT 2").fetchall()
        for row in (0, 1):
            page.locator(f'.ag-row[row-index="{row}"] .ag-selection-checkbox input').check()
        cell.click(button="right", position={"x": 60, "y": 8})
        choose(page, "Copy 2 rows as JSON")
        expect(page.locator(".toast")).to_have_text("Copied.")
        copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert [list(row) for row in copied] == [columns, columns]
        assert [row["user_id"] for row in copied] == [row[columns.index("user_id")] for row in rows]
        # What the menu wrote is SQL that the server accepts.
        cell.click(button="right", position={"x": 60, "y": 8})
        choose(page, "Copy 2 rows as INSERT")
        page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('INSERT')")
        with database.transaction(force_rollback=True):
            database.execute("DELETE FROM graduations WHERE id = ANY(%s)", [[row[columns.index("id")] for row in rows]])
            database.execute(page.evaluate("navigator.clipboard.readText()"))
            assert database.execute("SELECT * FROM graduations ORDER BY id LIMIT 2").fetchall() == rows
        visit.cell(2, "belt").click(button="right")
        choose(page, "Copy row as TSV")
        page.wait_for_function("async () => (await navigator.clipboard.readText()).split('\t').length > 3")

        cell.click(button="right", position={"x": 60, "y": 8})
        choose(page, "Exclude this value")
        expect(page.locator(".condition")).to_contain_text(f"user_id is not {user}")
        expect(cell.get_by_role("link")).not_to_have_text(user)
        page.go_back()
        expect(cell.get_by_role("link")).to_have_text(user)
        cell.click(button="right", position={"x": 60, "y": 8})
        choose(page, f"Open users {user}")
        expect(page).to_have_url(f"{visit.base}/t/users/{user}")


def test_the_menu_sets_null_in_write_mode_only(edit: Visit, visit: Visit) -> None:
    page = edit.go("/t/users?sort=id")
    edit.cell(0, "email").click(button="right")
    choose(page, "Set NULL")
    expect(edit.cell(0, "email")).to_have_class(re.compile("staged"))
    edit.cell(0, "id").click(button="right", position={"x": 60, "y": 8})
    expect(page.get_by_role("menuitem", name="Set NULL")).to_have_count(0)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")
    expect(page.locator(".pending")).to_be_hidden()
    visit.go("/t/users?sort=id")
    visit.cell(0, "email").click(button="right")
    expect(visit.page.get_by_role("menuitem", name="Copy value")).to_be_visible()
    expect(visit.page.get_by_role("menuitem", name="Set NULL")).to_have_count(0)
