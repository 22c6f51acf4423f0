"""The jobs with tatame_db: the same functions serve `Database` and `AsyncDatabase`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs import ROWS, clerk, gym, one_row, user
from sqlalchemy import func, literal, select

from tatame_db import AsyncDatabase, Database, Read, insert_many, query, read
from tatame_db.schema import Checkin, Class, Gym, Notification, User, Version

if TYPE_CHECKING:
    from collections.abc import Callable


@query
def find_user(clerk_user_id: str) -> Read[User]:
    return read(User).where(User.clerk_user_id == clerk_user_id).load(User.gym, User.graduations)


@query
def classes_of(gym_id: int) -> Read[Class]:
    return read(Class).where(Class.gym_id == gym_id).order_by(Class.id).load(Class.gym, Class.instructor, Class.assets)


@query
def students_of(gym_id: int) -> Read[User]:
    students = read(User).where(User.gym_id == gym_id, User.role == "STUDENT").order_by(User.id).limit(100)
    return students.load(User.graduations)


@query
def checkins_of(user_id: int, first: str, last: str) -> Read[Checkin]:
    between = read(Checkin).where(Checkin.user_id == user_id, Checkin.date.between(first, last))
    return between.order_by(Checkin.date, Checkin.id).limit(50)


@query
def notifications_for(recipients: list[str]) -> Read[Notification]:
    theirs = read(Notification).where(Notification.recipients.contains(recipients))
    return theirs.order_by(Notification.created_at.desc(), Notification.id.desc()).limit(20)


@query
def classes_with_instructors(gym_id: int) -> Read[Class]:
    classes = read(Class).where(Class.gym_id == gym_id).order_by(Class.id)
    return classes.load(Class.assets, read(Class.instructor).load(User.graduations))


MANY_USERS = read(User).order_by(User.id).limit(10_000)
# The server runs a subquery that depends on no row once.
SLEEPING = read(Gym).where(Gym.id == select(literal(1)).select_from(func.pg_sleep(2)).scalar_subquery())
LOCKED = read(Version)


def jobs(db: Database | AsyncDatabase) -> dict[int | str, Callable[[int], Any]]:
    return {
        1: lambda i: find_user.first(db, clerk_user_id=clerk(i)),
        2: lambda i: classes_of.all(db, gym_id=gym(i)),
        3: lambda i: students_of.all(db, gym_id=gym(i)),
        4: lambda i: insert_many(Checkin, [one_row(i)], returning=Checkin).run(db),
        5: lambda _: insert_many(Checkin, ROWS).run(db),
        6: lambda i: checkins_of.all(db, user_id=user(i), first="2026-01-01", last="2026-12-31"),
        7: lambda i: notifications_for.all(db, recipients=[str(user(i))]),
        8: lambda _: MANY_USERS.all(db),
        9: lambda i: classes_with_instructors.all(db, gym_id=gym(i)),
        "sleep": lambda _: SLEEPING.all(db),
        "lock": lambda _: LOCKED.all(db),
    }
