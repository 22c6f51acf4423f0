"""The jobs with sessions of SQLAlchemy, sync and async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs import ROWS, clerk, gym, one_row, user
from sqlalchemy import Select, insert, select
from sqlalchemy.orm import Session, joinedload, selectinload

from tatame_db import AsyncDatabase, Database
from tatame_db.schema import Checkin, Class, Notification, User

if TYPE_CHECKING:
    from collections.abc import Callable

_USER = (joinedload(User.gym), selectinload(User.graduations))
_CLASS = (joinedload(Class.gym), joinedload(Class.instructor), selectinload(Class.assets))
_TREE = (selectinload(Class.assets), joinedload(Class.instructor).selectinload(User.graduations))

STATEMENTS: dict[int, Callable[[int], Select[Any]]] = {
    1: lambda i: select(User).where(User.clerk_user_id == clerk(i)).options(*_USER),
    2: lambda i: select(Class).where(Class.gym_id == gym(i)).order_by(Class.id).options(*_CLASS),
    3: lambda i: (
        select(User)
        .where(User.gym_id == gym(i), User.role == "STUDENT")
        .order_by(User.id)
        .limit(100)
        .options(selectinload(User.graduations))
    ),
    6: lambda i: (
        select(Checkin)
        .where(Checkin.user_id == user(i), Checkin.date.between("2026-01-01", "2026-12-31"))
        .order_by(Checkin.date, Checkin.id)
        .limit(50)
    ),
    7: lambda i: (
        select(Notification)
        .where(Notification.recipients.contains([str(user(i))]))
        .order_by(Notification.created_at.desc(), Notification.id.desc())
        .limit(20)
    ),
    8: lambda _: select(User).order_by(User.id).limit(10_000),
    9: lambda i: select(Class).where(Class.gym_id == gym(i)).order_by(Class.id).options(*_TREE),
}


def _work(job: int) -> Callable[[Session, int], Any]:
    """Return what a job does in a session; an async session runs it in a greenlet."""

    def read(session: Session, number: int) -> Any:
        rows = session.scalars(STATEMENTS[job](number)).all()
        return rows[0] if job == 1 else rows

    def add(session: Session, number: int) -> Any:
        row = Checkin(**one_row(number))
        session.add(row)
        session.flush()
        session.refresh(row)
        return [row]

    def add_many(session: Session, _: int) -> None:
        session.execute(insert(Checkin), ROWS)

    return {4: add, 5: add_many}.get(job, read)


def jobs(db: Database | AsyncDatabase) -> dict[int | str, Callable[[int], Any]]:
    return {job: _runner(db, job) for job in (*STATEMENTS, 4, 5)}


def _runner(db: Database | AsyncDatabase, job: int) -> Callable[[int], Any]:
    work = _work(job)
    writes = job in (4, 5)

    def run(number: int) -> Any:
        with db.session.begin() if writes else db.session() as session:
            return work(session, number)

    async def run_async(number: int) -> Any:
        async with db.session.begin() if writes else db.session() as session:
            return await session.run_sync(work, number)

    return run if isinstance(db, Database) else run_async
