"""Five jobs by the keyboard alone: no click, and no focus but by keys."""

from __future__ import annotations

import re
from collections.abc import Generator

import psycopg
import pytest
from playwright.sync_api import Locator, Page, expect
from tests.browser.conftest import Visit


@pytest.fixture
def version(database: psycopg.Connection) -> Generator[int]:
    row = database.execute("INSERT INTO versions (app_version) VALUES ('by keyboard') RETURNING id").fetchone()
    assert row
    yield row[0]
    database.execute("DELETE FROM versions WHERE id = %s", row)


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Page, wanted: Locator, key: str = "Tab") -> None:
    """Press Tab until an element, or one within it, has the focus."""
    for _ in range(40):
        if wanted.evaluate("(element) => element.contains(document.activeElement)"):
            return
        page.keyboard.press(key)
    pytest.fail(f"{key} does not reach {wanted}")


def to_cell(visit: Visit, column: str) -> None:
    """Move the focus to a cell of the first row."""
    tab_to(visit.page, visit.page.locator(".rows-grid .ag-root"))
    press(visit.page, "Control+Home")
    for _ in range(10):
        if visit.cell(0, column).evaluate("(cell) => cell === document.activeElement"):
            return
        press(visit.page, "ArrowRight")
    pytest.fail(f"the arrows do not reach {column}")


def test_five_jobs_are_done_by_keyboard_alone(edit: Visit, version: int, database: psycopg.Connection) -> None:
    edit.go("/")
    find_a_table(edit)
    filter_and_open_a_row(edit, version)
    edit_and_save_a_cell(edit, version)
    saved = database.execute("SELECT app_version FROM versions WHERE id = %s", [version]).fetchone()
    assert saved == ("by keyboard, saved",)
    run_a_query(edit.page)
    read_the_activity(edit.page)


def find_a_table(visit: Visit) -> None:
    press(visit.page, "/")
    visit.page.keyboard.type("versions")
    press(visit.page, "Enter")
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("versions")
    visit.cell(0, "id").wait_for()


def filter_and_open_a_row(visit: Visit, version: int) -> None:
    page = visit.page
    press(page, "Alt+f")
    form = page.get_by_role("dialog", name="Filter")
    expect(form).to_be_visible()
    tab_to(page, form.get_by_label("Column"), "Shift+Tab")
    page.keyboard.type("app_v")
    tab_to(page, form.get_by_label("Value"))
    page.keyboard.type("by keyboard")
    press(page, "Enter")
    expect(visit.cell(0, "id")).to_have_text(str(version))
    expect(visit.cell(1, "id")).to_have_count(0)
    to_cell(visit, "id")
    press(page, "F4")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"versions {version} · by keyboard")


def edit_and_save_a_cell(visit: Visit, version: int) -> None:
    page = visit.page
    # Alt+Left belongs to the browser, which has no window here.
    page.go_back()
    expect(visit.cell(0, "id")).to_have_text(str(version))
    to_cell(visit, "app_version")
    press(page, "Enter")
    expect(page.locator(".editor textarea")).to_be_focused()
    press(page, "Control+a")
    page.keyboard.type("by keyboard, saved")
    press(page, "Enter")
    expect(page.get_by_text("1 change staged")).to_be_visible()
    press(page, "Control+s")
    review = page.get_by_role("dialog", name="Staged changes")
    expect(review.locator(".statements pre").first).to_be_visible()
    press(page, "Control+s")
    expect(review).to_have_count(0)


def run_a_query(page: Page) -> None:
    press(page, "Alt+2")
    editor = page.locator(".cm-content")
    editor.wait_for()
    tab_to(page, editor)
    press(page, "Control+a")
    page.keyboard.type("SELECT 6 * 7 AS answer")
    press(page, "Control+Enter")
    expect(page.locator(".result-grid .ag-row").first).to_contain_text("42")
    # Tab leaves the editor within two seconds after Escape, which is short for a busy machine.
    for _ in range(5):
        press(page, "Escape", "Tab")
        if not editor.evaluate("(element) => element === document.activeElement"):
            break
    expect(editor).not_to_be_focused()


def test_a_new_row_is_filled_by_tab_and_shown_after_the_save(edit: Visit, database: psycopg.Connection) -> None:
    page = edit.go('/t/versions?filter={"all":[{"column":"app_version","op":"is","value":"no version"}]}')
    expect(page.get_by_text("No rows")).to_be_visible()
    press(page, "Insert")
    page.keyboard.type("unwanted")
    press(page, "Enter", "Insert")
    page.keyboard.type("by Tab")
    press(page, "Tab")
    expect(page.get_by_role("textbox", name="created_at", exact=True)).to_be_focused()
    page.keyboard.type("26/11/2026 10:00")
    press(page, "Shift+Tab")
    expect(page.get_by_role("textbox", name="app_version", exact=True)).to_be_focused()
    press(page, "Tab", "Tab")
    expect(page.get_by_role("textbox", name="disabled_at", exact=True)).to_be_focused()
    page.keyboard.type("31/02/2026")
    press(page, "Control+s")
    expect(page.get_by_text("2026-02 has no day 31.")).to_be_visible()
    expect(page.get_by_role("dialog", name="Staged changes")).to_have_count(0)
    press(page, "Control+a")
    page.keyboard.type("30/11/2026")
    press(page, "Control+s")
    review = page.get_by_role("dialog", name="Staged changes")
    expect(review.locator(".statements pre").first).to_be_visible()
    review.get_by_role("button", name="Undo").first.click()
    expect(review.locator("li.change")).to_have_count(1)
    review.get_by_role("heading", name="SQL").click()
    press(page, "Control+s")
    expect(review).to_have_count(0)
    [[key, *moments]] = database.execute(
        "DELETE FROM versions WHERE app_version = 'by Tab' RETURNING id, created_at::text, disabled_at::text"
    ).fetchall()
    assert moments == ["2026-11-26 10:00:00", "2026-11-30 00:00:00"]
    database.execute("INSERT INTO versions (id, app_version) VALUES (%s, 'by Tab')", [key])
    expect(page.get_by_text(f"The new row {key} is not on this page: show it")).to_be_visible()
    page.get_by_role("link", name="show it").click()
    expect(edit.cell_of(key, "app_version")).to_have_text("by Tab")
    expect(page.get_by_text("is not on this page")).to_be_hidden()
    database.execute("DELETE FROM versions WHERE id = %s", [key])


# Ends when the page has also done what it postponed.
KEYS_AT_ONCE = """(keys) => {
    for (const key of keys)
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    return new Promise((done) => setTimeout(done));
}"""


@pytest.mark.parametrize(("table", "keys"), [("versions", "by hand"), ("checkins", "77")])
def test_the_editor_of_a_new_row_keeps_the_focus_when_keys_come_faster_than_the_page(
    edit: Visit, table: str, keys: str
) -> None:
    page = edit.go(f"/t/{table}")
    edit.cell(0, "id").click()
    press(page, "Insert", "Escape")
    # The grid focuses a cell that it draws where the focus was before.
    page.evaluate(KEYS_AT_ONCE, ["Insert", keys[0]])
    page.keyboard.type(keys[1:])
    field = page.locator(".editor").locator("textarea, input").first
    expect(field).to_be_focused()
    expect(field).to_have_value(keys)
    press(page, "Escape")
    expect(page.locator(".editor")).to_have_count(0)
    expect(page.locator(".rows-grid .ag-cell:focus")).to_be_visible()


def read_the_activity(page: Page) -> None:
    press(page, "Alt+5")
    sessions = page.get_by_role("region", name="Sessions")
    expect(sessions.get_by_role("rowheader").first).to_be_visible()
    tab_to(page, sessions)
    press(page, "?")
    keys = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(keys).to_contain_text(re.compile("Alt 5\\s*Activity"))
    expect(keys).to_contain_text("Fill down")
    press(page, "Escape")
    expect(sessions).to_be_focused()
