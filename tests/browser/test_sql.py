from __future__ import annotations

import re
from collections.abc import Callable

import psycopg
from playwright.sync_api import BrowserContext, Page, expect
from tests.browser.conftest import Visit, visit_to


def write(page: Page, text: str) -> None:
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def run(page: Page, text: str) -> None:
    write(page, text)
    page.keyboard.press("Control+Enter")


def test_a_statement_reports_its_rows_and_its_time(visit: Visit) -> None:
    page = visit.go("/sql")
    run(page, "SELECT n, NULL AS nothing, '' AS empty FROM generate_series(1, 3) n")
    expect(page.locator(".outcome")).to_contain_text(re.compile(r"^3 rows in [\d.]+ ms$"))
    expect(visit.cell(2, "0")).to_have_text("3")
    expect(visit.cell(0, "1")).to_have_text("NULL")
    expect(visit.cell(0, "2")).to_have_text("empty")


def test_only_the_selection_or_the_statement_at_the_cursor_runs(visit: Visit) -> None:
    page = visit.go("/sql")
    run(page, "SELECT 1 AS one;\n\nSELECT 2 AS two;")
    expect(page.locator(".ag-header-cell .name")).to_have_text("two")
    page.keyboard.press("Control+Home")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".ag-header-cell .name")).to_have_text("one")
    write(page, "SELECT 'whole', 3 AS three")
    for _ in range(len("3 AS three")):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".results .problem")).to_contain_text("syntax error")


def test_an_error_is_underlined_at_its_position(visit: Visit) -> None:
    page = visit.go("/sql")
    run(page, "SELECT '😀',\n  no_such_thing FROM users")
    expect(page.locator(".results .problem")).to_contain_text('column "no_such_thing" does not exist')
    expect(page.locator(".cm-lintRange-error")).to_have_text("no_such_thing")
    page.get_by_role("button", name="Line 2, column 3").click()
    page.keyboard.type("NULL AS ")
    expect(page.locator(".cm-line").nth(1)).to_contain_text("NULL AS no_such_thing")


def test_tables_and_columns_are_completed(visit: Visit) -> None:
    page = visit.go("/sql")
    write(page, "SELECT * FROM notific")
    page.keyboard.press("Control+Space")
    expect(page.locator(".cm-tooltip-autocomplete li").first).to_contain_text("notifications")
    page.keyboard.press("Escape")
    write(page, "SELECT  FROM users u WHERE u.clerk")
    page.keyboard.press("Control+Space")
    expect(page.locator(".cm-tooltip-autocomplete li").first).to_contain_text("clerk_user_id")
    page.locator(".cm-tooltip-autocomplete li").first.click()
    expect(page.locator(".cm-content")).to_contain_text("u.clerk_user_id")


def test_a_plan_is_a_tree_with_times(visit: Visit) -> None:
    page = visit.go("/sql")
    write(page, "SELECT * FROM users u JOIN gyms g ON g.id = u.gym_id WHERE g.name <> '<b>'")
    page.keyboard.press("Control+Shift+Enter")
    expect(page.locator(".plan")).to_contain_text("Seq Scan on users as u")
    expect(page.locator(".plan")).to_contain_text("Own cost")
    page.get_by_role("button", name="Explain analyze").click()
    expect(page.locator(".plan")).to_contain_text("Own time")
    expect(page.locator(".plan .step", has_text="Level 2").first).to_be_visible()


def test_a_running_statement_is_cancelled_on_the_server(visit: Visit, database: psycopg.Connection) -> None:
    page = visit.go("/sql")
    running = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE query LIKE '%pg_sleep(77)%' AND state = 'active' AND pid <> pg_backend_pid()"
    )
    run(page, "SELECT pg_sleep(77)")
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_visible()
    while database.execute(running).fetchone() != (1,):
        page.wait_for_timeout(50)
    cancel.click()
    expect(page.locator(".results .problem")).to_contain_text("cancel")
    expect(cancel).to_be_hidden()
    assert database.execute(running).fetchone() == (0,)
    run(page, "SELECT 'still running' AS next")
    expect(visit.cell(0, "0")).to_have_text("still running")


def test_rows_stop_at_the_limit_and_the_page_reports_it(visit: Visit) -> None:
    page = visit.go("/sql")
    page.get_by_role("combobox", name="Row limit").select_option("100")
    run(page, "SELECT * FROM checkins")
    expect(page.locator(".outcome")).to_contain_text(re.compile(r"^100 rows in .*; more are available$"))


def test_a_read_only_studio_rejects_writing_statements(visit: Visit, database: psycopg.Connection) -> None:
    page = visit.go("/sql")
    run(page, "DELETE FROM checkins")
    expect(page.locator(".results .problem")).to_be_visible()
    assert database.execute("SELECT count(*) > 0 FROM checkins").fetchone() == (True,)


def test_tabs_and_history_are_stored(visit: Visit) -> None:
    page = visit.go("/sql")
    run(page, "SELECT 'first' AS tab")
    expect(page.locator(".outcome")).to_contain_text("1 rows")
    page.keyboard.press("Alt+t")
    expect(page.get_by_role("tab", name="Query 2")).to_have_attribute("aria-selected", "true")
    page.keyboard.insert_text("SELECT 'second'")
    page.reload()
    expect(page.locator(".cm-content")).to_have_text("SELECT 'second'")
    page.get_by_role("tab", name="Query 1").click()
    expect(page.locator(".cm-content")).to_have_text("SELECT 'first' AS tab")
    page.keyboard.press("Alt+h")
    page.get_by_role("dialog", name="History").get_by_role("button", name="SELECT 'first' AS tab").click()
    expect(page.get_by_role("tab", name="Query 3")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Alt+w")
    expect(page.get_by_role("tab")).to_have_count(2)


def test_two_tabs_run_at_once(contexts: Callable[..., BrowserContext], reading: str) -> None:
    context = contexts()
    with visit_to(context, reading) as one, visit_to(context, reading) as two:
        one.go("/sql")
        two.go("/sql")
        run(one.page, "SELECT pg_sleep(60)")
        expect(one.page.get_by_role("button", name="Cancel")).to_be_visible()
        run(two.page, "SELECT 'not blocked' AS result")
        expect(two.cell(0, "0")).to_have_text("not blocked")
        one.page.keyboard.press("Alt+.")
        expect(one.page.locator(".results .problem")).to_contain_text("cancel")
