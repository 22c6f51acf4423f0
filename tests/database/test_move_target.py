"""A target that is not as the models describe it, or that the role may not write to, is refused in words."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from typing import Any

import pytest
from sqlalchemy import URL, Column, Engine, Integer, Numeric, String, Text, func, text
from sqlalchemy import Table as Model
from tests.database.moves import Copy, ask, change, copy_into

from tatame_db import move
from tatame_db.database.pool import Database
from tatame_db.move.differences import ValueDifference
from tatame_db.roles import RightsMissing
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
    def refused() -> RightsMissing:
        with (
            Database(engine.url.set(username=other_role)) as database,
            pytest.raises(RightsMissing) as caught,
            move.open_for_writing(supabase, database.engine, lambda: None) as connections,
        ):
            move.copy(connections)
        assert caught.value.role == other_role
        return caught.value

    assert "USAGE on the schema tatame_migrations" in refused().what
    change(engine.url, f"GRANT USAGE ON SCHEMA tatame_migrations TO {other_role}")
    change(engine.url, f"GRANT SELECT ON ALL TABLES IN SCHEMA tatame_migrations TO {other_role}")
    change(
        engine.url,
        f"ALTER TABLE roles OWNER TO {other_role}",
        "ALTER TABLE roles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        f'REVOKE TEMPORARY ON DATABASE "{engine.url.database}" FROM PUBLIC',
    )
    what = refused().what
    assert "ownership of 10 tables of public" in what
    assert "a view of all rows of public.roles" in what
    assert "CREATE on the schema public" in what
    assert "CREATE, TEMPORARY on the database" in what
    change(engine.url, "ALTER TABLE roles OWNER TO CURRENT_USER")


# --- Columns that the source lacks -----------------------------------------------------------------------------------


@pytest.fixture
def invoices(supabase: URL) -> Generator[Model]:
    """A table whose columns with defaults the source lacks."""
    model = Model(
        "invoices",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        info={"of_package": True, "phase": 1, "optional_in_source": True},
    )
    change(supabase, "CREATE TABLE invoices (id bigint PRIMARY KEY); INSERT INTO invoices VALUES (1), (2)")
    yield model
    Base.metadata.remove(model)


# What SQL and the driver replace in a constant.
PRICE = "it's 100% (free)\\n"


def test_a_column_that_the_source_lacks_gets_the_constant_that_is_its_default(
    copy: Copy, verify: Callable[[], move.Proof], engine: Engine, invoices: Model
) -> None:
    invoices.append_column(Column("plan", Text, nullable=False, server_default=PRICE))
    invoices.append_column(Column("tags", String(20), nullable=False, server_default=text("'a'::character varying")))
    invoices.append_column(Column("price", Numeric(10, 2), nullable=False, server_default=text("9.5")))
    invoices.create(engine)
    copy()
    assert ask(engine.url, "SELECT id, plan, tags, price::text FROM invoices ORDER BY id") == [
        (1, PRICE, "a", "9.50"),
        (2, PRICE, "a", "9.50"),
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


@pytest.mark.parametrize(
    "replacement",
    [
        "CREATE VIEW public.app_stores AS SELECT * FROM elsewhere.app_stores",
        "CREATE MATERIALIZED VIEW public.app_stores AS SELECT * FROM elsewhere.app_stores",
        "CREATE SEQUENCE public.app_stores",
        "CREATE TYPE public.app_stores AS (id integer)",
    ],
)
def test_something_else_in_place_of_a_table_is_refused_before_anything_is_written(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine, replacement: str
) -> None:
    change(engine.url, "CREATE SCHEMA elsewhere", "ALTER TABLE app_stores SET SCHEMA elsewhere", replacement)

    def plan() -> None:
        with move.open_for_reading(supabase, engine) as connections:
            move.plan(connections)

    for use in (plan, copy, verify):
        with pytest.raises(move.TargetTablesReplaced) as caught:
            use()
        assert caught.value.names == ["app_stores"]
    assert ask(engine.url, "SELECT to_regnamespace('tatame_move')") == [(None,)]


def test_a_plan_names_the_children_of_a_table(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(engine.url, "CREATE TABLE old_checkins () INHERITS (checkins)", "INSERT INTO old_checkins (id) VALUES (1)")
    copy()
    with move.open_for_reading(supabase, engine) as connections:
        [child] = [found for found in move.plan(connections).target_objects if found.kind == "child table"]
    assert (child.table, child.name) == ("checkins", "public.old_checkins")
    assert "every query of checkins reads its rows too" in child.description


DISABLE = "ALTER TABLE checkins DISABLE TRIGGER ALL"


def test_disabled_foreign_keys_are_refused_and_reported(copy: Copy, engine: Engine) -> None:
    copy()
    change(engine.url, DISABLE)
    with move.open_target(engine) as target:
        assert len(move.status(target).unvalidated_keys) == 2
    with pytest.raises(move.KeysDisabled, match="checkins_user_id_users_id_fk"):
        copy()
    change(engine.url, "ALTER TABLE checkins ENABLE TRIGGER ALL")
    copy()


def test_foreign_keys_that_are_disabled_during_a_copy_are_no_success(copy: Copy, engine: Engine) -> None:
    def disable(stage: move.Stage, _: str | None) -> None:
        if stage is move.Stage.VALIDATE:
            change(engine.url, DISABLE)

    with pytest.raises(move.KeysDisabled):
        copy(on_stage=disable)


def test_an_invalid_unique_index_in_place_of_a_key_is_no_success(copy: Copy, engine: Engine) -> None:
    change(
        engine.url,
        "ALTER TABLE users DROP CONSTRAINT users_clerk_user_id_unique",
        "CREATE UNIQUE INDEX users_clerk_user_id_unique ON users (clerk_user_id)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_clerk_user_id_unique'::regclass",
    )
    with pytest.raises(move.KeysNotRestored, match="users_clerk_user_id_unique"):
        copy()


def test_a_value_that_an_index_of_the_team_rejects_is_reported_without_it(copy: Copy, engine: Engine) -> None:
    change(engine.url, "CREATE INDEX own ON users ((email::integer))")
    with pytest.raises(move.RowsRefused, match=r"a value is rejected \(SQLSTATE 22P02\)") as caught:
        copy()
    assert "@" not in str(caught.value)


@pytest.mark.parametrize("change_rejects", ["DELETE FROM tatame_move.rejects", "UPDATE tatame_move.rejects SET id = 7"])
def test_excluded_rows_that_are_lost_before_the_end_are_no_success(
    supabase: URL, engine: Engine, change_rejects: str
) -> None:
    change(supabase, "INSERT INTO checkins (id, date) VALUES (500000, 'infinity')")
    copy = copy_into(supabase, engine, choices=move.Choices(rejects="keep"))

    def lose(stage: move.Stage, _: str | None) -> None:
        if stage is move.Stage.RESTORE:
            change(engine.url, change_rejects)

    with pytest.raises(move.ChangedAfterProof, match=r"tatame_move\.rejects"):
        copy(on_stage=lose)
    copy()


def test_a_target_that_hides_rows_from_its_role_is_refused_by_every_command(
    copy: Copy, supabase: URL, engine: Engine
) -> None:
    copy()
    role = f"owner_{secrets.token_hex(4)}"
    change(
        engine.url,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT CREATE, TEMPORARY ON DATABASE {engine.url.database} TO {role}",
        f"GRANT {role} TO CURRENT_USER",
        f"ALTER TABLE users OWNER TO {role}",
        f"ALTER SCHEMA tatame_move OWNER TO {role}",
        f"GRANT USAGE ON SCHEMA tatame_migrations TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public, tatame_move, tatame_migrations TO {role}",
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE users FORCE ROW LEVEL SECURITY",
    )
    try:
        with Database(engine.url.set(username=role)) as database:
            for use in (move.verify, move.plan, move.counts):
                with (
                    pytest.raises(RightsMissing, match=r"a view of all rows of public\.users"),
                    move.open_for_reading(supabase, database.engine) as connections,
                ):
                    use(connections)
    finally:
        change(engine.url, f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_view_of_the_source_that_fails_for_a_value_is_reported_without_it(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine
) -> None:
    columns = ask(
        supabase,
        "SELECT string_agg(CASE attname WHEN 'id' THEN '(''ana@'' || id)::bigint AS id' ELSE quote_ident(attname) END,"
        " ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app_stores'::regclass AND attnum > 0",
    )[0][0]
    change(
        supabase,
        "ALTER TABLE app_stores RENAME TO hidden_stores",
        f"CREATE VIEW app_stores AS SELECT {columns} FROM hidden_stores",
    )

    def plan() -> None:
        with move.open_for_reading(supabase, engine) as connections:
            move.plan(connections)

    for use in (plan, copy, verify):
        with pytest.raises(move.ServerFailed, match="a value is rejected") as caught:
            use()
        assert caught.value.database == "source"
        assert "@" not in str(caught.value)


def test_a_sequence_that_ends_before_the_largest_id_is_reported_in_words(copy: Copy, engine: Engine) -> None:
    change(engine.url, "ALTER SEQUENCE users_id_seq MAXVALUE 2")
    with pytest.raises(move.TrialInsertFailed, match="sequence"):
        copy()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE attachments",
        "DROP SCHEMA tatame_move CASCADE",
        "ALTER TABLE checkins RENAME COLUMN date TO day",
        "ALTER TABLE checkins DROP COLUMN date",
        "ALTER TABLE checkins RENAME TO visits",
        "ALTER SCHEMA public RENAME TO private",
    ],
)
@pytest.mark.parametrize("stage", [move.Stage.FIND, move.Stage.DROP, move.Stage.WRITE])
def test_a_schema_that_changes_during_a_copy_is_an_error_in_words(
    copy: Copy, engine: Engine, statement: str, stage: move.Stage
) -> None:
    remaining = [statement]

    def alter(begun: move.Stage, _: str | None) -> None:
        if begun is stage and remaining:
            change(engine.url, remaining.pop())

    with pytest.raises(move.SchemaChanged):
        copy(on_stage=alter)


def test_a_plan_says_what_a_copy_would_refuse(copy: Copy, supabase: URL, engine: Engine) -> None:
    def refusals() -> list[str]:
        with move.open_for_reading(supabase, engine) as connections:
            plan = move.plan(connections)
        assert plan.unresolved == []
        assert plan.complete == (plan.refusals == [])
        assert (plan.error is None) == plan.complete
        return plan.refusals

    assert refusals() == []
    change(engine.url, "INSERT INTO roles (id) VALUES ('REFEREE')")
    [other] = refusals()
    assert "did not come from this source" in other
    assert "roles (1 of 1 row) (" in other
    assert "--replace" in other
    with pytest.raises(move.OtherRowsInTarget):
        copy()
    copy(replace_rows=True)
    assert refusals() == []
    change(supabase, "DELETE FROM attachments")
    [emptied] = refusals()
    assert "attachments with" in emptied
    assert "--emptied" in emptied
    with pytest.raises(move.TablesEmptied):
        copy()
    copy(accept_emptied=True)
    change(engine.url, DISABLE)
    [disabled] = refusals()
    assert "are disabled" in disabled


def test_a_choice_that_does_not_exist_is_refused() -> None:
    wrong: Any = "nul"
    for name in ("orphans", "misfits", "duplicates", "unknown", "rejects"):
        with pytest.raises(ValueError, match=f"{name} is 'nul'; it can be '"):
            move.Choices(**{name: wrong})
