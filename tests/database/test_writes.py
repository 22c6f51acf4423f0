"""Inserts and upserts of many rows: their values, their order, and errors that name the wrong row."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import URL, func, insert, inspect, select, text
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.exc import DBAPIError, IntegrityError

from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import validate
from tatame_db.queries import write as writes
from tatame_db.queries.errors import NotAKey, RowInvalid, RowRejected
from tatame_db.queries.read import read
from tatame_db.queries.write import COPY_MIN_ROWS, Upserted, insert_many, update_many, upsert
from tatame_db.schema import Attachment, Base, Checkin, Class, Graduation, Gym, Notification, Role, User, Version

TEXTS = [
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
    "%s",
    None,
]
MOMENTS = [datetime.min, datetime.max, datetime(2026, 3, 1, 12, 0, 0, 1), None]
ARRAYS: list[list[str | None] | None] = [[], [""], ["NULL", None, "null"], ['a,"b"', "{c}", "d\\e", " f "], None]


@pytest.fixture
def database(address: URL) -> Generator[Database]:
    with Database(address) as database:
        with database.session.begin() as session:
            session.add_all([User(clerk_user_id=f"user_{number}") for number in range(3)])
            session.add(Class(day="MONDAY"))
        yield database


def hostile() -> list[dict[str, Any]]:
    return [
        {
            "title": TEXTS[number % len(TEXTS)],
            "recipients": ARRAYS[number % len(ARRAYS)],
            "sent_at": MOMENTS[number % len(MOMENTS)],
            "sent_by": 1 + number % 3,
        }
        for number in range(60)
    ]


@pytest.mark.parametrize("copy_from", [1, 1_000_000], ids=["copy", "one statement"])
def test_values_arrive_as_the_orm_would_have_written_them(
    copy_from: int, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", copy_from)
    rows = hostile()

    assert insert_many(Notification, rows).run(database) == 60

    with database.session.begin() as session:
        session.execute(insert(Notification), rows)
    with database.session() as session:
        found = session.scalars(select(Notification).order_by(Notification.id)).all()
        names = [name for name in inspect(Notification).column_attrs.keys() if name not in ("id", "created_at")]  # noqa: SIM118
        facts = [[getattr(row, name) for name in names] for row in found]
    assert facts[:60] == facts[60:]
    assert len(facts) == 120
    assert all(row.created_at for row in found)


def test_objects_and_dictionaries_are_written_alike(database: Database) -> None:
    day = datetime(2026, 3, 1)
    objects = insert_many(Checkin, [Checkin(user_id=1, date="2026-03-01", created_at=day)], returning=Checkin)
    dictionaries = insert_many(Checkin, [{"user_id": 1, "date": "2026-03-01", "created_at": day}], returning=Checkin)
    [one], [other] = objects.run(database), dictionaries.run(database)

    assert (one.user_id, one.class_id, one.date, one.created_at) == (1, None, "2026-03-01", day)
    assert (other.user_id, other.class_id, other.date, other.created_at) == (1, None, "2026-03-01", day)
    assert other.id == one.id + 1


def test_returned_values_are_in_the_order_of_the_rows(database: Database) -> None:
    ids = insert_many(Version, [{"app_version": f"v{number}"} for number in range(5_000)], returning=Version.id)
    found = ids.run(database)

    versions = {version.id: version.app_version for version in read(Version).all(database)}
    assert [versions[id_] for id_ in found] == [f"v{number}" for number in range(5_000)]


def test_a_column_that_only_other_rows_name_is_null(database: Database) -> None:
    rows = insert_many(Version, [{"app_version": "1"}, {"disabled_at": datetime(2026, 3, 1)}, {}], returning=Version)
    assert [(row.app_version, row.disabled_at) for row in rows.run(database)] == [
        ("1", None),
        (None, datetime(2026, 3, 1)),
        (None, None),
    ]


def test_no_rows_send_no_statement(database: Database) -> None:
    assert insert_many(Version, []).run(database) == 0
    assert insert_many(Version, [], returning=Version.id).run(database) == []
    assert upsert(User, [], by=[User.clerk_user_id], returning=User).run(database) == []


def test_an_insert_in_a_session_is_part_of_its_transaction(database: Database) -> None:
    with database.session() as session:
        user = User(clerk_user_id="user_ana")
        session.add(user)
        session.flush()
        insert_many(Graduation, [{"user_id": user.id, "belt": "BLUE"}]).run(session)
        assert session.scalar(select(func.count()).select_from(Graduation)) == 1
        session.rollback()
    assert read(Graduation).all(database) == []


def test_async_targets_are_written_alike(address: URL, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as asynchronous:
            assert await insert_many(Version, [{"app_version": "1"}]).run(asynchronous) == 1
            [id_] = await insert_many(Version, [Version(app_version="2")], returning=Version.id).run(asynchronous)
            async with asynchronous.session.begin() as session:
                await upsert(Version, [{"id": id_, "app_version": "3"}], by=[Version.id]).run(session)
            monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1)
            assert await insert_many(Version, [{"app_version": "4"}] * 3).run(asynchronous) == 3
            assert await insert_many(Version, []).run(asynchronous) == 0
            for _ in range(2):
                with pytest.raises(RowRejected, match="row 1 for Checkin"):
                    await insert_many(Checkin, [{"user_id": 1}, {"user_id": 99}]).run(asynchronous)
                monkeypatch.setattr(writes, "COPY_MIN_ROWS", 9)

    asyncio.run(main())
    assert [one.app_version for one in read(Version).order_by(Version.id).all(database)] == ["1", "3", "4", "4", "4"]


# --- Upsert ----------------------------------------------------------------------------------------------------------


def test_an_upsert_sets_exactly_the_columns_that_each_row_names(database: Database) -> None:
    with database.session.begin() as session:
        session.add_all(
            [
                User(clerk_user_id="user_ana", email="ana@gym.example", phone="+1"),
                User(clerk_user_id="user_eva", email="eva@gym.example", phone="+2"),
            ]
        )
    rows: list[dict[str, str | None]] = [
        {"clerk_user_id": "user_bia", "email": "bia@gym.example"},
        {"clerk_user_id": "user_eva", "phone": "+3", "first_name": "Eva"},
        {"clerk_user_id": "user_ana", "email": None},
        {"clerk_user_id": "user_lia"},
        {"clerk_user_id": "user_0"},
    ]

    written = upsert(User, rows, by=[User.clerk_user_id], returning=User).run(database)

    assert [(user.clerk_user_id, user.email, user.phone, user.first_name) for user in written] == [
        ("user_bia", "bia@gym.example", None, None),
        ("user_eva", "eva@gym.example", "+3", "Eva"),
        ("user_ana", None, "+1", None),
        ("user_lia", None, None, None),
        ("user_0", None, None, None),
    ]
    assert written == [read(User).where(User.id == user.id).one(database) for user in written]
    ids = upsert(User, rows, by=[User.clerk_user_id], returning=User.id).run(database)
    assert ids == [user.id for user in written]


def test_an_upsert_tells_inserted_rows_from_updated_ones(database: Database) -> None:
    rows: list[dict[str, str | None]] = [
        {"clerk_user_id": "user_0", "email": "0"},
        {"clerk_user_id": "user_new", "email": None},
        {"clerk_user_id": "user_1", "phone": "1"},
        {"clerk_user_id": "user_2"},
        {"clerk_user_id": "user_newer"},
    ]
    assert upsert(User, rows, by=[User.clerk_user_id]).run(database) == Upserted(inserted=2, updated=3)
    assert upsert(User, rows, by=[User.clerk_user_id]).run(database) == Upserted(inserted=0, updated=5)
    with database.session() as session:
        session.execute(text("SELECT FROM users WHERE clerk_user_id = 'user_0' FOR UPDATE"))
        assert upsert(User, rows, by=[User.clerk_user_id]).run(session) == Upserted(inserted=0, updated=5)
        more = [{"clerk_user_id": f"user_{number}"} for number in range(2_000)]
        assert upsert(User, more, by=[User.clerk_user_id]).run(session) == Upserted(inserted=1_997, updated=3)
        assert upsert(User, more, by=[User.clerk_user_id]).run(session) == Upserted(inserted=0, updated=2_000)
        session.rollback()
    assert upsert(User, [], by=[User.clerk_user_id]).run(database) == Upserted(inserted=0, updated=0)


def test_an_upsert_of_several_sets_of_columns_is_one_transaction(database: Database) -> None:
    before = read(User).order_by(User.id).all(database)
    rows: list[dict[str, object]] = [
        {"clerk_user_id": "user_0", "email": "0"},
        {"clerk_user_id": "user_new"},
        {"clerk_user_id": "user_1", "role": "UNKNOWN"},
    ]
    with pytest.raises(RowRejected, match="row 2 for User: `role` refers to a row that does not exist"):
        upsert(User, rows, by=[User.clerk_user_id]).run(database)
    assert read(User).order_by(User.id).all(database) == before


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"email": "ana"}, "`clerk_user_id` is missing, and rows are matched by it"),
        ({"clerk_user_id": None}, "`clerk_user_id` is of the wrong type: expected `str`, got `None`"),
        ({"clerk_user_id": "ana", "emial": None}, "`emial` is not a column of User"),
        (User(clerk_user_id="ana", gym=Gym(name="Ana", address="", since="")), "`gym` is a relation"),
    ],
)
def test_an_upsert_names_the_row_that_it_cannot_match_or_write(row: Any, words: str) -> None:
    with pytest.raises(RowInvalid, match=r"^row 1 for User: ") as raised:
        upsert(User, [{"clerk_user_id": "user_bia", "phone": "1"}, row], by=[User.clerk_user_id])
    assert words in raised.value.what
    assert "ana" not in str(raised.value)


def test_a_row_to_upsert_names_what_a_new_row_needs_even_if_the_row_exists(database: Database) -> None:
    insert_many(Gym, [{"name": "Norte", "address": "Rua A", "since": "2015-03-01"}]).run(database)
    with pytest.raises(
        RowInvalid, match=r"row 0 for Gym: `name` is missing, and a row that does not exist yet needs it"
    ):
        upsert(Gym, [{"id": 1, "logo": "n.png"}], by=[Gym.id])


def test_an_upsert_of_keys_alone_returns_existing_rows(database: Database) -> None:
    for _ in range(2):
        written = upsert(Role, [Role(id="STUDENT"), Role(id="MANAGER")], by=[Role.id], returning=Role.id)
        assert written.run(database) == ["STUDENT", "MANAGER"]


def test_an_upsert_needs_a_unique_key() -> None:
    with pytest.raises(NotAKey, match="rows of User: no primary key or unique constraint consists of email"):
        upsert(User, [], by=[User.email])


@pytest.mark.parametrize("second", [{}, {"email": None}], ids=["the same columns", "other columns"])
def test_two_rows_of_one_upsert_with_the_same_key_are_named(second: dict[str, Any]) -> None:
    rows = [{"clerk_user_id": "user_ana"}, {"clerk_user_id": "user_bia"}, {"clerk_user_id": "user_ana", **second}]
    with pytest.raises(RowInvalid, match="row 2 for User: has the same clerk_user_id as row 0") as raised:
        upsert(User, rows, by=[User.clerk_user_id])
    assert raised.value.position == 2


# --- The wrong row ---------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"user_id": 1, "class_id": 1, "date": "2026-03-01"}


@pytest.mark.parametrize(
    ("model", "good", "bad", "column", "words"),
    [
        (Checkin, GOOD, {**GOOD, "user_id": "ana@gym.example"}, "user_id", "expected `int`, got `str`"),
        (Checkin, GOOD, {**GOOD, "user_id": 2**31}, "user_id", "<= 2147483647"),
        (Checkin, GOOD, {**GOOD, "user_id": True}, "user_id", "got `bool`"),
        (Checkin, GOOD, {**GOOD, "usr_id": 1}, "usr_id", "is not a column of Checkin"),
        (Checkin, GOOD, {**GOOD, "created_at": None}, "created_at", "is missing"),
        (Checkin, {**GOOD, "created_at": datetime.min}, GOOD, "created_at", "is missing"),
        (Checkin, GOOD, Checkin(user=User(clerk_user_id="user_ana")), "user", "`user` is a relation"),
        (Checkin, GOOD, Version(), None, "expected Checkin or a mapping, got Version"),
        (User, {"clerk_user_id": "1"}, {"email": "ana@gym.example"}, "clerk_user_id", "is missing"),
        (User, {"clerk_user_id": "1"}, {"clerk_user_id": None}, "clerk_user_id", "got `None`"),
        (User, {"clerk_user_id": "1"}, {"clerk_user_id": "ana\0"}, "clerk_user_id", "NUL"),
        (Gym, {"name": "a", "address": "b", "since": "c"}, {"name": "a", "since": "c"}, "address", "is missing"),
        (Version, {}, {"disabled_at": datetime(2026, 3, 1, tzinfo=UTC)}, "disabled_at", "no timezone"),
        (Notification, {}, {"recipients": "ana@gym.example"}, "recipients", "expected `list`, got `str`"),
        (Attachment, {}, {"file_name": "ana\ud800"}, "file_name", "surrogate"),
        (Version, {}, {}, None, "neither this row nor another one names a column"),
    ],
)
@pytest.mark.parametrize("copy_from", [1, 1_000_000], ids=["copy", "one statement"])
def test_a_wrong_row_is_named_by_its_position_and_column_before_it_is_sent(  # noqa: PLR0917, a case has many parts
    model: type[Base],
    good: dict[str, Any],
    bad: Any,
    column: str | None,
    words: str,
    copy_from: int,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", copy_from)
    before = len(read(model).all(database))
    # If the good row lacks a column that the bad one names, the good one is wrong.
    wrong = 0 if (words == "is missing" and column in bad) or not bad else 2
    with pytest.raises(RowInvalid) as raised:
        insert_many(model, [good, good, bad]).run(database)
    assert (raised.value.position, raised.value.column) == (wrong, column)
    assert words in str(raised.value)
    assert "ana" not in str(raised.value)
    assert len(read(model).all(database)) == before


@pytest.mark.parametrize("copy_from", [1, 1_000_000], ids=["copy", "one statement"])
def test_a_row_that_the_database_rejects_is_named_by_its_position_and_column(
    copy_from: int, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", copy_from)
    with pytest.raises(RowRejected) as raised:
        insert_many(Checkin, [GOOD, {**GOOD, "class_id": 99}, {**GOOD, "user_id": 2}]).run(database)
    assert (raised.value.position, raised.value.columns) == (1, ("class_id",))
    assert "refers to a row that does not exist" in str(raised.value)
    assert read(Checkin).all(database) == []

    with pytest.raises(RowRejected) as raised:
        insert_many(User, [{"clerk_user_id": "user_9"}, {"clerk_user_id": "user_1"}]).run(database)
    assert (raised.value.position, raised.value.columns) == (1, ("clerk_user_id",))
    assert "user_1" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_other_errors_of_the_server_are_those_of_a_session(database: Database) -> None:
    with database.session() as session:
        session.execute(select(func.set_config("transaction_read_only", "on", True)))  # noqa: FBT003, SQL's own
        with pytest.raises(DBAPIError, match="read-only"):
            insert_many(Version, [{"app_version": "1"}]).run(session)
    with database.session() as session, pytest.raises(IntegrityError):
        session.execute(insert(Checkin), [{"user_id": 99}])


@pytest.mark.parametrize("name", ["", None, 0, ("a",)])
def test_a_name_that_is_not_a_column_is_refused_even_if_it_is_empty_or_not_text(name: Any) -> None:
    rows: list[Any] = [
        {"clerk_user_id": "user_ana", "first_name": "Ana"},
        {"clerk_user_id": "user_bia", "first_name": "Bia", name: "lost otherwise"},
    ]
    for write in (insert_many, lambda *a: upsert(*a, by=[User.clerk_user_id])):
        with pytest.raises(RowInvalid, match=r"^row 1 for User: "):
            write(User, rows)
    with pytest.raises(RowInvalid, match=r"^row 1 for User: "):
        update_many(User, rows, by=[User.clerk_user_id])


@pytest.mark.parametrize(
    "array",
    [[b"x"], [True], [{}], [1, "2"], [1], [float("nan")], ["a", ["b"]], [["a"], ["b", "c"]], ["a\0"], [["\ud800"]]],
    ids=repr,
)
@pytest.mark.parametrize("count", [1, COPY_MIN_ROWS])
def test_an_array_of_other_items_or_of_no_shape_is_refused_without_its_values(array: Any, count: int) -> None:
    rows = [{"recipients": ["ana@gym.example"]}] * (count - 1) + [{"recipients": array}]
    with pytest.raises(RowInvalid, match=rf"^row {count - 1} for Notification: `recipients` ") as caught:
        insert_many(Notification, rows)
    assert "ana@" not in str(caught.value)


@pytest.mark.parametrize("array", [[], ["a", None], [["a"], ["b"]], [None], ['{,}"'], ["\\u0000"]], ids=repr)
@pytest.mark.parametrize("count", [1, COPY_MIN_ROWS])
def test_an_array_is_stored_as_it_is_on_both_paths(database: Database, array: Any, count: int) -> None:
    insert_many(Notification, [{"recipients": array}] * count).run(database)
    with database.session() as session:
        assert session.scalars(select(Notification.recipients).limit(1)).one() == array


def test_a_text_of_a_subclass_is_stored_as_plain_text(database: Database) -> None:
    class Markup(str):
        __slots__ = ()

    insert_many(User, [{"clerk_user_id": Markup("user_ana"), "first_name": Markup("<b>Ana")}]).run(database)
    with database.session() as session:
        assert session.scalars(select(User.first_name).where(User.clerk_user_id == "user_ana")).one() == "<b>Ana"


@pytest.mark.parametrize("target", [None, "postgresql://", object()])
def test_a_write_on_something_else_than_a_database_is_an_error_at_once(target: Any) -> None:
    with pytest.raises(TypeError, match="expected a database, a session or a connection"):
        insert_many(User, [{"clerk_user_id": "user_ana"}]).run(target)


def test_a_key_that_is_no_list_is_refused() -> None:
    with pytest.raises(NotAKey, match="not a list of columns"):
        upsert(User, [{"clerk_user_id": "user_ana"}], by=User.clerk_user_id)  # type: ignore[call-overload]


def test_a_value_that_a_row_repeats_is_named_at_the_second_row(database: Database) -> None:
    rows = [{"clerk_user_id": name} for name in ("user_new", "user_twice", "user_twice")]
    with pytest.raises(RowRejected) as caught:
        insert_many(User, rows).run(database)
    assert caught.value.what == "row 2 for User: `clerk_user_id` has the same value in an earlier row"


@pytest.fixture
def _no_remembered_columns() -> Generator[None]:
    """Forget what is remembered of the columns, before and after a test that changes their types."""
    remembered = (validate._value_type, validate._insert_layout)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


@pytest.mark.usefixtures("_no_remembered_columns")
def test_a_column_of_another_type_is_refused_at_the_row_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect(User).columns["phone"], "type", INET())
    with pytest.raises(RowInvalid, match=r"^row 1 for User: `phone` has the type INET\(\), which only a session"):
        insert_many(User, [{"clerk_user_id": "user_ana"}, {"clerk_user_id": "user_bia", "phone": 1}])


@pytest.mark.usefixtures("_no_remembered_columns")
def test_no_rows_are_written_to_a_model_that_needs_a_column_of_another_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect(Gym).columns["name"], "type", INET())
    insert_many(Gym, [])


def test_a_key_that_a_sequence_made_twice_names_the_sequence(database: Database) -> None:
    taken = [{"id": 1, "user_id": 1}, {"id": 2, "user_id": 1}]
    assert insert_many(Checkin, taken).run(database) == 2

    with pytest.raises(RowRejected) as raised:
        insert_many(Checkin, [{"user_id": 1}]).run(database)
    assert "the sequence of `id` is behind the rows" in raised.value.fix
    with pytest.raises(RowRejected) as raised:
        insert_many(Checkin, taken).run(database)
    assert "sequence" not in raised.value.fix
