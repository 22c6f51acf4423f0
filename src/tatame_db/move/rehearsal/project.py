"""The project of a rehearsal: its schema and its rows, from the SQL files beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy.schema import CreateColumn, CreateTable

from tatame_db.database.address import readable, without_environment
from tatame_db.database.dialect import DIALECT, public
from tatame_db.move.mapping import map_source
from tatame_db.move.open import open_source

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

HERE = Path(__file__).parent
# The schema of a Supabase project as the app uses it: names, types, keys and policies.
SUPABASE_SCHEMA = HERE / "supabase.sql"


def run_statements(address: URL, file: str, rows: int) -> None:
    """Run one of the SQL files beside this module on a project with about `rows` rows, and commit it."""
    users = rows * 3 // 100
    gyms = max(2, users // 400)
    numbers = {"users": users, "gyms": gyms, "classes": 12 * gyms, "notifications": users // 2}
    # Two graduations per user, an asset and an attachment per class, and the rows of a fixed number.
    others = 3 * users + gyms + 3 * numbers["classes"] + numbers["notifications"] + 18
    numbers["checkins"] = rows - others
    statements = (HERE / f"{file}.sql").read_text()
    with connect(address) as connection:
        # A file is sent as one query, in which the server accepts no parameters: the client inserts the values.
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(statements.encode(), numbers if "%(" in statements else None)


def connect(address: URL, *, autocommit: bool = False) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect as a client of its own, which shares nothing with the sessions of a move."""
    return psycopg.connect(make_conninfo(readable(address), **without_environment(address)), autocommit=autocommit)


def add_later_models(source: Engine) -> None:
    """Create the tables and the required columns that were added to the models after `supabase.sql` was written.

    A project without them has obstacles that no choice resolves.
    """
    with open_source(source.url) as connection:
        tables = map_source(connection).tables
    with source.begin() as project:
        for table in tables:
            if table.source is None:
                project.execute(CreateTable(table.table, include_foreign_key_constraints=[]))
                continue
            for column in table.columns:
                if column.required and column.source is None:
                    definition = CreateColumn(table.table.columns[column.name]).compile(dialect=DIALECT)
                    project.exec_driver_sql(f"ALTER TABLE {public(table.name)} ADD COLUMN {definition}")
