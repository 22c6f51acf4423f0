"""Any value comes back exactly, or is named as one that the source cannot hold: for every pair of types, and any rows.

Values are compared by SQL and Python that share nothing with the move.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from tests.database.moves import close_source
from tests.database.test_move_conversions import ANY_SOURCE, ANY_TARGET, CASES, FORMED, KINDS, constant
from tests.database.test_move_properties import (
    DRIFT,
    PROJECT,
    PROJECTS,
    Rows,
    World,
    expected,
    projects_that_change,
    resolved,
    world,
)

from tatame_db.database.address import readable
from tatame_db.move import forms, known_conversions
from tatame_db.move.back.flow import BackFlow
from tatame_db.move.back.staging import Cell, WrittenColumn, able_to_read
from tatame_db.move.catalogue import SourceColumn
from tatame_db.move.connection import MoveConnection
from tatame_db.move.conversion import about
from tatame_db.move.known_conversions import conversion
from tatame_db.move.mapping import ColumnMap
from tatame_db.move.open import open_source_for_writing, open_target
from tatame_db.move.switch.fence import open_
from tatame_db.move.switch.token import token_hash
from tatame_db.schema.forms import DATE, TIME, TYPED_DAY, Form
from tatame_db.testing.runs import Run

__all__ = ["world"]

# --- Each pair of types ----------------------------------------------------------------------------------------------

HOSTILE = {
    "text": [
        *(
            "24:00",
            "18:30",
            "18:3",
            "2024-02-29",
            "2024-02-29 00:00:00",
            "02-29",
            "{a,NULL}",
            "{",
            "[1]",
            "null",
            "1",
            "-0",
        ),
        *(
            "1e400000",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "true",
            "t",
            "now",
        ),
        *("'); DROP TABLE users; --", "0001-01-01 BC", "$$", " "),
    ],
    "integer": ["32768", "16777217"],
    "bigint": ["2147483648", "9007199254740993", "-1"],
    "text[]": ["{1,2}", "{1,NULL}", '{"\\"",","}', "{2147483648}", "{\\\\u0000}"],
    "timestamp without time zone": ["2024-02-29", "2024-02-29 23:59:59.999999", "0001-01-01 BC", "10000-01-01"],
    "date": ["2024-02-29", "0001-01-01 BC"],
    "numeric": ["1", "1.50", "1e400", "-0.5"],
    "boolean": ["true"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "smallint": ["-32768"],
}
PAIRS = sorted(
    {(kind, target, None) for target, known in known_conversions.KNOWN.items() for kind in known}
    | {(kind, target, None) for target in ANY_TARGET for kind in ANY_SOURCE}
    | {("text", "text", form) for form in (DATE, TIME, TYPED_DAY)}
    | {(kind, "text", form) for form in (DATE, TIME, TYPED_DAY) for kind in forms.INTO_FORM[form.pattern][1]},
    key=str,
)


@pytest.fixture(scope="module")
def source(_tatame_run: Run) -> Generator[MoveConnection]:
    address = _tatame_run.sandbox.create()
    with psycopg.connect(readable(address), autocommit=True) as driver:
        connection = MoveConnection("source", address, driver)
        connection.pin_settings(for_transaction=False)
        yield connection
    _tatame_run.sandbox.drop(str(address.database))


def returned(source: MoveConnection, kind: str, target_type: str, form: Form | None, value: str) -> bool:
    """Return whether the source's type holds a value of the target exactly; if so, a copy would bring that value."""
    kind = KINDS.get(kind, kind)
    found = conversion(kind, target_type, form)
    there = SourceColumn("v", kind, not_null=False, unique=False, deterministic=True)
    column = WrittenColumn("v", kind, not_null=False, has_default=False, generated=False, map=None)
    cell = Cell(column, ColumnMap("v", target_type, required=False, source=there, conversion=found), "c", is_key=False)
    [text] = source.row(
        f"SELECT {about(found.target_text, 'v')} FROM (SELECT {constant(target_type, value)} AS v OFFSET 0) AS t"
    )
    staged = f"(SELECT {constant('text', text)} AS c OFFSET 0) AS r"
    [exact] = source.row(f"SELECT {cell.is_exact(carefully=True)} FROM {staged}")
    if exact:
        # Forwards again, unless the target would not take such a value from the source.
        returned = f"(SELECT {constant(kind, text)} AS v OFFSET 0) AS s"
        convert, unstorable = about(found.convert, "v"), about(found.unstorable or "false", "v")
        rows = source.rows(f"SELECT ({convert})::{target_type}::text FROM {returned} WHERE ({unstorable}) IS NOT TRUE")
        stored = source.rows(f"SELECT {constant(target_type, value)}::text")
        assert rows in ([], stored), (kind, target_type, value)
    return bool(exact)


@pytest.mark.parametrize("target_type", sorted({target for _, target, _ in PAIRS}))
def test_any_value_of_the_target_is_exact_at_the_source_or_a_misfit(source: MoveConnection, target_type: str) -> None:
    values = {*ANY_TARGET.get(target_type, []), *HOSTILE[target_type]}
    with able_to_read(source):
        for kind, _, form in [pair for pair in PAIRS if pair[1] == target_type]:
            exact = {value for value in values if returned(source, kind, target_type, form, value)}
            if form is None and kind in (target_type, "text"):
                assert exact == values


def test_every_value_that_a_copy_stores_comes_back(source: MoveConnection) -> None:
    with able_to_read(source):
        for kind, _, target_type, stored in CASES:
            if stored is not None:
                assert returned(source, kind, target_type, None, stored), (kind, target_type, stored)
        for kind, _, form, stored in FORMED:
            if stored is not None:
                assert returned(source, kind, "text", form, stored), (kind, form, stored)


# --- Any rows --------------------------------------------------------------------------------------------------------


def write_target(world: World, kind: str, rows: Rows) -> None:
    """Make the target hold what a copy of these rows would, without the move."""
    for table, its in expected(PROJECTS[kind], rows).items():
        world.here.execute(f'DELETE FROM public."{table}"'.encode())
        for row in its.values():
            names, values = ", ".join(f'"{name}"' for name in row), ", ".join(["%s"] * len(row))
            world.here.execute(f'INSERT INTO public."{table}" ({names}) VALUES ({values})'.encode(), list(row.values()))


def source_rows(world: World, kind: str) -> dict[str, list[tuple[Any, ...]]]:
    """Read all rows of a source; a value that has several forms there, in one of them."""

    def text(table: str, name: str) -> str:
        drifted = DRIFT.get((table, name), ("", None))[0] if kind == "drifted" else ""
        one_form = {
            "numeric": "::integer",
            "text": "::text[]" if (table, name) == ("notifications", "recipients") else "",
        }
        if (table, name) == ("class", "start"):
            return f'left("{name}"::text, 5)'
        return f'"{name}"{one_form.get(drifted, "")}::text'

    return {
        table: sorted(
            world.there[kind]
            .execute(f'SELECT {", ".join(text(table, cell.there) for cell in cells)} FROM public."{table}"'.encode())
            .fetchall(),
            key=str,
        )
        for table, cells in PROJECT.items()
    }


@settings(max_examples=5)
@given(projects_that_change())
def test_any_changes_of_the_target_are_at_the_source_afterwards(world: World, found: tuple[str, Rows, Rows]) -> None:
    kind, before, after = found
    world.fill(kind, resolved(PROJECTS[kind], before))
    write_target(world, kind, resolved(PROJECTS[kind], after))
    token = close_source(world.sources[kind], world.target)
    with open_target(world.target) as home, open_source_for_writing(world.sources[kind]) as follower:
        flow = BackFlow(home, follower)
        flow.begin()
        flow.compare_whole(flow.tables)
        assert all(there == here for there, here, _ in flow.prove(flow.tables).values())
        follower.driver.rollback()
        follower.pin_settings(for_transaction=True)
        open_(follower, list(PROJECT), token_hash(token))
        follower.driver.commit()
    written = source_rows(world, kind)
    world.fill(kind, resolved(PROJECTS[kind], after))
    assert written == source_rows(world, kind)
