"""Reads, compared with the ORM."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, aclosing
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import URL, BindParameter, Engine, ForeignKey, any_, bindparam, func, insert, inspect, select, text
from sqlalchemy.exc import DataError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column, relationship, selectinload

from tatame_db.database.connecting import DatabasePool
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import DatabaseClosed, ServerNotRunning
from tatame_db.database.options import POOL_SIZE
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import statements
from tatame_db.queries.errors import (
    NotLoaded,
    NotOneRow,
    ParametersDiffer,
    ReadInvalid,
    RowReadOnly,
    ValueDiffersFromModel,
    ValueNotReadable,
)
from tatame_db.queries.read import Read, query, read
from tatame_db.schema import Base, Checkin, Class, Graduation, Gym, Notification, Role, User, Version
from tatame_db.seed import SeedPlan, seed
from tatame_db.server.embedded import EmbeddedServer

MAPPERS = sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__)
RELATIONS = [relation for mapper in MAPPERS for relation in mapper.relationships]

each_model = pytest.mark.parametrize("model", [mapper.class_ for mapper in MAPPERS], ids=lambda model: model.__name__)
each_relation = pytest.mark.parametrize(
    "relation", [relation.class_attribute for relation in RELATIONS], ids=[str(relation) for relation in RELATIONS]
)

TEXTS: list[Any] = [
    "",
    "null",
    "NULL",
    '"',
    "\\",
    "\\u0041",
    "{}",
    "[1]",
    "a,b",
    "tab\tline\nreturn\r",
    "\x01\x1f\x7f\u2028",
    "ç 🥋",
]
TEXTS += ["%s %(id)s", "'", "x" * 300_000, None]
MOMENTS = [
    datetime.min,
    datetime.max,
    datetime(2026, 3, 1, 12, 0, 0, 1),
    datetime(1969, 12, 31, 23, 59, 59, 999999),
    None,
]
ARRAYS = [[], [""], ["NULL", None, "null"], ['a,"b"', "{c}", "d\\e", " f "], [["a", "b"], ["c", None]], ["🥋\n"], None]
NUMBERS = [0, -1, 2**31 - 1, -(2**31), None]
VALUES: dict[type, list[Any]] = {str: TEXTS, datetime: MOMENTS, list: ARRAYS, int: NUMBERS}


class Kind(Enum):
    SOFT = "soft"


@query
def find_user(clerk_user_id: str) -> Read[User]:
    return read(User).where(User.clerk_user_id == clerk_user_id).load(User.gym, User.graduations)


@pytest.fixture
def database(address: URL) -> Generator[Database]:
    with Database(address) as database:
        yield database


@pytest.fixture
def hostile(database: Database) -> Database:
    """Fill every table with values that are easily lost; its foreign keys refer to rows of the other tables."""
    with database.engine.begin() as connection:
        connection.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        for name in ("roles", "gyms", "users"):
            connection.execute(insert(Base.metadata.tables[name]), [hostile_row(name, number) for number in range(20)])
        for table in Base.metadata.sorted_tables:
            if table.name not in ("roles", "gyms", "users"):
                connection.execute(insert(table), [hostile_row(table.name, number) for number in range(20)])
    return database


def hostile_row(name: str, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for place, column in enumerate(Base.metadata.tables[name].columns):
        pick = number + place
        if column.primary_key:
            row[column.name] = f"role {number}" if name == "roles" else number + 1
        elif column.foreign_keys:
            to_role = next(iter(column.foreign_keys)).column.table.name == "roles"
            # Every third is NULL if the column is nullable, and some rows are referred to by many.
            referred = f"role {pick % 4}" if to_role else pick % 4 + 1
            row[column.name] = None if column.nullable and pick % 3 == 0 else referred
        elif column.unique:
            row[column.name] = f"{TEXTS[pick % len(TEXTS[:-2])]}{number}"
        else:
            kind = column.type.python_type
            values = VALUES[kind]
            value = values[pick % len(values)]
            if isinstance(value, str) and any(column.name in index.columns for index in column.table.indexes):
                value = value[:99]  # an index entry holds no long text
            row[column.name] = values[0] if value is None and not column.nullable else value
    return row


def columns_of(row: Any, model: type[Base]) -> dict[str, Any]:
    return {key: getattr(row, key) for key in inspect(model).column_attrs.keys()}  # noqa: SIM118, no dictionary


def key_of(model: type[Base]) -> Any:
    return inspect(model).primary_key[0]


def sorted_by_key(related: Any) -> list[Any]:
    rows = related if isinstance(related, list) else [related] if related is not None else []
    return sorted(rows, key=lambda row: str(row.id))


# --- Compared with the ORM -------------------------------------------------------------------------------------------


@each_model
def test_every_column_of_every_model_is_what_the_orm_returns(model: type[Base], hostile: Database) -> None:
    found = read(model).order_by(key_of(model)).all(hostile)

    with hostile.session() as session:
        expected = session.scalars(select(model).order_by(key_of(model))).all()
    assert len(found) == 20
    for row, object_ in zip(found, expected, strict=True):
        assert columns_of(row, model) == columns_of(object_, model)
        for name, value in columns_of(object_, model).items():
            assert type(getattr(row, name)) is type(value)


@pytest.mark.parametrize("limit", [None, 1_000], ids=["joined if it is one row", "always JSON"])
@each_relation
def test_every_relation_is_what_the_orm_returns(
    relation: InstrumentedAttribute[Any], limit: int | None, hostile: Database
) -> None:
    model = cast("type[Base]", relation.class_)
    target = inspect(relation.class_).relationships[relation.key].mapper.class_
    described = read(model).load(relation).order_by(key_of(model))
    found = (described.limit(limit) if limit else described).all(hostile)

    with hostile.session() as session:
        expected = session.scalars(select(model).options(selectinload(relation)).order_by(key_of(model))).all()
    assert sum(len(sorted_by_key(getattr(row, relation.key))) for row in found) > 4
    for row, object_ in zip(found, expected, strict=True):
        related, expected_rows = getattr(row, relation.key), getattr(object_, relation.key)
        assert isinstance(related, list) == isinstance(expected_rows, list)
        assert (related is None) == (expected_rows is None)
        assert [columns_of(one, target) for one in sorted_by_key(related)] == [
            columns_of(one, target) for one in sorted_by_key(expected_rows)
        ]


def test_relations_are_loaded_to_any_depth_and_back_to_the_same_table(hostile: Database) -> None:
    found = (
        read(Gym)
        .load(read(Gym.members).load(read(User.gym).load(read(Gym.manager).load(User.graduations)), User.checkins))
        .order_by(Gym.id)
        .all(hostile)
    )

    with hostile.session() as session:
        members = selectinload(Gym.members)
        manager = members.selectinload(User.gym).selectinload(Gym.manager).selectinload(User.graduations)
        expected = session.scalars(
            select(Gym).options(manager, members.selectinload(User.checkins)).order_by(Gym.id)
        ).all()

    def facts(gyms: Any) -> Any:
        return [
            [
                (
                    user.id,
                    user.gym.name,
                    user.gym.manager
                    and [(one.id, one.created_at) for one in sorted_by_key(user.gym.manager.graduations)],
                    [(one.id, one.date) for one in sorted_by_key(user.checkins)],
                )
                for user in sorted_by_key(gym.members)
            ]
            for gym in gyms
        ]

    assert facts(found) == facts(expected)
    assert any(facts(found))


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
def test_a_timestamp_that_python_lacks_is_an_error_wherever_it_is_read(moment: str, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO users (id, clerk_user_id) VALUES (1, 'user_ana')"))
        connection.execute(
            text("INSERT INTO graduations (user_id, created_at) VALUES (1, :moment)"), {"moment": moment}
        )
    with database.session() as session, pytest.raises(DataError):
        session.scalars(select(Graduation)).all()

    with pytest.raises(ValueNotReadable, match="read Graduation"):
        read(Graduation).all(database)
    with pytest.raises(ValueNotReadable, match="find_user"):
        find_user.first(database, clerk_user_id="user_ana")
    assert read(Graduation).columns(Graduation.id).load(Graduation.user).one(database).user.id == 1


def test_a_value_that_its_model_does_not_allow_is_no_moment(database: Database) -> None:
    with database.engine.begin() as connection:
        for statement in (
            "ALTER TABLE gyms ALTER name DROP NOT NULL",
            "INSERT INTO gyms (name, address, since) VALUES (NULL, 'Rua A', '2015')",
            "INSERT INTO users (clerk_user_id, gym_id) VALUES ('user_ana', 1)",
            "INSERT INTO roles (id) VALUES ('STUDENT')",
            "UPDATE users SET role = 'STUDENT'",
        ):
            connection.execute(text(statement))
    users = read(Role).load(read(Role.users).load(User.gym))
    with pytest.raises(ValueDiffersFromModel, match="Expected `str`, got `null`") as raised:
        users.all(database)
    assert "Rua A" not in str(raised.value)


class Elsewhere(DeclarativeBase):
    """Tables with types that the models of the package lack."""


class Shelf(Elsewhere):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    things: Mapped[list[Thing]] = relationship(lazy="raise")


class Thing(Elsewhere):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelves.id"))
    picture: Mapped[bytes]
    lasts: Mapped[timedelta]
    ratio: Mapped[float]
    kind: Mapped[Kind]
    shelf: Mapped[Shelf] = relationship(lazy="raise", viewonly=True)


def test_types_that_json_lacks_are_read_natively_or_are_an_error(database: Database) -> None:
    Elsewhere.metadata.create_all(database.engine)
    rows = [(b"\x00\xff", timedelta(days=-1, microseconds=1), ratio) for ratio in (float("inf"), 0.1, 1e300)]
    with database.session.begin() as session:
        session.add(Shelf(id=1))
        session.flush()
        for picture, lasts, ratio in rows:
            session.add(Thing(shelf_id=1, picture=picture, lasts=lasts, ratio=ratio, kind=Kind.SOFT))
    things: Read[Any] = read(cast("Any", Thing)).order_by(Thing.id)
    carried = things.columns(Thing.picture, Thing.lasts, Thing.ratio)

    assert [(row.picture, row.lasts, row.ratio) for row in carried.all(database)] == rows
    with pytest.raises(ReadInvalid, match=r"(?s)Thing has `kind` of type Enum.*session"):
        things.all(database)
    with pytest.raises(ReadInvalid, match=r"(?s)Shelf.things has `picture` of type BLOB.*selectinload"):
        read(cast("Any", Shelf)).load(Shelf.things).all(database)
    shelf = read(cast("Any", Shelf)).load(read(Shelf.things).columns(Thing.id)).one(database)
    assert sorted(thing.id for thing in shelf.things) == [1, 2, 3]


# --- Descriptions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def seeded(database: Database) -> Database:
    with database.engine.begin() as connection:
        seed(connection, SeedPlan(gyms=2, members=8, days=14))
    return database


def test_the_example_of_the_plan_finds_a_user_with_gym_and_graduations(seeded: Database) -> None:
    with seeded.session() as session:
        user = session.scalars(select(User).options(selectinload(User.gym)).where(User.gym_id == 1)).first()
    assert user

    found = find_user.first(seeded, clerk_user_id=user.clerk_user_id)

    assert found
    assert found.gym
    assert user.gym
    assert (found.id, found.gym.name) == (user.id, user.gym.name)
    assert {graduation.user_id for graduation in found.graduations} == {user.id}
    assert find_user.first(seeded, "user_unknown") is None


def test_a_relation_has_its_own_condition_order_and_limit(seeded: Database) -> None:
    last = (
        read(User.checkins)
        .where(Checkin.date < "2999-01-01")
        .order_by(Checkin.date.desc(), Checkin.id)
        .limit(3, skip=1)
    )
    found = read(User).load(last).where(User.role == "STUDENT").order_by(User.id).all(seeded)

    with seeded.session() as session:
        for user in found:
            ids = select(Checkin.id).where(Checkin.user_id == user.id).order_by(Checkin.date.desc(), Checkin.id)
            assert [one.id for one in user.checkins] == list(session.scalars(ids.limit(3).offset(1)))
    assert any(len(user.checkins) == 3 for user in found)


def test_a_condition_of_a_relation_may_use_other_tables_and_its_own(seeded: Database) -> None:
    of_colleagues = read(Gym.classes).where(Class.instructor.has(User.gym_id == 1), ~Class.assets.any())
    [gym] = read(Gym).load(of_colleagues).where(Gym.id == 1).all(seeded)

    with seeded.session() as session:
        asked = select(Class.id).where(Class.gym_id == 1, Class.instructor.has(User.gym_id == 1), ~Class.assets.any())
        assert sorted(one.id for one in gym.classes) == sorted(session.scalars(asked))
    assert gym.classes


def test_conditions_take_expressions_lists_and_arrays(seeded: Database) -> None:
    ids: BindParameter[list[int]] = bindparam("ids")
    by_ids = read(User).where(User.id == any_(ids), User.role.in_(["STUDENT", "MANAGER"])).order_by(User.id)
    recipients = read(Notification).where(Notification.recipients.contains(bindparam("recipients")))

    assert [user.id for user in by_ids.all(seeded, ids=[1, 2, 3, 999_999])] == [
        user.id for user in read(User).where(User.id < 4, User.role != "INSTRUCTOR").order_by(User.id).all(seeded)
    ]
    assert by_ids.all(seeded, ids=[]) == []
    someone = read(Notification).where(func.cardinality(Notification.recipients) > 0).first(seeded)
    assert someone
    assert someone.recipients
    assert someone.id in [one.id for one in recipients.all(seeded, recipients=someone.recipients[:1])]


@pytest.mark.parametrize("limit", [None, 1_000], ids=["joined", "as JSON"])
def test_a_condition_of_a_relation_to_one_row_leaves_none_of_it_and_all_parents(
    limit: int | None, seeded: Database
) -> None:
    described = read(User).load(read(User.gym).where(Gym.id == 1).load(Gym.manager)).order_by(User.id)
    users = (described.limit(limit) if limit else described).all(seeded)

    assert {(user.gym_id, user.gym and user.gym.id) for user in users} == {(1, 1), (2, None), (None, None)}
    assert all(user.gym.manager and user.gym.manager.id == user.gym.manager_id for user in users if user.gym)


def test_rows_are_not_joined_before_they_are_sorted_and_limited(seeded: Database) -> None:
    checkins = read(Checkin).load(Checkin.user)
    newest = checkins.order_by(Checkin.created_at.desc(), Checkin.id)

    def joins(of: Read[Checkin], purpose: statements.Purpose = "stream") -> bool:
        return "JOIN" in of._prepare(purpose, (), {})[0].sql

    assert (joins(checkins), joins(checkins, "first"), joins(newest)) == (True, True, True)
    assert (joins(newest, "first"), joins(newest.limit(20))) == (False, False)
    assert [one.id for one in newest.limit(20).all(seeded)] == [one.id for one in newest.all(seeded)[:20]]


def test_limits_that_are_parameters_become_part_of_the_sql(seeded: Database) -> None:
    @query
    def page(count: int, skip: int = 0) -> Read[Checkin]:
        return read(Checkin).order_by(Checkin.id).limit(count, skip=skip)

    assert [one.id for one in page.all(seeded, 3)] == [1, 2, 3]
    assert [one.id for one in page.all(seeded, count=2, skip=3)] == [4, 5]
    assert page.first(seeded, 5) is not None
    assert page.first(seeded, 0) is None
    assert "LIMIT 2\nOFFSET 3" in page._prepare("all", (2, 3), {})[0].sql
    for wrong in (-1, "1; DROP TABLE users", 1.5, True, None):
        with pytest.raises(ReadInvalid, match="whole number"):
            page.all(seeded, wrong)  # type: ignore[arg-type]


def test_any_number_of_pages_caches_few_statements(seeded: Database) -> None:
    @query
    def page(skip: int) -> Read[Version]:
        return read(Version).order_by(Version.id).limit(1, skip=skip)

    for number in range(statements.MAX_STATEMENTS + 50):
        page.all(seeded, number)
    assert len(page._statements[frozenset()].cached) == statements.MAX_STATEMENTS


def test_one_expects_exactly_one_row(seeded: Database) -> None:
    assert read(Gym).where(Gym.id == 1).one(seeded).id == 1
    with pytest.raises(NotOneRow, match="`read Gym` expected exactly one row, found none"):
        read(Gym).where(Gym.id == 99).one(seeded)
    with pytest.raises(NotOneRow, match="expected exactly one row, found several"):
        read(Gym).one(seeded)


def test_a_method_returns_a_new_description_and_leaves_its_own_unchanged(seeded: Database) -> None:
    gyms = read(Gym)
    first = gyms.where(Gym.id == 1)
    assert (len(gyms.all(seeded)), len(first.all(seeded)), len(gyms.order_by(Gym.id).limit(1).all(seeded))) == (2, 1, 1)


def test_missing_and_unknown_parameters_are_named(database: Database) -> None:
    untyped: Any = find_user
    for args, kwargs in (((), {}), ((), {"clerk_id": "user_ana"}), (("user_ana", "user_bia"), {})):
        with pytest.raises(ParametersDiffer, match="find_user") as raised:
            untyped.first(database, *args, **kwargs)
        assert "user_ana" not in str(raised.value)
    with pytest.raises(ParametersDiffer) as raised:
        untyped.first(database, clerk_id="user_ana")
    assert (raised.value.missing, raised.value.unknown) == ({"clerk_user_id"}, {"clerk_id"})


@pytest.mark.parametrize(
    ("describe", "words"),
    [
        (lambda: read(User).load(Gym.members), "Gym.members is not a relation of User"),
        (lambda: read(User).load(read(User.gym), User.gym), "loaded twice"),
        (lambda: read(User).load(read(User)), "User is not a relation of User"),
        (lambda: read(User.email), "is a column"),
        (lambda: read(User).columns(Gym.name), "Gym.name is not a column of User"),
        (lambda: read(User).columns(User.gym), "User.gym is not a column of User"),
        (lambda: read(User).load(read(User.graduations).limit(cast("int", bindparam("n")))), "outermost"),
    ],
)
def test_a_description_that_one_statement_cannot_return_is_an_error(describe: Callable[[], object], words: str) -> None:
    with pytest.raises(ReadInvalid, match=words):
        describe()


# --- Rows ------------------------------------------------------------------------------------------------------------


def test_an_attribute_that_was_not_loaded_is_an_error_with_the_call_that_loads_it(seeded: Database) -> None:
    row = read(User).columns(User.id, User.first_name).where(User.id == 1).one(seeded)

    assert row.first_name
    with pytest.raises(NotLoaded, match=r"\.columns\(…, User\.email\)"):
        _ = row.email
    with pytest.raises(NotLoaded, match=r"\.load\(User\.gym\)"):
        _ = row.gym
    with pytest.raises(AttributeError, match="emial"):
        _ = row.emial  # type: ignore[attr-defined]


def test_a_row_is_read_only_and_session_get_loads_an_object_to_change(seeded: Database) -> None:
    row = read(User).where(User.id == 1).one(seeded)

    with pytest.raises(RowReadOnly, match=r"session\.get\(User, row\.id\)"):
        row.email = "ana@gym.example"
    with pytest.raises(RowReadOnly):
        del row.email
    with seeded.session.begin() as session:
        user = session.get(User, row.id)
        assert user
        user.email = "ana@gym.example"
    assert read(User).where(User.id == 1).one(seeded).email == "ana@gym.example"


def test_a_row_shows_its_key_alone(seeded: Database) -> None:
    row = read(User).where(User.id == 1).one(seeded)

    assert repr(row) == "User(id=1)"
    assert row.__rich_repr__() == [("id", 1)]  # type: ignore[attr-defined]
    assert repr(read(User).columns(User.email).first(seeded)) == "User()"


# --- Targets ---------------------------------------------------------------------------------------------------------


def test_a_read_in_a_session_sees_its_changes_and_other_reads_do_not(seeded: Database) -> None:
    with seeded.session() as session:
        session.add(User(clerk_user_id="user_ana"))
        assert find_user.one(session, clerk_user_id="user_ana").graduations == []
        assert find_user.one(session.connection(), clerk_user_id="user_ana").id
        assert find_user.first(seeded, clerk_user_id="user_ana") is None
        assert [one.clerk_user_id for one in read(User).order_by(User.id.desc()).limit(1).stream(session)] == [
            "user_ana"
        ]
        session.rollback()
    assert find_user.first(seeded, clerk_user_id="user_ana") is None


def test_a_session_without_autoflush_is_not_flushed(seeded: Database) -> None:
    with seeded.session(autoflush=False) as session:
        session.add(User(clerk_user_id="user_ana"))
        assert find_user.first(session, clerk_user_id="user_ana") is None


@pytest.mark.usefixtures("seeded")
def test_an_async_database_session_and_connection_read_the_same(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            assert await find_user.first(database, clerk_user_id="user_ana") is None
            async with database.session() as session:
                session.add(User(clerk_user_id="user_ana"))
                assert (await find_user.one(session, "user_ana")).graduations == []
                assert await find_user.first(database, "user_ana") is None
                assert (await find_user.one(await session.connection(), "user_ana")).id
                assert [one.id async for one in read(Gym).order_by(Gym.id).stream(session)] == [1, 2]
            assert [one.id async for one in read(Gym).order_by(Gym.id).stream(database)] == [1, 2]
            assert [one.id for one in await read(Gym).order_by(Gym.id).all(database)] == [1, 2]
            with pytest.raises(NotOneRow):
                await read(Gym).one(database)
            with pytest.raises(ProgrammingError):
                await read(Gym).where(text("wrong = 1")).all(database)  # type: ignore[arg-type]
            with pytest.raises(ProgrammingError):
                _ = [one async for one in read(Gym).where(text("wrong = 1")).stream(database)]  # type: ignore[arg-type]
            assert "Seq Scan" in await read(Gym).explain(database)

    asyncio.run(main())


async def use_every_connection(database: AsyncDatabase) -> None:
    """Hold as many sessions at once as the pool has connections, which works only if nothing else holds one."""
    async with AsyncExitStack() as stack, asyncio.timeout(20):
        for _ in range(POOL_SIZE):
            connection = await stack.enter_async_context(database.engine.connect())
            assert await connection.scalar(text("SELECT 1")) == 1
        assert database.engine.sync_engine.pool.checkedout() == POOL_SIZE  # type: ignore[attr-defined]


def test_sessions_and_reads_share_the_pool(address: URL, seeded: Database) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:

            async def read_and_write() -> None:
                assert len(await read(Gym).all(database)) == 2
                async with database.session.begin() as session:
                    session.add(Version())
                    await session.flush()
                    assert await read(Version).all(session)

            await asyncio.gather(*(read_and_write() for _ in range(100)))
            await use_every_connection(database)

    before = len(read(Version).all(seeded))
    asyncio.run(main())
    assert len(read(Version).all(seeded)) == before + 100


def test_a_session_after_a_read_can_still_roll_back(seeded: Database) -> None:
    read(Gym).all(seeded)
    with seeded.session() as session:
        session.add(Version(app_version="9"))
        session.flush()
        session.rollback()
    assert read(Version).where(Version.app_version == "9").first(seeded) is None


def test_threads_read_at_the_same_time(seeded: Database) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(read(Gym).all(seeded)))) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2] * 50


def test_connections_that_the_server_ended_are_replaced(address: URL, server: EmbeddedServer) -> None:
    end = text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name")

    async def main(observer: Engine) -> None:
        async with AsyncDatabase(address) as database:
            for _ in range(3):
                await asyncio.gather(*(read(Gym).all(database) for _ in range(5)))
                with observer.connect() as connection:
                    assert len(connection.execute(end, {"name": address.database}).all()) > 0
            await asyncio.gather(*(read(Gym).all(database) for _ in range(5)))
            with Database(address) as other:
                read(Gym).all(other)
                with observer.connect() as connection:
                    connection.execute(end, {"name": address.database})
                assert read(Gym).all(other) == []

    with Database(server.address.set(database="postgres")) as observer:
        asyncio.run(main(observer.engine))


def test_a_cancelled_read_returns_a_working_connection_to_the_pool(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            slow = read(Gym).where(func.pg_sleep(30).is_not(None))
            async with database.session.begin() as session:
                session.add(Gym(name="Alliance", address="Rua A, 1", since="2015-03-01"))
            for _ in range(POOL_SIZE + 1):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(slow.all(database), 0.02)
            assert len(await read(Gym).all(database)) == 1
            await use_every_connection(database)

    asyncio.run(main())


def test_failures_to_connect_are_the_errors_of_the_database(address: URL, directory: Any) -> None:
    nowhere = address.update_query_dict({"host": str(directory)})

    async def main() -> None:
        async with AsyncDatabase(nowhere) as database:
            with pytest.raises(ServerNotRunning):
                await read(Gym).all(database)

    asyncio.run(main())
    database = Database(nowhere)
    with pytest.raises(ServerNotRunning):
        read(Gym).all(database)
    database = Database(address)
    database.close()
    with pytest.raises(DatabaseClosed):
        read(Gym).all(database)


def test_a_statement_that_the_server_rejects_raises_the_error_of_a_session(seeded: Database) -> None:
    wrong = read(Gym).where(text("wrong = 1"), Gym.name == "secret")  # type: ignore[arg-type]
    with pytest.raises(ProgrammingError) as raised:
        wrong.all(seeded)
    assert "secret" not in str(raised.value)
    with pytest.raises(ProgrammingError):
        list(wrong.stream(seeded))
    assert len(read(Gym).all(seeded)) == 2


# --- One round trip, and how it shows --------------------------------------------------------------------------------


def messages_of(database: Database, run: Callable[[], object], file: Path) -> list[str]:
    """Return the messages that the client sends while `run` runs, as libpq traces them."""
    pool = cast("DatabasePool", database.engine.pool)
    # Sessions and queries take the same connection then.
    pool.kept.release_all()
    lent = pool.connect()
    connection = driver_connection(lent).pgconn
    lent.close()
    with file.open("wb") as trace:
        connection.trace(trace.fileno())
        run()
        connection.untrace()
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    return [line[3] for line in lines if line[1:2] == ["F"]]


def test_a_read_is_one_round_trip_whatever_it_loads(seeded: Database, tmp_path: Path) -> None:
    deep = read(Gym).load(read(Gym.members).load(User.graduations, User.role_), Gym.classes).where(Gym.id == 1)
    assert deep.one(seeded).members

    assert messages_of(seeded, lambda: deep.all(seeded), tmp_path / "trace") == [
        "Parse",
        "Bind",
        "Describe",
        "Execute",
        "Sync",
    ]


def test_a_read_that_is_repeated_is_prepared(seeded: Database, tmp_path: Path) -> None:
    for _ in range(6):
        find_user.first(seeded, "user_unknown")

    sent = messages_of(seeded, lambda: find_user.first(seeded, "user_unknown"), tmp_path / "trace")
    assert sent == ["Bind", "Describe", "Execute", "Sync"]


def test_a_session_sends_no_ping(seeded: Database, tmp_path: Path) -> None:
    def select_one() -> None:
        with seeded.session() as session:
            session.scalar(text("SELECT 1"))

    sent = messages_of(seeded, select_one, tmp_path / "trace")
    assert sent.count("Sync") + sent.count("Query") == 3, "BEGIN, SELECT, ROLLBACK"


def test_the_sql_is_compiled_once(seeded: Database) -> None:
    find_user.first(seeded, "user_unknown")
    statement, _ = find_user._prepare("first", ("user_ana",), {})
    assert find_user._prepare("first", ("user_bia",), {})[0] is statement


def test_long_results_stream_with_flat_memory(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO users (id, clerk_user_id) VALUES (1, 'user_ana')"))
        connection.execute(
            text("INSERT INTO checkins (user_id, date) SELECT 1, repeat('x', 300) FROM generate_series(1, 100000)")
        )
    checkins = read(Checkin).load(Checkin.class_)
    tracemalloc.start()
    try:
        count = sum(1 for _ in checkins.stream(database))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 100_000
    assert peak < 8_000_000


def test_a_stream_that_is_closed_early_returns_its_connection(address: URL, seeded: Database) -> None:
    rows = read(Checkin).stream(seeded)
    next(rows)
    rows.close()
    assert seeded.engine.pool.checkedout() == 0  # type: ignore[attr-defined]

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            async with aclosing(read(Checkin).stream(database)) as rows:
                async for _ in rows:
                    break
            await use_every_connection(database)
            assert len(await read(Gym).all(database)) == 2

    asyncio.run(main())


def test_two_streams_of_one_session_and_other_statements_may_alternate(seeded: Database) -> None:
    with seeded.session() as session:
        gyms, again = (read(Gym).order_by(Gym.id).stream(session) for _ in range(2))
        assert (next(gyms).id, next(again).id) == (1, 1)
        assert session.scalar(select(func.count()).select_from(Gym)) == 2
        assert (next(gyms).id, next(again).id) == (2, 2)


def test_the_log_has_names_and_times_of_reads_and_no_parameters(address: URL, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tatame_db.sql")
    with Database(address, log_statements=True) as database, Database(address) as silent:
        find_user.first(silent, "user_ana")
        assert caplog.messages == []
        find_user.first(database, "user_ana")
        read(Gym).all(database)
        list(read(Gym).stream(database))
        with database.session() as session:
            find_user.first(session, "user_ana")
    named = [message for message in caplog.messages if "SELECT" not in message]
    assert [re.sub(r"[0-9.]+ ms", "… ms", message) for message in named] == [
        "find_user [… ms]",
        "read Gym [… ms]",
        "read Gym [… ms]",
        "find_user [… ms]",
    ]
    assert "user_ana" not in caplog.text


def test_explain_returns_the_plan_with_times(seeded: Database) -> None:
    plan = find_user.explain(seeded, clerk_user_id="user_ana")
    assert "Scan on graduations" in plan
    assert "actual time" in plan


def test_the_models_do_not_load_the_queries() -> None:
    code = "import sys, tatame_db.schema; print('msgspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
