"""The jobs on psycopg and asyncpg by themselves, each with a pool of 20: SQL by hand, dictionaries.

Where children come as JSON, they are decoded to the types that the columns have. Each job is a generator, which yields
statements and receives their rows: so one text serves the three ways to wait for them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypedDict

import asyncpg
import msgspec
from jobs import ROWS, clerk, gym, one_row, user
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import inspect

from tatame_db.schema import Asset, Base, Graduation, Gym, User

POOL_SIZE = 20
Rows = list[dict[str, Any]]
Talk = Generator["Ask", Rows, Any]
COLUMNS = ("user_id", "class_id", "date")
TUPLES = [tuple(row[name] for name in COLUMNS) for row in ROWS]


@dataclass(frozen=True)
class Ask:
    """A statement and its parameters; `changing` if the job adds children to its rows, which must be dictionaries."""

    sql: str
    values: tuple[Any, ...] = ()
    changing: bool = False


def _decoder(model: type[Base], *, many: bool, **children: Any) -> Callable[[str], Any]:
    """Return what decodes the JSON of a row, or of a list of rows, with timestamps in it."""
    types: dict[type, Any] = {str: str, int: int, datetime: datetime}
    fields = {column.key: types[column.type.python_type] | None for column in inspect(model).columns} | children
    row = TypedDict(model.__name__, fields)  # type: ignore[misc]  # its fields are the columns of the model
    return msgspec.json.Decoder(list[row] if many else row | None).decode  # type: ignore[valid-type]


_GYM = _decoder(Gym, many=False)
_USER = _decoder(User, many=False)
_GRADUATIONS = _decoder(Graduation, many=True)
_ASSETS = _decoder(Asset, many=True)

FIND_USER = """
SELECT *, (SELECT row_to_json(gyms)::text FROM gyms WHERE gyms.id = users.gym_id) AS gym,
  (SELECT coalesce(json_agg(graduations), '[]')::text FROM graduations WHERE user_id = users.id) AS graduations
FROM users WHERE clerk_user_id = $1 LIMIT 1"""
CLASSES = """
SELECT *, (SELECT row_to_json(gyms)::text FROM gyms WHERE gyms.id = class.gym_id) AS gym,
  (SELECT row_to_json(users)::text FROM users WHERE users.id = class.instructor_id) AS instructor,
  (SELECT coalesce(json_agg(assets), '[]')::text FROM assets WHERE class_id = class.id) AS assets
FROM class WHERE gym_id = $1 ORDER BY id"""
TREE = """
SELECT *, (SELECT coalesce(json_agg(assets), '[]')::text FROM assets WHERE class_id = class.id) AS assets,
  (SELECT row_to_json(users)::text FROM users WHERE users.id = class.instructor_id) AS instructor,
  (SELECT coalesce(json_agg(graduations), '[]')::text FROM graduations
    WHERE user_id = class.instructor_id) AS graduations
FROM class WHERE gym_id = $1 ORDER BY id"""
STUDENTS = "SELECT * FROM users WHERE gym_id = $1 AND role = 'STUDENT' ORDER BY id LIMIT 100"
GRADUATIONS = "SELECT * FROM graduations WHERE user_id = ANY($1)"
ADD = "INSERT INTO checkins (user_id, class_id, date) VALUES ($1, $2, $3) RETURNING *"
CHECKINS = "SELECT * FROM checkins WHERE user_id = $1 AND date BETWEEN $2 AND $3 ORDER BY date, id LIMIT 50"
NOTIFICATIONS = """
SELECT * FROM notifications WHERE recipients @> $1::text[] ORDER BY created_at DESC, id DESC LIMIT 20"""


def find(i: int) -> Talk:
    [found] = yield Ask(FIND_USER, (clerk(i),), changing=True)
    found["gym"], found["graduations"] = _GYM(found["gym"]), _GRADUATIONS(found["graduations"])
    return found


def classes(i: int) -> Talk:
    found = yield Ask(CLASSES, (gym(i),), changing=True)
    for row in found:
        row["gym"], row["assets"] = _GYM(row["gym"]), _ASSETS(row["assets"])
        row["instructor"] = _USER(row["instructor"])
    return found


def students(i: int) -> Talk:
    found = yield Ask(STUDENTS, (gym(i),), changing=True)
    graduations = yield Ask(GRADUATIONS, ([row["id"] for row in found],))
    by_user = defaultdict(list)
    for graduation in graduations:
        by_user[graduation["user_id"]].append(graduation)
    for row in found:
        row["graduations"] = by_user[row["id"]]
    return found


def classes_with_instructors(i: int) -> Talk:
    found = yield Ask(TREE, (gym(i),), changing=True)
    for row in found:
        row["assets"], row["instructor"] = _ASSETS(row["assets"]), _USER(row["instructor"])
        row["instructor"]["graduations"] = _GRADUATIONS(row.pop("graduations"))
    return found


def _one(sql: str, values: Callable[[int], tuple[Any, ...]]) -> Callable[[int], Talk]:
    def talk(i: int) -> Talk:
        return (yield Ask(sql, values(i)))

    return talk


TALKS: dict[int | str, Callable[[int], Talk]] = {
    1: find,
    2: classes,
    3: students,
    4: _one(ADD, lambda i: tuple(one_row(i).values())),
    6: _one(CHECKINS, lambda i: (user(i), "2026-01-01", "2026-12-31")),
    7: _one(NOTIFICATIONS, lambda i: ([str(user(i))],)),
    8: _one("SELECT * FROM users ORDER BY id LIMIT 10000", lambda _: ()),
    9: classes_with_instructors,
    "sleep": _one("SELECT * FROM gyms WHERE id = (SELECT 1 FROM pg_sleep(2))", lambda _: ()),
    "lock": _one("SELECT * FROM versions", lambda _: ()),
}
COPY = "COPY checkins (user_id, class_id, date) FROM STDIN"


@cache
def _placeholders(sql: str) -> str:
    """Write a statement for psycopg: each parameter of these occurs once, in order."""
    return re.sub(r"\$\d", "%s", sql)


def conninfo(socket: str, database: str, port: str) -> str:
    return f"host={socket} port={port} dbname={database} user=postgres"


class Psycopg:
    """psycopg's own pool, in autocommit, with prepared statements unless a pooler stands between."""

    def __init__(self, dsn: str, *, prepared: bool = True) -> None:
        options = {"autocommit": True, "row_factory": dict_row} | ({} if prepared else {"prepare_threshold": None})
        self.prepared = prepared or None
        self.pool = ConnectionPool[Connection[dict[str, Any]]](
            dsn, kwargs=options, min_size=POOL_SIZE, max_size=POOL_SIZE, open=False
        )

    def open(self) -> dict[int | str, Callable[[int], Any]]:
        self.pool.open(wait=True)
        runs = {job: self._runner(talk) for job, talk in TALKS.items()}
        return {**runs, 5: self._add_many}

    def _runner(self, talk: Callable[[int], Talk]) -> Callable[[int], Any]:
        def run(i: int) -> Any:
            steps = talk(i)
            with self.pool.connection() as connection:
                ask = next(steps)
                while True:
                    cursor = connection.execute(_placeholders(ask.sql), ask.values, prepare=self.prepared)
                    try:
                        ask = steps.send(cursor.fetchall())
                    except StopIteration as end:
                        return end.value

        return run

    def _add_many(self, _: int) -> None:
        with self.pool.connection() as connection, connection.cursor().copy(COPY) as writer:
            for row in TUPLES:
                writer.write_row(row)


class PsycopgAsync:
    """The same for asyncio."""

    def __init__(self, dsn: str, *, prepared: bool = True) -> None:
        options = {"autocommit": True, "row_factory": dict_row} | ({} if prepared else {"prepare_threshold": None})
        self.prepared = prepared or None
        self.pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            dsn, kwargs=options, min_size=POOL_SIZE, max_size=POOL_SIZE, open=False
        )

    async def open(self) -> dict[int | str, Callable[[int], Any]]:
        await self.pool.open(wait=True)
        runs = {job: self._runner(talk) for job, talk in TALKS.items()}
        return {**runs, 5: self._add_many}

    def _runner(self, talk: Callable[[int], Talk]) -> Callable[[int], Any]:
        async def run(i: int) -> Any:
            steps = talk(i)
            async with self.pool.connection() as connection:
                ask = next(steps)
                while True:
                    cursor = await connection.execute(_placeholders(ask.sql), ask.values, prepare=self.prepared)
                    try:
                        ask = steps.send(await cursor.fetchall())
                    except StopIteration as end:
                        return end.value

        return run

    async def _add_many(self, _: int) -> None:
        async with self.pool.connection() as connection, connection.cursor().copy(COPY) as writer:
            for row in TUPLES:
                await writer.write_row(row)


class Asyncpg:
    """asyncpg's own pool; it caches prepared statements unless a pooler stands between."""

    def __init__(self, dsn: str, *, prepared: bool = True) -> None:
        self.options = dict(part.split("=", 1) for part in dsn.split())
        self.prepared = prepared
        self.pool: Any = None

    async def open(self) -> dict[int | str, Callable[[int], Any]]:
        self.pool = await asyncpg.create_pool(
            host=self.options["host"],
            port=int(self.options["port"]),
            database=self.options["dbname"],
            user=self.options["user"],
            min_size=POOL_SIZE,
            max_size=POOL_SIZE,
            **({} if self.prepared else {"statement_cache_size": 0}),
        )
        runs = {job: self._runner(talk) for job, talk in TALKS.items()}
        return {**runs, 5: self._add_many}

    def _runner(self, talk: Callable[[int], Talk]) -> Callable[[int], Any]:
        async def run(i: int) -> Any:
            steps = talk(i)
            async with self.pool.acquire() as connection:
                ask = next(steps)
                while True:
                    rows = await connection.fetch(ask.sql, *ask.values)
                    try:
                        ask = steps.send([dict(row) for row in rows] if ask.changing else rows)
                    except StopIteration as end:
                        return end.value

        return run

    async def _add_many(self, _: int) -> None:
        async with self.pool.acquire() as connection:
            await connection.copy_records_to_table("checkins", records=TUPLES, columns=COLUMNS)
