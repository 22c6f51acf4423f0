from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect
from tests.browser.conftest import Visit, visit_to


def add_filter(page: Page, opener: Locator, column: str, operator: str, *values: str) -> None:
    opener.click()
    page.get_by_role("combobox", name="Column").select_option(column)
    page.get_by_role("combobox", name="Operator").select_option(operator)
    fields = page.locator(".condition-form .fields").locator("input, textarea").all()
    for field, value in zip(fields, values, strict=True):
        field.fill(value)
    page.get_by_role("button", name="Apply").click()


def count(database: psycopg.Connection, query: str) -> int:
    row = database.execute(query).fetchone()
    assert row
    return int(row[0])


def shows(page: Page, rows: int) -> None:
    expect(page.locator(".foot .ms")).to_contain_text(re.compile(rf"^{rows:,} rows? in"))


def test_the_paging_buttons_reach_the_last_and_the_first_page(visit: Visit, database: psycopg.Connection) -> None:
    ids = [row[0] for row in database.execute("SELECT id FROM checkins ORDER BY id").fetchall()]
    page = visit.go("/t/checkins")
    expect(visit.cell(0, "id")).to_have_text(str(ids[0]))
    expect(page.get_by_role("button", name="Previous")).to_be_disabled()
    page.get_by_role("button", name="Next").click()
    expect(visit.cell(0, "id")).to_have_text(str(ids[100]))
    page.get_by_role("button", name="Previous").click()
    expect(visit.cell(0, "id")).to_have_text(str(ids[0]))
    page.keyboard.press("Alt+End")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    expect(visit.cell(0, "id")).to_have_text(str(ids[-100]))
    page.keyboard.press("Alt+Home")
    expect(visit.cell(0, "id")).to_have_text(str(ids[0]))
    page.get_by_role("button", name=re.compile("rows$")).click()
    expect(page.locator(".count")).to_have_text(f"{len(ids):,} rows")


def test_chips_join_conditions_by_and_and_or_and_the_address_holds_them(
    visit: Visit, contexts: Callable[..., BrowserContext], reading: str, database: psycopg.Connection
) -> None:
    page = visit.go("/t/users")
    add_filter(page, page.get_by_role("button", name="+ Filter"), "role", "is", "STUDENT")
    expect(page.get_by_role("button", name="Filter: role is STUDENT", exact=True)).to_be_visible()
    students = count(database, "SELECT count(*) FROM users WHERE role = 'STUDENT'")
    shows(page, min(students, 100))
    add_filter(page, page.get_by_role("button", name="+ Filter"), "first_name", "starts", "a")
    both = count(database, "SELECT count(*) FROM users WHERE role = 'STUDENT' AND first_name ILIKE 'a%'")
    shows(page, both)
    page.get_by_role("button", name="and", exact=True).click()
    either = count(database, "SELECT count(*) FROM users WHERE role = 'STUDENT' OR first_name ILIKE 'a%'")
    # A new page of rows takes the place of a count.
    shows(page, min(either, 100))
    page.get_by_role("button", name="count rows").click()
    expect(page.locator(".count")).to_have_text(f"{either} rows")
    page.get_by_role("button", name="or", exact=True).click()
    shows(page, both)
    page.get_by_role("button", name="More filter options").click()
    page.get_by_role("menuitem", name="Add an OR group").click()
    page.get_by_role("combobox", name="Column").select_option("email")
    page.get_by_role("combobox", name="Operator").select_option("null")
    page.get_by_role("button", name="Apply").click()
    nested = " AND (email IS NULL OR approved_at BETWEEN '2000-01-01' AND '2100-01-01')"
    add_filter(
        page,
        page.get_by_role("button", name="Add a condition to this group"),
        "approved_at",
        "between",
        "2000-01-01",
        "2100-01-01",
    )
    wanted = count(database, "SELECT count(*) FROM users WHERE role = 'STUDENT' AND first_name ILIKE 'a%'" + nested)
    shows(page, wanted)

    with visit_to(contexts(), reading) as other:
        other.page.goto(page.url)
        shows(other.page, wanted)
        expect(other.page.locator(".condition")).to_have_count(4)
    page.go_back()
    page.go_back()
    expect(page.locator(".condition")).to_have_count(2)
    shows(page, both)
    page.get_by_role("button", name="Remove filter: role is STUDENT").click()
    expect(page.locator(".condition")).to_have_count(1)


@pytest.mark.parametrize(
    ("table", "question", "condition"),
    [
        ("users", ("email", "contains", "SILVA"), "email ILIKE '%silva%'"),
        ("graduations", ("degree", ">=", "3"), "degree >= 3"),
        ("graduations", ("belt", "in", "BLUE\nBLACK"), "belt IN ('BLUE', 'BLACK')"),
        ("users", ("email", "is not", ""), "email IS DISTINCT FROM ''"),
        ("notifications", ("recipients", "has any", "1\n5"), "recipients && ARRAY['1', '5']"),
        ("class", ("deleted_at", "not null"), "deleted_at IS NOT NULL"),
    ],
)
def test_each_operator_matches_its_sql_condition(
    visit: Visit, database: psycopg.Connection, table: str, question: tuple[str, ...], condition: str
) -> None:
    page = visit.go(f"/t/{table}")
    add_filter(page, page.get_by_role("button", name="+ Filter"), question[0], question[1], *question[2:])
    expect(page.locator(".condition")).to_have_count(1)
    page.locator(".count").click()
    wanted = count(database, f"SELECT count(*) FROM {table} WHERE {condition}")
    expect(page.locator(".count")).to_have_text(f"{wanted:,} rows")


def test_a_click_sorts_and_a_shift_click_adds_a_sort_column(visit: Visit, database: psycopg.Connection) -> None:
    page = visit.go("/t/graduations")
    visit.cell(0, "id").wait_for()
    page.locator('.ag-header-cell[col-id="belt"]').click()
    expect(page).to_have_url(re.compile(r"sort=belt$"))
    page.locator('.ag-header-cell[col-id="id"]').click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile(r"sort=belt%2Cid$"))
    page.locator('.ag-header-cell[col-id="id"]').click(modifiers=["Shift"])
    expect(page).to_have_url(re.compile(r"sort=belt%2C-id$"))
    first = count(database, "SELECT id FROM graduations ORDER BY belt, id DESC LIMIT 1")
    expect(visit.cell(0, "id")).to_have_text(str(first))
    page.reload()
    expect(visit.cell(0, "id")).to_have_text(str(first))
    expect(page.locator(".ag-header-cell[aria-sort=descending]")).to_have_attribute("col-id", "id")


def test_null_and_an_empty_text_look_different(visit: Visit, database: psycopg.Connection) -> None:
    database.execute("INSERT INTO versions (app_version) VALUES (''), (NULL)")
    visit.go("/t/versions?sort=-id")
    expect(visit.cell(0, "app_version").locator(".null")).to_have_text("NULL")
    expect(visit.cell(1, "app_version").locator(".empty")).to_have_text("empty")
    border = "(element) => getComputedStyle(element).borderTopStyle"
    styles = [visit.cell(row, "app_version").locator(".none").evaluate(border) for row in (0, 1)]
    assert styles[0] != styles[1]
    database.execute("DELETE FROM versions WHERE app_version = '' OR app_version IS NULL")


def test_hidden_moved_and_resized_columns_are_stored(visit: Visit) -> None:
    # Wide enough for the grid to draw all columns.
    visit.page.set_viewport_size({"width": 2400, "height": 900})
    page = visit.go("/t/gyms")
    order = (
        "[...document.querySelectorAll('.ag-header-cell:not([col-id^=ag-])')]"
        ".sort((one, other) => one.ariaColIndex - other.ariaColIndex)"
        ".map((cell) => cell.getAttribute('col-id'))"
    )
    visit.cell(0, "id").wait_for()
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("checkbox", name="logo").uncheck()
    page.get_by_role("button", name="Move since left").click()
    page.keyboard.press("Escape")
    wanted = ["id", "name", "address", "since", "manager_id", "created_at"]
    assert page.evaluate(order) == wanted
    edge = page.locator('.ag-header-cell[col-id="name"] .ag-header-cell-resize').bounding_box()
    width = page.locator('.ag-header-cell[col-id="name"]').bounding_box()
    assert edge
    assert width
    page.mouse.move(edge["x"] + edge["width"] / 2, edge["y"] + 10)
    page.mouse.down()
    page.mouse.move(edge["x"] + 60, edge["y"] + 10, steps=3)
    page.mouse.up()
    page.reload()
    visit.cell(0, "id").wait_for()
    assert page.evaluate(order) == wanted
    after = page.locator('.ag-header-cell[col-id="name"]').bounding_box()
    assert after
    assert after["width"] > width["width"] + 30
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("button", name="Reset").click()
    assert len(page.evaluate(order)) == 7


def quoted(value: str | None) -> str:
    return r"\N" if value is None else '"' + value.replace('"', '""') + '"'


def test_the_export_has_the_filter_order_and_columns_of_the_page(
    visit: Visit, database: psycopg.Connection, tmp_path: Path
) -> None:
    page = visit.go('/t/users?sort=-id&filter={"all":[{"column":"role","op":"is","value":"STUDENT"}]}')
    visit.cell(0, "id").wait_for()
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("button", name="Primary key only").click()
    page.get_by_role("checkbox", name="email").check()
    page.keyboard.press("Escape")
    wanted = database.execute("SELECT id, email FROM users WHERE role = 'STUDENT' ORDER BY id DESC").fetchall()
    for name in ("CSV", "JSON array"):
        page.get_by_role("button", name="Export").click()
        page.get_by_label("Format").select_option(name)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        download.value.save_as(tmp_path / name)
    rows = list(csv.reader(io.StringIO((tmp_path / "CSV").read_text(), newline="")))
    assert rows == [["id", "email"], *([str(key), email or ""] for key, email in wanted)]
    exported = json.loads((tmp_path / "JSON array").read_text())
    assert [(int(row["id"]), row["email"]) for row in exported] == wanted
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_label("Separator")).to_be_hidden()
    page.get_by_label("Format").select_option("CSV")
    page.get_by_label("Separator").select_option("Semicolon")
    page.get_by_label("NULL").select_option("\\N")
    page.get_by_label("Byte order mark").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    text = download.value.path().read_bytes()
    assert text.startswith(b"\xef\xbb\xbfid;email\r\n")
    assert text.decode().splitlines()[1:] == [f"{key};{quoted(email)}" for key, email in wanted]
    page.reload()
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_label("Separator")).to_have_value(";")
    expect(page.get_by_label("Byte order mark")).to_be_checked()
    page.get_by_label("Format").select_option("CSV for Excel")
    expect(page.get_by_label("Separator")).to_be_hidden()
    page.get_by_label("Names beside references").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.path().read_bytes().startswith(b"\xef\xbb\xbfid;email\r\n")
    assert download.value.url.endswith("columns=id%2Cemail&names=1&separator=%3B&mark=1&harmless=1")
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_label("Format")).to_have_value("excel")
    expect(page.get_by_label("Names beside references")).to_be_checked()


def test_a_reference_is_followed_by_click_and_a_value_becomes_a_filter(visit: Visit) -> None:
    page = visit.go("/t/graduations")
    link = visit.cell(0, "user_id").get_by_role("link")
    user = link.inner_text()
    visit.cell(0, "belt").click()
    page.keyboard.press("Space")
    expect(page.get_by_role("complementary", name="Value")).to_contain_text("belt")
    expect(visit.cell(0, "belt")).to_be_in_viewport()
    page.get_by_role("button", name="Filter by this value").click()
    expect(page.locator(".condition")).to_contain_text("belt is")
    page.go_back()
    visit.cell(0, "user_id").get_by_role("link").click()
    expect(page).to_have_url(f"{visit.base}/t/users/{user}")


def test_an_invalid_filter_is_explained(visit: Visit) -> None:
    visit.expected.append("400")
    page = visit.go('/t/users?filter={"all":[{"column":"gym_id","op":"is","value":"many"}]}')
    expect(page.get_by_role("alert").last).to_contain_text("many")


def test_the_rows_of_another_filter_are_not_shown_below_one_that_failed(visit: Visit) -> None:
    visit.expected.append("400")
    page = visit.go("/t/users")
    visit.cell(0, "id").wait_for()
    follow = "(address) => Object.assign(document.querySelector('nav.tables a'), { href: address }).click()"
    page.evaluate(follow, '/t/users?filter={"all":[{"column":"gym_id","op":"is","value":"many"}]}')
    expect(page.get_by_role("alert").last).to_contain_text("many")
    expect(visit.cell(0, "id")).to_be_hidden()
    page.get_by_role("button", name="Remove").click()
    expect(visit.cell(0, "id")).to_be_visible()
