"""Jobs over many rows at once: set a column, fill down, delete, undo, paste, import."""

from __future__ import annotations

from collections.abc import Generator

import psycopg
import pytest
from playwright.sync_api import FilePayload, Page, expect
from tests.browser.conftest import Visit

Keys = list[int]


@pytest.fixture
def members(database: psycopg.Connection) -> Generator[Keys]:
    """Yield the keys of ten members who wait for their approval."""
    found = database.execute(
        "INSERT INTO users (clerk_user_id, first_name)"
        " SELECT 'many ' || n, 'Member ' || n FROM generate_series(1, 10) AS n RETURNING id"
    ).fetchall()
    keys = [int(key) for (key,) in found]
    yield keys
    database.execute("DELETE FROM users WHERE clerk_user_id LIKE 'many %'")


def members_page(visit: Visit) -> Page:
    page = visit.go('/t/users?sort=id&filter={"column":"clerk_user_id","op":"starts","value":"many "}')
    expect(visit.cell(9, "id")).to_be_visible()
    return page


def column(database: psycopg.Connection, name: str, condition: str = "clerk_user_id LIKE 'many %'") -> list[object]:
    return [value for (value,) in database.execute(f"SELECT {name} FROM users WHERE {condition} ORDER BY id")]


def box(key: int) -> str:
    return f'.ag-row[row-id="{key}"] .ag-selection-checkbox input'


def save(page: Page) -> None:
    page.keyboard.press("Control+s")
    dialog = page.get_by_role("dialog", name="Staged changes")
    expect(dialog.locator(".statements pre").first).to_be_visible()
    page.keyboard.press("Control+s")
    expect(dialog).to_be_hidden()


def test_ten_members_are_approved_in_four_steps(edit: Visit, database: psycopg.Connection, members: Keys) -> None:
    page = members_page(edit)
    page.get_by_role("checkbox", name="Column with Header Selection").check()
    page.get_by_role("button", name="Set column…").click()
    form = page.get_by_role("dialog", name="Set column")
    expect(form).to_contain_text("Set a column in 10 rows")
    form.get_by_role("combobox", name="Column").select_option("approved_at")
    form.get_by_role("button", name="Now").click()
    expect(page.get_by_text("10 changes staged")).to_be_visible()
    save(page)
    assert column(database, "now() AT TIME ZONE 'UTC' - approved_at BETWEEN '0' AND '1 hour'") == [True] * 10

    # The fourth to the sixth member, by a range of boxes; a typed value; then all of it undone at once.
    page.get_by_role("checkbox", name="Column with Header Selection").uncheck()
    page.locator(box(members[3])).check()
    page.locator(box(members[5])).click(modifiers=["Shift"])
    page.get_by_role("button", name="Set column…").click()
    expect(form).to_contain_text("Set a column in 3 rows")
    form.get_by_role("combobox", name="Column").select_option("plan")
    form.get_by_role("textbox", name="plan").fill("monthly")
    form.get_by_role("textbox", name="plan").press("Enter")
    expect(page.get_by_text("3 changes staged")).to_be_visible()
    expect(edit.cell_of(members[4], "plan")).to_have_text("monthly")
    page.get_by_role("button", name="Delete selected rows").click()
    expect(page.locator(".ag-row.gone")).to_have_count(3)
    edit.cell_of(members[0], "plan").click()
    page.keyboard.press("Control+z")
    expect(page.locator(".ag-row.gone")).to_have_count(0)
    expect(page.get_by_text("3 changes staged")).to_be_visible()
    page.keyboard.press("Control+z")
    expect(page.get_by_text("staged, not saved")).to_be_hidden()
    expect(edit.cell_of(members[4], "plan")).to_have_text("NULL")


def test_the_first_of_the_selected_cells_fills_the_others(
    edit: Visit, database: psycopg.Connection, members: Keys
) -> None:
    database.execute("UPDATE users SET plan = 'yearly' WHERE id = %s", [members[1]])
    page = members_page(edit)
    edit.cell_of(members[1], "plan").click()
    page.evaluate(
        """() => {
            const cell = document.activeElement;
            for (const _ of [1, 2])
                cell.dispatchEvent(
                    new KeyboardEvent("keydown", { key: "ArrowDown", shiftKey: true, bubbles: true, cancelable: true }),
                );
        }"""
    )
    expect(page.locator(".ag-cell.ranged")).to_have_count(3)
    page.keyboard.press("Control+d")
    expect(page.get_by_text("2 changes staged")).to_be_visible()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.keyboard.press("Control+c")
    expect(page.get_by_text("Copied 3 values.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == ["yearly"] * 3

    # A range by mouse, from the same first cell.
    edit.cell_of(members[6], "plan").click(modifiers=["Shift"])
    expect(page.locator(".ag-cell.ranged")).to_have_count(6)
    page.keyboard.press("Control+d")
    expect(page.get_by_text("5 changes staged")).to_be_visible()

    # Rows that are ticked, by mouse and by keyboard, below the cell that had the focus before.
    edit.cell_of(members[5], "plan").click()
    expect(page.locator(".ag-cell.ranged")).to_have_count(0)
    page.locator(box(members[7])).check()
    page.keyboard.press("Control+d")
    expect(page.get_by_text("6 changes staged")).to_be_visible()
    edit.cell_of(members[8], "plan").click()
    page.keyboard.press("Shift+Space")
    expect(page.locator(box(members[8]))).to_be_checked()
    page.keyboard.press("Control+d")
    expect(page.get_by_text("7 changes staged")).to_be_visible()
    save(page)
    assert column(database, "plan") == [None, *["yearly"] * 8, None]


def paste(page: Page, text: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.keyboard.press("Control+v")


def test_a_block_is_pasted_after_a_preview(edit: Visit, database: psycopg.Connection, members: Keys) -> None:
    page = members_page(edit)
    edit.cell_of(members[7], "plan").click()
    paste(page, 'yearly\t26/11/2026 10:00\r\n"two\nlines"\t11/26/2026\r\n\t\r\nbeyond\tthe page\r\n')
    preview = page.get_by_role("dialog", name="Paste a block")
    expect(preview.get_by_role("status")).to_have_text(
        "3 cells change, 1 cell does not fit, 2 cells beyond the last row or column of the page are left out"
    )
    expect(preview.locator("td.bad")).to_contain_text("the day comes first, as in 26/11/2026")
    expect(preview.locator("ins")).to_have_text(["yearly", "2026-11-26 10:00:00", "two\nlines"])
    preview.get_by_role("combobox", name="Empty cells").select_option("Empty text")
    expect(preview.get_by_role("status")).to_contain_text("4 cells change, 2 cells do not fit")
    expect(page.get_by_text("staged, not saved")).to_be_hidden()
    preview.get_by_role("button", name="Stage 4 cells").click()
    expect(page.get_by_text("3 changes staged")).to_be_visible()
    page.keyboard.press("Control+z")
    expect(page.get_by_text("staged, not saved")).to_be_hidden()

    paste(page, "yearly\t26/11/2026 10:00\n")
    preview.get_by_role("button", name="Stage 2 cells").click()
    # A column of a spreadsheet has lines, and no tab.
    edit.cell_of(members[8], "plan").click()
    paste(page, "monthly\nweekly")
    preview.get_by_role("button", name="Stage 2 cells").click()
    save(page)
    assert column(database, "plan")[7:10] == ["yearly", "monthly", "weekly"]
    assert column(database, "approved_at::text")[7] == "2026-11-26 10:00:00"


def test_ten_members_are_imported_from_csv(edit: Visit, database: psycopg.Connection, members: Keys) -> None:
    database.execute("DELETE FROM users WHERE id = ANY(%s)", [members])
    page = edit.go('/t/users?sort=id&filter={"column":"clerk_user_id","op":"starts","value":"many "}')
    expect(page.get_by_text("No rows")).to_be_visible()
    page.get_by_role("button", name="Import").click()
    dialog = page.get_by_role("dialog", name="Import into users")
    lines = [f"many {n};João {n};26/11/2026 10:00;{n}" for n in range(1, 11)]
    content = "CLERK user id;First Name;approved;shoe size\r\n" + "\r\n".join(lines)
    file: FilePayload = {
        "name": "members.csv",
        "mimeType": "text/csv",
        "buffer": (content + "\r\nmany 1;again;;").encode("cp1252"),
    }
    dialog.get_by_label("File").set_input_files([file])
    expect(dialog.get_by_label("Column for First Name")).to_have_value("first_name")
    expect(dialog.get_by_label("Encoding")).to_have_value("cp1252")
    expect(dialog.get_by_label("Separator")).to_have_value(";")
    expect(dialog).to_contain_text("Not imported: approved, shoe size.")
    dialog.get_by_label("Column for approved").select_option("approved_at")
    dialog.get_by_role("button", name="Add one value for all rows").click()
    dialog.get_by_role("combobox", name="Column", exact=True).select_option("plan")
    dialog.get_by_role("textbox", name="Value for all rows").fill("monthly")
    dialog.get_by_role("button", name="Check the rows").click()
    expect(dialog.get_by_text("10 rows fit, 1 does not. Nothing is imported yet.")).to_be_visible()
    expect(dialog.get_by_role("row", name="12 clerk_user_id")).to_contain_text("another row already has this")
    save_button = dialog.get_by_role("button", name="Import 10 rows")
    expect(save_button).to_be_disabled()
    assert column(database, "id") == []

    dialog.get_by_role("checkbox", name="Import only the rows that fit").check()
    save_button.click()
    expect(dialog.get_by_text("Imported 10 rows.")).to_be_visible()
    assert column(database, "first_name || ' ' || plan || ' ' || approved_at") == [
        f"João {n} monthly 2026-11-26 10:00:00" for n in range(1, 11)
    ]
    dialog.get_by_role("button", name="Close").last.click()
    expect(edit.cell(9, "first_name")).to_have_text("João 10")
