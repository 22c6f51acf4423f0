"""People found by a search, named beside keys, and chosen as references."""

from __future__ import annotations

import re
from collections.abc import Generator

import psycopg
import pytest
from playwright.sync_api import Locator, Page, expect
from tests.browser.conftest import Visit

# Names that no seeded row has.
PEOPLE = [("João", "Góméz-Ürsula"), ("Aurora", "Góméz-Ürsula"), ("<b>Zoë</b>", "\u202eQuixadá")]


@pytest.fixture
def people(database: psycopg.Connection) -> Generator[list[int]]:
    """Insert three users of a gym, and remove them."""
    [gym] = database.execute(
        "INSERT INTO gyms (name, address, since) VALUES ('Ginásio Ângelo', '', '2020') RETURNING id"
    ).fetchall()
    keys = [gym[0]]
    for first, last in PEOPLE:
        values = [f"find {first}", first, last, gym[0]]
        insert = "INSERT INTO users (clerk_user_id, first_name, last_name, gym_id) VALUES (%s, %s, %s, %s) RETURNING id"
        keys += [row[0] for row in database.execute(insert, values).fetchall()]
    yield keys
    database.execute("DELETE FROM users WHERE id = ANY(%s)", [keys[1:]])
    database.execute("DELETE FROM gyms WHERE id = %s", [keys[0]])


def shows(page: Page, rows: int) -> None:
    expect(page.locator(".foot .ms")).to_contain_text(re.compile(rf"^{rows} rows? in"))


def test_a_person_is_found_by_name_and_surname_without_accents(visit: Visit, people: list[int]) -> None:
    gym, joao, aurora, zoe = people
    # Wide enough for the grid to draw all columns.
    visit.page.set_viewport_size({"width": 4000, "height": 900})
    page = visit.go("/t/users")
    visit.cell(0, "id").wait_for()
    page.keyboard.press("Control+f")
    box = page.get_by_role("searchbox", name="Search users")
    expect(box).to_be_focused()
    page.keyboard.type("joao gomez")
    shows(page, 1)
    expect(page.locator(".count")).to_have_text("1 row")
    expect(visit.cell_of(joao, "first_name")).to_have_text("João")
    expect(page).to_have_url(re.compile(r"q=joao\+gomez$"))
    # The name of the gym stands beside its key, which alone is copied.
    expect(visit.cell_of(joao, "gym_id")).to_have_text(f"{gym} · Ginásio Ângelo")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.cell_of(joao, "gym_id").locator(".label").click()
    page.keyboard.press("Control+c")
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == str(gym)
    page.get_by_role("button", name="Names").click()
    expect(visit.cell_of(joao, "gym_id")).to_have_text(str(gym))
    page.get_by_role("button", name="Names").click()
    expect(visit.cell_of(joao, "gym_id")).to_contain_text("Ginásio")

    box.fill("gomez ursula")
    shows(page, 2)
    page.get_by_role("button", name="Saved").click()
    page.get_by_role("textbox", name="Name").fill("The Gómez")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Saved the filter, search, sort order and columns as The Gómez.")).to_be_visible()
    box.fill("quixada")
    shows(page, 1)
    expect(visit.cell_of(zoe, "first_name")).to_have_text("<b>Zoë</b>")
    box.fill("nobody has this name")
    expect(page.get_by_text("No rows")).to_be_visible()
    page.reload()
    expect(box).to_have_value("nobody has this name")
    page.get_by_role("button", name="Saved").click()
    page.get_by_role("button", name="The Gómez", exact=True).click()
    shows(page, 2)
    expect(box).to_have_value("gomez ursula")
    expect(visit.cell_of(aurora, "first_name")).to_have_text("Aurora")


def test_rows_are_found_and_filtered_by_the_names_that_references_show(visit: Visit, people: list[int]) -> None:
    gym, joao, *_ = people
    page = visit.go("/t/users?q=ginasio angelo")
    shows(page, 3)
    page.get_by_role("searchbox", name="Search users").fill("")
    shows(page, 100)
    page.get_by_role("button", name="+ Filter").click()
    form = page.get_by_role("dialog", name="Filter")
    form.get_by_label("Column").select_option("gym_id")
    field = form.get_by_role("combobox", name="gym_id")
    field.fill("no gym has this name")
    form.get_by_role("button", name="Apply").click()
    expect(form).to_contain_text("“no gym has this name” names no row of gyms.")
    field.fill("angelo")
    field.press("Enter")
    shows(page, 3)
    expect(page.get_by_role("button", name=f"Filter: gym_id is {gym} · Ginásio Ângelo", exact=True)).to_be_visible()
    page.get_by_role("button", name="+ Filter").click()
    form.get_by_label("Column").select_option("id")
    form.get_by_label("Value").fill(str(joao))
    form.get_by_label("Value").press("Enter")
    shows(page, 1)
    page.get_by_role("button", name=re.compile("Filter: gym_id")).click()
    expect(field).to_have_value(str(gym))
    field.fill("")
    form.get_by_role("button", name="Apply").click()
    expect(page.get_by_text("Type a value for gym_id.")).to_be_visible()


def test_the_palette_offers_rows_below_tables_and_pages(visit: Visit, people: list[int]) -> None:
    page = visit.go("/")
    page.keyboard.press("/")
    page.keyboard.type("gomez joao")
    expect(page.get_by_role("option")).to_have_text([f"João Góméz-Ürsulausers {people[1]}"])
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{visit.base}/t/users/{people[1]}")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"users {people[1]} · João Góméz-Ürsula")
    expect(page.get_by_role("link", name=f"gyms {people[0]} · Ginásio Ângelo")).to_be_visible()


def open_picker(page: Page, cell: Locator) -> None:
    cell.click(position={"x": 3, "y": 3})
    page.keyboard.press("Enter")
    field = page.get_by_role("combobox", name="manager_id")
    expect(field).to_be_focused()
    expect(page.locator(".offers li").first).to_be_visible()
    page.keyboard.press("Control+a")


def test_a_reference_is_chosen_by_name(edit: Visit, database: psycopg.Connection, people: list[int]) -> None:
    gym, joao, aurora, _ = people
    page = edit.go(f'/t/gyms?filter={{"all":[{{"column":"id","op":"is","value":"{gym}"}}]}}')
    cell, options, note = edit.cell_of(gym, "manager_id"), page.locator(".offers li"), page.locator(".offers-note")

    # The only offer is taken by Enter, typed before it arrived.
    open_picker(page, cell)
    page.keyboard.type("aurora gomez")
    page.keyboard.press("Enter")
    expect(cell).to_have_text(f"{aurora} · Aurora Góméz-Ürsula")
    expect(page.get_by_text("1 change staged")).to_be_visible()

    # Of several offers, the arrow keys choose.
    open_picker(page, cell)
    page.keyboard.type("gomez")
    expect(options).to_have_count(2)
    page.keyboard.press("Enter")
    expect(note).to_contain_text("2 rows of users are offered for “gomez”")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(cell).to_have_text(f"{joao} · João Góméz-Ürsula")

    # A text that names no row is not staged, whatever closes the editor.
    open_picker(page, cell)
    page.keyboard.type("Mirabel")
    expect(note).to_have_text("No row matches “Mirabel”.")
    page.keyboard.press("Enter")
    expect(note).to_contain_text("names no row of users")
    page.keyboard.press("Escape")
    expect(cell).to_have_text(f"{joao} · João Góméz-Ürsula")
    open_picker(page, cell)
    page.keyboard.type("Mirabel")
    for key in ("Tab", "Control+s"):
        page.keyboard.press(key)
        expect(note).to_contain_text("names no row of users")
        expect(page.get_by_role("combobox", name="manager_id")).to_be_focused()
    page.keyboard.press("Escape")

    # Digits are a key, and show its name; the review shows names too.
    open_picker(page, cell)
    page.keyboard.type(str(aurora))
    expect(options.first).to_have_text(f"{aurora} · Aurora Góméz-Ürsula")
    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog", name="Staged changes")
    expect(dialog.locator("strong").first).to_have_text(f"gyms {gym} · Ginásio Ângelo")
    expect(dialog.locator("dd")).to_contain_text(f"{aurora} · Aurora Góméz-Ürsula")
    page.keyboard.press("Control+s")
    expect(dialog).to_be_hidden()
    expect(page.get_by_text("Saved 1 change.")).to_be_visible()
    assert database.execute("SELECT manager_id FROM gyms WHERE id = %s", [gym]).fetchone() == (aurora,)
    database.execute("UPDATE gyms SET manager_id = NULL WHERE id = %s", [gym])
