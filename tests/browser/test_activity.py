"""The activity page, with locks that other sessions hold."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import psycopg
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no py.typed
from playwright.sync_api import BrowserContext, expect
from tests.browser.conftest import Home, Visit, visit_to

_HOSTILE = "<b>\u202egnp.exe</b>"


def session_of_the_studio(home: Home, name: str) -> psycopg.Connection:
    """Log in as the role of the studio, whose sessions the studio may see and cancel."""
    return psycopg.connect(home.url, user="tatame_studio_writer", application_name=name)


def test_who_waits_for_whom_is_shown_and_a_statement_is_cancelled(
    contexts: Callable[..., BrowserContext], writing: str, home: Home
) -> None:
    errors: list[psycopg.Error] = []
    with (
        session_of_the_studio(home, "holder") as holder,
        session_of_the_studio(home, "waiter") as waiter,
        visit_to(contexts(), writing) as visit,
    ):
        holder.execute("UPDATE app_stores SET store = store")

        def wait() -> None:
            try:
                waiter.execute(f"UPDATE app_stores SET store = '{_HOSTILE}'")
            except psycopg.Error as error:
                errors.append(error)

        waiting = Thread(target=wait)
        waiting.start()
        # The overview leaves a session of the studio idle.
        page = visit.go("/")
        page.locator("table.list").wait_for()
        visit.go("/activity")
        locks = page.get_by_role("region", name="Locks")
        holds = locks.get_by_role("listitem").filter(has_text="holder").first
        expect(holds).to_contain_text("idle in transaction")
        waits = holds.get_by_role("listitem")
        expect(waits).to_contain_text("waits for a row of app_stores")
        expect(waits.locator(".unseen")).to_have_text("RLO")
        assert page.locator("main b").count() == 0
        cancel = waits.get_by_role("button", name=f"Cancel the statement of session {waiter.info.backend_pid}")
        cancel.focus()
        before = waits.inner_text()
        # The time of the transaction changes with each reading.
        expect(waits).not_to_have_text(before)
        expect(cancel).to_be_focused()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [violation for violation in found if violation["impact"] in {"critical", "serious"}] == []
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("as tatame_studio_writer in waiter")
        dialog.get_by_role("button", name="Let it run").click()
        expect(dialog).to_have_count(0)
        assert waiting.is_alive()
        cancel.click()
        dialog.get_by_role("button", name="Cancel the statement").click()
        waiting.join()
        assert isinstance(errors[0], psycopg.errors.QueryCanceled)
        expect(locks).to_contain_text("No session waits for a lock.")
        own = page.get_by_role("row").filter(has_text="(this studio)").first
        expect(own).to_be_visible()
        expect(own.get_by_role("button")).to_have_count(0)


def test_the_page_says_what_the_role_does_not_see_and_how_statements_are_recorded(visit: Visit) -> None:
    page = visit.go("/activity")
    expect(page.locator("main")).to_contain_text("GRANT pg_read_all_stats TO tatame_studio")
    expect(page.locator("main")).to_contain_text("ALTER SYSTEM SET shared_preload_libraries")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
