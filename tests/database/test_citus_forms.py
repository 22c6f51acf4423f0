"""What has another form on Citus does the same on every server; on a server with Citus, it works."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, exists, func, literal, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.database.citus_forms import as_on_citus

from tatame_db.database.citus import knows_citus
from tatame_db.database.errors import NotOnCitus
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.errors import RowRejected
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many, update_many, upsert
from tatame_db.schema import Checkin, Class, Graduation, Gym, Notification, User

URL = os.environ.get("TATAME_CITUS_URL", "")
needs_citus = pytest.mark.skipif(not URL, reason="TATAME_CITUS_URL is no database whose tables Citus has placed")
NUMBER = 40


def add(database: Database) -> list[int]:
    """Add members with and without check-ins, some of them without a class."""
    with database.session.begin() as session:
        gym = Gym(name="Form", address="Rua", since="2026-01-01")
        lesson = Class(gym=gym, day="MONDAY")
        users = [User(clerk_user_id=f"form_{number}", gym=gym) for number in range(8)]
        session.add_all([gym, lesson, *users])
        session.flush()
        for number, user in enumerate(users):
            session.add(Graduation(user_id=user.id))
            for day in range(number if number % 3 else 0):
                class_id = lesson.id if day % 2 else None
                session.add(Checkin(user_id=user.id, class_id=class_id, date=f"2026-03-{day // 2 + 1:02}"))
        session.add(Notification(sent_by=users[1].id, title="hello"))
        session.flush()
        return [user.id for user in users]


def remove(database: Database, ids: list[int]) -> None:
    """Erase the members in one transaction."""
    with database.session.begin() as session:
        gyms = session.scalars(select(User.gym_id).where(User.id.in_(ids)).distinct()).all()
        session.execute(delete(Checkin).where(Checkin.user_id.in_(ids)))
        session.execute(update(Notification).where(Notification.sent_by.in_(ids)).values(sent_by=None))
        session.execute(delete(Notification).where(Notification.title == "hello"))
        session.execute(delete(Graduation).where(Graduation.user_id.in_(ids)))
        session.execute(delete(Class).where(Class.gym_id.in_(gyms)))
        assert session.execute(delete(User).where(User.id.in_(ids))).rowcount == len(ids)  # type: ignore[attr-defined]
        session.execute(delete(Gym).where(Gym.id.in_(gyms)))


COUNT: Any = select(func.count()).where(Checkin.user_id == User.id).correlate(User).scalar_subquery()
NEWEST = read(User.checkins).columns(Checkin.date).order_by(Checkin.date.desc(), Checkin.id)
GYM = read(User.gym).columns(Gym.name)
MEMBERS = read(Gym.members).columns(User.clerk_user_id).order_by(User.id)
SENT = read(User.sent_notifications).columns(Notification.title)
LAST = User.clerk_user_id == "form_7"
OTHERS: Any = select(func.count(User.id)).where(LAST).scalar_subquery()
READS: dict[str, Callable[[Any], Any]] = {
    "all check-ins": lambda users: users.load(NEWEST),
    "some for each": lambda users: users.load(NEWEST.limit(2, skip=1)),
    "a level more": lambda users: users.load(
        NEWEST.load(read(Checkin.class_).columns(Class.day).load(read(Class.gym).columns(Gym.name))), GYM
    ),
    "two levels down": lambda users: users.load(GYM.load(MEMBERS.load(NEWEST.limit(1)))),
    "two relations": lambda users: users.load(NEWEST, SENT).limit(5),
    "any": lambda users: users.where(User.checkins.any()),
    "none": lambda users: users.where(~User.checkins.any()),
    "any of some, or": lambda users: users.where(User.checkins.any(Checkin.class_id.is_(None)) | (User.id < 0)),
    "any by a column": lambda users: users.where(User.checkins.any(Checkin.date > User.clerk_user_id)),
    "any of any": lambda users: users.where(User.gym.has(Gym.classes.any(Class.checkins.any()))),
    "counted": lambda users: users.where(COUNT > 1).order_by(COUNT.desc()),
    "any in a relation": lambda users: users.load(GYM.load(MEMBERS.where(User.checkins.any()))),
    # The rows of the parents' table that such a subquery looks for are not among the parents.
    "any of others": lambda users: users.limit(2).load(
        NEWEST.where(Checkin.user.has(User.gym.has(Gym.members.any(LAST))))
    ),
    "in a list of others": lambda users: users.limit(2).load(
        NEWEST.where(literal("form_7").in_(select(User.clerk_user_id).where(LAST)))
    ),
    "others exist": lambda users: users.limit(2).load(NEWEST.where(exists().where(User.id > Checkin.user_id, LAST))),
    "others, and its own": lambda users: users.limit(2).load(
        NEWEST.where(OTHERS == 1, Checkin.date < User.clerk_user_id)
    ),
    "counted others": lambda users: users.limit(2).load(NEWEST.where(OTHERS == 1)),
}


def rows_of(name: str, ids: list[int], database: Database) -> Any:
    """Return what a read finds, and a session by the same conditions."""
    users = read(User).where(User.id.in_(ids)).columns(User.clerk_user_id)
    described = READS[name](users).order_by(User.id)
    found = [row.as_dict() for row in described.all(database)]
    assert [row.as_dict() for row in described.stream(database)] == found
    assert (described.count(database), described.exists(database)) == (8 if described.size else len(found), bool(found))
    with database.session() as session:
        assert read(User).where(User.id == ids[0]).load(NEWEST).one(session).checkins == []
        by_session = session.scalars(select(User.clerk_user_id).where(*described.conditions).order_by(User.id)).all()
    return found, by_session


def writes_of(user_id: int, database: Database) -> Any:
    """Write rows, and return what the writes return: in the order of the rows, whatever the server's order is."""
    dates = [f"2026-04-{number % 28 + 1:02}" for number in range(NUMBER)]
    rows = insert_many(Checkin, [{"user_id": user_id, "date": date} for date in dates], returning=Checkin).run(database)
    ids = [row.id for row in rows]
    again = [
        {"id": id_, "user_id": user_id, "date": f"{date}!"} for id_, date in zip(reversed(ids), dates, strict=True)
    ]
    upserted = upsert(Checkin, again, by=[Checkin.id], returning=Checkin.id).run(database)
    counts = upsert(Checkin, [*again, {"id": max(ids) + 10**6, "user_id": user_id, "date": None}], by=[Checkin.id])
    updated = update_many(Checkin, [{"id": ids[3], "date": "x"}, {"id": ids[1], "date": "y"}], by=[Checkin.id])
    with pytest.raises(RowRejected, match="row 1 for Checkin: `user_id` refers to a row that does not exist"):
        insert_many(Checkin, [{"user_id": user_id}, {"user_id": 2**31 - 1}]).run(database)
    assert insert_many(Checkin, [{"user_id": user_id}] * 3).run(database) == 3
    assert len(set(ids)) == NUMBER
    assert upserted == ids[::-1]
    return [row.date for row in rows] == dates, counts.run(database), updated.run(database)


def everything(database: Database) -> dict[str, Any]:
    """Return the results of all reads and writes, without ids."""
    ids = add(database)
    try:
        found = {name: rows_of(name, ids, database) for name in READS}
        return found | {"writes": writes_of(ids[0], database)}
    finally:
        remove(database, ids)


def test_the_forms_for_citus_return_the_same_rows(committed_database: Database) -> None:
    expected = everything(committed_database)
    assert expected["any"][1] == [f"form_{number}" for number in (1, 2, 4, 5, 7)]
    for name in ("any of others", "in a list of others", "others exist", "counted others"):
        assert expected[name][0][1]["checkins"], name
    with as_on_citus(committed_database):
        assert everything(committed_database) == expected


class Elsewhere(DeclarativeBase):
    """A table whose keys the server makes without a sequence."""


class Tag(Elsewhere):
    __tablename__ = "form_tags"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    kind: Mapped[str] = mapped_column(primary_key=True, server_default="it's 100 %")
    name: Mapped[str]


def written_tags(database: Database, *placement: str) -> list[str]:
    """Return the names of the rows by the keys that a write returned, in its order."""
    with database.engine.begin() as connection:
        Elsewhere.metadata.create_all(connection)
        for statement in placement:
            connection.execute(text(statement))
    try:
        # The types allow the models of the package only.
        model: Any = Tag
        rows = [{"name": f"tag {number}"} for number in range(NUMBER)]
        ids = insert_many(model, rows, returning=model.id).run(database)
        with database.session() as session:
            names = {row.id: row.name for row in session.execute(select(Tag.id, Tag.name, Tag.kind))}
            assert set(session.scalars(select(Tag.kind))) == {"it's 100 %"}
        return [names[id_] for id_ in ids]
    finally:
        with database.engine.begin() as connection:
            Elsewhere.metadata.drop_all(connection)


def test_keys_that_a_default_makes_are_returned_in_the_order_of_the_rows(committed_database: Database) -> None:
    in_order = [f"tag {number}" for number in range(NUMBER)]
    assert written_tags(committed_database) == in_order
    with as_on_citus(committed_database):
        assert written_tags(committed_database) == in_order


@needs_citus
def test_keys_that_a_default_makes_are_returned_in_that_order_by_citus() -> None:
    with Database(URL) as placed:
        names = written_tags(placed, "SELECT create_distributed_table('form_tags', 'id')")
    assert names == [f"tag {number}" for number in range(NUMBER)]


@needs_citus
def test_citus_returns_the_same_rows(committed_database: Database) -> None:
    with Database(URL) as placed:
        assert everything(placed) == everything(committed_database)
        assert knows_citus(placed.engine.dialect)


@needs_citus
def test_the_first_call_of_either_face_knows_the_database() -> None:
    with Database(URL) as placed:
        ids = add(placed)
    described = read(User).where(User.id.in_(ids)).load(NEWEST.limit(1)).order_by(User.id)

    async def found_async() -> tuple[list[Any], list[Any]]:
        async with AsyncDatabase(URL) as one, AsyncDatabase(URL) as other:
            return await described.all(one), [row async for row in described.stream(other)]

    try:
        found: list[list[Any]] = [*asyncio.run(found_async())]
        for call in (described.all, described.within(deadline_ms=60_000).all, lambda db: list(described.stream(db))):
            with Database(URL) as placed:
                found.append(call(placed))
        assert [[row.id for row in rows] for rows in found] == [ids] * 5
    finally:
        with Database(URL) as placed:
            remove(placed, ids)


@needs_citus
def test_a_statement_that_citus_refuses_is_explained() -> None:
    with Database(URL) as placed:
        with placed.session() as session, pytest.raises(NotOnCitus, match="FOR UPDATE"):
            session.scalars(select(Checkin).where(Checkin.user_id == 1).with_for_update()).all()
        with pytest.raises(NotOnCitus, match="partition value"):
            update_many(Checkin, [{"user_id": 1, "id": 10**8}], by=[Checkin.user_id]).run(placed)
        with placed.session() as session, pytest.raises(Exception, match="FeatureNotSupported") as raised:
            session.execute(text("CREATE UNIQUE INDEX refused ON checkins (date)"))
        assert not isinstance(raised.value, NotOnCitus), "the commands explain a change of the schema themselves"
