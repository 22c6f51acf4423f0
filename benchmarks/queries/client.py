"""The eight jobs in Python: tatame_db, the ORM, and psycopg by itself, each as its users write it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import URL, insert, select
from sqlalchemy.orm import joinedload, selectinload

from tatame_db.database.pool import AsyncDatabase
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.write import insert_many
from tatame_db.schema import Base, Checkin, Class, Notification, User

ROWS = [{"user_id": number + 1, "class_id": number % 100 + 1, "date": "2030-01-01"} for number in range(1000)]
Job = Callable[[int], Awaitable[Any]]


def user(number: int) -> int:
    return number * 7919 % 20000 + 1


def gym(number: int) -> int:
    return user(number) % 100 + 1


def one_row(number: int) -> dict[str, Any]:
    return {"user_id": user(number), "class_id": user(number) % 2000 + 1, "date": "2030-01-01"}


# --- tatame_db -------------------------------------------------------------------------------------------------------


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


MANY_USERS = read(User).order_by(User.id).limit(10_000)


def tatame(db: AsyncDatabase) -> dict[int, Job]:
    return {
        1: lambda i: find_user.first(db, clerk_user_id=f"user_{user(i)}"),
        2: lambda i: classes_of.all(db, gym_id=gym(i)),
        3: lambda i: students_of.all(db, gym_id=gym(i)),
        4: lambda i: insert_many(Checkin, [one_row(i)], returning=Checkin).run(db),
        5: lambda _: insert_many(Checkin, ROWS).run(db),
        6: lambda i: checkins_of.all(db, user_id=user(i), first="2026-01-01", last="2026-12-31"),
        7: lambda i: notifications_for.all(db, recipients=[str(user(i))]),
        8: lambda _: MANY_USERS.all(db),
    }


# --- The ORM ---------------------------------------------------------------------------------------------------------


def orm(db: AsyncDatabase) -> dict[int, Job]:
    async def all_of(statement: Any) -> Any:
        async with db.session() as session:
            return (await session.scalars(statement)).all()

    async def find(i: int) -> Any:
        asked = select(User).where(User.clerk_user_id == f"user_{user(i)}")
        async with db.session() as session:
            return await session.scalar(asked.options(joinedload(User.gym), selectinload(User.graduations)))

    async def add(i: int) -> Any:
        async with db.session.begin() as session:
            row = Checkin(**one_row(i))
            session.add(row)
            await session.flush()
            await session.refresh(row)
            return [row]

    async def add_many(_: int) -> None:
        async with db.session.begin() as session:
            await session.execute(insert(Checkin), ROWS)

    loaded = (joinedload(Class.gym), joinedload(Class.instructor), selectinload(Class.assets))
    return {
        1: find,
        2: lambda i: all_of(select(Class).where(Class.gym_id == gym(i)).order_by(Class.id).options(*loaded)),
        3: lambda i: all_of(
            select(User)
            .where(User.gym_id == gym(i), User.role == "STUDENT")
            .order_by(User.id)
            .limit(100)
            .options(selectinload(User.graduations))
        ),
        4: add,
        5: add_many,
        6: lambda i: all_of(
            select(Checkin)
            .where(Checkin.user_id == user(i), Checkin.date.between("2026-01-01", "2026-12-31"))
            .order_by(Checkin.date, Checkin.id)
            .limit(50)
        ),
        7: lambda i: all_of(
            select(Notification)
            .where(Notification.recipients.contains([str(user(i))]))
            .order_by(Notification.created_at.desc(), Notification.id.desc())
            .limit(20)
        ),
        8: lambda _: all_of(select(User).order_by(User.id).limit(10_000)),
    }


# --- psycopg by itself: a statement for each table, dictionaries -----------------------------------------------------


def raw(pool: AsyncConnectionPool[Any]) -> dict[int, Job]:
    async def find(i: int) -> Any:
        async with pool.connection() as c:
            one = await (
                await c.execute("SELECT * FROM users WHERE clerk_user_id = %s", [f"user_{user(i)}"])
            ).fetchone()
            one["gym"] = await (await c.execute("SELECT * FROM gyms WHERE id = %s", [one["gym_id"]])).fetchone()
            graduations = await c.execute("SELECT * FROM graduations WHERE user_id = %s", [one["id"]])
            one["graduations"] = await graduations.fetchall()
            return one

    async def classes(i: int) -> Any:
        async with pool.connection() as c:
            found = await (await c.execute("SELECT * FROM class WHERE gym_id = %s ORDER BY id", [gym(i)])).fetchall()
            a_gym = await (await c.execute("SELECT * FROM gyms WHERE id = %s", [gym(i)])).fetchone()
            instructors = await c.execute(
                "SELECT * FROM users WHERE id = ANY(%s)", [[one["instructor_id"] for one in found]]
            )
            by_id = {one["id"]: one for one in await instructors.fetchall()}
            assets = await c.execute("SELECT * FROM assets WHERE class_id = ANY(%s)", [[one["id"] for one in found]])
            by_class = defaultdict(list)
            for asset in await assets.fetchall():
                by_class[asset["class_id"]].append(asset)
            for one in found:
                one["gym"], one["instructor"], one["assets"] = a_gym, by_id[one["instructor_id"]], by_class[one["id"]]
            return found

    async def students(i: int) -> Any:
        asked = "SELECT * FROM users WHERE gym_id = %s AND role = 'STUDENT' ORDER BY id LIMIT 100"
        async with pool.connection() as c:
            found = await (await c.execute(asked, [gym(i)])).fetchall()
            ids = [one["id"] for one in found]
            graduations = await c.execute("SELECT * FROM graduations WHERE user_id = ANY(%s)", [ids])
            by_user = defaultdict(list)
            for graduation in await graduations.fetchall():
                by_user[graduation["user_id"]].append(graduation)
            for one in found:
                one["graduations"] = by_user[one["id"]]
            return found

    async def many(statement: str, values: Any) -> Any:
        async with pool.connection() as c:
            return await (await c.execute(statement, values)).fetchall()

    async def add_many(_: int) -> None:
        columns = [[row[name] for row in ROWS] for name in ("user_id", "class_id", "date")]
        async with pool.connection() as c:
            await c.execute(
                "INSERT INTO checkins (user_id, class_id, date) SELECT * FROM unnest(%s::int[], %s::int[], %s::text[])",
                columns,
            )

    return {
        1: find,
        2: classes,
        3: students,
        4: lambda i: many(
            "INSERT INTO checkins (user_id, class_id, date) VALUES (%(user_id)s, %(class_id)s, %(date)s) RETURNING *",
            one_row(i),
        ),
        5: add_many,
        6: lambda i: many(
            "SELECT * FROM checkins WHERE user_id = %s AND date BETWEEN %s AND %s ORDER BY date, id LIMIT 50",
            [user(i), "2026-01-01", "2026-12-31"],
        ),
        7: lambda i: many(
            "SELECT * FROM notifications WHERE recipients @> %s::text[] ORDER BY created_at DESC, id DESC LIMIT 20",
            [[str(user(i))]],
        ),
        8: lambda _: many("SELECT * FROM users ORDER BY id LIMIT 10000", None),
    }


# --- Measuring -------------------------------------------------------------------------------------------------------


async def measure(run: Job, inflight: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    numbers = iter(range(10**9))
    await asyncio.gather(*(run(next(numbers)) for _ in range(inflight)))
    cpu, started = time.process_time(), time.perf_counter()
    end = started + seconds

    async def worker() -> None:
        while (at := time.perf_counter()) < end:
            await run(next(numbers))
            latencies.append(time.perf_counter() - at)

    await asyncio.gather(*(worker() for _ in range(inflight)))
    took, used = time.perf_counter() - started, time.process_time() - cpu
    return {
        "per_second": len(latencies) / took,
        "latency_ms": sorted(latencies)[len(latencies) // 2] * 1000,
        "cpu_ms": used / len(latencies) * 1000,
    }


RELATIONS = {"gym", "graduations", "instructor", "assets"}


def plain(value: Any) -> Any:
    """Return a result as JSON has it, whatever it is made of."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Base):
        return {name: plain(one) for name, one in value.__dict__.items() if not name.startswith("_")}
    if hasattr(value, "__struct_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return value


async def main(way: str, socket: str, database: str) -> None:
    address = URL.create("postgresql+psycopg", "postgres", database=database, query={"host": socket})
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        f"host={socket} dbname={database} user=postgres",
        kwargs={"autocommit": True, "row_factory": dict_row},
        min_size=20,
        max_size=20,
        open=False,
    )
    async with AsyncDatabase(address) as db:
        if way == "psycopg":
            await pool.open()
        jobs = {"tatame": tatame(db), "orm": orm(db), "psycopg": raw(pool)}[way]
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            if "check" in order:
                answer = plain(await jobs[order["check"]](4))
            else:
                answer = await measure(jobs[order["job"]], order["inflight"], order["seconds"])
            print(json.dumps(answer), flush=True)
        await pool.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
