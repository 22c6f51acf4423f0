from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect
from tests.browser.conftest import Visit, visit_to


def a_user(database: psycopg.Connection, name: str, **values: Any) -> int:
    values = {"clerk_user_id": name, "first_name": name, **values}
    names, marks = ", ".join(values), ", ".join(f"%({column})s" for column in values)
    row = database.execute(f"INSERT INTO users ({names}) VALUES ({marks}) RETURNING id", values).fetchone()
    assert row
    return int(row[0])


def a_notification(database: psycopg.Connection, **values: Any) -> int:
    names, marks = ", ".join(values), ", ".join(f"%({column})s" for column in values)
    row = database.execute(f"INSERT INTO notifications ({names}) VALUES ({marks}) RETURNING id", values).fetchone()
    assert row
    return int(row[0])


def value(database: psycopg.Connection, table: str, key: int, column: str) -> Any:
    row = database.execute(f"SELECT {column} FROM {table} WHERE id = %s", [key]).fetchone()
    return row[0] if row else "gone"


def rows_of(visit: Visit, table: str, *keys: int) -> Page:
    """Show only these rows."""
    keys_ = ",".join(f'"{key}"' for key in keys)
    return visit.go(f'/t/{table}?filter={{"all":[{{"column":"id","op":"in","value":[{keys_}]}}]}}')


def type_into(visit: Visit, key: object, column: str, text: str) -> None:
    """Edit a cell with the keyboard: Enter, replace the selected text, Enter."""
    cell = visit.cell_of(key, column)
    cell.click()
    visit.page.keyboard.press("Enter")
    visit.page.locator(".editor textarea, .editor input:not(.picker)").wait_for()
    visit.page.keyboard.press("Control+a")
    visit.page.keyboard.type(text)
    visit.page.keyboard.press("Enter")


def save(page: Page) -> None:
    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog", name="Staged changes")
    expect(dialog.locator(".statements pre").first).to_be_visible()
    page.keyboard.press("Control+s")
    expect(dialog).to_be_hidden()


def test_an_edit_is_staged_shown_with_its_sql_and_saved(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "edited")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "Zoë")
    assert value(database, "users", key, "first_name") == "edited"
    expect(page.get_by_text("1 change staged")).to_be_visible()

    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog", name="Staged changes")
    expect(dialog.locator("del")).to_have_text("edited")
    expect(dialog.locator("ins")).to_have_text("Zoë")
    expect(dialog.locator(".statements")).to_contain_text("UPDATE public.users SET first_name")
    expect(dialog).to_contain_text("The studio keeps no history")
    assert value(database, "users", key, "first_name") == "edited"
    dialog.get_by_role("button", name="Save 1 change").click()
    expect(page.get_by_text("Saved 1 change.")).to_be_visible()
    expect(page.get_by_text("staged, not saved")).to_be_hidden()
    expect(edit.cell_of(key, "first_name")).to_have_text("Zoë")
    assert value(database, "users", key, "first_name") == "Zoë"


def test_a_timestamp_keeps_its_microseconds(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "punctual", approved_at="2024-03-01 18:30:00.000001")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "other")
    save(page)
    assert str(value(database, "users", key, "approved_at")) == "2024-03-01 18:30:00.000001"
    type_into(edit, key, "approved_at", "2024-03-01 18:30:00.123456")
    save(page)
    assert value(database, "users", key, "approved_at").microsecond == 123456


def test_an_edit_of_one_line_keeps_the_line_ends_of_the_others(edit: Visit, database: psycopg.Connection) -> None:
    text = "one\r\ntwo\n\tthree\r\n\r\nfour "
    key = a_notification(database, title="lines", content=text)
    page = rows_of(edit, "notifications", key)
    cell = edit.cell_of(key, "content")
    cell.click()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_text("staged, not saved")).to_be_hidden()

    cell.click()
    page.keyboard.press("Enter")
    page.locator(".editor textarea").press("Control+Home")
    page.keyboard.type("zero")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Enter")
    save(page)
    assert value(database, "notifications", key, "content") == "zero\r\n" + text


def test_delete_sets_null_and_an_empty_text_stays_empty(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "nobody", last_name="", phone="1", email=None)
    page = rows_of(edit, "users", key)
    expect(edit.cell_of(key, "last_name")).to_have_text("empty")
    expect(edit.cell_of(key, "email")).to_have_text("NULL")
    edit.cell_of(key, "first_name").click()
    page.keyboard.press("Delete")
    edit.cell_of(key, "email").click()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # opened and closed without an edit
    save(page)
    assert value(database, "users", key, "first_name") is None
    assert value(database, "users", key, "last_name") == ""
    assert value(database, "users", key, "email") is None

    type_into(edit, key, "first_name", "x")
    edit.cell_of(key, "first_name").click()
    page.keyboard.press("Enter")
    page.locator(".editor textarea").press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.press("Enter")
    save(page)
    assert value(database, "users", key, "first_name") == ""


def test_a_saved_row_is_edited_again_only_once_it_shows_what_was_saved(
    edit: Visit, database: psycopg.Connection
) -> None:
    key = a_user(database, "again")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "once")

    def slow(route: Route) -> None:
        page.wait_for_timeout(700)
        route.continue_()

    page.route("**/api/rows/users?*", slow)
    save(page)
    expect(edit.cell_of(key, "first_name")).to_have_text("once", timeout=1)
    expect(edit.cell_of(key, "first_name")).to_be_focused()
    page.keyboard.press("Delete")
    save(page)
    assert value(database, "users", key, "first_name") is None


def test_delete_does_not_set_a_not_null_column_to_null(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "keeps")
    page = rows_of(edit, "users", key)
    edit.cell_of(key, "clerk_user_id").click()
    page.keyboard.press("Delete")
    expect(page.get_by_text("clerk_user_id cannot be NULL.")).to_be_visible()
    expect(page.get_by_text("staged, not saved")).to_be_hidden()


def test_an_array_is_edited_as_chips(edit: Visit, database: psycopg.Connection) -> None:
    long = "y" * 300
    key = a_notification(database, title="chips", recipients=["1", None, "", "a,b"], viewed_by=[long])
    page = rows_of(edit, "notifications", key)
    expect(edit.cell_of(key, "viewed_by")).to_contain_text("yyy…")
    edit.cell_of(key, "viewed_by").click()
    page.keyboard.press("Space")
    expect(page.locator(".panel .chip")).to_have_text(long)
    page.keyboard.press("Escape")
    edit.cell_of(key, "recipients").click()
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="New element of recipients").wait_for()
    page.keyboard.type('say "hi"')
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Remove 1").click()
    page.keyboard.press("Enter")
    save(page)
    assert value(database, "notifications", key, "recipients") == [None, "", "a,b", 'say "hi"']


def test_rows_are_inserted_and_deleted_in_one_transaction(edit: Visit, database: psycopg.Connection) -> None:
    gone = a_user(database, "goes")
    page = rows_of(edit, "users", gone)
    edit.cell_of(gone, "first_name").click()
    page.keyboard.press("Control+Delete")
    expect(page.locator(".ag-row.gone")).to_have_count(1)
    page.keyboard.press("Insert")
    expect(edit.cell_of("new 1", "id")).to_have_text("default")
    page.keyboard.press("Enter")
    page.keyboard.type("comes")
    page.keyboard.press("Enter")
    save(page)
    assert value(database, "users", gone, "id") == "gone"
    assert database.execute("SELECT created_at IS NULL FROM users WHERE clerk_user_id = 'comes'").fetchone() == (False,)


def test_staged_changes_can_be_undone(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "stays")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "other")
    expect(page.get_by_text("1 change staged")).to_be_visible()
    edit.cell_of(key, "first_name").click()
    page.keyboard.press("Control+z")
    expect(page.get_by_text("staged, not saved")).to_be_hidden()
    expect(edit.cell_of(key, "first_name")).to_have_text("stays")
    type_into(edit, key, "first_name", "other")
    page.get_by_role("button", name="Review and save").click()
    page.get_by_role("button", name="Discard all").click()
    expect(edit.cell_of(key, "first_name")).to_have_text("stays")
    assert value(database, "users", key, "first_name") == "stays"


@pytest.mark.parametrize("choice", ["Keep mine", "Keep theirs"])
def test_a_conflict_shows_both_values_and_overwrites_nothing(
    edit: Visit, database: psycopg.Connection, choice: str
) -> None:
    edit.expected.append("409")
    key = a_user(database, f"both {choice}", first_name="before")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "mine")
    database.execute("UPDATE users SET first_name = 'theirs' WHERE id = %s", [key])
    page.keyboard.press("Control+s")
    page.get_by_role("button", name="Save 1 change").click()
    conflict = page.get_by_role("dialog", name="Conflicting changes")
    expect(conflict.locator("tbody tr")).to_contain_text("before")
    expect(conflict.locator("td.theirs")).to_have_text("theirs")
    expect(conflict.locator("td.mine")).to_have_text("mine")
    assert value(database, "users", key, "first_name") == "theirs"

    conflict.get_by_role("button", name=choice).click()
    if choice == "Keep mine":
        conflict.get_by_role("button", name="Review and save").click()
        page.get_by_role("button", name="Save 1 change").click()
        expect(page.get_by_text("Saved 1 change.")).to_be_visible()
        assert value(database, "users", key, "first_name") == "mine"
    else:
        conflict.get_by_role("button", name="Back to editing").click()
        expect(edit.cell_of(key, "first_name")).to_have_text("theirs")
        expect(page.get_by_text("staged, not saved")).to_be_hidden()


def test_a_conflict_over_values_that_were_cut_can_be_resolved(edit: Visit, database: psycopg.Connection) -> None:
    edit.expected.append("409")
    key = a_notification(database, title="long", content="before " * 300)
    page = rows_of(edit, "notifications", key)
    edit.cell_of(key, "content").click()
    page.keyboard.press("Enter")
    page.locator(".editor textarea").fill("mine")
    page.keyboard.press("Enter")
    database.execute("UPDATE notifications SET content = repeat('theirs ', 30000) WHERE id = %s", [key])
    page.keyboard.press("Control+s")
    page.get_by_role("button", name="Save 1 change").click()
    page.get_by_role("button", name="Keep mine").click()
    page.get_by_role("dialog").get_by_role("button", name="Review and save").click()
    page.get_by_role("button", name="Save 1 change").click()
    expect(page.get_by_text("Saved 1 change.")).to_be_visible()
    assert value(database, "notifications", key, "content") == "mine"


def test_a_row_deleted_by_another_session_is_a_conflict(edit: Visit, database: psycopg.Connection) -> None:
    edit.expected.append("409")
    key = a_user(database, "vanishes")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "mine")
    database.execute("DELETE FROM users WHERE id = %s", [key])
    page.keyboard.press("Control+s")
    page.get_by_role("button", name="Save 1 change").click()
    conflict = page.get_by_role("dialog", name="Conflicting changes")
    expect(conflict).to_contain_text("row deleted")
    conflict.get_by_role("button", name="Discard my change").click()
    conflict.get_by_role("button", name="Back to editing").click()
    expect(page.get_by_text("staged, not saved")).to_be_hidden()


@pytest.mark.parametrize(
    ("column", "wrong", "word"),
    [("gym_id", "999999", "999999"), ("clerk_user_id", "taken", "taken"), ("approved_at", "soon", "soon")],
)
def test_a_violated_constraint_marks_the_cell_and_gives_the_reason(
    edit: Visit, database: psycopg.Connection, column: str, wrong: str, word: str
) -> None:
    edit.expected.append("422")
    database.execute("INSERT INTO users (clerk_user_id) VALUES ('taken') ON CONFLICT DO NOTHING")
    key = a_user(database, f"breaks {column}")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "good")
    type_into(edit, key, column, wrong)
    page.keyboard.press("Control+s")
    page.get_by_role("button", name="Save 1 change").click()
    dialog = page.get_by_role("dialog", name="Staged changes")
    expect(dialog.locator("dd.rejected .wrong")).to_contain_text(word)
    expect(dialog.get_by_role("alert")).to_contain_text(f"the database rejected users {key}, {column}")
    dialog.get_by_role("button", name="Back to editing").click()
    expect(edit.page.locator(f'.ag-cell.bad[col-id="{column}"]')).to_have_count(1)
    expect(page.locator(".ag-cell.bad")).to_have_count(1)
    expect(page.get_by_text("1 row rejected")).to_be_visible()
    assert value(database, "users", key, "first_name") == f"breaks {column}"


def test_the_buttons_of_the_review_stay_where_they_are_when_the_sql_arrives(
    edit: Visit, database: psycopg.Connection
) -> None:
    key = a_user(database, "moves nothing")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "still")
    held: list[Route] = []
    page.route("**/api/changes", lambda route: held.append(route), times=1)  # noqa: PLW0108, it marks its function
    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog", name="Staged changes")
    # All at once, because the list is drawn again when the names of its rows arrive.
    places = "() => [...document.querySelectorAll('dialog button')].map((button) => button.getBoundingClientRect().y)"
    expect(dialog).to_contain_text("Loading the SQL…")
    before = page.evaluate(places)
    assert len(before) == 5
    held.pop().continue_()
    expect(dialog.locator(".statements pre").first).to_be_visible()
    assert page.evaluate(places) == before
    dialog.get_by_role("button", name="Save 1 change").click()
    expect(dialog).to_be_hidden()
    assert value(database, "users", key, "first_name") == "still"


def test_a_selection_that_ends_outside_a_dialog_leaves_it_open(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "dragged")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "selected")
    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog", name="Staged changes")
    dialog.locator(".statements pre").first.hover()
    page.mouse.down()
    page.mouse.move(2, 300)
    page.mouse.up()
    expect(dialog).to_be_visible()
    page.mouse.click(2, 300)
    expect(dialog).to_be_hidden()


def test_a_row_without_a_name_is_offered_by_its_key(edit: Visit, database: psycopg.Connection) -> None:
    manager = a_user(database, "nameless", first_name=None)
    row = database.execute(
        "INSERT INTO gyms (name, address, since) VALUES ('unmanaged', '', '2020') RETURNING id"
    ).fetchone()
    assert row
    page = rows_of(edit, "gyms", row[0])
    edit.cell_of(row[0], "manager_id").click()
    page.keyboard.press("Enter")
    page.locator(".editor input").fill(str(manager))
    expect(page.locator(".offers li", has_text=str(manager)).first).to_be_visible()
    page.keyboard.press("Enter")
    save(page)
    assert value(database, "gyms", row[0], "manager_id") == manager


def test_a_value_that_was_cut_is_edited_in_full(edit: Visit, database: psycopg.Connection) -> None:
    text = "long " * 1000
    key = a_notification(database, title="cut", content=text)
    page = rows_of(edit, "notifications", key)
    edit.cell_of(key, "content").click()
    page.keyboard.press("Enter")
    page.locator(".editor textarea").press("Control+End")
    page.keyboard.type("end")
    page.keyboard.press("Enter")
    save(page)
    assert value(database, "notifications", key, "content") == text + "end"


def test_staged_changes_of_two_tables_survive_page_changes_and_are_saved_together(
    edit: Visit, database: psycopg.Connection
) -> None:
    user, notification = a_user(database, "far"), a_notification(database, title="near")
    page = rows_of(edit, "users", user)
    type_into(edit, user, "first_name", "farther")
    page.keyboard.press("Escape")
    page.get_by_role("navigation", name="Tables").get_by_role("link", name="notifications").click()
    expect(page.get_by_text("1 change staged")).to_be_visible()
    page.go_back()
    expect(edit.cell_of(user, "first_name")).to_have_text("farther")
    page.go_forward()
    page.get_by_role("button", name="+ Filter").click()
    page.get_by_role("combobox", name="Column").select_option("id")
    page.get_by_role("combobox", name="Operator").select_option("is")
    page.get_by_role("textbox", name="Value").fill(str(notification))
    page.get_by_role("textbox", name="Value").press("Enter")
    type_into(edit, notification, "title", "nearer")
    save(page)
    assert value(database, "users", user, "first_name") == "farther"
    assert value(database, "notifications", notification, "title") == "nearer"


def test_edits_in_two_browser_tabs_are_both_saved(
    contexts: Callable[..., BrowserContext], writing: str, database: psycopg.Connection
) -> None:
    key = a_user(database, "shared", last_name="shared")
    context = contexts()
    with visit_to(context, writing) as one, visit_to(context, writing) as two:
        for visit in (one, two):
            rows_of(visit, "users", key)
        type_into(one, key, "first_name", "one")
        type_into(two, key, "last_name", "two")
        save(one.page)
        save(two.page)
    assert value(database, "users", key, "first_name") == "one"
    assert value(database, "users", key, "last_name") == "two"


def test_a_read_only_studio_offers_no_edits(visit: Visit) -> None:
    page = visit.go("/t/users")
    visit.cell(0, "first_name").click()
    page.keyboard.press("Delete")
    expect(page.get_by_text("The studio is read-only.")).to_be_visible()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('a\\tb\\nc\\td')")
    page.keyboard.press("Control+v")
    page.keyboard.press("x")
    expect(page.locator(".editor, dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="New row")).to_have_count(0)


def test_ctrl_s_saves_an_open_editor_and_returns_the_focus(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "typing")
    page = rows_of(edit, "users", key)
    edit.cell_of(key, "first_name").click()
    page.keyboard.press("Enter")
    page.locator(".editor textarea").wait_for()
    page.keyboard.type("typed")
    save(page)
    expect(edit.cell_of(key, "first_name")).to_be_focused()
    assert value(database, "users", key, "first_name") == "typed"


def test_a_copied_value_is_pasted_unchanged(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "copied", last_name=" a\tb ")
    page = rows_of(edit, "users", key)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    edit.cell_of(key, "last_name").click()
    page.keyboard.press("Control+c")
    expect(page.get_by_text("Copied.")).to_be_visible()
    edit.cell_of(key, "first_name").click()
    page.keyboard.press("Control+v")
    save(page)
    assert value(database, "users", key, "first_name") == " a\tb "


def test_a_save_that_waits_for_an_sql_tab_names_it(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "locked")
    page = rows_of(edit, "users", key)
    type_into(edit, key, "first_name", "staged")
    places, review = page.get_by_role("navigation", name="Pages"), page.get_by_role("dialog", name="Staged changes")
    places.get_by_role("link", name="SQL").click()
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(f"BEGIN; UPDATE users SET last_name = 'tab' WHERE id = {key}")
    page.keyboard.press("Alt+Enter")
    expect(places.get_by_role("link", name=re.compile("SQL.*1 open transaction"))).to_be_visible()
    page.go_back()
    edit.cell_of(key, "first_name").wait_for()
    page.keyboard.press("Control+s")
    expect(review.locator(".statements pre").first).to_be_visible()
    edit.expected.append("422")
    page.keyboard.press("Control+s")
    expect(review.get_by_role("alert")).to_contain_text("a SQL tab of this studio has locks on users")
    expect(review.get_by_role("alert")).to_contain_text("Nothing was saved.")
    review.get_by_role("link", name="SQL tab “Query 1”").click()
    page.get_by_role("button", name="Roll back").click()
    expect(places.get_by_role("link", name="SQL", exact=True)).to_be_visible()
    page.go_back()
    edit.cell_of(key, "first_name").wait_for()
    save(page)
    assert value(database, "users", key, "first_name") == "staged"
    assert value(database, "users", key, "last_name") is None
    database.execute("DELETE FROM users WHERE id = %s", [key])


def test_values_in_use_are_offered_and_dates_in_texts_are_read(edit: Visit, database: psycopg.Connection) -> None:
    key = a_user(database, "belted", birth="1990-01-02")
    [[graduation]] = database.execute(
        "INSERT INTO graduations (user_id, belt) VALUES (%s, 'WHITE') RETURNING id", [key]
    ).fetchall()
    page = rows_of(edit, "graduations", graduation)
    edit.cell_of(graduation, "belt").click()
    page.keyboard.press("Enter")
    offers, note = page.locator(".offers li"), page.locator(".offers-note")
    expect(offers.first).to_be_visible()
    page.keyboard.type("YELOW")
    expect(note).to_have_text("No other row has “YELOW”.")
    page.keyboard.press("Control+a")
    page.keyboard.type("bla")
    expect(offers).to_have_text(["BLACK"])
    page.keyboard.press("ArrowDown")
    expect(offers.first).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(edit.cell_of(graduation, "belt")).to_have_text("BLACK")
    page.keyboard.press("Control+z")
    type_into(edit, graduation, "belt", "purple, maybe")
    expect(edit.cell_of(graduation, "belt")).to_have_text("purple, maybe")
    page.keyboard.press("Control+z")
    expect(page.get_by_text("staged, not saved")).to_be_hidden()

    rows_of(edit, "users", key)
    cell = edit.cell_of(key, "birth")
    cell.click()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Pick birth")).to_have_value("1990-01-02")
    page.keyboard.press("Control+a")
    page.keyboard.type("31/02/1980")
    expect(page.locator(".editor .read")).to_have_text("1980-02 has no day 31.")
    page.keyboard.press("Control+a")
    page.keyboard.type("26/11/1980")
    expect(page.locator(".editor .read")).to_have_text("= 1980-11-26")
    page.keyboard.press("Enter")
    expect(page.get_by_text("26/11/1980 is staged as 1980-11-26")).to_be_visible()
    expect(cell).to_have_text("1980-11-26")
    # Typed before the studio knows that the texts are dates.
    type_into(edit, key, "birth", "1/2/1981")
    expect(cell).to_have_text("1981-02-01")
    type_into(edit, key, "birth", "unknown")
    expect(cell).to_have_text("unknown")
    page.keyboard.press("Control+z")
    save(page)
    assert value(database, "users", key, "birth") == "1981-02-01"
    database.execute("DELETE FROM graduations WHERE id = %s", [graduation])
    database.execute("DELETE FROM users WHERE id = %s", [key])
