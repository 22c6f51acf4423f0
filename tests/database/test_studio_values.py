"""The values in use, which the editors of texts offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from tatame_db.database.pool import Database
from tatame_db.studio.access import Access, open_access

Client = Any

ROWS = """
CREATE TABLE "Odd Values" (id int PRIMARY KEY, belt text, name text, api_token text, day text, number int);
INSERT INTO "Odd Values"
    SELECT n,
        (ARRAY['yellow', 'BLACK', '', '<b>', NULL])[1 + mod(n, 5)],
        'name ' || n, 'secret', '2026-01-' || 10 + mod(n, 20),
        n
    FROM generate_series(1, 11000) AS n;
UPDATE "Odd Values" SET belt = repeat('x', 1000000) WHERE id = 1;
"""


def test_few_values_of_a_column_are_offered_and_dates_are_recognized(
    committed_database: Database, serve_studio: Callable[[Access], Client]
) -> None:
    with committed_database.engine.begin() as connection:
        connection.exec_driver_sql(ROWS)
        connection.execute(text("INSERT INTO users (clerk_user_id, birth) VALUES ('a', 'sometime')"))
    client = serve_studio(open_access(committed_database, embedded=True, write=False))

    def answer(column: str, table: str = "Odd%20Values") -> tuple[list[str], bool]:
        found = client.get(f"/api/values/{table}/{column}")
        return found["values"], found["dates"]

    assert answer("belt") == (["<b>", "BLACK", "yellow"], False)
    for none in ("name", "api_token", "number"):
        assert answer(none) == ([], False)
    assert answer("day") == ([], True)
    # The models state the form, whatever the rows hold, and an empty table holds nothing.
    assert answer("birth", "users") == ([], True)
    assert answer("date", "checkins") == ([], True)
    assert answer("belt", "graduations") == ([], False)
    assert client.ask("/api/values/users/none").status == 400

    with committed_database.engine.begin() as connection:
        # Only the statistics know of these values, which are behind the first rows.
        connection.exec_driver_sql("UPDATE \"Odd Values\" SET belt = 'white' WHERE id > 10500")
        connection.exec_driver_sql("UPDATE \"Odd Values\" SET day = 'unknown' WHERE id > 10500")
        connection.exec_driver_sql("ANALYZE")
    assert "white" in answer("belt")[0]
    assert answer("day")[1] is False
