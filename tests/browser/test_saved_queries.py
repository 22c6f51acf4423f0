"""Saved queries, charts and exports of results."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no py.typed
from playwright.sync_api import BrowserContext, Download, Page, expect
from tests.browser.conftest import Home, studio_of, visit_to

QUERY = '''-- Check-ins of three gyms
SELECT * FROM (VALUES
    ('<img src=x onerror=alert(1)>', -5, 3.5), (E'\\u202egnp.exe', 9007199254740993, NULL), ('Norte', 7, 1)
) AS gyms (gym, checkins, "Odd ""Hours""")'''
CHART = '\n-- chart: bar x=gym y=checkins y="Odd ""Hours"""\n'

CUT_OFF = """svg => {
    const area = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < area.left || box.right > area.right || box.bottom > area.bottom;
    }).map(text => text.textContent);
}"""


def write(page: Page, text: str) -> None:
    page.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def draw(page: Page) -> None:
    """Draw a chart by keyboard and mouse, and read its values."""
    page.get_by_role("button", name="Chart", exact=True).click()
    expect(page.locator(".chart svg g.series-1 rect")).to_have_count(3)
    expect(page.locator(".cm-content")).to_contain_text("-- chart: bar x=gym y=checkins")
    page.get_by_role("button", name="Values: checkins").click()
    page.get_by_role("checkbox", name='Odd "Hours"').check()
    page.keyboard.press("Escape")
    expect(page.locator(".chart svg g.series-2 rect")).to_have_count(3)  # two bars, and one in the legend
    values = page.get_by_role("slider")
    values.focus()
    page.keyboard.press("End")
    expect(values).to_have_attribute("aria-valuetext", 'Norte; checkins: 7; Odd "Hours": 1')
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".chart-value")).to_contain_text("RLOgnp.exe")
    expect(page.locator(".chart-value")).to_contain_text("checkins: 9007199254740993")
    expect(page.locator(".chart-value")).to_contain_text('Odd "Hours": NULL')
    violations = Axe().run(page).response["violations"]
    assert [found["id"] for found in violations if found["impact"] in {"critical", "serious"}] == []


def save(page: Page, file: Path) -> None:
    """Save the query under a name, after one that is refused."""
    page.keyboard.press("Alt+s")
    dialog = page.get_by_role("dialog", name="Save the query")
    expect(dialog).to_contain_text(str(file.parent))
    page.keyboard.type("../By gym")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("cannot be the name of a query")
    dialog.get_by_label("Name").fill("By gym")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="By gym", exact=True)).to_be_visible()


def picture(page: Page, name: str) -> bytes:
    page.get_by_role("button", name="Save picture").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=name).click()
    return content(download.value)


def content(download: Download) -> bytes:
    return download.path().read_bytes()


def test_a_query_is_saved_with_its_chart_and_opened_again(
    contexts: Callable[..., BrowserContext], home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "queries" / "By gym.sql"
    with studio_of(home, "--queries", str(file.parent)) as opening, visit_to(contexts(), opening) as visit:
        visit.expected.append("40")
        page = visit.go("/sql")
        write(page, QUERY)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".outcome")).to_contain_text("3 rows")
        draw(page)
        assert picture(page, "PNG").startswith(b"\x89PNG")
        svg = picture(page, "SVG").decode()
        assert svg.startswith("<svg")
        assert "&lt;img" in svg
        assert "var(--" not in svg

        save(page, file)
        saved = file.read_text()
        assert saved == QUERY.replace("\n", CHART, 1) + "\n"

        page.keyboard.press("Alt+w")
        page.keyboard.press("Alt+q")
        page.get_by_role("button", name="By gym Check-ins of three gyms").click()
        expect(page.get_by_role("tab", name="By gym")).to_be_visible()
        page.keyboard.press("Control+Enter")
        expect(page.locator(".chart svg g.series-1 rect")).to_have_count(4)
        page.get_by_role("combobox", name="Chart").select_option("Line")
        expect(page.locator(".chart svg path")).to_have_count(2)
        expect(page.get_by_role("tab", name="By gym •")).to_be_visible()

        file.write_text("SELECT 'theirs'")
        page.keyboard.press("Alt+s")
        conflict = page.get_by_role("dialog", name="Not saved")
        expect(conflict).to_contain_text("changed on disk")
        expect(conflict).to_contain_text("SELECT 'theirs'")
        assert file.read_text() == "SELECT 'theirs'"
        conflict.get_by_role("button", name="Overwrite the file").click()
        expect(page.get_by_role("tab", name="By gym", exact=True)).to_be_visible()
        assert file.read_text() == saved.replace("chart: bar", "chart: line")

        page.reload()
        page.locator(".cm-content").wait_for()
        page.keyboard.press("Alt+q")
        page.get_by_role("button", name="Rename By gym").click()
        page.get_by_label("New name").fill("Por academia")
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab", name="Por academia")).to_be_visible()
        page.get_by_role("button", name="Delete Por academia").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_role("dialog", name="Saved queries")).to_contain_text("No queries yet")
        assert list(file.parent.iterdir()) == []


def test_the_queries_of_this_project_are_drawn_and_exported(
    contexts: Callable[..., BrowserContext], home: Home
) -> None:
    queries = Path(__file__).parents[2] / "queries"
    with studio_of(home, "--queries", str(queries)) as opening, visit_to(contexts(), opening) as visit:
        page = visit.go("/sql")
        page.locator(".cm-content").wait_for()
        page.keyboard.press("Alt+q")
        page.get_by_role("button", name="who-trained-most The twenty members").click()
        expect(page.get_by_role("tab", name="who-trained-most")).to_be_visible()
        page.keyboard.press("Control+Enter")
        expect(page.locator(".chart svg g.series-1 rect")).to_have_count(20)
        assert page.locator(".chart svg").evaluate(CUT_OFF) == []
        page.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download 20 rows").click()
        assert download.value.suggested_filename == "who-trained-most.csv"
        rows = list(csv.reader(io.StringIO(content(download.value).decode(), newline="")))
        assert rows[0] == ["member", "gym", "checkins"]
        assert len(rows) == 21
        page.keyboard.press("Alt+q")
        page.get_by_role("button", name="check-ins-by-week Check-ins of each week").click()
        expect(page.get_by_role("tab", name="check-ins-by-week")).to_be_visible()
        page.keyboard.press("Control+Enter")
        expect(page.locator(".chart svg path").first).to_be_visible()
        page.get_by_role("combobox", name="Row limit").select_option("100")
        write(page, "SELECT n FROM generate_series(1, 150) AS n")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".outcome")).to_contain_text("100 rows")
        page.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download all rows").click()
        assert content(download.value).decode().splitlines() == ["n", *map(str, range(1, 151))]
