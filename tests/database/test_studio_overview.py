"""The overview, card by card, with roles that lack a right."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import pytest
from sqlalchemy import Column, DateTime, Engine, Integer, MetaData, Table, text
from tests.database.roles import Roled, with_roles

from tatame_db.database.pool import Database
from tatame_db.studio.access import Access
from tatame_db.studio.overview import newest_row
from tatame_db.testing.runs import Run

Client = Any
_TABLES = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
_HISTORY = (
    "GRANT USAGE ON SCHEMA tatame_migrations TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA tatame_migrations TO {role}",
)
ROLES: dict[str, tuple[list[str], set[str]]] = {
    "all it needs": ([_TABLES, *_HISTORY], set()),
    "nothing": ([], {"schema"}),
    "rows only": ([_TABLES], {"schema"}),
    "no history": ([_TABLES, _HISTORY[0]], {"schema"}),
    "history only": ([*_HISTORY], set()),
    "no statistics": ([_TABLES, *_HISTORY, "REVOKE SELECT ON pg_stat_activity FROM PUBLIC"], {"server", "move"}),
    "nothing at all": (["REVOKE SELECT ON pg_stat_activity FROM PUBLIC"], {"schema", "server", "move"}),
}
FACTS = {"server": "server_version", "tables": "tables", "schema": "revision"}


@pytest.fixture
def roled(_tatame_run: Run) -> Generator[Roled]:
    with with_roles(_tatame_run.clone()) as roled:
        yield roled


@pytest.mark.parametrize("kind", ROLES)
def test_a_missing_right_empties_its_card_only_and_the_statement_fills_it(
    roled: Roled, serve_studio: Callable[..., Client], kind: str
) -> None:
    statements, empty = ROLES[kind]
    role = roled.role(*statements)
    client = serve_studio(Access(roled.at(role), role, write=False))
    found = client.get("/api/overview")
    assert found["problems"].keys() == empty
    for card, fact in FACTS.items():
        assert (fact in found) is (card not in empty)
    run_remedies(roled, found["problems"].values())
    assert client.get("/api/overview")["problems"] == {}


def run_remedies(roled: Roled, problems: Any) -> None:
    """Run the statements that the problems name."""
    for problem in problems:
        grants = re.findall("GRANT [^`;]+", problem["fix"])
        assert grants, problem
        roled.run(*grants)


def test_a_locked_table_leaves_the_other_cards(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("LOCK TABLE gyms IN ACCESS EXCLUSIVE MODE"))
        found = studio.get("/api/overview")
    assert "lock" in found["problems"]["tables"]["what"]
    assert (found["problems"].keys(), found["pending"]) == ({"tables"}, [])


def test_the_newest_row_of_a_partitioned_table_is_that_of_its_highest_id(engine: Engine) -> None:
    columns = [Column(name, kind, primary_key=True) for name, kind in (("id", Integer), ("created_at", DateTime))]
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE visits (id integer, created_at timestamp, PRIMARY KEY (id, created_at))"
                " PARTITION BY RANGE (created_at);"
                "CREATE TABLE visits_all PARTITION OF visits FOR VALUES FROM (MINVALUE) TO (MAXVALUE);"
                "INSERT INTO visits VALUES (1, '2026-02-02'), (2, '2026-01-01')"
            )
        )
        newest = connection.execute(newest_row(Table("visits", MetaData(), *columns))).one()
    assert newest == ("visits", "2026-01-01 00:00:00")
