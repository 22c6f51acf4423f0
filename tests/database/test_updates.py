"""Updates of many rows: the columns that each row sets, their values, and errors that name the wrong row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from sqlalchemy import URL, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.errors import NotAKey, RowInvalid, RowRejected
from tatame_db.queries.write import update_many, upsert
from tatame_db.schema import Base, Checkin, Class, Gym, Notification, User, Version

DAY = datetime(2026, 3, 1, 12, 0, 0, 1)
VALUES: dict[str, list[Any]] = {
    "title": [
        "",
        "null",
        '"',
        "\\",
        "\\u0000",
        "\\N",
        "{}",
        "a,b",
        "tab\tline\nreturn\r",
        "\x01\x7f\u2028",
        "ç 🥋",
        None,
    ],
    "recipients": [[], [""], ["NULL", None, "null"], ['a,"b"', "{c}", "d\\e", " f "], None],
    "sent_at": [datetime.min, datetime.max, DAY, None],
    "sent_by": [1, 2, None],
}


@pytest.fixture
def database(address: URL) -> Generator[Database]:
    with Database(address) as database:
        with database.session.begin() as session:
            session.add_all(
                [
                    User(clerk_user_id=f"user_{number}", email=f"{number}@gym.example", phone=f"+{number}")
                    for number in range(1, 5)
                ]
            )
            session.add(Class(day="MONDAY"))
            session.flush()
            session.add_all(
                [Checkin(user_id=1 + number // 2, date=f"2026-03-0{1 + number % 2}") for number in range(6)]
            )
        yield database


def facts(database: Database, model: type[Base]) -> dict[int, dict[str, Any]]:
    """Return all columns of all rows, as the ORM reads them."""
    columns = inspect(model).columns
    with database.session() as session:
        rows = session.scalars(select(cast("Any", model)).order_by(columns["id"]))
        return {row.id: {name: getattr(row, name) for name, _ in columns.items()} for row in rows}


# --- Changes ---------------------------------------------------------------------------------------------------------


def test_each_row_sets_exactly_the_columns_that_it_names(database: Database) -> None:
    expected = facts(database, User)
    expected[1] |= {"email": None}
    expected[2] |= {"phone": "+55", "approved_at": DAY}
    expected[3] |= {"email": "bia@gym.example"}

    rows: list[dict[str, object]] = [
        {"id": 1, "email": None},
        {"id": 2, "phone": "+55", "approved_at": DAY},
        {"id": 3, "email": "bia@gym.example"},
    ]
    assert update_many(User, rows, by=[User.id]).run(database) == 3

    assert facts(database, User) == expected


def test_an_object_sets_the_attributes_that_were_set_on_it(database: Database) -> None:
    expected = facts(database, User)
    expected[1] |= {"clerk_user_id": "user_ana", "email": None}
    expected[2] |= {"clerk_user_id": "user_bia", "phone": "+55"}

    bia = User(id=2, clerk_user_id="user_bia")
    bia.phone = "+55"
    assert update_many(User, [User(id=1, clerk_user_id="user_ana", email=None), bia], by=[User.id]).run(database) == 2

    assert facts(database, User) == expected


@pytest.mark.parametrize("returns", [False, True], ids=["count", "rows"])
def test_values_arrive_as_the_orm_would_have_written_them(returns: bool, database: Database) -> None:
    rows = [
        {"id": 1 + number, **{name: values[number % len(values)] for name, values in VALUES.items()}}
        for number in range(60)
    ]
    with database.session.begin() as session:
        session.add_all([Notification(title="before", recipients=["before"], sent_at=DAY) for _ in rows])

    if returns:
        returned = update_many(Notification, rows, by=[Notification.id], returning=Notification).run(database)
        found = [{name: getattr(row, name) for name, _ in inspect(Notification).columns.items()} for row in returned]
        assert found == list(facts(database, Notification).values())
    else:
        assert update_many(Notification, rows, by=[Notification.id]).run(database) == 60

    found = list(facts(database, Notification).values())
    with database.session.begin() as session:
        session.execute(update(Notification), rows)
    assert found == list(facts(database, Notification).values())
    assert [{name: row[name] for name in rows[0]} for row in found] == rows


def test_rows_that_match_nothing_are_not_counted_and_change_nothing(database: Database) -> None:
    before = facts(database, User)
    unknown = update_many(User, [{"id": 99, "email": None}, {"id": 98, "phone": None}], by=[User.id])
    assert unknown.run(database) == 0
    assert facts(database, User) == before

    some = update_many(
        User, [{"id": 99, "email": None}, {"id": 1, "email": None}, {"id": 98, "phone": None}], by=[User.id]
    )
    assert some.run(database) == 1
    assert facts(database, User) == before | {1: before[1] | {"email": None}}


def test_no_rows_send_no_statement(address: URL) -> None:
    database = Database(address)
    database.close()
    assert update_many(User, [], by=[User.id]).run(database) == 0
    assert update_many(User, [], by=[User.id], returning=User).run(database) == []
    assert asyncio.run(update_many(User, [], by=[User.id]).run(AsyncDatabase(address))) == 0


def test_a_key_updates_all_rows_that_have_it(database: Database) -> None:
    assert update_many(Checkin, [{"user_id": 1, "class_id": 1}], by=[Checkin.user_id]).run(database) == 2
    assert [row["class_id"] for row in facts(database, Checkin).values()] == [1, 1, None, None, None, None]


def test_a_key_may_have_several_columns(database: Database) -> None:
    rows = [
        {"user_id": 1, "date": "2026-03-02", "class_id": 1},
        {"user_id": 2, "date": "2026-03-01", "class_id": 1},
        {"user_id": 3, "date": "2026-03-03", "class_id": 1},
    ]
    assert update_many(Checkin, rows, by=[Checkin.user_id, Checkin.date]).run(database) == 2
    assert [row["class_id"] for row in facts(database, Checkin).values()] == [None, 1, 1, None, None, None]


def test_a_key_may_be_text_or_an_array_or_a_timestamp(database: Database) -> None:
    with database.session.begin() as session:
        session.add_all([Notification(recipients=["1", "a,b"], sent_at=DAY), Notification(sent_at=DAY)])
    assert (
        update_many(User, [{"clerk_user_id": "user_2", "plan": "MONTHLY"}], by=[User.clerk_user_id]).run(database) == 1
    )
    by_array = update_many(Notification, [{"recipients": ["1", "a,b"], "title": "x"}], by=[Notification.recipients])
    assert by_array.run(database) == 1
    assert update_many(Notification, [{"sent_at": DAY, "title": "y"}], by=[Notification.sent_at]).run(database) == 2
    assert {id_: row["plan"] for id_, row in facts(database, User).items()} == {1: None, 2: "MONTHLY", 3: None, 4: None}


def test_a_null_in_the_database_matches_no_key(database: Database) -> None:
    with database.session.begin() as session:
        session.add(Checkin(user_id=None, date="2026-03-09"))
    rows = [{"user_id": number, "date": "2026-03-09"} for number in range(1, 9)]
    assert update_many(Checkin, rows, by=[Checkin.user_id]).run(database) == 6


# --- Results ---------------------------------------------------------------------------------------------------------


def test_returned_rows_are_in_the_order_of_the_rows_across_statements(database: Database) -> None:
    rows: list[dict[str, object]] = [
        {"id": 4, "email": "4"},
        {"id": 2, "phone": "2"},
        {"id": 99, "email": "99"},
        {"id": 3, "email": None},
        {"id": 1, "phone": None},
    ]
    returned = update_many(User, rows, by=[User.id], returning=User).run(database)
    assert [(user.id, user.email, user.phone) for user in returned] == [
        (4, "4", "+4"),
        (2, "2@gym.example", "2"),
        (3, None, "+3"),
        (1, "1@gym.example", None),
    ]
    assert update_many(User, rows, by=[User.id], returning=User.clerk_user_id).run(database) == [
        "user_4",
        "user_2",
        "user_3",
        "user_1",
    ]
    assert update_many(Checkin, [{"user_id": 2, "class_id": 1}], by=[Checkin.user_id], returning=Checkin.id).run(
        database
    ) == [3, 4]


def test_thousands_of_rows_come_back_in_their_order(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO versions (app_version) SELECT n::text FROM generate_series(1, 20000) AS n")
        )
    rows = [{"id": number, "app_version": f"v{number}"} for number in range(20_000, 0, -1)]
    found = update_many(Version, rows, by=[Version.id], returning=Version.app_version).run(database)
    assert found == [row["app_version"] for row in rows]
    assert update_many(Version, rows, by=[Version.id]).run(database) == 20_000


# --- Targets ---------------------------------------------------------------------------------------------------------

TWO_SETS: list[dict[str, object]] = [{"id": 1, "email": "a"}, {"id": 2, "phone": "b"}, {"id": 3, "email": "c"}]


def test_a_set_of_columns_is_one_statement_and_all_are_one_transaction(
    address: URL, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tatame_db.sql")
    with Database(address, log_statements=True) as logged:
        assert update_many(User, TWO_SETS, by=[User.id]).run(logged) == 3
    assert [message.partition(" [")[0] for message in caplog.messages] == ["update User"] * 2
    with database.session() as session:
        transactions: dict[int, str] = {
            row.id: row.transaction for row in session.execute(text("SELECT id, xmin::text AS transaction FROM users"))
        }
    assert len({transactions[1], transactions[2], transactions[3]}) == 1
    assert transactions[4] != transactions[1]


def test_a_row_that_is_rejected_undoes_the_statements_before_it(address: URL, database: Database) -> None:
    before = facts(database, User)
    rows: list[dict[str, object]] = [
        {"id": 1, "email": None},
        {"id": 2, "phone": None, "role": None},
        {"id": 3, "phone": "+55", "role": "UNKNOWN"},
    ]
    with pytest.raises(RowRejected, match=r"row 2 for User: `role` refers to a row that does not exist") as raised:
        update_many(User, rows, by=[User.id]).run(database)
    assert (raised.value.position, raised.value.columns, raised.value.__cause__) == (2, ("role",), None)
    assert facts(database, User) == before

    twin: list[dict[str, object]] = [{"id": 1, "email": None}, {"id": 2, "clerk_user_id": "user_4"}]
    with pytest.raises(RowRejected, match="row 1 for User: `clerk_user_id` already exists") as raised:
        update_many(User, twin, by=[User.id]).run(database)
    assert "user_4" not in str(raised.value)

    async def main() -> None:
        async with AsyncDatabase(address) as asynchronous:
            with pytest.raises(RowRejected, match="row 1 for User"):
                await update_many(User, twin, by=[User.id]).run(asynchronous)
            assert await update_many(User, [{"id": 4, "plan": "MONTHLY"}], by=[User.id]).run(asynchronous) == 1

    asyncio.run(main())
    assert facts(database, User) == before | {4: before[4] | {"plan": "MONTHLY"}}


def test_an_update_in_a_session_is_part_of_its_transaction(database: Database) -> None:
    before = facts(database, User)
    with database.session() as session:
        session.add(User(id=50, clerk_user_id="user_50"))
        assert update_many(User, [*TWO_SETS, {"id": 50, "email": "d"}], by=[User.id]).run(session) == 4
        assert update_many(User, TWO_SETS, by=[User.id]).run(session.connection()) == 3
        assert session.scalars(select(User.email).where(User.id == 50)).one() == "d"
        session.rollback()
    assert facts(database, User) == before


def test_async_targets_are_updated_alike(address: URL, database: Database) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as asynchronous:
            assert await update_many(User, TWO_SETS, by=[User.id]).run(asynchronous) == 3
            async with asynchronous.session.begin() as session:
                rows = update_many(User, [{"id": 2, "plan": "MONTHLY"}], by=[User.id], returning=User.plan)
                assert await rows.run(session) == ["MONTHLY"]
                assert await update_many(User, TWO_SETS, by=[User.id]).run(await session.connection()) == 3
            async with asynchronous.session() as session:
                await session.execute(text("SET TRANSACTION READ ONLY"))
                with pytest.raises(DBAPIError, match="read-only"):
                    await update_many(User, TWO_SETS, by=[User.id]).run(session)

    asyncio.run(main())
    found = facts(database, User)
    assert [(row["email"], row["phone"], row["plan"]) for row in found.values()] == [
        ("a", "+1", None),
        ("2@gym.example", "b", "MONTHLY"),
        ("c", "+3", None),
        ("4@gym.example", "+4", None),
    ]


# --- The wrong row ---------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"id": 1, "email": None}


@pytest.mark.parametrize(
    ("bad", "column", "words"),
    [
        ({"email": "ana@gym.example"}, "id", "`id` is missing, and rows are matched by it"),
        ({}, "id", "`id` is missing, and rows are matched by it"),
        (User(clerk_user_id="user_ana"), "id", "`id` is missing, and rows are matched by it"),
        ({"id": 2, "emial": "ana@gym.example"}, "emial", "`emial` is not a column of User"),
        ({"id": 2, "gym": Gym(name="Ana", address="", since="")}, "gym", "`gym` is not a column of User"),
        ({"id": 1, "email": "ana@gym.example"}, None, "row 2 for User: has the same id as row 1"),
        ({"id": 1, "phone": "ana"}, None, "row 2 for User: has the same id as row 1"),
        ({"id": 2}, None, "names no column to set besides id"),
        ({"id": None, "email": "ana@gym.example"}, "id", "`id` is of the wrong type: expected `int`, got `None`"),
        ({"id": "2", "email": "ana@gym.example"}, "id", "expected `int`, got `str`"),
        ({"id": 2**31, "email": "ana@gym.example"}, "id", "<= 2147483647"),
        ({"id": 2, "email": 5}, "email", "expected `str`, got `int`"),
        ({"id": 2, "clerk_user_id": None}, "clerk_user_id", "expected `str`, got `None`"),
        ({"id": 2, "created_at": None}, "created_at", "expected `datetime`, got `None`"),
        ({"id": 2, "deleted_at": datetime(2026, 3, 1, tzinfo=UTC)}, "deleted_at", "no timezone"),
        ({"id": 2, "email": "ana\0"}, "email", "contains NUL"),
        ({"id": 2, "email": "ana\ud800"}, "email", "surrogate"),
        (User(id=2, clerk_user_id="ana", gym=Gym(name="Ana", address="", since="")), "gym", "`gym` is a relation"),
        (Version(id=2), None, "expected User or a mapping, got Version"),
        (7, None, "expected User or a mapping, got int"),
    ],
)
def test_a_wrong_row_is_named_by_its_position_and_column_before_it_is_sent(
    bad: Any, column: str | None, words: str, database: Database
) -> None:
    before = facts(database, User)
    with pytest.raises(RowInvalid) as raised:
        update_many(User, [{"id": 3, "phone": None}, GOOD, bad], by=[User.id]).run(database)
    assert (raised.value.position, raised.value.column) == (2, column)
    assert words in str(raised.value)
    assert "ana" not in str(raised.value)
    assert facts(database, User) == before


def test_two_rows_with_the_same_key_of_several_columns_are_named() -> None:
    rows = [{"user_id": user_id, "date": "2026-03-01", "class_id": 1} for user_id in (1, 2, 1)]
    with pytest.raises(RowInvalid, match="row 2 for Checkin: has the same user_id, date as row 0"):
        update_many(Checkin, rows, by=[Checkin.user_id, Checkin.date])


@pytest.mark.parametrize(
    ("by", "words", "example"),
    [
        ([], "it is empty", "User.id"),
        ([User.gym], "User.gym is not a column of User", "User.gym_id"),
        ([User.checkins], "User.checkins is not a column of User", "User.id"),
        ([User.id, Gym.name], "Gym.name is not a column of User", "User.id"),
        ([Gym.id], "Gym.id is not a column of User", "User.id"),
        (["id"], "text is not a column of User", "User.id"),
        (["id", "email"], "text is not a column of User", "User.id, User.email"),
        ("clerk_user_id", "it is text, not a list of columns", "User.clerk_user_id"),
        (User.email, "it is User.email, not a list of columns", "User.email"),
        (User.gym, "it is User.gym, not a list of columns", "User.gym_id"),
        (User, "it is User, not a list of columns", "User.id"),
        (None, "it is a `NoneType`, not a list of columns", "User.id"),
        ([None], "a `NoneType` is not a column of User", "User.id"),
        ([User.id + 1], "a `BinaryExpression` is not a column of User", "User.id"),
    ],
)
@pytest.mark.parametrize("write", [update_many, upsert])
def test_a_key_that_is_not_a_list_of_columns_is_an_error_that_shows_one(
    write: Any, by: Any, words: str, example: str
) -> None:
    with pytest.raises(NotAKey) as raised:
        write(User, [GOOD], by=by)
    assert raised.value.what == f"`by` cannot match rows of User: {words}"
    assert f"`by=[{example}]`" in raised.value.fix
