from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no py.typed
from playwright.sync_api import BrowserContext, Page, expect
from sqlalchemy import URL, Text
from tests.browser.conftest import COMMAND, HOSTILE, Home, Visit, studio_of, visit_to

from tatame_db.database.address import readable
from tatame_db.schema import Base

Contexts = Callable[..., BrowserContext]


def test_the_overview_shows_the_server_the_schema_and_the_tables(visit: Visit, database: psycopg.Connection) -> None:
    page = visit.go("/")
    for fact in ("Server", "Role", "Revision", "Pool", "read-only"):
        expect(page.locator("main")).to_contain_text(fact)
    assert page.locator("table.list tbody tr").count() == len(Base.metadata.tables)
    page.get_by_role("button", name=re.compile("^checkins has about")).click()
    rows = database.execute("SELECT to_char(count(*), 'FM9,999,999') FROM checkins").fetchone()
    assert rows
    expect(page.get_by_role("button", name=f"checkins has exactly {rows[0]} rows")).to_be_visible()
    page.get_by_role("button", name="Compare with the models").click()
    expect(page.locator("main")).to_contain_text("none: the database matches the models")


def test_the_doctor_examines_on_request_and_shows_what_is_not_good(visit: Visit, database: psycopg.Connection) -> None:
    database.execute(
        "ALTER TABLE app_stores ADD CONSTRAINT <hostile>".replace("<hostile>", '"<b>x" CHECK (id > 0) NOT VALID')
    )
    try:
        page = visit.go("/")
        card = page.get_by_label("Doctor")
        card.get_by_role("button", name="Examine the database").click()
        # Longer than other requests: it builds the migrations on a server of its own.
        expect(card).to_contain_text("1 warn", timeout=120_000)
        for words in ("not checked", "unvalidated constraints: old rows may violate", '"<b>x"', "GRANT", "Fix: "):
            expect(card).to_contain_text(words)
        expect(card).not_to_contain_text("time zone")
        expect(card.locator("code").filter(has_text="VALIDATE CONSTRAINT")).to_have_count(1)
        expect(card).not_to_contain_text("`")
        database.execute('ALTER TABLE app_stores DROP CONSTRAINT "<b>x"')
        card.get_by_role("button", name="Examine again").click()
        expect(card).not_to_contain_text("unvalidated constraints", timeout=120_000)
    finally:
        database.execute('ALTER TABLE app_stores DROP CONSTRAINT IF EXISTS "<b>x"')


def test_every_table_is_found_by_name_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.go("/")
    for table in Base.metadata.tables:
        page.keyboard.press("/")
        page.keyboard.type(table)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(table)
        expect(page).to_have_title(f"{table} · Tatame studio")
    page.keyboard.press("/")
    page.keyboard.type("sch")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Schema")


def test_cells_sorting_and_references_work_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.go("/")
    page.keyboard.press("/")
    page.keyboard.type("graduations")
    page.keyboard.press("Enter")
    visit.cell(0, "id").wait_for()
    page.wait_for_function("document.activeElement.closest('.ag-cell') !== null")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"sort=id"))
    # The heading shows the order once the rows have arrived; a key that comes before may be lost.
    expect(page.locator(".ag-header-cell[aria-sort=ascending]")).to_have_count(1)
    visit.cell(0, "id").wait_for()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"sort=-id"))
    expect(page.locator(".ag-header-cell[aria-sort=descending]")).to_have_count(1)
    visit.cell(0, "id").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("F4")
    expect(page).to_have_url(re.compile(r"/t/users/\d+$"))
    page.go_back()
    expect(page).to_have_url(re.compile(r"sort=-id"))
    page.go_back()
    expect(page).to_have_url(re.compile(r"sort=id"))


def test_tab_leaves_the_grid(visit: Visit) -> None:
    page = visit.go("/t/users")
    visit.cell(0, "email").click()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.foot') !== null")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.closest('.rows-grid') !== null")


def test_the_keyboard_shortcuts_are_listed(visit: Visit) -> None:
    page = visit.go("/")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_contain_text("Follow the reference")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    for key, path in (("2", "/sql"), ("3", "/schema"), ("4", "/move"), ("1", "/")):
        page.keyboard.press(f"Alt+{key}")
        expect(page).to_have_url(visit.base + path)


def test_a_row_shows_its_references_and_the_rows_that_reference_it(visit: Visit, database: psycopg.Connection) -> None:
    found = database.execute(
        "SELECT u.id, g.name, (SELECT count(*) FROM graduations WHERE user_id = u.id)"
        " FROM users u JOIN gyms g ON g.id = u.gym_id JOIN graduations ON user_id = u.id LIMIT 1"
    ).fetchone()
    assert found
    user, gym, graduations = found
    page = visit.go(f"/t/users/{user}")
    expect(page.get_by_text("The studio keeps no history")).to_be_visible()
    expect(page.locator("main")).to_contain_text(gym)
    link = page.locator(".incoming li", has_text="graduations")
    expect(link).to_contain_text(f"{graduations} row")
    link.get_by_role("link").click()
    expect(page.locator(".chip")).to_contain_text(f"user_id is {user}")
    expect(page.locator(".foot")).to_contain_text(f"{graduations} rows in")


def test_missing_rows_tables_and_pages_are_reported(visit: Visit) -> None:
    visit.expected.append("404")
    page = visit.go("/t/users/999999")
    expect(page.get_by_role("alert").last).to_contain_text("999999")
    visit.go("/t/nothing")
    expect(page.locator("main")).to_contain_text("This database has no table named nothing")
    visit.go("/nowhere")
    expect(page.locator("main")).to_contain_text("Page not found")


def test_the_diagram_shows_all_tables_and_references_and_links_to_rows(visit: Visit, tmp_path: Path) -> None:
    page = visit.go("/schema")
    keys = sum(len(table.foreign_keys) for table in Base.metadata.tables.values())
    expect(page.locator("svg a.table")).to_have_count(len(Base.metadata.tables))
    expect(page.locator("svg .edge")).to_have_count(keys)
    before = page.locator("svg.diagram > g").get_attribute("transform")
    page.get_by_role("button", name="Zoom in").click()
    assert page.locator("svg.diagram > g").get_attribute("transform") != before
    page.get_by_role("button", name="Outline").click()
    expect(page.get_by_role("region", name="Outline")).to_contain_text("manager_id integer, references users.id")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export SVG").click()
    download.value.save_as(tmp_path / "schema.svg")
    drawing = (tmp_path / "schema.svg").read_text()
    assert drawing.startswith("<svg")
    assert all(f">{table}<" in drawing for table in Base.metadata.tables)
    page.locator("svg a.table", has_text="gyms").first.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/t/gyms$"))


def test_the_move_page_explains_how_to_start(visit: Visit) -> None:
    page = visit.go("/move")
    expect(page.locator("main")).to_contain_text("tatame-db move plan")


def look_at_tools(visit: Visit, look: Callable[[str], None]) -> None:
    """Open each tool and each kind of editor of the rows page."""
    page, offers = visit.page, visit.page.locator(".offers li")
    visit.cell(0, "email").click()
    for column, steps in {"gender": 6, "gym_id": 4}.items():
        for _ in range(steps):
            page.keyboard.press("ArrowRight")
        expect(visit.cell(0, column)).to_be_focused()
        page.keyboard.press("Enter")
        offers.first.wait_for()
        page.keyboard.press("ArrowDown")
        look(f"editor of {column}")
        page.keyboard.press("Escape")
    page.get_by_role("button", name="+ Filter").click()
    page.get_by_role("dialog", name="Filter").get_by_label("Column").select_option("gym_id")
    offers.first.wait_for()
    look("filter by a name")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Export").click()
    look("export")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Columns").click()
    look("columns")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Set column…").click()
    look("set column")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Import").click()
    page.get_by_role("textbox", name="Text to import").fill("clerk_user_id,approved_at\n1,soon\n")
    page.get_by_role("button", name="Check the rows").click()
    page.get_by_role("region", name="Rows that do not fit").wait_for()
    look("import")
    page.keyboard.press("Escape")


def look_at_sql(visit: Visit, look: Callable[[str], None]) -> None:
    page = visit.go("/sql")
    page.get_by_role("button", name="Explain analyze").click()
    page.locator(".plan").wait_for()
    look("plan")
    write_statement(page, "SELECT * FROM gyms")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".result-grid .ag-row").first.wait_for()
    look("results")
    write_statement(page, "DELETE FROM app_stores")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("dialog", name="Do you want this?").wait_for()
    look("question")
    page.get_by_role("button", name="No, change nothing").click()
    write_statement(page, "SELECT 'a' AS gym, 7 AS visits")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Chart", exact=True).click()
    page.locator(".chart svg").wait_for()
    look("chart")


def write_statement(page: Page, text: str) -> None:
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(contexts: Contexts, writing: str, scheme: str) -> None:
    found: list[str] = []
    # The dark scheme differs only in its colours.
    rules = {"resultTypes": ["violations"], **({"runOnly": ["color-contrast"]} if scheme == "dark" else {})}
    with visit_to(contexts(color_scheme=scheme, viewport={"width": 1100, "height": 700}), writing) as visit:
        page = visit.go("/")

        def look(where: str) -> None:
            for violation in Axe().run(page, options=rules).response["violations"]:
                if violation["impact"] in {"critical", "serious"}:
                    found.extend(f"{where}: {violation['id']} {node['html'][:200]}" for node in violation["nodes"])

        page.locator("table.list").wait_for()
        look("overview")
        visit.go('/t/users?filter={"all":[{"column":"id","op":"<","value":"6"}]}')
        visit.cell(0, "email").click()
        page.keyboard.press("Space")
        look("rows with the value")
        page.keyboard.press("Enter")
        look("editor")
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        look_at_tools(visit, look)
        page.keyboard.press("Control+s")
        page.locator(".statements pre").first.wait_for()
        look("review")
        page.get_by_role("button", name="Discard all").click()
        page.keyboard.press("/")
        look("palette")
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        look("keys")
        page.keyboard.press("Escape")
        visit.go("/t/users/1")
        page.locator(".incoming").wait_for()
        look("row")
        look_at_sql(visit, look)
        visit.go("/schema")
        page.get_by_role("button", name="Outline").click()
        look("schema")
        visit.go("/move")
        page.locator(".never").wait_for()
        look("move")
    assert found == []


def test_hostile_text_in_every_column_is_shown_as_text(contexts: Contexts, writing: str) -> None:
    short = {name: text for name, text in HOSTILE.items() if len(text) < 1000}
    with visit_to(contexts(viewport={"width": 5000, "height": 900}), writing) as visit:
        for table in Base.metadata.tables.values():
            key = next(iter(table.primary_key)).name
            page = visit.go(f"/t/{table.name}?sort=-{key}")
            for column in table.columns:
                if isinstance(column.type, Text) and not column.foreign_keys:
                    for text in (short["markup"], short["attribute"], short["address"]):
                        expect(page.locator(f'.ag-cell[col-id="{column.name}"]', has_text=text).first).to_be_visible()
                    marks = page.locator(f'.ag-cell[col-id="{column.name}"] .unseen', has_text="RLO")
                    expect(marks.first).to_be_visible()
        visit.go("/t/roles")
        page.get_by_role("link", name=short["attribute"]).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"roles {short['attribute']}")
        assert page.locator("main script, main img, main b").count() == 0


def test_a_megabyte_is_cut_and_shown_in_full_on_request(visit: Visit, database: psycopg.Connection) -> None:
    found = database.execute("SELECT id FROM notifications WHERE title = %s", [HOSTILE["long"]]).fetchone()
    assert found
    page = visit.go('/t/notifications?filter={"all":[{"column":"title","op":"starts","value":"<b>x"}]}')
    expect(visit.cell(0, "content").locator(".more")).to_contain_text("976.6 kB")
    visit.cell(0, "content").click()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Show all").click()
    expect(page.get_by_role("button", name="Show all")).to_have_count(0)
    assert len(page.locator(".panel pre").text_content() or "") == 1_000_003
    visit.go(f"/t/notifications/{found[0]}")
    expect(page.get_by_role("button", name="Show full value")).to_have_count(5)
    visit.go("/sql")
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("SELECT *, '<script>alert(4)</script>' FROM notifications WHERE channel = title")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".outcome")).to_contain_text("5 rows")
    assert page.locator("main script, main img").count() == 0


def test_hostile_text_in_an_address_runs_no_script(visit: Visit) -> None:
    visit.expected.append("40")
    page = visit.page
    for path in (
        '/t/users?filter={"all":[{"column":"<img src=x onerror=alert(1)>","op":"is","value":"<b>"}]}',
        '/t/users?sort=<script>alert(1)</script>&filter={"__proto__":{"x":1}}',
        "/t/<img src=x onerror=alert(1)>",
        "/t/users/<img src=x onerror=alert(1)>",
        "/t/users?filter=not json",
    ):
        visit.go(path)
        page.locator("main h1").wait_for()
    assert page.locator("main script, main img, main b").count() == 0


def test_nothing_works_without_the_token(contexts: Contexts, reading: str, visit: Visit) -> None:
    page = contexts().new_page()
    answer = page.goto(visit.base + "/t/users")
    assert answer
    assert answer.status == 401
    assert page.locator("script").count() == 0
    page.goto(reading)
    page.locator("table.list").wait_for()
    assert page.url == visit.base + "/"


def test_the_move_page_follows_a_running_copy(contexts: Contexts, home: Home, supabase: URL, address: URL) -> None:
    named = {"DATABASE_URL": readable(address), "SUPABASE_DB_URL": readable(supabase)}
    target = Home(home.environment | named)
    with studio_of(target, "--write") as opening, visit_to(contexts(), opening) as visit:
        page = visit.go("/move")
        expect(page.locator(".never")).to_be_visible()
        target.run("move", "copy")
        tables = len(Base.metadata.tables)
        expect(page.get_by_role("status").first).to_contain_text(f"{tables} of {tables} tables proven equal")
        row = page.locator("table.list tbody tr", has_text="users")
        expect(row.locator(".state")).to_have_text("equal")
        page.get_by_role("button", name="Check for later writes").click()
        expect(row.locator(".state")).to_have_text("equal, unchanged since the proof")
        with psycopg.connect(readable(address)) as connection:
            connection.execute("UPDATE users SET first_name = 'other'")
        page.get_by_role("button", name="Check for later writes").click()
        expect(row.locator(".state")).to_have_text("changed since the proof")
        row.get_by_role("link", name="users").click()
        visit.cell(0, "id").wait_for()


def test_the_move_page_shows_the_day_as_it_happens(contexts: Contexts, home: Home, supabase: URL, address: URL) -> None:
    named = {"DATABASE_URL": readable(address), "SUPABASE_DB_URL": readable(supabase)}
    target = Home(home.environment | named)
    target.run("move", "copy")
    with (
        studio_of(target, "--write") as opening,
        visit_to(contexts(viewport={"width": 800, "height": 900}), opening) as visit,
    ):
        page = visit.go("/move")
        row = page.locator("table.list tbody tr", has_text="users")
        # A button keeps the focus although everything around it is drawn again.
        page.get_by_role("button", name="Check for later writes").focus()
        following = subprocess.Popen(
            [COMMAND, "move", "follow", "--write-to-source"], env=target.environment, stderr=subprocess.DEVNULL
        )
        try:
            follower = page.get_by_role("region", name="Follower of the source")
            expect(follower).to_contain_text("It runs: 0 rows and 0.0 s behind")
            expect(follower.get_by_role("img", name="Seconds behind")).to_be_visible()
            expect(follower.get_by_role("img", name="WAL held by the slot")).to_be_visible()
        finally:
            following.send_signal(signal.SIGINT)
            following.wait()
        expect(follower).to_contain_text("No follow runs.")
        target.run("move", "switch", "users", "gyms", "--write-to-source")
        switched = page.get_by_role("region", name="Last switch")
        expect(switched).to_contain_text("Switch of users, gyms to the target")
        expect(switched).to_contain_text("Done: the home is the target; writers waited for")
        expect(row.locator("td").nth(1)).to_have_text("target")
        expect(page.locator("main")).to_contain_text("2 of 11 tables have moved.")
        expect(page.get_by_role("button", name="Check for later writes")).to_be_focused()
        page.get_by_role("button", name="Check the way back").click()
        back = page.get_by_role("region", name="Way back")
        expect(back).to_contain_text("The source can hold every row of 2 tables.")
        found = [
            f"{violation['id']} {node['html'][:200]}"
            for violation in Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            if violation["impact"] in {"critical", "serious"}
            for node in violation["nodes"]
        ]
        assert found == []
        visit.go("/")
        expect(page.get_by_label("Schema", exact=True)).to_contain_text("2 of 11 tables have moved; no follow runs")
        target.run("move", "back", "--write-to-source")
        target.run("move", "finish", "--write-to-source")
