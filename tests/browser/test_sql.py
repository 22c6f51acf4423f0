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


def run_all(page: Page, text: str) -> None:
    write(page, text)
    page.keyboard.press("Alt+Enter")


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
    first = page.locator(".cm-tooltip-autocomplete li").first
    write(page, "SE")
    page.keyboard.press("Control+Space")
    expect(first).to_have_text("SELECT")
    page.keyboard.press("Escape")
    for typed, label, completed in (
        ("SELECT regexp_repl", "regexp_replace", "regexp_replace()"),
        ("SELECT * FROM pg_stat_activ", "pg_catalog.pg_stat_activity", "pg_catalog.pg_stat_activity"),
        ("UPDATE gyms SET addr", "address", "SET address"),
    ):
        write(page, typed)
        page.keyboard.press("Control+Space")
        expect(first).to_contain_text(label)
        first.click()
        expect(page.locator(".cm-content")).to_contain_text(completed)


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
    expect(page.locator(".outcome")).to_contain_text("1 row in")
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


def test_a_tab_has_a_session_with_transactions_and_questions(edit: Visit, database: psycopg.Connection) -> None:
    database.execute("CREATE TABLE sessions_of_tabs AS SELECT n FROM generate_series(1, 60) AS n")
    database.execute("GRANT ALL ON sessions_of_tabs TO PUBLIC")
    count = "SELECT count(*) FROM sessions_of_tabs"
    page = edit.go("/sql")
    session = page.locator(".session")

    run_all(page, "BEGIN; DELETE FROM sessions_of_tabs WHERE n > 10; SELECT count(*) FROM sessions_of_tabs;")
    expect(page.locator(".outcome")).to_contain_text("3 statements in")
    expect(session).to_contain_text("A transaction is open.")
    expect(session.locator(".transaction.warning")).to_be_visible()
    expect(edit.cell(0, "0")).to_have_text("10")
    page.locator(".result-list").get_by_role("button", name="DELETE 50").click()
    expect(page.locator(".result .command")).to_have_text("DELETE 50")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Overview").click()
    expect(page.locator(".sql")).to_have_count(0)
    page.go_back()
    page.locator(".result-list").get_by_role("button", name="1 row in").click()
    expect(edit.cell(0, "0")).to_have_text("10")
    session.get_by_role("button", name="Roll back").click()
    expect(session).to_be_hidden()
    assert database.execute(count).fetchone() == (60,)

    run(page, "DELETE FROM sessions_of_tabs")
    question = page.get_by_role("dialog", name="Do you want this?")
    expect(question).to_contain_text("deletes 60 rows of sessions_of_tabs")
    assert database.execute(count).fetchone() == (60,)
    question.get_by_role("button", name="No, change nothing").click()
    expect(page.locator(".result .command")).to_have_text(
        "The statement was rolled back, as you chose. It changed nothing."
    )
    expect(page.locator(".outcome:not(.wrong)")).to_have_text("rolled back, as you chose")
    assert database.execute(count).fetchone() == (60,)
    run(page, "DELETE FROM sessions_of_tabs WHERE n > 0")
    expect(question).to_contain_text("changes or deletes more than 20 rows")
    question.get_by_role("button", name="Yes, do it").click()
    expect(page.locator(".outcome")).to_contain_text("DELETE 60")
    assert database.execute(count).fetchone() == (0,)

    run_all(page, "SELECT 1;\nBEGIN;\nSELECT '😀', nothing_there FROM users; SELECT 2")
    expect(page.locator(".outcome")).to_have_text("statement 3 of 4 failed")
    expect(page.locator(".cm-lintRange-error")).to_have_text("nothing_there")
    expect(page.get_by_role("button", name="Line 3, column 14")).to_be_visible()
    expect(session).to_contain_text("The transaction has failed.")
    edit.expected.append("dialog:")
    page.reload()
    assert [text for text in edit.wrong if text.startswith("dialog:")] == ["dialog: "]
    database.execute("DROP TABLE sessions_of_tabs")


def test_a_tab_with_an_open_transaction_is_closed_after_a_question(edit: Visit, database: psycopg.Connection) -> None:
    database.execute("CREATE TABLE closed_tabs (n int); GRANT ALL ON closed_tabs TO PUBLIC")
    numbers = "SELECT array_agg(n) FROM closed_tabs"
    page = edit.go("/sql")
    tabs = page.get_by_role("tab")
    question = page.get_by_role("dialog", name="Close Query")

    def begin(statement: str) -> None:
        page.locator(".cm-content").wait_for()
        page.keyboard.press("Alt+t")
        expect(tabs).to_have_count(2)
        run_all(page, f"BEGIN; {statement}")
        expect(page.locator(".session")).to_contain_text("transaction")
        page.keyboard.press("Alt+w")
        expect(question).to_contain_text("Closing the tab rolls it back")

    begin("INSERT INTO closed_tabs VALUES (1)")
    question.get_by_role("button", name="Keep the tab open").click()
    expect(page.get_by_role("tab", name="open transaction")).to_have_text("Query 2, open transaction")
    expect(page.locator(".session")).to_contain_text("A transaction is open.")
    page.keyboard.press("Alt+w")
    question.get_by_role("button", name="Commit and close").click()
    expect(tabs).to_have_count(1)
    assert database.execute(numbers).fetchone() == ([1],)
    begin("INSERT INTO closed_tabs VALUES (2)")
    question.get_by_role("button", name="Roll back and close").click()
    expect(tabs).to_have_count(1)
    database.execute("ALTER TABLE closed_tabs ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED")
    begin("INSERT INTO closed_tabs VALUES (1)")
    question.get_by_role("button", name="Commit and close").click()
    expect(page.locator(".results .problem")).to_contain_text("duplicate key")
    expect(tabs).to_have_count(2)
    page.keyboard.press("Alt+w")
    expect(tabs).to_have_count(1)
    begin("SELECT 1/0")
    expect(question.get_by_role("button", name="Commit and close")).to_have_count(0)
    question.get_by_role("button", name="Roll back and close").click()
    expect(tabs).to_have_count(1)
    assert database.execute(numbers).fetchone() == ([1],)
    database.execute("DROP TABLE closed_tabs")


def test_notices_notifications_and_the_end_of_a_session_are_shown(visit: Visit, database: psycopg.Connection) -> None:
    page = visit.go("/sql")
    run(page, "DO $$ BEGIN RAISE WARNING 'careful <b>'; END $$")
    expect(page.locator(".notices li")).to_have_text("Warning: careful <b>")
    run(page, "LISTEN gossip")
    expect(page.locator(".outcome")).to_contain_text("LISTEN")
    database.execute("NOTIFY gossip, 'a new belt'")
    expect(page.locator(".notifications")).to_contain_text("gossip: a new belt")
    run_all(page, "BEGIN; SELECT pg_backend_pid()")
    expect(visit.cell(0, "0")).to_have_text(re.compile(r"^\d+$"))
    pid = visit.cell(0, "0").inner_text()
    expect(page.locator(".session")).to_contain_text("A transaction is open.")
    database.execute(f"SELECT pg_terminate_backend({pid})")
    expect(page.locator(".session")).to_contain_text("Its open transaction was rolled back.")
    run(page, "SELECT pg_sleep(60)")
    expect(page.locator(".results .problem")).to_contain_text("the session of this tab has ended")
    run(page, "SELECT pg_sleep(60)")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Schema").click()
    expect(page.locator(".sql")).to_have_count(0)
    page.go_back()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".results .problem")).to_contain_text("cancel")
