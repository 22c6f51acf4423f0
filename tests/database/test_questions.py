"""The queries of the app on a database of realistic size: the plan of each uses the index made for it."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Index, PrimaryKeyConstraint, Select, Table, UniqueConstraint, func, select, text

from tatame_db import evolve
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
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
    User,
    Version,
)
from tatame_db.seed import SeedPlan, seed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tatame_db.server.embedded import EmbeddedServer

PLAN = SeedPlan(gyms=30, members=80, days=260, until=date(2026, 3, 1))

# More rows for tables so small in the seed that a sequential scan is the best plan.
MORE = """
INSERT INTO gyms (name, address, since, manager_id)
SELECT 'Gym ' || n, 'Rua ' || n, '2015-03-01', 1 + n % 2000 FROM generate_series(1, 5000) AS n;

INSERT INTO class (gym_id, instructor_id, created_by, day, start, "end", deleted_at)
SELECT 1 + n % 5000, 1 + n % 2000, 1 + n % 2000,
       (ARRAY['MONDAY', 'TUESDAY', 'WEDNESDAY', 'THURSDAY', 'FRIDAY', 'SATURDAY', 'SUNDAY'])[1 + n / 5000 % 7],
       to_char(6 + n / 5000 % 15, 'FM00:"00"'), to_char(7 + n / 5000 % 15, 'FM00:"00"'),
       CASE WHEN n % 10 = 0 THEN now() END
FROM generate_series(1, 100000) AS n;

INSERT INTO assets (class_id, title, type, created_at)
SELECT 1 + n % 20000, 'Asset ' || n, (ARRAY['video', 'document', 'link'])[1 + n % 3],
       timestamp '2025-01-01' + n * interval '1 minute'
FROM generate_series(1, 50000) AS n;

INSERT INTO attachments (class_id, file_name) SELECT 1 + n % 20000, n || '.pdf' FROM generate_series(1, 50000) AS n;

INSERT INTO notifications (sent_by, title, recipients, created_at)
SELECT 1 + n % 500, 'Notification ' || n, ARRAY[(n % 2000)::text, (n % 1999)::text],
       timestamp '2025-01-01' + n * interval '1 minute'
FROM generate_series(1, 50000) AS n;

INSERT INTO versions (app_version, created_at, disabled_at)
SELECT '1.' || n, timestamp '2025-01-01' + n * interval '1 minute', CASE WHEN n % 100 > 0 THEN now() END
FROM generate_series(1, 20000) AS n;

INSERT INTO app_stores (store, url, disabled_at)
SELECT (ARRAY['ios', 'android'])[1 + n % 2], 'https://apps.example/' || n, CASE WHEN n % 100 > 0 THEN now() END
FROM generate_series(1, 20000) AS n;
"""

STUDENTS = select(User).where(User.role == "STUDENT", User.gym_id == 7)
NOTIFIED = select(Notification).where(Notification.recipients.contains(["77"]))
OF_A_MEMBER = select(Checkin).where(Checkin.user_id == 77)
TIMETABLE = select(Class).where(Class.gym_id == 7, Class.deleted_at.is_(None))


class Question(NamedTuple):
    asked: Select[Any]
    served_by: str
    in_order: bool = False
    """Whether the index returns the rows in the order of the query."""


QUESTIONS = {
    "the user who signed in": Question(
        select(User).where(User.clerk_user_id == "user_ana"),
        "users_clerk_user_id_unique",
    ),
    "approved students of a gym": Question(
        STUDENTS.where(User.approved_at.is_not(None)),
        "users_role_gym_id_approved_at_index",
    ),
    "students of a gym without approval": Question(
        STUDENTS.where(User.approved_at.is_(None)),
        "users_role_gym_id_approved_at_index",
    ),
    "birthdays of a day in a gym": Question(
        select(User).where(User.gym_id == 7, User.birth_day == "12-31"),
        "users_gym_id_birth_day_index",
    ),
    "the gym of a manager": Question(
        select(Gym).where(Gym.manager_id == 77),
        "gyms_manager_id_index",
    ),
    "the timetable of a gym": Question(
        TIMETABLE.order_by(Class.day, Class.start),
        "class_gym_id_day_start_index",
        in_order=True,
    ),
    "the class in progress in a gym": Question(
        TIMETABLE.where(Class.day == "MONDAY", Class.start <= "18:30", Class.end > "18:30"),
        "class_gym_id_day_start_index",
    ),
    "classes of an instructor": Question(
        select(Class).where(Class.instructor_id == 77),
        "class_instructor_id_index",
    ),
    "classes that a member created": Question(
        select(Class).where(Class.created_by == 77),
        "class_created_by_index",
    ),
    "check-ins of a member on a day": Question(
        OF_A_MEMBER.where(Checkin.date == "2026-02-02"),
        "checkins_user_id_date_index",
    ),
    "check-ins of a member between two days": Question(
        OF_A_MEMBER.where(Checkin.date.between("2026-02-01", "2026-02-28")),
        "checkins_user_id_date_index",
    ),
    "check-ins of a class on a day": Question(
        select(Checkin).where(Checkin.class_id == 77, Checkin.date == "2026-02-02"),
        "checkins_class_id_date_index",
    ),
    "the newest graduation of a member": Question(
        select(Graduation).where(Graduation.user_id == 77).order_by(Graduation.created_at.desc()).limit(1),
        "graduations_user_id_created_at_index",
        in_order=True,
    ),
    "graduations of a member, newest first": Question(
        select(Graduation).where(Graduation.user_id == 77).order_by(Graduation.created_at.desc()),
        "graduations_user_id_created_at_index",
        in_order=True,
    ),
    "notifications for a member": Question(
        NOTIFIED,
        "notifications_recipients_index",
    ),
    "notifications for a member, newest first": Question(
        NOTIFIED.order_by(Notification.created_at.desc()).limit(20),
        "notifications_recipients_index",
    ),
    "notifications of a sender, newest first": Question(
        select(Notification).where(Notification.sent_by == 77).order_by(Notification.created_at.desc()).limit(20),
        "notifications_sent_by_created_at_index",
        in_order=True,
    ),
    "assets of a class": Question(
        select(Asset).where(Asset.class_id == 77),
        "assets_class_id_index",
    ),
    "attachments of a class": Question(
        select(Attachment).where(Attachment.class_id == 77),
        "attachments_class_id_index",
    ),
    "videos, newest first": Question(
        select(Asset).where(Asset.type == "video").order_by(Asset.created_at.desc()).limit(20),
        "assets_type_created_at_index",
        in_order=True,
    ),
    "the current version": Question(
        select(Version).where(Version.disabled_at.is_(None)).order_by(Version.created_at.desc()).limit(1),
        "versions_created_at_index",
        in_order=True,
    ),
    "where a phone finds the app": Question(
        select(AppStore).where(AppStore.store == "ios", AppStore.disabled_at.is_(None)),
        "app_stores_store_index",
    ),
    "all stores": Question(
        select(AppStore).where(AppStore.disabled_at.is_(None)),
        "app_stores_store_index",
    ),
}


@pytest.fixture(scope="module")
def connection(server: EmbeddedServer) -> Generator[Connection]:
    """Connect to a database with years of data, for tests that only read."""
    address = server.address.set(database=f"questions_{uuid4().hex}")
    create_missing_database(address)
    with Database(address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed(connection, PLAN)
            connection.exec_driver_sql(MORE, execution_options={"no_parameters": True})
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Autovacuum would do it soon; until then, new entries wait in the pending list of the GIN index.
            connection.execute(text("VACUUM ANALYZE"))
            # The default is for spinning disks, on which sorting a few rows is cheaper than fetching them in order.
            connection.execute(text("SET random_page_cost = 1.1"))
            yield connection


def plan_of(connection: Connection, asked: Select[Any]) -> list[dict[str, Any]]:
    """Return the nodes of the server's plan, with parameters sent as the app sends them."""
    compiled = asked.compile(connection)
    [[[answer]]] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", compiled.params)

    def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", []):
            yield from nodes(child)

    return list(nodes(answer["Plan"]))


def test_the_database_has_enough_check_ins_for_the_plans_to_matter(connection: Connection) -> None:
    assert (connection.scalar(select(func.count()).select_from(Checkin)) or 0) >= 200_000


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=list(QUESTIONS))
def test_an_index_answers_the_question(question: Question, connection: Connection) -> None:
    plan = plan_of(connection, question.asked)

    kinds = {node["Node Type"] for node in plan}
    assert {node["Index Name"] for node in plan if "Index Name" in node} == {question.served_by}
    assert "Seq Scan" not in kinds
    if question.in_order:
        assert not kinds & {"Sort", "Incremental Sort"}


def test_every_index_answers_a_question() -> None:
    made = {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes}

    assert made == {question.served_by for question in QUESTIONS.values()} - {"users_clerk_user_id_unique"}


# --- All tables ------------------------------------------------------------------------------------------------------

each_table = pytest.mark.parametrize("table", Base.metadata.tables.values(), ids=str)


def is_partial(index: Index) -> bool:
    return index.dialect_options["postgresql"]["where"] is not None


def is_ordered(index: Index) -> bool:
    return not index.dialect_options["postgresql"]["using"]


def ordered_columns(table: Table, *, partial: bool) -> list[tuple[str, ...]]:
    """Return the columns of each b-tree of a table, those of its keys included."""
    keys = [key for key in table.constraints if isinstance(key, PrimaryKeyConstraint | UniqueConstraint)]
    indexes = [index for index in table.indexes if is_ordered(index) and (partial or not is_partial(index))]
    return [tuple(column.name for column in tree.columns) for tree in [*keys, *indexes]]


@each_table
def test_every_foreign_key_has_an_index(table: Table) -> None:
    leading = {columns[0] for columns in ordered_columns(table, partial=False)}

    assert {key.parent.name for key in table.foreign_keys} <= leading


@each_table
def test_no_index_is_a_prefix_of_another(table: Table) -> None:
    all_columns = ordered_columns(table, partial=True)

    assert [
        (some, more)
        for number, some in enumerate(all_columns)
        for other, more in enumerate(all_columns)
        if number != other and more[: len(some)] == some
    ] == []
