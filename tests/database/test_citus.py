"""The uses of this package, each on one PostgreSQL and on Citus with the large tables distributed: both give the same.

On Citus they run where `TATAME_CITUS_URL` names a coordinator. A use that Citus refuses is one here too, if it is
refused in words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, bindparam, delete, exists, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased, joinedload, selectinload
from tests.database.cituses import citus_database
from tests.database.conftest import Client, serving
from tests.database.moves import ask, contents
from tests.database.test_write_models import Part
from typer.testing import CliRunner

from tatame_db import (
    AsyncDatabase,
    Database,
    Read,
    doctor,
    evolve,
    insert_many,
    move,
    query,
    read,
    seed,
    update_many,
    upsert,
)
from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.doctor import LINES, Verdict
from tatame_db.queries.errors import DeadlineExceeded, RowRejected, WriteInvalid
from tatame_db.schema import Checkin, Class, Gym, Notification, User
from tatame_db.studio.access import open_access
from tatame_db.testing.runs import Run

PLAN = seed.SeedPlan(gyms=2, members=10, days=20, until=date(2026, 3, 1))


@dataclass(frozen=True)
class Ground:
    """A database with rows, and how to get another one like it."""

    address: URL
    is_citus: bool
    fresh: Callable[[], AbstractContextManager[URL]]
    """Creates a database with the tables, placed if it is Citus, and without rows."""
    supabase: URL
    migrations: Callable[..., str]
    """Writes another migration."""
    database: Database

    def ask(self, query: str) -> Any:
        """Return the only value of a query that every server runs."""
        [[value]] = ask(self.address, query)
        return value

    def refused(self) -> AbstractContextManager[Any]:
        """Expect that Citus refuses the block as not supported, in words; elsewhere it works."""
        return _refused() if self.is_citus else nullcontext()

    def run(self, arguments: str, address: URL | None = None) -> str:
        """Run a command that succeeds, and return what it prints."""
        environment = {"DATABASE_URL": readable(address or self.address), "SUPABASE_DB_URL": readable(self.supabase)}
        done = CliRunner().invoke(commands.app, arguments.split(), env=environment, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output


@contextmanager
def _refused() -> Generator[None]:
    with pytest.raises(Exception) as caught:  # noqa: PT011, the class differs by the way that was taken
        yield
    states: list[str | None] = []
    error: BaseException | None = caught.value
    while error is not None:
        states.append(getattr(getattr(error, "orig", error), "sqlstate", None))
        error = error.__cause__
    assert "0A000" in states, caught.value


@contextmanager
def _plain(run: Run, plan: seed.SeedPlan | None = None) -> Generator[URL]:
    address = run.clone()
    with Database(address) as database:
        _fill(database, plan)
    yield address
    run.sandbox.drop(str(address.database))


@contextmanager
def _placed(plan: seed.SeedPlan | None = None) -> Generator[URL]:
    with citus_database() as address:
        with Database(address) as database:
            evolve.migrate(database.engine)
            _fill(database, plan)
            evolve.distribute(database.engine, agree=lambda _: True)
        yield address


def _fill(database: Database, plan: seed.SeedPlan | None) -> None:
    if plan:
        with database.engine.begin() as connection:
            seed.seed(connection, plan)


@pytest.fixture(scope="module", params=["postgresql", "citus"])
def _ground(request: pytest.FixtureRequest, _tatame_run: Run) -> Generator[Ground]:
    is_citus = request.param == "citus"
    create = _placed if is_citus else partial(_plain, _tatame_run)
    with create(PLAN) as address, Database(address) as database:
        yield Ground(address, is_citus, create, address, lambda **_: "", database)


@pytest.fixture
def ground(_ground: Ground, request: pytest.FixtureRequest) -> Ground:
    return replace(_ground, supabase=request.getfixturevalue("supabase"), migrations=request.getfixturevalue("add"))


Use = Callable[[Ground], None]
USES: dict[str, Use] = {}


def use(name: str) -> Callable[[Use], Use]:
    """Add a use to the table."""

    def add(function: Use) -> Use:
        assert name not in USES
        USES[name] = function
        return function

    return add


# --- Reads of a session -----------------------------------------------------------------------------------------------


@use("a row by its id, of both kinds of tables")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        assert session.get_one(User, 1).id == 1
        assert session.get_one(Checkin, 1).id == 1


@use("a member's history")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        history = select(Checkin).where(Checkin.user_id == 8).order_by(Checkin.date.desc(), Checkin.id).limit(5)
        found = session.scalars(history).all()
    assert [row.id for row in found] == [
        row[0]
        for row in ask(ground.address, "SELECT id FROM checkins WHERE user_id = 8 ORDER BY date DESC, id LIMIT 5")
    ]


@use("a join over both kinds of tables, grouped")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        visits = select(Class.gym_id, func.count()).join(Class.checkins).group_by(Class.gym_id)
        found = session.execute(visits).all()
    assert sum(number for _, number in found) == ground.ask("SELECT count(*) FROM checkins WHERE class_id IS NOT NULL")


@use("aggregates: count, distinct, min, max")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        row = session.execute(
            select(func.count(), func.count(Checkin.user_id.distinct()), func.min(Checkin.id), func.max(Checkin.id))
        ).one()
    assert (
        tuple(row) == ask(ground.address, "SELECT count(*), count(DISTINCT user_id), min(id), max(id) FROM checkins")[0]
    )


@use("the gym's month: check-ins of each day")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        month = (
            select(Checkin.date, func.count())
            .join(Checkin.class_)
            .where(Class.gym_id == 1, Checkin.date.between("2026-02-01", "2026-02-28"))
            .group_by(Checkin.date)
            .order_by(Checkin.date)
        )
        found = session.execute(month).all()
    assert found
    assert [row[0] for row in found] == sorted(str(row[0]) for row in found)


@use("a condition with any and has in a session")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        found = session.scalars(select(User.id).where(User.checkins.any(), User.gym.has(Gym.id == 1))).all()
    assert set(found) == {
        row[0]
        for row in ask(ground.address, "SELECT id FROM users WHERE gym_id = 1 AND id IN (SELECT user_id FROM checkins)")
    }


@use("a NOT EXISTS in a session")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        never = session.scalars(select(User.id).where(~exists().where(Checkin.user_id == User.id))).all()
    assert len(never) == ground.ask(
        "SELECT (SELECT count(*) FROM users) - (SELECT count(DISTINCT user_id) FROM checkins)"
    )


@use("relations of a session: selectinload and joinedload")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        users = session.scalars(select(User).options(selectinload(User.checkins), joinedload(User.gym))).unique().all()
        checkins = session.scalars(select(Checkin).options(joinedload(Checkin.user)).limit(3)).all()
    assert sum(len(user.checkins) for user in users) == ground.ask(
        "SELECT count(*) FROM checkins WHERE user_id IS NOT NULL"
    )
    assert all(checkin.user for checkin in checkins)


@use("a common table expression and a union")
def _(ground: Ground) -> None:
    busy = select(Checkin.user_id, func.count().label("visits")).group_by(Checkin.user_id).cte("busy")
    with ground.database.session() as session:
        rows = session.execute(select(User.id, busy.c.visits).join(busy, busy.c.user_id == User.id)).all()
        both = session.scalars(select(Checkin.id).where(Checkin.id < 3).union(select(User.id).where(User.id < 3))).all()
    assert len(rows) == ground.ask("SELECT count(DISTINCT user_id) FROM checkins")
    assert sorted(both) == [1, 2]


@use("a window function over a distributed table")
def _(ground: Ground) -> None:
    number = func.row_number().over(partition_by=Checkin.user_id, order_by=Checkin.id).label("number")
    numbered = select(Checkin.id, number).subquery()
    with ground.database.session() as session:
        firsts = session.scalars(select(numbered.c.id).where(numbered.c.number == 1)).all()
    assert len(firsts) == ground.ask("SELECT count(DISTINCT coalesce(user_id, 0)) FROM checkins")


@use("a self-join of a reference table")
def _(ground: Ground) -> None:
    other = aliased(User)
    with ground.database.session() as session:
        pairs = session.scalar(select(func.count()).select_from(User).join(other, other.gym_id == User.gym_id))
    assert pairs == ground.ask("SELECT count(*) FROM users a JOIN users b USING (gym_id)")


@use("an array that contains a value")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        session.add(Notification(title="here", recipients=["1001", "1002"]))
        session.flush()
        assert session.scalars(select(Notification.title).where(Notification.recipients.contains(["1002"]))).all() == [
            "here"
        ]


@use("a recursive query of reference tables; over shards it is refused")
def _(ground: Ground) -> None:
    recursive = (
        "WITH RECURSIVE up AS (SELECT id FROM {table} WHERE id = 1 UNION SELECT t.id FROM {table} t"
        " JOIN up ON t.id = up.id + 1 AND t.id < 4) SELECT count(*) FROM up"
    )
    with ground.database.session() as session:
        assert session.scalar(text(recursive.format(table="users"))) == 3
    with ground.refused(), ground.database.session() as session:
        assert session.scalar(text(recursive.format(table="checkins"))) == 3


# --- Queries ----------------------------------------------------------------------------------------------------------


@query
def member(user_id: int) -> Read[User]:
    return read(User).where(User.id == user_id).load(User.gym, User.graduations)


@query
def history(user_id: int, count: int = 100) -> Read[Checkin]:
    return read(Checkin).where(Checkin.user_id == user_id).order_by(Checkin.id).limit(count)


@query
def newest(last: Checkin | None = None) -> Read[Checkin]:
    return read(Checkin).order_by(Checkin.created_at.desc()).after(last).limit(50)


@use("first, one, all, count, exists")
def _(ground: Ground) -> None:
    db = ground.database
    assert member.one(db, user_id=1).gym is not None
    assert member.first(db, user_id=-1) is None
    assert len(history.all(db, user_id=8)) == history.count(db, user_id=8)
    assert history.exists(db, user_id=8)


@use("a list of distributed children: load(User.checkins)")
def _(ground: Ground) -> None:
    users = read(User).order_by(User.id).load(User.checkins).all(ground.database)
    expected: dict[int, int] = dict(ask(ground.address, "SELECT user_id, count(*) FROM checkins GROUP BY 1"))
    assert {user.id: len(user.checkins) for user in users if user.checkins} == {
        key: number for key, number in expected.items() if key
    }


@use("the last children of each parent")
def _(ground: Ground) -> None:
    last = read(User.checkins).order_by(Checkin.id.desc()).limit(2)
    users = read(User).where(User.id.in_([1, 8, 9])).order_by(User.id).load(last).all(ground.database)
    for user in users:
        expected = ask(ground.address, f"SELECT id FROM checkins WHERE user_id = {user.id} ORDER BY id DESC LIMIT 2")
        assert [(checkin.id,) for checkin in user.checkins] == expected


@use("relations in relations: a gym, its members, their check-ins and classes")
def _(ground: Ground) -> None:
    nested = read(Gym.members).load(read(User.checkins).load(Checkin.class_))
    gyms = read(Gym).order_by(Gym.id).load(nested).all(ground.database)
    loaded = [checkin for gym in gyms for user in gym.members for checkin in user.checkins]
    assert len(loaded) == ground.ask(
        "SELECT count(*) FROM checkins JOIN users u ON u.id = user_id JOIN gyms g ON g.id = u.gym_id"
    )
    assert all(checkin.class_ is None or checkin.class_.id == checkin.class_id for checkin in loaded)


@use("a parent of distributed rows: load(Checkin.user, Checkin.class_)")
def _(ground: Ground) -> None:
    rows = read(Checkin).order_by(Checkin.id).limit(5).load(read(Checkin.user).load(User.gym), Checkin.class_)
    assert [row.user.id == row.user_id for row in rows.all(ground.database) if row.user] == [True] * 5


@use("a condition with any in a query")
def _(ground: Ground) -> None:
    recent = read(User).where(User.checkins.any(Checkin.date >= "2026-02-20"))
    assert recent.count(ground.database) == ground.ask(
        "SELECT count(DISTINCT user_id) FROM checkins WHERE date >= '2026-02-20'"
    )


@use("a condition with not any in a query")
def _(ground: Ground) -> None:
    away = read(User).where(~User.checkins.any(Checkin.date >= "2026-02-20")).order_by(User.id)
    assert len(away.all(ground.database)) == ground.ask(
        "SELECT count(*) FROM users WHERE id NOT IN"
        " (SELECT user_id FROM checkins WHERE date >= '2026-02-20' AND user_id IS NOT NULL)"
    )


@use("a condition with has on a distributed row")
def _(ground: Ground) -> None:
    found = read(Checkin).where(Checkin.user.has(User.gym_id == 1)).count(ground.database)
    assert found == ground.ask("SELECT count(*) FROM checkins JOIN users u ON u.id = user_id WHERE u.gym_id = 1")


@use("children of children by a condition of their own")
def _(ground: Ground) -> None:
    gyms = read(Gym).load(read(Gym.members).where(User.checkins.any())).all(ground.database)
    assert sum(len(list(gym.members)) for gym in gyms) == ground.ask(
        "SELECT count(*) FROM users WHERE gym_id IS NOT NULL AND id IN (SELECT user_id FROM checkins)"
    )


@use("numbered pages")
def _(ground: Ground) -> None:
    pages = [read(Checkin).order_by(Checkin.date).page(number, size=7).all(ground.database) for number in (1, 2)]
    ids = [row.id for page in pages for row in page]
    assert ids == [row[0] for row in ask(ground.address, "SELECT id FROM checkins ORDER BY date, id LIMIT 14")]


@use("pages by the last row")
def _(ground: Ground) -> None:
    seen: list[int] = []
    page = newest.all(ground.database)
    while page:
        seen += [row.id for row in page]
        page = newest.all(ground.database, last=page[-1])
    assert len(set(seen)) == len(seen) == ground.ask("SELECT count(*) FROM checkins")


@use("a stream, with relations")
def _(ground: Ground) -> None:
    rows = read(Checkin).order_by(Checkin.id).load(Checkin.user).stream(ground.database)
    assert sum(1 for _ in rows) == ground.ask("SELECT count(*) FROM checkins")
    users = read(User).order_by(User.id).load(User.checkins).stream(ground.database)
    assert sum(len(user.checkins) for user in users) == ground.ask("SELECT count(user_id) FROM checkins")


@use("a plan, and a deadline")
def _(ground: Ground) -> None:
    assert "checkins" in history.explain(ground.database, user_id=8)
    slow = read(User).where(func.pg_sleep(5).is_not(None)).within(deadline_ms=100)
    with pytest.raises(DeadlineExceeded):
        slow.all(ground.database)


@use("parameters: a list, and a bindparam")
def _(ground: Ground) -> None:
    some = read(Checkin).where(Checkin.id.in_([1, 2, 3])).order_by(Checkin.id)
    assert [row.id for row in some.all(ground.database)] == [1, 2, 3]
    assert read(Checkin).where(Checkin.id == bindparam("id")).one(ground.database, id=2).id == 2


@use("the async face: reads at once, relations, a session")
def _(ground: Ground) -> None:
    async def work() -> tuple[list[int], int, int]:
        async with AsyncDatabase(ground.address) as db:
            found = await asyncio.gather(*(history.count(db, user_id=user) for user in range(1, 20)))
            users = await read(User).load(User.checkins).all(db)
            async with db.session.begin() as session:
                counted = await session.scalar(select(func.count()).select_from(Checkin))
        return found, sum(len(user.checkins) for user in users), counted or 0

    found, loaded, counted = asyncio.run(work())
    assert sum(found) <= loaded <= counted
    assert counted == ground.ask("SELECT count(*) FROM checkins")


# --- Writes -----------------------------------------------------------------------------------------------------------


@use("insert, update and delete by a session")
def _(ground: Ground) -> None:
    with ground.database.session.begin() as session:
        checkin = Checkin(user_id=1, date="2026-03-01")
        session.add(checkin)
    with ground.database.session.begin() as session:
        session.get_one(Checkin, checkin.id).date = "2026-03-02"
    assert ground.ask(f"SELECT date FROM checkins WHERE id = {checkin.id}") == "2026-03-02"
    with ground.database.session.begin() as session:
        session.delete(session.get_one(Checkin, checkin.id))
    assert ground.ask(f"SELECT count(*) FROM checkins WHERE id = {checkin.id}") == 0


@use("update and delete without loading")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        changed: Any = session.execute(update(Checkin).where(Checkin.user_id == 8).values(date="2026-03-02"))
        assert changed.rowcount == ground.ask("SELECT count(*) FROM checkins WHERE user_id = 8")
        gone = session.scalars(delete(Checkin).where(Checkin.date == "2026-03-02").returning(Checkin.id)).all()
        assert len(gone) == changed.rowcount
        session.rollback()


@use("several tables in one transaction, rolled back")
def _(ground: Ground) -> None:
    before = contents(ground.address)
    with ground.database.session() as session:
        gym = Gym(name="Tatame Sul", address="Rua do Sol, 5", since="2026-11-01")
        session.add(gym)
        session.flush()
        user = User(clerk_user_id="rolled back", gym_id=gym.id)
        session.add(user)
        session.flush()
        session.add_all([Checkin(user_id=user.id), Notification(sent_by=user.id, title="x")])
        session.flush()
        session.rollback()
    assert contents(ground.address) == before


@use("a savepoint")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        session.add(Checkin(user_id=1, date="kept"))
        session.flush()
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(text("INSERT INTO checkins (user_id) VALUES (-1)"))
        with session.begin_nested():
            session.add(Checkin(user_id=1, date="kept"))
        assert session.scalar(select(func.count()).where(Checkin.date == "kept")) == 2
        session.rollback()


@use("a foreign key holds in both directions")
def _(ground: Ground) -> None:
    with pytest.raises(IntegrityError), ground.database.session.begin() as session:
        session.add(Checkin(user_id=-1))
    with pytest.raises(IntegrityError), ground.database.session.begin() as session:
        session.execute(delete(User).where(User.id == ground.ask("SELECT min(user_id) FROM checkins")))


@use("a gym and its manager, who refer to each other")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        gym = Gym(name="Tatame Norte", address="Rua da Lua, 5", since="2026-11-01")
        session.add(gym)
        session.flush()
        user = User(clerk_user_id="manager", gym_id=gym.id)
        session.add(user)
        session.flush()
        gym.manager_id = user.id
        session.flush()
        assert session.scalar(select(Gym.manager_id).where(Gym.id == gym.id)) == user.id
        session.rollback()


@use("FOR UPDATE of one row; of rows on several nodes it is refused")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        assert session.scalars(select(User).where(User.id == 7).with_for_update()).one().id == 7
        assert session.scalars(select(Checkin).where(Checkin.id == 7).with_for_update()).one().id == 7
    with ground.refused(), ground.database.session() as session:
        assert session.scalars(select(Checkin).where(Checkin.user_id == 8).with_for_update()).all()


@use("another id for a row of a reference table; for a distributed row it is refused")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        session.execute(text("INSERT INTO versions (id) VALUES (900)"))
        session.execute(text("UPDATE versions SET id = 901 WHERE id = 900"))
        session.rollback()
    with ground.refused(), ground.database.session() as session:
        session.execute(update(Checkin).where(Checkin.id == 1).values(id=999_999))
        session.rollback()


@use("insert_many, with and without returned rows")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        rows = [{"user_id": 1, "date": f"day {number}"} for number in range(100)]
        assert insert_many(Checkin, rows).run(session) == 100
        returned = insert_many(Checkin, rows, returning=Checkin).run(session)
        assert [row.date for row in returned] == [row["date"] for row in rows]
        session.rollback()


@use("insert_many of enough rows for a COPY")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        assert insert_many(Checkin, [{"user_id": 1, "date": "copied"}] * 20_000).run(session) == 20_000
        assert session.scalar(select(func.count()).where(Checkin.date == "copied")) == 20_000
        session.rollback()


@use("update_many by id and by another column")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        assert (
            update_many(Checkin, [{"id": 1, "date": "one"}, {"id": -1, "date": "x"}], by=[Checkin.id]).run(session) == 1
        )
        of_member = update_many(Checkin, [{"user_id": 8, "date": "eight"}], by=[Checkin.user_id])
        assert of_member.run(session) == ground.ask("SELECT count(*) FROM checkins WHERE user_id = 8")
        assert update_many(User, [{"id": 2, "phone": "2"}], by=[User.id], returning=User.phone).run(session) == ["2"]
        session.rollback()


@use("upsert by a unique column, and by the id of a distributed row")
def _(ground: Ground) -> None:
    with ground.database.session() as session:
        users = [{"clerk_user_id": "new", "phone": "1"}, {"clerk_user_id": "newer", "phone": "2"}]
        first, second = (upsert(User, users, by=[User.clerk_user_id]).run(session) for _ in range(2))
        assert ((first.inserted, first.updated), (second.inserted, second.updated)) == ((2, 0), (0, 2))
        checkins = [{"id": 1, "date": "changed"}, {"id": 900_001, "date": "added"}]
        found = upsert(Checkin, checkins, by=[Checkin.id]).run(session)
        assert (found.inserted, found.updated) == (1, 1)
        session.rollback()


@use("a bulk write that is rejected names its row")
def _(ground: Ground) -> None:
    with pytest.raises(RowRejected) as caught:
        insert_many(Checkin, [{"user_id": 1}, {"user_id": -1}, {"user_id": 1}]).run(ground.database)
    assert caught.value.position == 1
    # By a COPY, too.
    for row, problem in (({"user_id": -1}, "refers to a row that does not exist"), ({"id": 1}, "already exists")):
        rows = [{"id": 1_000_000 + number, "user_id": 1} for number in range(20_000)]
        rows[7] |= row
        with pytest.raises(RowRejected, match=f"row 7 for Checkin: `{next(iter(row))}` {problem}"):
            insert_many(Checkin, rows).run(ground.database)


@use("rows of a partitioned table, also without a partition")
def _(ground: Ground) -> None:
    part: Any = Part
    with ground.database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE parts (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)")
        connection.exec_driver_sql("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (50000)")
        if ground.is_citus:
            connection.exec_driver_sql("SELECT create_distributed_table('parts', 'id')")
    try:
        for number in (2, 20_000):
            rows = [{"id": number, "name": "fits"} for number in range(number)]
            rows[1]["id"] = 50_000
            with pytest.raises(RowRejected, match="row 1 for Part: belongs to no partition of the table"):
                insert_many(part, rows).run(ground.database)
        with pytest.raises(WriteInvalid, match="cannot be counted, because its table has partitions"):
            upsert(part, [{"id": 7, "name": "new"}], by=[part.id]).run(ground.database)
        assert upsert(part, [{"id": 7, "name": "new"}], by=[part.id], returning=part.name).run(ground.database) == [
            "new"
        ]
        assert ground.ask("SELECT count(*) FROM parts") == 1
    finally:
        with ground.database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE parts")


@use("a transaction that is tried again")
def _(ground: Ground) -> None:
    def work(session: Session) -> int:
        session.execute(update(User).where(User.id == 1).values(phone="tried"))
        return session.scalar(select(func.count()).select_from(Checkin)) or 0

    assert ground.database.run_in_transaction(work) == ground.ask("SELECT count(*) FROM checkins")


@use("advisory locks, and LISTEN with NOTIFY")
def _(ground: Ground) -> None:
    with psycopg.connect(readable(ground.address), autocommit=True) as one:
        one.execute("LISTEN doors")
        with ground.database.session.begin() as session:
            assert session.scalar(text("SELECT pg_try_advisory_xact_lock(7)"))
            assert one.execute("SELECT pg_try_advisory_lock(7)").fetchone() == (False,)
            session.execute(text("NOTIFY doors, 'open'"))
        assert [note.payload for note in one.notifies(timeout=10, stop_after=1)] == ["open"]


@use("a member is erased, with all that refers to them")
def _(ground: Ground) -> None:
    with ground.database.session.begin() as session:
        user = User(clerk_user_id="erased", gym_id=1)
        session.add(user)
        session.flush()
        session.add_all([Checkin(user_id=user.id), Notification(sent_by=user.id, recipients=[str(user.id)])])
    with ground.database.session.begin() as session:
        for model, column in ((Checkin, Checkin.user_id), (Notification, Notification.sent_by)):
            session.execute(delete(model).where(column == user.id))
        session.execute(delete(User).where(User.id == user.id))
    assert ground.ask(f"SELECT count(*) FROM users WHERE id = {user.id}") == 0


# --- Schema -----------------------------------------------------------------------------------------------------------


@use("status: rows and ids")
def _(ground: Ground) -> None:
    with ground.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    found = evolve.status(ground.database.engine)
    assert found.tables["users"] == ground.ask("SELECT count(*) FROM users")
    assert found.tables["checkins"] == ground.ask("SELECT count(*) FROM checkins")
    [ids] = [ids for ids in evolve.id_uses(ground.database.engine) if ids.name == "checkins.id"]
    assert ids.last >= ground.ask("SELECT max(id) FROM checkins WHERE id < 900000")


@use("check, and lint")
def _(ground: Ground) -> None:
    assert evolve.check(ground.database.engine).failed == []
    assert all(linted.file for linted in evolve.lint())


@use("doctor: no line is unknown")
def _(ground: Ground) -> None:
    # The line `drift` is the use `check`, and the others are about the machine.
    names = {line.name for line in LINES.values() if not line.slow and line.group in {"Room", "Tables", "Replication"}}
    found = doctor.examine(ground.address, names=names - {"slow statements"}).findings
    assert [finding.text for finding in found if finding.verdict == Verdict.UNKNOWN] == []
    assert ("citus" in {finding.name for finding in found}) is ground.is_citus


@use("migrate and rollback")
def _(ground: Ground) -> None:
    ground.migrations(
        upgrade="op.add_column('checkins', sa.Column('note', sa.Text, server_default='none'))\n"
        "    op.create_index('checkins_note_index', 'checkins', ['note'])",
        downgrade="op.drop_column('checkins', 'note')",
    )
    rows = contents(ground.address)
    evolve.migrate(ground.database.engine)
    assert ground.ask("SELECT count(*) FROM checkins WHERE note = 'none'") == len(rows["checkins"])
    evolve.rollback(ground.database.engine)
    assert contents(ground.address) == rows


@use("an index that is built concurrently")
def _(ground: Ground) -> None:
    ground.migrations(
        upgrade="with op.get_context().autocommit_block():\n"
        "        op.create_index('checkins_one_index', 'checkins', ['created_at'], postgresql_concurrently=True)",
        downgrade="op.drop_index('checkins_one_index')",
    )
    evolve.migrate(ground.database.engine)
    assert ground.ask("SELECT indisvalid FROM pg_index WHERE indexrelid = 'checkins_one_index'::regclass")
    evolve.rollback(ground.database.engine)


@use("push")
def _(ground: Ground) -> None:
    with ground.fresh() as address, Database(address) as database:
        with database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE checkins DROP COLUMN date CASCADE"))
        pushed = evolve.push(database.engine, agree=lambda _: True)
        assert pushed
        assert len(pushed.statements) >= 2
        assert evolve.check(database.engine).failed == []


# --- Data -------------------------------------------------------------------------------------------------------------


@use("seed, and seed --replace")
def _(ground: Ground) -> None:
    with ground.fresh() as address:
        for command in ("seed --gyms 1 --members 2 --days 3", "seed --replace --yes --gyms 2 --members 2 --days 3"):
            ground.run(command, address)
        assert [len(contents(address)[table]) for table in ("gyms", "users")] == [2, len(contents(address)["users"])]


@use("move copy, verify, and copy --replace")
def _(ground: Ground) -> None:
    with ground.fresh() as address, Database(address) as database:
        for options in ("", " --replace --emptied"):
            ground.run(f"move copy{options}", address)
            with move.open_for_reading(ground.supabase, database.engine) as connections:
                assert move.verify(connections).unequal == []


# --- Studio -----------------------------------------------------------------------------------------------------------


@contextmanager
def studio(ground: Ground) -> Generator[Client]:
    with serving(open_access(ground.database, embedded=True, write=True)) as client:
        yield client


@use("the overview and the rows of the studio")
def _(ground: Ground) -> None:
    with studio(ground) as client:
        assert client.get("/api/overview")["problems"] == {}
        for table, key in (("users", "1"), ("checkins", "1"), ("notifications", "1")):
            assert client.get(f"/api/rows/{table}", limit="5")["rows"]
            assert client.get(f"/api/row/{table}/{key}")["row"]["id"] == key
            assert client.get(f"/api/count/{table}")["rows"] == ground.ask(f"SELECT count(*) FROM {table}")
        assert client.get("/api/move")["ever"] is False
        assert client.get("/api/activity")


@use("search, filters and export in the studio")
def _(ground: Ground) -> None:
    with studio(ground) as client:
        assert client.get("/api/rows/users", q="a", limit="5")["rows"]
        filtered = client.get("/api/rows/checkins", limit="5", filter='{"column": "user_id", "op": "is", "value": "8"}')
        assert {row[1] for row in filtered["rows"]} == {"8"}
        exported = client.ask("/api/export/checkins.csv")
        assert len(exported.text.splitlines()) == ground.ask("SELECT count(*) FROM checkins") + 1


@use("changes in the studio")
def _(ground: Ground) -> None:
    with studio(ground) as client:

        def save(*changes: Any) -> Any:
            response = client.ask("/api/changes", {"changes": changes})
            assert response.status == 200, response.text
            return response.json["rows"]

        [row] = save({"op": "insert", "table": "checkins", "values": {"user_id": "1", "date": "2026-03-05"}})
        key = row["key"]
        save({"op": "update", "table": "checkins", "key": key, "values": {"date": "x"}, "was": {"date": "2026-03-05"}})
        save({"op": "delete", "table": "checkins", "key": key, "was": {"date": "x"}})
        assert ground.ask(f"SELECT count(*) FROM checkins WHERE id = {key}") == 0


@use("statements in a tab of the studio")
def _(ground: Ground) -> None:
    with studio(ground) as client:
        assert {"rows": [["1"]]} in client.run("BEGIN; SELECT count(*) FROM checkins WHERE id = 1; ROLLBACK")
        assert client.run("EXPLAIN SELECT * FROM checkins")
        error = client.error("SELECT nothing FROM checkins")
        assert error["code"] == "42703"


@pytest.mark.parametrize("name", USES)
def test_a_use_has_the_same_result_on_citus(ground: Ground, name: str) -> None:
    USES[name](ground)


def test_the_uses_are_those_that_the_documentation_counts() -> None:
    assert len(USES) == 57
