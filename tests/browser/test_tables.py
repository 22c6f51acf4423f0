"""Any table of the database, and values of its types: found, read, edited in the grid and on the row's own page."""

from __future__ import annotations

from collections.abc import Generator

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no py.typed
from playwright.sync_api import expect
from tests.browser.conftest import Visit

ODD = 'Od.d "Table" /%41'
ODD_ADDRESS = "/t/billing.Od%252Ed%20%22Table%22%20%252F%252541"
SCHEMA = f"""
DROP SCHEMA IF EXISTS billing CASCADE;
CREATE SCHEMA billing;
CREATE TYPE billing.state AS ENUM ('open', 'paid, late', 'paid');
CREATE TABLE billing."{ODD.replace('"', '""')}" (
    gym text, number integer, state billing.state, sent boolean, due timestamp, day date, data jsonb, scan bytea,
    grid integer[], zero text[], big bigint, written integer GENERATED ALWAYS AS (number * 2) STORED,
    PRIMARY KEY (number, gym)
);
INSERT INTO billing."{ODD.replace('"', '""')}" VALUES (
    'a/b', 1, 'open', false, '2026-01-02 03:04:05.678901', NULL,
    '{{"a": [1, {{"b": "<i>x</i>"}}], "n": 9007199254740993}}',
    '\\x00ff10', '{{{{1,2}},{{3,NULL}}}}', '[0:1]={{x,y}}', 9007199254740993);
CREATE TABLE billing.log AS SELECT 1 AS line;
UPDATE pg_class SET reltuples = 2000000 WHERE oid = 'billing.log'::regclass;
CREATE VIEW billing.open_invoices AS SELECT number, data, grid FROM billing."{ODD.replace('"', '""')}";
COMMENT ON VIEW billing.open_invoices IS 'Invoices that wait for money.';
GRANT USAGE ON SCHEMA billing TO tatame_studio_writer;
GRANT ALL ON ALL TABLES IN SCHEMA billing TO tatame_studio_writer;
"""


@pytest.fixture
def billing(database: psycopg.Connection, writing: str) -> Generator[psycopg.Connection]:  # noqa: ARG001, its role
    database.execute(SCHEMA.encode())
    yield database
    database.execute("DROP SCHEMA billing CASCADE")


def stored(database: psycopg.Connection, column: str) -> str | None:
    table = '"' + ODD.replace('"', '""') + '"'
    row = database.execute(f"SELECT {column}::text FROM billing.{table}".encode()).fetchone()
    return row[0] if row else "gone"


def review_and_save(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog", name="Staged changes")
    expect(dialog.locator(".statements pre").first).to_be_visible()
    page.keyboard.press("Control+s")
    expect(dialog).to_be_hidden()


def test_a_table_of_any_name_is_found_and_values_of_every_type_are_edited(
    edit: Visit, billing: psycopg.Connection
) -> None:
    page = edit.go("/")
    tables = page.get_by_role("navigation", name="Tables")
    expect(tables.get_by_role("heading", name="billing")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type('od.d "t')
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"billing.{ODD}")).to_be_visible()
    assert page.url.endswith(ODD_ADDRESS)
    expect(tables.locator("[aria-current]")).to_have_text(ODD)

    def cell(column: str) -> str:
        return f'.ag-row .ag-cell[col-id="{column}"]'

    expect(page.locator(cell("big"))).to_have_text("9007199254740993")
    expect(page.locator(cell("grid"))).to_have_text("{{1,2},{3,NULL}}")
    expect(page.locator(cell("scan"))).to_contain_text("3 B")

    # An enum by its list, a boolean by typing its first letter, and a value that PostgreSQL writes not at all.
    page.locator(cell("state")).click()
    page.keyboard.press("Enter")
    page.get_by_role("listbox", name="state").get_by_role("option", name="paid, late").click()
    expect(page.locator(cell("state"))).to_have_text("paid, late")
    page.locator(cell("sent")).click()
    page.keyboard.press("Enter")
    expect(page.get_by_role("listbox", name="sent")).to_be_focused()
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    expect(page.locator(cell("sent"))).to_have_text("true")
    page.locator(cell("written")).click()
    page.keyboard.press("Delete")
    expect(page.get_by_text("written cannot be edited")).to_be_visible()

    # A date with the day first, and one that is none.
    for column, typed, shown in (("due", "26/11/2026 10:00", "2026-11-26 10:00:00"), ("day", "1/2/2026", "2026-02-01")):
        page.locator(cell(column)).click()
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name=column, exact=True).fill("31/31/2026")
        page.keyboard.press("Enter")
        expect(page.locator(".editor .wrong")).to_have_text("31 is not a month; the day comes first.")
        page.get_by_role("textbox", name=column, exact=True).fill(typed)
        expect(page.locator(".editor .read")).to_have_text(f"= {shown}")
        page.keyboard.press("Enter")
        expect(page.locator(cell(column))).to_have_text(shown)
    # An array of several dimensions as PostgreSQL writes it.
    page.locator(cell("grid")).click()
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="grid", exact=True).fill("{{1,2},{3,4}}")
    page.keyboard.press("Enter")
    page.locator(cell("zero")).click()
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="zero", exact=True).fill("[0:1]={x,z}")
    page.keyboard.press("Enter")
    expect(page.locator(cell("zero"))).to_have_text("[0:1]={x,z}")
    review_and_save(edit)
    expect(page.get_by_text("staged, not saved")).to_be_hidden()
    assert [stored(billing, name) for name in ("state", "sent", "due", "day", "grid", "zero", "scan", "big")] == [
        "paid, late",
        "true",
        "2026-11-26 10:00:00",
        "2026-02-01",
        "{{1,2},{3,4}}",
        "[0:1]={x,z}",
        "\\x00ff10",
        "9007199254740993",
    ]


def test_the_page_of_a_row_edits_it_and_a_view_says_why_it_cannot_be_edited(
    edit: Visit, billing: psycopg.Connection
) -> None:
    page = edit.go(f"{ODD_ADDRESS}/%5B%221%22%2C%20%22a%2Fb%22%5D")
    expect(page.get_by_role("heading", name=f"billing.{ODD} 1 · a/b")).to_be_visible()
    tree = page.locator(".json")
    expect(tree).to_contain_text("9007199254740993")
    tree.get_by_text("a: [] 2 items").click()
    tree.get_by_text("1: {} 1 member").click()
    expect(tree.get_by_text("b: <i>x</i>")).to_be_visible()
    assert Axe().run(page).response["violations"] == []

    page.get_by_role("button", name="Edit data").click()
    field = page.get_by_role("textbox", name="data")
    expect(field).to_be_focused()
    field.fill('{"a": }')
    page.keyboard.press("Enter")
    expect(page.locator(".editor .wrong")).to_contain_text("This is not JSON")
    field.fill('{"a": 9007199254740993.10}')
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Edit data")).to_be_focused()
    expect(page.locator("dd.staged")).to_contain_text("9007199254740993.10")
    # Leaving the editor accepts, Escape discards, and Ctrl+Z undoes.
    page.get_by_role("button", name="Edit day").click()
    page.get_by_role("textbox", name="day", exact=True).fill("26/11/2026")
    page.get_by_role("button", name="Edit big").click()
    page.keyboard.press("Escape")
    expect(page.locator("dd.staged")).to_have_count(2)
    page.keyboard.press("Control+z")
    expect(page.locator("dd.staged")).to_have_count(1)
    expect(page.get_by_role("button", name="Edit written")).to_have_count(0)
    review_and_save(edit)
    expect(page.locator("dd.staged")).to_have_count(0)
    expect(tree).to_contain_text("9007199254740993.10")
    assert (stored(billing, "data"), stored(billing, "day")) == ('{"a": 9007199254740993.10}', None)

    page = edit.go("/t/billing.log")
    expect(page.get_by_text("Without a key, a late page reads all rows before it")).to_be_visible()
    page = edit.go("/t/billing.open_invoices")
    expect(page.locator(".note")).to_have_text(
        "Invoices that wait for money. A view has no key, so no statement can name one of its rows."
    )
    page.keyboard.press("Insert")
    expect(page.get_by_role("status").filter(has_text="A view has no key")).to_be_visible()
    page.locator('.ag-cell[col-id="data"]').click()
    page.keyboard.press("Space")
    expect(page.locator(".panel .json")).to_contain_text("a: 9007199254740993.10")
    assert Axe().run(page).response["violations"] == []
