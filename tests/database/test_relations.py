"""The relations and constructors of the models, against the database."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import URL, Engine, inspect, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm import InstrumentedAttribute, Session, joinedload, selectinload

from tatame_db import evolve, schema
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import TatameError
from tatame_db.schema import (
    Asset,
    Attachment,
    Base,
    Checkin,
    Class,
    Graduation,
    Gym,
    Notification,
    RelationNotLoaded,
    Role,
    User,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.server.embedded import EmbeddedServer


def a_user(**known: Any) -> User:
    return User(**{"clerk_user_id": f"user_{uuid4().hex}", **known})


def a_gym(**known: Any) -> Gym:
    return Gym(**{"name": "Alliance", "address": "Rua A, 1", "since": "2015-03-01", **known})


def violated_constraint(error: IntegrityError) -> str | None:
    assert isinstance(error.orig, psycopg.Error)
    return error.orig.diag.constraint_name


# --- A small world, connected by foreign keys ------------------------------------------------------------------------

WORLD: list[Base] = [
    Role(id="STUDENT"),
    Role(id="MANAGER"),
    a_gym(id=1),
    a_gym(id=2),
    a_user(id=1, role="MANAGER", gym_id=1),
    a_user(id=2, role="STUDENT", gym_id=1),
    a_user(id=3, role="STUDENT", gym_id=2),
    a_user(id=4),
    Class(id=1, gym_id=1, instructor_id=2, created_by=1),
    Class(id=2, gym_id=1, instructor_id=2, created_by=2),
    Class(id=3),
    Graduation(id=1, user_id=2),
    Graduation(id=2, user_id=2),
    Asset(id=1, class_id=1),
    Asset(id=2, class_id=1),
    Asset(id=3),
    Attachment(id=1, class_id=2),
    Attachment(id=2),
    Checkin(id=1, user_id=2, class_id=1),
    Checkin(id=2, user_id=3, class_id=1),
    Checkin(id=3, user_id=2, class_id=2),
    Checkin(id=4),
    Notification(id=1, sent_by=1),
    Notification(id=2, sent_by=1),
    Notification(id=3),
]
MANAGERS = {1: 1, 2: 1}

# For each relation: the keys of the related rows, by the key of the row.
RELATED: dict[InstrumentedAttribute[Any], dict[Any, Any]] = {
    Role.users: {"STUDENT": [2, 3], "MANAGER": [1]},
    User.role_: {1: "MANAGER", 2: "STUDENT", 3: "STUDENT", 4: None},
    User.gym: {1: 1, 2: 1, 3: 2, 4: None},
    User.managed_gyms: {1: [1, 2], 2: [], 3: [], 4: []},
    User.graduations: {1: [], 2: [1, 2], 3: [], 4: []},
    User.checkins: {1: [], 2: [1, 3], 3: [2], 4: []},
    User.instructed_classes: {1: [], 2: [1, 2], 3: [], 4: []},
    User.created_classes: {1: [1], 2: [2], 3: [], 4: []},
    User.sent_notifications: {1: [1, 2], 2: [], 3: [], 4: []},
    Gym.manager: {1: 1, 2: 1},
    Gym.members: {1: [1, 2], 2: [3]},
    Gym.classes: {1: [1, 2], 2: []},
    Class.gym: {1: 1, 2: 1, 3: None},
    Class.instructor: {1: 2, 2: 2, 3: None},
    Class.creator: {1: 1, 2: 2, 3: None},
    Class.assets: {1: [1, 2], 2: [], 3: []},
    Class.attachments: {1: [], 2: [1], 3: []},
    Class.checkins: {1: [1, 2], 2: [3], 3: []},
    Graduation.user: {1: 2, 2: 2},
    Asset.class_: {1: 1, 2: 1, 3: None},
    Attachment.class_: {1: 2, 2: None},
    Checkin.user: {1: 2, 2: 3, 3: 2, 4: None},
    Checkin.class_: {1: 1, 2: 1, 3: 2, 4: None},
    Notification.sender: {1: 1, 2: 1, 3: None},
}

each_relation = pytest.mark.parametrize("relation", RELATED, ids=str)


# Once in a session: the objects of `WORLD` are not new any more when they are added a second time.
@pytest.fixture(scope="session")
def world(server: EmbeddedServer) -> Generator[Database]:
    """Yield a database that contains `WORLD`, for tests that only read."""
    address = server.address.set(database=f"world_{uuid4().hex}")
    create_missing_database(address)
    with Database(address) as database:
        evolve.migrate(database.engine)
        with database.session.begin() as session:
            session.add_all(WORLD)
            session.flush()
            for gym_id, manager_id in MANAGERS.items():
                session.get_one(Gym, gym_id).manager_id = manager_id
        yield database


def key_of(row: Base) -> Any:
    [key] = inspect(row).identity or ()
    return key


def keys_of(related: Any) -> Any:
    if isinstance(related, list):
        return sorted(map(key_of, related))
    return related and key_of(related)


@each_relation
@pytest.mark.parametrize("load", [selectinload, joinedload], ids=["selectinload", "joinedload"])
def test_a_relation_loads_the_related_rows(load: Any, relation: InstrumentedAttribute[Any], world: Database) -> None:
    with world.session() as session:
        rows = session.scalars(select(relation.class_).options(load(relation))).unique().all()

    assert {key_of(row): keys_of(getattr(row, relation.key)) for row in rows} == RELATED[relation]


def test_the_examples_include_every_relation() -> None:
    assert {str(relation) for relation in RELATED} == {
        str(relation) for mapper in Base.registry.mappers for relation in mapper.relationships
    }


# --- Unloaded relations ----------------------------------------------------------------------------------------------


def advice(error: RelationNotLoaded) -> list[str]:
    """Return the pieces of code in the hint of an error."""
    return re.findall(r"`([^`]+)`", error.fix)


def follow(code: str, **names: Any) -> Any:
    """Run a piece of code from a hint."""
    return eval(code, {**vars(schema), "selectinload": selectinload, "select": select, **names})  # noqa: S307, the code is from our own hint


@each_relation
def test_an_unloaded_relation_is_an_error_with_code_that_loads_it(
    relation: InstrumentedAttribute[Any], world: Database
) -> None:
    key, model = relation.key, inspect(relation.class_).mapper
    one, wanted = next(iter(RELATED[relation].items()))
    with world.session() as session:
        row = session.get_one(model, one)
        with pytest.raises(RelationNotLoaded) as raised:
            getattr(row, key)
        assert str(raised.value).startswith(f"{relation} was not loaded\n")
        assert f"selectinload({relation})" in str(raised.value)

        query, refresh = advice(raised.value)
        [variable] = re.findall(r"\((\w+),", refresh)
        follow(refresh, session=session, **{variable: row})
        assert keys_of(getattr(row, key)) == wanted

    with world.session() as session:
        found = {key_of(row): row for row in session.scalars(follow(query))}
        assert keys_of(getattr(found[one], key)) == wanted


def test_the_error_of_an_unloaded_relation_is_also_one_of_sqlalchemy(world: Database) -> None:
    with world.session() as session:
        ana = session.get_one(User, 1)

    with pytest.raises(TatameError):
        _ = ana.gym
    with pytest.raises(InvalidRequestError):
        _ = ana.gym


def test_a_detached_row_names_the_relation_that_was_not_loaded(world: Database) -> None:
    with world.session() as session:
        ana = session.get_one(User, 1)

    with pytest.raises(RelationNotLoaded) as raised:
        _ = ana.checkins

    assert (raised.value.model, raised.value.relation) == ("User", "checkins")


def test_an_unloaded_relation_sends_no_query(world: Database) -> None:
    with world.session() as session:
        ana = session.get_one(User, 1)
        session.commit()
        for relation in inspect(User).relationships:
            with pytest.raises(RelationNotLoaded):
                getattr(ana, relation.key)

        assert not session.in_transaction()


def test_the_advice_works_in_an_async_session(world: Database) -> None:
    async def read() -> tuple[str, str]:
        async with AsyncDatabase(world.address) as database, database.session() as session:
            user = await session.get_one(User, 2)
            with pytest.raises(RelationNotLoaded) as raised:
                _ = user.gym
            query, refresh = advice(raised.value)
            await follow(refresh, session=session, user=user)
            by_refresh = user.gym
            session.expunge_all()
            by_query = {row.id: row.gym for row in await session.scalars(follow(query))}[2]
            return repr(by_refresh), repr(by_query)

    assert asyncio.run(read()) == ("Gym(id=1)", "Gym(id=1)")


# --- Writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [False, True], ids=["members not loaded", "members loaded"])
def test_a_gym_with_members_cannot_be_deleted(loaded: bool, engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all([a_gym(id=1), a_user(id=1, gym_id=1)])
        session.commit()
        gym = session.get_one(Gym, 1, options=[selectinload(Gym.members)] if loaded else [])
        session.delete(gym)
        with pytest.raises(IntegrityError) as raised:
            session.commit()

    assert violated_constraint(raised.value) == "users_gym_id_gyms_id_fk"
    with Session(engine) as session:
        assert session.scalars(select(User.gym_id)).all() == [1]


@pytest.mark.parametrize(
    ("constraint", "parent"),
    [
        ("users_role_roles_id_fk", Role(id="STUDENT", users=[a_user()])),
        ("users_gym_id_gyms_id_fk", a_gym(members=[a_user()])),
        ("class_gym_id_gyms_id_fk", a_gym(classes=[Class()])),
        ("graduations_user_id_users_id_fk", a_user(graduations=[Graduation()])),
        ("checkins_user_id_users_id_fk", a_user(checkins=[Checkin()])),
        ("class_instructor_id_users_id_fk", a_user(instructed_classes=[Class()])),
        ("class_created_by_users_id_fk", a_user(created_classes=[Class()])),
        ("notifications_sent_by_users_id_fk", a_user(sent_notifications=[Notification()])),
        ("assets_class_id_class_id_fk", Class(assets=[Asset()])),
        ("attachments_class_id_class_id_fk", Class(attachments=[Attachment()])),
        ("checkins_class_id_class_id_fk", Class(checkins=[Checkin()])),
    ],
)
def test_a_deletion_sets_no_foreign_key_of_other_rows_to_null(constraint: str, parent: Base, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(parent)
        session.flush()
        session.delete(parent)
        with pytest.raises(IntegrityError) as raised:
            session.flush()

    assert violated_constraint(raised.value) == constraint


def test_the_manager_of_a_gym_cannot_be_deleted(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(a_gym(manager=a_user()))
        session.commit()
        ana = session.scalars(select(User).options(selectinload(User.managed_gyms))).one()
        session.delete(ana)
        with pytest.raises(IntegrityError) as raised:
            session.flush()

    assert violated_constraint(raised.value) == "gyms_manager_id_users_id_fk"


def test_a_gym_is_written_before_the_members_that_refer_to_it(engine: Engine) -> None:
    with Session(engine) as session:
        # A random order would fail in one of five attempts.
        for key in range(1, 6):
            session.add_all([a_user(gym_id=key), a_gym(id=key)])
            session.flush()


def test_a_gym_and_its_manager_are_written_together(engine: Engine) -> None:
    gym = a_gym()
    gym.manager = a_user(gym=gym)
    with Session(engine) as session:
        session.add(gym)
        session.commit()

    with Session(engine) as session:
        [[gym_id, manager_id]] = session.execute(select(Gym.id, Gym.manager_id))
        [[user_id, members_gym_id]] = session.execute(select(User.id, User.gym_id))
    assert (manager_id, members_gym_id) == (user_id, gym_id)


def test_columns_that_are_left_out_get_their_defaults_from_the_server(address: URL) -> None:
    with Database(address) as database, database.engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {address.database} SET timezone TO 'Asia/Tokyo'"))

    with Database(address) as database, database.session.begin() as session:
        ana, bia = a_user(), a_user()
        session.add_all([ana, bia])
        session.flush()

        assert sorted([ana.id, bia.id]) == [1, 2]
        assert abs(ana.created_at - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=1)


def test_values_take_the_place_of_defaults(engine: Engine) -> None:
    long_ago = datetime(2015, 3, 1, 12, 30, 15, 123456)
    with Session(engine) as session:
        session.add(a_user(id=77, created_at=long_ago))
        session.commit()

        ana = session.scalars(select(User)).one()
        assert (ana.id, ana.created_at) == (77, long_ago)


def test_a_foreign_key_is_written_although_its_relation_is_left_out(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(a_gym(id=5))
        session.flush()
        session.add(a_user(gym_id=5))
        session.commit()

        assert session.scalars(select(User.gym_id)).all() == [5]


def test_a_relation_that_is_set_to_none_clears_its_foreign_key(engine: Engine) -> None:
    with Session(engine) as session:
        ana = a_user(gym=a_gym())
        session.add(ana)
        session.commit()
        ana.gym = None
        session.commit()

        assert session.scalars(select(User.gym_id)).all() == [None]


@pytest.mark.parametrize(
    "ids",
    [
        None,
        [],
        ["1"],
        ["1", "2", "1"],
        ["a,b", 'a"b', "{a}", "a\\b", "it's", " ", "", "NULL", "null", "\N{MARTIAL ARTS UNIFORM}", "line\nbreak\ttab"],
    ],
    ids=["NULL", "none", "one", "some", "hard"],
)
def test_lists_come_back_as_they_were_written(ids: list[str] | None, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Notification(recipients=ids, viewed_by=ids))
        session.commit()

        [[recipients, viewed_by]] = session.execute(select(Notification.recipients, Notification.viewed_by))
        assert recipients == ids
        assert viewed_by == ids


def test_a_clerk_id_belongs_to_one_user(engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all([User(clerk_user_id="user_ana"), User(clerk_user_id="user_ana")])
        with pytest.raises(IntegrityError) as raised:
            session.flush()

    assert violated_constraint(raised.value) == "users_clerk_user_id_unique"


def test_nullable_columns_that_are_left_out_come_back_as_none(engine: Engine) -> None:
    least = [a_user(), a_gym(), Class(), Asset(), Attachment(), Checkin(), Notification()]
    with Session(engine) as session:
        session.add_all(least)
        session.commit()

        for row in least:
            columns = inspect(row).mapper.columns
            assert {column.key for column in columns if getattr(row, column.key) is None} == {
                column.key for column in columns if column.nullable
            }


def test_a_repr_of_a_row_sends_no_query(engine: Engine) -> None:
    with Session(engine) as session:
        ana = a_user()
        session.add(ana)
        session.flush()
        assert repr(ana) == "User(id=1)"

        session.expire(ana)
        assert repr(ana) == "User(id=None)"
