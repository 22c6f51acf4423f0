"""The studio behind PgBouncer, which lends each transaction another session, and a server before PostgreSQL 16."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL
from tests.conftest import OLDER_PROGRAMS, require_older_programs
from tests.database.test_studio_import import plan, send

from tatame_db import evolve
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.studio.access import Access, open_access

Client = Any
PAGES = [
    "/api/session", "/api/health", "/api/overview", "/api/activity", "/api/activity/statements", "/api/move",
    "/api/move/stale", "/api/tables", "/api/table/users", "/api/rows/users", "/api/rows/users?q=joao&names=1",
    "/api/count/users?q=joao", "/api/row/users/1", "/api/find?table=users&q=joao", "/api/search?q=joao",
    "/api/names/users?keys=%5B%221%22%5D", "/api/cell/users/first_name/1", "/api/sql/names", "/api/queries",
    "/api/export/users.csv", "/api/export/users.json",
]  # fmt: skip
SLOW_PAGES = ["/api/doctor", "/api/drift"]


def test_behind_a_pooler_of_an_older_server_everything_works_or_is_refused_with_words(
    other_postgres: Callable[[Path], URL], pooler: Callable[..., URL], serve_studio: Callable[[Access], Client]
) -> None:
    require_older_programs()
    address = other_postgres(OLDER_PROGRAMS)
    create_missing_database(address)
    with Database(address) as database:
        evolve.migrate(database.engine)
    pooled = pooler(address)
    with Database(pooled) as database:
        writer = serve_studio(open_access(database, embedded=False, write=True))
    reader = serve_studio(Access(pooled, "postgres", write=False))

    def execute(*changes: Any, status: int = 200, **options: Any) -> Any:
        response = writer.ask("/api/changes", {"changes": list(changes), **options})
        assert response.status == status, response.text
        return response.json

    # Often enough for psycopg to prepare a statement, which a session that another client gets does not have.
    for number in range(1, 9):
        new = {"op": "insert", "table": "users", "values": {"clerk_user_id": f"u{number}", "first_name": "João"}}
        execute(new, check=True)
        assert execute(new)["rows"][0]["row"]["first_name"] == "João"
    keys = writer.get("/api/rows/users")["keys"]
    for key in keys:
        change = {"op": "update", "table": "users", "key": key, "values": {"plan": "new"}, "was": {"plan": None}}
        execute(change, preview=True)
        execute(change)
        assert execute(change, status=409)["conflicts"]
    execute({"op": "insert", "table": "users", "values": {"clerk_user_id": "u1"}}, status=422)
    execute({"op": "delete", "table": "users", "key": keys[-1], "was": {}})
    for _ in range(6):
        for page in PAGES:
            path = page.replace("users/1", f"users/{keys[0]}").replace("name/1", f"name/{keys[0]}")
            response = reader.ask(path)
            assert response.status == 200, (page, response.text)
    for page in SLOW_PAGES:
        assert reader.ask(page).status == 200, page
    for studio in (reader, writer):
        assert studio.get("/api/rows/users", q="joao")["keys"] == keys[:-1]
        with closing(studio.begin("/api/move/events")) as connection:
            assert connection.getresponse().readline().startswith(b"data: ")
        for path, body in {
            "/api/sql": {"id": "x", "tab": "one", "text": "SELECT 1"},
            "/api/sql/export/csv": {"text": "SELECT 1"},
        }.items():
            refused = studio.ask(path, body)
            assert (refused.status, "is a pooler" in refused.json["what"]) == (422, True), refused.text
    people = plan("clerk_user_id", "first_name", existing="update", key=["clerk_user_id"])
    for mode, committed in (("check", False), ("run", True), ("run", True)):
        outcome = send(writer, mode, people, "id,n\nu1,Ana\nnew,Bia\n")
        assert (outcome["committed"], outcome["bad"]) == (committed, [])
    assert reader.ask("/api/changes", {"changes": []}).status == 403
