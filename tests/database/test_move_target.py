"""A target that is not as the models describe it, or that the role may not write to, is refused in words."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator

import pytest
from sqlalchemy import URL, Column, Engine, Integer, Numeric, String, Text, func, text
from sqlalchemy import Table as Model
from tests.database.moves import Copy, ask, change, copy_into

from tatame_db import move
from tatame_db.database.pool import Database
from tatame_db.move.differences import ValueDifference
from tatame_db.schema import Base


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


@pytest.fixture
def verify(supabase: URL, engine: Engine) -> Callable[[], move.Proof]:
    def verify() -> move.Proof:
        with move.open_for_reading(supabase, engine) as connections:
            return move.verify(connections)

    return verify


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "ALTER TABLE users ALTER email TYPE varchar(5)",
            "email of the target is of type character varying(5), and of type text in the models",
        ),
        (
            "ALTER TABLE users ALTER created_at TYPE timestamp(0)",
            "created_at of the target is of type timestamp(0) without time zone, and of type timestamp without time"
            " zone in the models",
        ),
        (
            "ALTER TABLE users ALTER id TYPE bigint",
            "id of the target is of type bigint, and of type integer in the models",
        ),
    ],
)
def test_a_column_of_another_type_is_an_obstacle(
    copy: Copy, supabase: URL, engine: Engine, statement: str, reason: str
) -> None:
    change(engine.url, statement)
    with move.open_for_reading(supabase, engine) as connections:
        plan = move.plan(connections)
    assert [(found.kind, found.reason, found.rows) for found in plan.unresolved] == [("target-column", reason, 3)]
    with pytest.raises(move.ObstaclesUnresolved):
        copy()
    assert ask(engine.url, "SELECT to_regnamespace('tatame_move')") == [(None,)]


def test_a_table_without_a_column_of_the_models_cannot_be_compared(
    verify: Callable[[], move.Proof], engine: Engine
) -> None:
    change(engine.url, "ALTER TABLE users DROP phone")
    with pytest.raises(move.TargetColumnsMissing) as caught:
        verify()
    assert caught.value.columns == ["users.phone"]


@pytest.fixture
def other_role(engine: Engine) -> Generator[str]:
    role = f"app_{secrets.token_hex(6)}"
    change(engine.url, f"CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    yield role
    change(engine.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_that_does_not_own_the_tables_is_refused_before_anything_is_written(
    supabase: URL, engine: Engine, other_role: str
) -> None:
    def refused() -> move.TargetNotOwned:
        with (
            Database(engine.url.set(username=other_role)) as database,
            pytest.raises(move.TargetNotOwned) as caught,
            move.open_for_writing(supabase, database.engine, lambda: None) as connections,
        ):
            move.copy(connections)
        assert caught.value.role == other_role
        return caught.value

    assert "permission denied for schema tatame_migrations" in refused().what
    change(engine.url, f"GRANT USAGE ON SCHEMA tatame_migrations TO {other_role}")
    change(engine.url, f"GRANT SELECT ON ALL TABLES IN SCHEMA tatame_migrations TO {other_role}")
    change(
        engine.url,
        f"ALTER TABLE roles OWNER TO {other_role}",
        "ALTER TABLE roles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        f'REVOKE TEMPORARY ON DATABASE "{engine.url.database}" FROM PUBLIC',
    )
    what = refused().what
    assert "it does not own versions, app_stores, gyms" in what
    assert "row-level security may hide rows of roles" in what
    assert "indexes in the schema public" in what
    assert "temporary tables" in what
    assert "tatame_move" in what
    change(engine.url, "ALTER TABLE roles OWNER TO CURRENT_USER")


# --- Columns that the source lacks -----------------------------------------------------------------------------------


@pytest.fixture
def invoices(supabase: URL) -> Generator[Model]:
    """A table whose columns with defaults the source lacks."""
    model = Model(
        "invoices",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        info={"phase": 1, "optional_in_source": True},
    )
    change(supabase, "CREATE TABLE invoices (id bigint PRIMARY KEY); INSERT INTO invoices VALUES (1), (2)")
    yield model
    Base.metadata.remove(model)


def test_a_column_that_the_source_lacks_gets_the_constant_that_is_its_default(
    copy: Copy, verify: Callable[[], move.Proof], engine: Engine, invoices: Model
) -> None:
    invoices.append_column(Column("plan", Text, nullable=False, server_default="it's free"))
    invoices.append_column(Column("tags", String(20), nullable=False, server_default=text("'a'::character varying")))
    invoices.append_column(Column("price", Numeric(10, 2), nullable=False, server_default=text("9.5")))
    invoices.create(engine)
    copy()
    assert ask(engine.url, "SELECT id, plan, tags, price::text FROM invoices ORDER BY id") == [
        (1, "it's free", "a", "9.50"),
        (2, "it's free", "a", "9.50"),
    ]
    assert verify().equal
    assert [table.written for table in copy("invoices").tables] == [0]
    # The proof knows the default: another value is a difference.
    change(engine.url, "UPDATE invoices SET plan = 'gold' WHERE id = 2")
    [found] = [table for table in verify().tables if not table.equal]
    assert [(row.id, row.values) for row in found.differences] == [("2", [ValueDifference("plan", None, "gold")])]


def test_a_default_that_is_not_the_same_for_all_rows_is_not_invented(
    copy: Copy, engine: Engine, invoices: Model
) -> None:
    invoices.append_column(Column("code", Text, nullable=False, server_default=func.gen_random_uuid()))
    invoices.create(engine)
    with pytest.raises(move.ObstaclesUnresolved, match="missing-column"):
        copy()
