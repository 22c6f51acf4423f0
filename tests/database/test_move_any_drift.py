"""Property: whatever `plan` calls complete, `copy` writes and proves, however the schema of the project has drifted."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, Engine

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.testing.runs import Run
from tatame_db.testing.sandbox import Sandbox

# Values as text, for any column: each type takes those that it can read, and NULL instead of the others.
TEXTS = [
    *("1", "2", "1.0", "1.00", "01", "-1", "2147483647", "2147483648", "0", "-0", "NaN", "1e3", "infinity"),
    *("", " ", "a", "A", "a ", "ana", "Ana", "é", "É", "STUDENT", "student", "true", "null", "x" * 2600),
    *("2024-02-29", "2024-1-5", "2023-02-29", "2024-02-29 10:00", "2024-02-29T10:00:00.000Z", "0044-03-15 BC"),
    *("2024-02-29 00:00:00+00", "18:30", "18:30:00", "18:30:45", "18:30+00", "18:30-03", "24:00", "12-31"),
    *("(1,)", "{}", "{1,2}", "{a,NULL}", "[0:1]={a,b}", "[]", '["1", "2"]', "[1]", '{"a": 1}', '"a"', "{1.0,2}"),
    *("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "1 day", "\\x01", "10101"),
]
TYPES = [
    *("smallint", "integer", "bigint", "numeric", "numeric(10,2)", "real", "double precision", "boolean", "money"),
    *("text", "varchar(9)", "character(9)", "name", "bytea", "bit(5)", "uuid", "inet", "interval", "xid", "point"),
    *("date", "time", "timetz", "timestamp", "timestamptz", "timestamp(0)", "json", "jsonb", "int4range"),
    *("text[]", "varchar(9)[]", "integer[]", "numeric[]", "date[]", "uuid[]", "json[]"),
    *("word", "short", "number", "mood", "pair"),
    *("text COLLATE any_case", "character(9) COLLATE any_case", "citext", "citext[]"),
]
OWN_TYPES = """
    CREATE DOMAIN word AS text; CREATE DOMAIN short AS varchar(9) CHECK (VALUE <> 'a'); CREATE DOMAIN number AS numeric;
    CREATE TYPE mood AS ENUM ('a', 'A', '1', '2024-02-29', '18:30'); CREATE TYPE pair AS (x text, y text);
    CREATE FUNCTION read(value text, kind text) RETURNS text LANGUAGE plpgsql AS $$
    DECLARE result text;
    BEGIN
        EXECUTE format('SELECT (%L::%s)::text', value, kind) INTO result;
        RETURN result;
    EXCEPTION WHEN data_exception OR check_violation OR invalid_text_representation OR feature_not_supported
        OR syntax_error OR undefined_object OR program_limit_exceeded THEN
        RETURN NULL;
    END $$;
    CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE EXTENSION citext;
"""
# The tables whose columns drift: with references, unique values, a text as id, and forms.
COLUMNS = {
    "roles": ["id", "created_at"],
    "users": ["id", "created_at", "clerk_user_id", "role", "gym_id", "birth", "approved_at"],
    "checkins": ["id", "created_at", "userId", "date"],
    "class": ["id", "start", "end", "gym_id", "deleted_at"],
    "notifications": ["id", "recipients", "sent_by"],
    "graduations": ["degree", "userId"],
}
RENAMED = {"userId": "user_id", "appVersion": "app_version", "managerId": "manager_id"}
NEW_NAMES = {name: RENAMED.get(name, name) for names in COLUMNS.values() for name in names}


@dataclass(frozen=True)
class Drift:
    """What happened to a column: its new type, or that it is renamed, dropped, or computed."""

    table: str
    column: str
    kind: str | None
    renamed: bool = False
    generated: bool = False


@dataclass(frozen=True)
class World:
    """A project whose schema drifts, and the target."""

    source: URL
    target: Engine

    def begin(self, drifts: list[Drift], rows: dict[str, list[dict[str, str | None]]]) -> None:
        with psycopg.connect(readable(self.source), autocommit=True) as connection:
            connection.execute(b"DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            connection.execute(OWN_TYPES.encode())
            connection.execute(SUPABASE_SCHEMA.read_bytes())
            connection.execute(_FREE.encode())
            for drift in drifts:
                connection.execute(_statement(drift).encode())
            for table, its in rows.items():
                _insert(connection, table, its)


_FREE = """
    DO $$ DECLARE found record; BEGIN
        FOR found IN SELECT conrelid::regclass AS its, conname FROM pg_constraint
            WHERE connamespace = 'public'::regnamespace AND contype IN ('f', 'p') ORDER BY contype LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.its, found.conname);
        END LOOP;
        FOR found IN SELECT attrelid::regclass AS its, attname, attidentity FROM pg_attribute
            WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r')
                AND attnum > 0 LOOP
            IF found.attidentity <> '' THEN
                EXECUTE format('ALTER TABLE %s ALTER %I DROP IDENTITY', found.its, found.attname);
            END IF;
            EXECUTE format('ALTER TABLE %s ALTER %I DROP NOT NULL', found.its, found.attname);
        END LOOP;
    END $$;
"""


def _statement(drift: Drift) -> str:
    table, column = f'public."{drift.table}"', f'"{drift.column}"'
    if drift.renamed:
        return f'ALTER TABLE {table} RENAME {column} TO "{NEW_NAMES[drift.column]}x"'
    if drift.kind is None:
        return f"ALTER TABLE {table} DROP {column}"
    if drift.generated:
        return (
            f"ALTER TABLE {table} DROP {column};"
            f" ALTER TABLE {table} ADD {column} {drift.kind} GENERATED ALWAYS AS (NULL::{drift.kind}) STORED"
        )
    return f"ALTER TABLE {table} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {drift.kind} USING NULL"


def _insert(connection: psycopg.Connection[Any], table: str, rows: list[dict[str, str | None]]) -> None:
    kinds = dict(
        connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
            [f'public."{table}"'],
        ).fetchall()
    )
    for row in rows:
        columns = {name: value for name, value in row.items() if name in kinds}
        if columns:
            names = ", ".join(f'"{name}"' for name in columns)
            places = ", ".join(f"public.read(%s, '{kinds[name]}')::{kinds[name]}" for name in columns)
            statement = f'INSERT INTO public."{table}" ({names}) VALUES ({places})'
            connection.execute(statement.encode(), list(columns.values()))


@pytest.fixture(scope="session")
def world(_tatame_run: Run, older_sandbox: Sandbox) -> Generator[World]:
    # The older server has ICU and extensions, which the bundled one lacks.
    source, target = older_sandbox.create(), _tatame_run.clone()
    with Database(target) as database:
        yield World(source, database.engine)
    older_sandbox.drop(str(source.database))
    _tatame_run.sandbox.drop(str(target.database))


# Values that each column can store as it is by itself; the others come from all texts.
GOOD = {
    **dict.fromkeys(("created_at", "approved_at", "deleted_at", "date"), "2024-02-29"),
    **dict.fromkeys(("start", "end"), "18:30"),
    "recipients": "{1,2}",
    "degree": "1",
}
# Ids and references that meet, in one way of comparing or another.
NUMBERS, NAMES = ["1", "2", "3", "1.0", "2147483647", "a"], ["a", "A", "a ", "STUDENT", "student", "1"]


def values(table: str, column: str) -> st.SearchStrategy[str | None]:
    if (table, column) == ("roles", "id") or column in ("role", "clerk_user_id"):
        return st.sampled_from(NAMES)
    if column == "id" or column.endswith(("Id", "_id", "sent_by")):
        return st.sampled_from(NUMBERS)
    return st.sampled_from([GOOD.get(column, "a")] * len(TEXTS) + TEXTS) | st.none()


@st.composite
def drifted(draw: st.DrawFn) -> tuple[list[Drift], dict[str, list[dict[str, str | None]]], dict[str, Any]]:
    """Draw some drifts, rows as text, and choices."""
    drifts = []
    places = [(table, column) for table, names in COLUMNS.items() for column in names]
    for table, column in draw(st.lists(st.sampled_from(places), max_size=4, unique=True)):
        fate = draw(st.sampled_from(["type"] * 8 + ["renamed", "dropped", "generated"]))
        kind = None if fate == "dropped" else draw(st.sampled_from(TYPES))
        drifts.append(Drift(table, column, kind, fate == "renamed", fate == "generated"))
    rows = {
        table: draw(st.lists(st.fixed_dictionaries({name: values(table, name) for name in names}), max_size=4))
        for table, names in COLUMNS.items()
    }
    chosen = {
        "orphans": draw(st.sampled_from([None, "null", "null", "reject"])),
        "misfits": draw(st.sampled_from([None, "null", "null", "reject"])),
        "duplicates": draw(st.sampled_from([None, "first", "last"])),
        "unknown": draw(st.sampled_from([None, "keep", "keep", "leave"])),
        "rejects": draw(st.sampled_from([None, "keep", "keep", "keep"])),
    }
    return drifts, rows, chosen


@given(drifted())
def test_what_a_plan_calls_complete_is_copied_and_proven_and_everything_else_is_refused(
    world: World, found: tuple[list[Drift], dict[str, list[dict[str, str | None]]], dict[str, Any]]
) -> None:
    drifts, rows, chosen = found
    world.begin(drifts, rows)
    choices = move.Choices(**chosen)
    with move.open_for_reading(world.source, world.target) as connections:
        complete = not move.plan(connections, choices).unresolved
    with move.open_for_writing(world.source, world.target, lambda: None) as connections:
        if not complete:
            with pytest.raises(move.ObstaclesUnresolved):
                move.copy(connections, choices=choices, replace_rows=True, accept_emptied=True)
            return
        move.copy(connections, choices=choices, replace_rows=True, accept_emptied=True)
    with move.open_for_reading(world.source, world.target) as connections:
        proof = move.verify(connections)
    assert proof.equal or proof.equal_but_for_choices
