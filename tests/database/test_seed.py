from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from hashlib import md5
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from tatame_db.schema import (
    AppStore,
    Asset,
    Attachment,
    Base,
    Checkin,
    Class,
    Graduation,
    Gym,
    Notification,
    Role,
    User,
    Version,
)
from tatame_db.seed import DatabaseNotEmpty, SampleRowsRefused, SeedPlan, SeedPlanInvalid, empty, is_empty, seed

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import Connection, Engine

PLAN = SeedPlan(gyms=2, members=30, days=40, until=date(2026, 3, 1))
WEEK = ["MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"]


def digests(connection: Connection) -> dict[str, str]:
    return {
        name: connection.scalar(
            text(
                f"""SELECT md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C"), '')) FROM {name} t"""
            )
        )
        for name in Base.metadata.tables
    }


def rules_of_checkins(connection: Connection) -> list[str]:
    rules = text(
        "SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'checkins'::regclass "
        "UNION ALL SELECT indexdef FROM pg_indexes WHERE tablename = 'checkins' ORDER BY 1"
    )
    return list(connection.scalars(rules))


def minimal_rows() -> list[Any]:
    return [
        Version(),
        AppStore(),
        Gym(name="Nova", address="Rua", since="2026-01-01"),
        User(clerk_user_id="user_nova"),
        Graduation(user_id=1),
        Class(),
        Asset(),
        Attachment(),
        Checkin(),
        Notification(),
    ]


def test_every_table_is_filled_and_counted(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = seed(connection, PLAN)

        found = {
            table.name: connection.scalar(select(func.count()).select_from(table))
            for table in Base.metadata.tables.values()
        }
    assert rows == found
    assert all(rows.values())


def test_the_same_random_seed_makes_the_same_rows_and_another_makes_others(engine: Engine) -> None:
    with engine.begin() as connection:
        seed(connection, PLAN)
        first = digests(connection)
        empty(connection)
        seed(connection, SeedPlan(gyms=2, members=30, days=40, until=date(2026, 3, 1)))
        second = digests(connection)
        empty(connection)
        seed(connection, SeedPlan(gyms=2, members=30, days=40, until=date(2026, 3, 1), random_seed=2))
        other = digests(connection)

    assert first == second
    assert {table for table in first if first[table] == other[table]} == {"roles", "versions", "app_stores"}


def test_the_rows_are_the_same_in_every_python_and_postgresql(engine: Engine) -> None:
    with engine.begin() as connection:
        seed(connection, PLAN)

        contents = "".join(digest for _, digest in sorted(digests(connection).items()))
    # A new digest is right only where the contents were meant to change.
    assert md5(contents.encode(), usedforsecurity=False).hexdigest() == "c99a81dafd46bf63f0a3e5fb43829f43"


def test_the_default_plan_ends_today_with_thousands_of_checkins(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = seed(connection)

        assert 5_000 < rows["checkins"] < 15_000
        for model in (Checkin, User, Graduation, Asset, Attachment, Notification, Class, Version):
            latest = connection.scalar(select(func.max(model.created_at)))
            assert latest is not None
            assert latest < datetime.now(UTC).replace(tzinfo=None)


@pytest.mark.parametrize(("gyms", "members", "days"), [(1, 0, 0), (2, 7, 0), (1, 45, 10), (9, 3, 30)])
def test_the_rows_have_the_numbers_of_the_plan(engine: Engine, gyms: int, members: int, days: int) -> None:
    plan = SeedPlan(gyms=gyms, members=members, days=days, until=date(2026, 3, 1))
    with engine.begin() as connection:
        rows = seed(connection, plan)

        students = select(func.count()).where(User.role == "STUDENT").group_by(User.gym_id)
        assert rows["gyms"] == gyms
        assert list(connection.scalars(students)) == ([members] * gyms if members else [])
        allowed = Checkin.date.between(plan.first_day.isoformat(), plan.last_day.isoformat())
        assert connection.scalar(select(func.count()).where(allowed)) == rows["checkins"]
        assert bool(rows["checkins"]) == bool(members and days)


@pytest.mark.parametrize("wrong", [{"gyms": 0}, {"members": -1}, {"days": -1}, {"days": 10**9}, {"until": date.min}])
def test_a_plan_outside_its_limits_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SeedPlanInvalid) as refused:
        SeedPlan(**wrong)

    assert set(refused.value.problems) == set(wrong)


def test_every_number_outside_its_limits_is_named() -> None:
    with pytest.raises(SeedPlanInvalid) as refused:
        SeedPlan(gyms=0, members=-1)

    assert refused.value.what == "gyms must be from 1 to 1000, not 0; members must be from 0 to 5000, not -1"


def test_every_state_of_approval_occurs(engine: Engine) -> None:
    with Session(engine) as session:
        seed(session.connection(), PLAN)
        users = session.scalars(select(User)).all()

    students = [user for user in users if user.role == "STUDENT"]
    assert any(user.approved_at and not user.deleted_at for user in students)
    assert any(user.denied_at for user in students)
    assert any(user.approved_at is None and user.denied_at is None for user in students)
    assert any(user.deleted_at for user in students)
    assert any(user.migrated_at for user in students)
    assert any(user.role is None and user.gym_id is None for user in users)
    assert not any(user.approved_at and user.denied_at for user in users)


def test_people_have_consistent_facts_and_no_contact_that_exists(engine: Engine) -> None:
    with Session(engine) as session:
        seed(session.connection(), PLAN)
        users = session.scalars(select(User)).all()
        managers = session.scalars(select(Gym.manager_id)).all()

    assert {user.role for user in users if user.id in managers} == {"MANAGER"}
    assert all(user.birth_day == (user.birth and user.birth[5:]) for user in users)
    assert all(user.email.endswith("@tatame.example") for user in users if user.email)
    assert all(user.phone.startswith("+55 00 ") for user in users if user.phone)
    assert any(not user.first_name.isascii() for user in users if user.first_name)


def test_belts_rise_over_time(engine: Engine) -> None:
    ladders = [["WHITE", "BLUE", "PURPLE", "BROWN", "BLACK"], ["WHITE", "GREY", "YELLOW", "ORANGE", "GREEN"]]
    with Session(engine) as session:
        seed(session.connection(), PLAN)
        rows = session.scalars(select(Graduation).where(Graduation.modality == "BJJ").order_by(Graduation.id)).all()

    histories: dict[int, list[tuple[str | None, int | None]]] = {}
    for row in rows:
        histories.setdefault(row.user_id, []).append((row.belt, row.degree))
    orders = [[(belt, degree) for belt in belts for degree in range(5)] for belts in ladders]
    for history in histories.values():
        assert any(
            history[0] in order and history == order[order.index(history[0]) :][: len(history)] for order in orders
        )
    assert any(len(history) > 3 for history in histories.values())


def test_members_check_in_only_on_the_days_of_their_classes(engine: Engine) -> None:
    with Session(engine) as session:
        seed(session.connection(), PLAN)
        rows = session.execute(
            select(Checkin, Class, User)
            .join(Class, Checkin.class_id == Class.id)
            .join(User, Checkin.user_id == User.id)
        ).all()

    for checkin, class_, user in rows:
        assert checkin.date
        assert class_.start
        assert user.approved_at
        day = date.fromisoformat(checkin.date)
        brasilia_minutes = (checkin.created_at.hour - 3) * 60 + checkin.created_at.minute
        starts = int(class_.start[:2]) * 60 + int(class_.start[3:])
        assert class_.day == WEEK[day.weekday()]
        assert class_.gym_id == user.gym_id
        assert checkin.created_at.date() == day
        assert -15 <= brasilia_minutes - starts <= 10
        assert user.approved_at < checkin.created_at
        assert user.deleted_at is None or checkin.created_at < user.deleted_at
        assert class_.deleted_at is None or checkin.created_at < class_.deleted_at
    assert len({(user.id, class_.id, checkin.date) for checkin, class_, user in rows}) == len(rows)
    assert [row.id for row in sorted((row[0] for row in rows), key=lambda row: (row.created_at, row.id))] == list(
        range(1, len(rows) + 1)
    )


def test_only_recipients_have_viewed_a_message(engine: Engine) -> None:
    with Session(engine) as session:
        seed(session.connection(), PLAN)
        messages = session.scalars(select(Notification)).all()
        members = {str(user_id) for user_id in session.scalars(select(User.id))}

    assert {message.status for message in messages} == {"sent", "failed", "pending"}
    assert any(message.recipients is None for message in messages)
    assert any(message.recipients == [] for message in messages)
    for message in messages:
        assert set(message.viewed_by or []) <= set(message.recipients or []) <= members
        assert (message.sent_at is not None) == (message.status == "sent")
        assert message.sent_at or not message.viewed_by


@pytest.mark.parametrize("days", [0, 10])
def test_the_next_ids_follow_the_seeded_ones(engine: Engine, days: int) -> None:
    new = minimal_rows()
    numbered = {table.name for table in Base.metadata.tables.values() if table.autoincrement_column is not None}
    assert {row.__tablename__ for row in new} == numbered

    with Session(engine) as session:
        rows = seed(session.connection(), SeedPlan(gyms=1, members=5, days=days, until=date(2026, 3, 1)))
        session.add_all(new)
        session.flush()

        assert {row.__tablename__: row.id for row in new} == {name: rows[name] + 1 for name in numbered}


def test_ids_start_at_one_after_emptying(engine: Engine) -> None:
    new = [row for row in minimal_rows() if row.__tablename__ != "graduations"]
    with Session(engine) as session:
        seed(session.connection(), PLAN)
        empty(session.connection())

        assert is_empty(session.connection())
        session.add_all(new)
        session.flush()
        assert {row.id for row in new} == {1}


def test_a_database_with_one_row_is_refused_and_stays_unchanged(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(Role).values(id="STUDENT"))
        before = digests(connection)

    with engine.begin() as connection:
        with pytest.raises(DatabaseNotEmpty) as refused:
            seed(connection, PLAN)
        after = digests(connection)

    assert refused.value.rows == {"roles": 1}
    assert refused.value.what == "the database is not empty: 1 row in roles"
    assert before == after


def test_an_error_during_the_seed_leaves_the_database_unchanged(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE checkins ADD CONSTRAINT full_disk CHECK (id < 100)"))
        before = rules_of_checkins(connection)

    with pytest.raises(SampleRowsRefused, match='check constraint "full_disk"'), engine.begin() as connection:
        seed(connection, PLAN)

    with engine.begin() as connection:
        assert is_empty(connection)
        assert rules_of_checkins(connection) == before


def test_the_keys_and_indexes_of_checkins_are_unchanged_afterwards(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX ours ON checkins (date) WHERE date LIKE '2026%'"))
        before = rules_of_checkins(connection)
        seed(connection, PLAN)

        assert rules_of_checkins(connection) == before


def test_estimated_counts_are_exact_after_the_seed(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = seed(connection, PLAN)

    with engine.connect() as connection:
        estimated = {
            name: connection.scalar(
                text("SELECT reltuples FROM pg_class WHERE oid = CAST(:name AS regclass)"), {"name": name}
            )
            for name in rows
        }
    assert estimated == rows


def test_of_two_seeds_at_once_the_second_is_refused(engine: Engine) -> None:
    def seed_too() -> dict[str, int]:
        with engine.begin() as connection:
            return seed(connection, PLAN)

    def a_lock_is_awaited() -> bool:
        with engine.connect() as connection:
            waiting = text(
                "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database "
                "WHERE datname = current_database() AND NOT granted)"
            )
            return bool(connection.scalar(waiting))

    with ThreadPoolExecutor() as pool:
        with engine.begin() as connection:
            rows = seed(connection, PLAN)
            second = pool.submit(seed_too)
            while not a_lock_is_awaited() and not second.done():
                time.sleep(0.01)
        with pytest.raises(DatabaseNotEmpty) as refused:
            second.result()
    assert refused.value.rows == rows
