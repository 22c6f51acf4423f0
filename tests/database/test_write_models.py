"""Writes to models with defaults, computed columns, constraints, triggers and partitions."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from sqlalchemy import (
    CheckConstraint,
    Computed,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    Sequence,
    UniqueConstraint,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import validate
from tatame_db.queries import write as writes
from tatame_db.queries.errors import AnswerNotReadable, NotAKey, RowInvalid, RowRejected, RowsSkipped, WriteInvalid
from tatame_db.queries.write import Upserted, insert_many, update_many, upsert
from tatame_db.schema import User
from tatame_db.testing.runs import Run

numbers = count(1)


class Elsewhere(DeclarativeBase):
    """Tables with what the models of the package lack."""


class Ticket(Elsewhere):
    """Defaults of Python, of the server, and of sessions."""

    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    code: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(default="open")
    number: Mapped[int] = mapped_column(default=lambda: next(numbers))
    level: Mapped[int] = mapped_column(server_default="3")
    twice: Mapped[int] = mapped_column(Computed("level * 2"))


class Stamp(Elsewhere):
    """Defaults that only a session applies."""

    __tablename__ = "stamps"
    id: Mapped[int] = mapped_column(primary_key=True)
    made_at: Mapped[datetime | None] = mapped_column(default=func.now())
    number: Mapped[int | None] = mapped_column(Sequence("stamp_numbers"))
    changed_at: Mapped[datetime | None] = mapped_column(onupdate=func.now())


class Contextual(Elsewhere):
    __tablename__ = "contextual"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    slug: Mapped[str] = mapped_column(default=lambda context: context.get_current_parameters()["name"])


class Booking(Elsewhere):
    """Constraints of every kind."""

    __tablename__ = "bookings"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str | None]
    guest: Mapped[str | None]
    price: Mapped[Decimal | None] = mapped_column(Numeric(6, 2))
    paid: Mapped[bool | None]
    since: Mapped[datetime | None]
    room_id: Mapped[int | None] = mapped_column("room", ForeignKey("bookings.id"))
    room: Mapped[Booking | None] = relationship(remote_side=id)  # noqa: A003, the column
    __table_args__ = (
        CheckConstraint("price < 50", name="cheap"),
        UniqueConstraint("code", "guest", name="one_code"),
        UniqueConstraint("price", deferrable=True, name="later"),
        Index("one_guest", "guest", unique=True),
        Index("one_paid", "paid", unique=True, postgresql_where=text("paid")),
        ExcludeConstraint(("since", "="), name="one_moment", using="btree"),
    )


class Part(Elsewhere):
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    __table_args__ = ({"postgresql_partition_by": "RANGE (id)"},)


class Labelled(Elsewhere):
    __tablename__ = "labelled"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str | None] = mapped_column(Enum("red", "green", name="label"), server_default="red")


@pytest.fixture
def database(_tatame_run: Run) -> Generator[Database]:
    address = _tatame_run.clone()
    with Database(address) as database:
        Elsewhere.metadata.create_all(database.engine)
        yield database
    _tatame_run.sandbox.drop(str(address.database))


def columns(database: Database, *names: Any) -> list[Any]:
    with database.session() as session:
        return [tuple(row) for row in session.execute(select(*names).order_by(names[0]))]


# mypy expects the models of the package.
TICKET: Any = Ticket
STAMP: Any = Stamp
BOOKING: Any = Booking
PART: Any = Part
LABELLED: Any = Labelled


# --- Defaults --------------------------------------------------------------------------------------------------------


def test_defaults_of_python_are_applied_to_each_row_as_a_session_applies_them(database: Database) -> None:
    insert_many(TICKET, [{"code": "a"}, {"code": "b", "state": "done"}, Ticket(code="c", number=0)]).run(database)
    rows = columns(database, Ticket.code, Ticket.state, Ticket.number, Ticket.level, Ticket.twice)
    assert [(code, state, level, twice) for code, state, _, level, twice in rows] == [
        ("a", "open", 3, 6),
        ("b", "done", 3, 6),
        ("c", "open", 3, 6),
    ]
    assert rows[0][2] + 1 == rows[1][2]
    assert rows[2][2] == 0


def test_defaults_of_python_change_no_row_that_exists(database: Database) -> None:
    insert_many(TICKET, [{"code": "a", "state": "done", "number": -1, "level": 7}]).run(database)
    assert upsert(TICKET, [{"code": "a"}, {"code": "b", "level": 1}], by=[TICKET.code]).run(database) == Upserted(1, 1)
    update_many(TICKET, [{"code": "a", "level": 8}], by=[TICKET.code]).run(database)
    rows = columns(database, Ticket.code, Ticket.state, Ticket.number > 0, Ticket.level)
    assert rows == [("a", "done", False, 8), ("b", "open", True, 1)]


@pytest.mark.parametrize("column", ["id", "twice"])
def test_a_column_that_the_database_computes_cannot_be_set(column: str) -> None:
    row = {"code": "a", column: 1}
    for write in (
        lambda: insert_many(TICKET, [{"code": "b"}, row]),
        lambda: upsert(TICKET, [{"code": "b"}, row], by=[TICKET.code]),
        lambda: update_many(TICKET, [{"code": "b", "level": 1}, row], by=[TICKET.code]),
    ):
        with pytest.raises(RowInvalid, match="is computed by the database, which accepts no value for it") as raised:
            write()
        assert (raised.value.position, raised.value.column) == (1, column)


def test_objects_that_were_loaded_are_written_without_the_columns_that_the_database_computes(
    database: Database,
) -> None:
    insert_many(TICKET, [{"code": "a"}]).run(database)
    with database.session() as session:
        ticket = session.scalars(select(Ticket)).one()
    ticket.level = 9
    assert update_many(TICKET, [ticket], by=[TICKET.id]).run(database) == 1
    assert upsert(TICKET, [ticket], by=[TICKET.code]).run(database) == Upserted(inserted=0, updated=1)
    assert columns(database, Ticket.level, Ticket.twice) == [(9, 18)]


@pytest.mark.parametrize("column", ["made_at", "number"])
def test_a_default_that_only_a_session_applies_has_to_be_named(column: str) -> None:
    row = {"id": 1, "made_at": None, "number": None, "changed_at": None}
    del row[column]
    for write in (lambda: insert_many(STAMP, [row]), lambda: upsert(STAMP, [row], by=[STAMP.id])):
        with pytest.raises(RowInvalid, match=f"`{column}` is missing, and only a session applies its default"):
            write()


def test_an_onupdate_that_only_a_session_applies_has_to_be_named(database: Database) -> None:
    row = {"id": 1, "made_at": None, "number": None}
    assert insert_many(STAMP, [row]).run(database) == 1
    for write in (lambda: update_many(STAMP, [row], by=[STAMP.id]), lambda: upsert(STAMP, [row], by=[STAMP.id])):
        with pytest.raises(RowInvalid, match="`changed_at` is missing, and only a session applies its `onupdate`"):
            write()
    assert update_many(STAMP, [row | {"changed_at": datetime(2026, 3, 1)}], by=[STAMP.id]).run(database) == 1


def test_a_default_that_needs_the_other_values_of_the_row_has_to_be_named(database: Database) -> None:
    model: Any = Contextual
    assert insert_many(model, [{"name": "Ana", "slug": "ana"}]).run(database) == 1
    with pytest.raises(WriteInvalid, match=r"the default of Contextual\.slug needs the context of a session's"):
        insert_many(model, [{"name": "Ana"}])


# --- Arguments -------------------------------------------------------------------------------------------------------

ROW = {"clerk_user_id": "user_ana", "email": None}
WRITES: dict[str, Any] = {
    "insert_many": insert_many,
    "upsert": lambda model, rows, **options: upsert(model, rows, by=[User.clerk_user_id], **options),
    "update_many": lambda model, rows, **options: update_many(model, rows, by=[User.clerk_user_id], **options),
}
each_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


@each_write
@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (ROW, "a `dict`"),
        ("user_ana", "text"),
        (b"user_ana", "a `bytes`"),
        (None, "a `NoneType`"),
        (5, "a `int`"),
        (User(clerk_user_id="user_ana"), "a `User`"),
        (User, "User"),
    ],
)
def test_what_is_no_list_of_rows_is_refused_with_the_form_that_works(write: Any, rows: Any, kind: str) -> None:
    with pytest.raises(WriteInvalid) as raised:
        write(User, rows)
    assert raised.value.what.startswith(f"the rows for User are {kind}, not a list")
    assert "`[row]`" in raised.value.fix
    assert "user_ana" not in str(raised.value)


@each_write
def test_rows_may_be_any_iterable_and_its_own_error_is_raised(write: Any, database: Database) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield ROW
        raise LookupError("the file ends here")

    with pytest.raises(LookupError, match="the file ends here"):
        write(User, failing())
    write(User, (row for row in [ROW])).run(database)
    assert len(columns(database, User.id)) == (0 if write is WRITES["update_many"] else 1)


@each_write
@pytest.mark.parametrize(
    ("returning", "words"),
    [
        ("id", "`returning` is text, not User or one of its columns"),
        (User.gym, "`returning` is User.gym, not User or one of its columns"),
        (Ticket, "`returning` is Ticket, not User or one of its columns"),
        (Ticket.id, "`returning` is Ticket.id, not User or one of its columns"),
        ([User.id], "`returning` is a `list`, not User or one of its columns"),
        (True, "`returning` is a `bool`, not User or one of its columns"),
    ],
)
def test_what_cannot_be_returned_is_refused_with_the_form_that_works(write: Any, returning: Any, words: str) -> None:
    with pytest.raises(WriteInvalid) as raised:
        write(User, [ROW], returning=returning)
    assert raised.value.what == words
    assert "`returning=User`, or a column such as `returning=User.id`" in raised.value.fix


@each_write
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("users", "text"),
        (None, "a `NoneType`"),
        (dict, "dict"),
        (Elsewhere, "Elsewhere"),
        (User.__table__, "a `Table`"),
    ],
)
def test_what_is_no_model_is_refused(write: Any, model: Any, words: str) -> None:
    with pytest.raises(WriteInvalid, match=f"^{words} is not a model"):
        write(model, [ROW])


# --- Keys ------------------------------------------------------------------------------------------------------------


def test_a_unique_index_is_a_key_unless_it_is_partial_or_deferrable(database: Database) -> None:
    row = {"id": 1, "code": "a", "guest": "ana", "price": 1, "paid": True}
    for by in ([BOOKING.id], [BOOKING.guest, BOOKING.code], [BOOKING.guest]):
        assert upsert(BOOKING, [row], by=by).run(database).updated in {0, 1}
    assert columns(database, Booking.id) == [(1,)]
    for by in ([BOOKING.price], [BOOKING.paid], [BOOKING.code]):
        with pytest.raises(NotAKey, match="no primary key or unique constraint consists of") as raised:
            upsert(BOOKING, [row], by=by)
        assert "`by=[Booking.guest]`" in raised.value.fix


def test_numbers_that_are_equal_are_one_key() -> None:
    rows = [{"price": Decimal("1.0"), "code": "a"}, {"price": 1, "guest": "b"}]
    with pytest.raises(RowInvalid, match="row 1 for Booking: has the same price as row 0"):
        update_many(BOOKING, rows, by=[BOOKING.price])


def test_keys_that_only_the_database_finds_equal_are_an_error(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE users ALTER clerk_user_id TYPE char(20)"))
    rows = [{"clerk_user_id": "user_ana"}, {"clerk_user_id": "user_ana "}]
    with pytest.raises(RowRejected, match="a row for User: `clerk_user_id` is the key of an earlier row too"):
        upsert(User, rows, by=[User.clerk_user_id]).run(database)


def test_a_table_with_partitions_returns_rows_but_cannot_tell_new_ones(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)"))
        connection.execute(text("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200)"))
    rows = [{"id": 150, "name": "a"}, {"id": 1, "name": "b"}]
    with pytest.raises(WriteInvalid, match="cannot be counted, because its table has partitions") as raised:
        upsert(PART, rows, by=[PART.id]).run(database)
    assert "`returning=Part`" in raised.value.fix
    with pytest.raises(RowRejected, match="for Part: belongs to no partition of the table") as rejected:
        insert_many(PART, [{"id": 1}, {"id": 250}]).run(database)
    assert "or create the partition" in rejected.value.fix
    assert (rejected.value.position, rejected.value.columns) == (1, ())
    assert columns(database, Part.id) == []
    for _ in range(2):
        assert upsert(PART, rows, by=[PART.id], returning=PART.id).run(database) == [150, 1]
    assert update_many(PART, rows, by=[PART.id]).run(database) == 2


def test_an_upsert_by_a_key_that_partitions_take_away_is_refused(database: Database) -> None:
    rows = [{"id": 150, "name": "a"}, {"id": 1, "name": "b"}]
    with pytest.raises(NotAKey, match="of name, because a partitioned table has no unique key without") as known:
        upsert(PART, rows, by=[PART.name])
    assert "`by=[Part.id]`; or change rows that exist with `update_many`" in known.value.fix
    # The models may be older than the schema.
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE parts DROP CONSTRAINT parts_pkey"))
        connection.execute(text("CREATE TABLE every PARTITION OF parts DEFAULT"))

    async def refuse_async() -> None:
        async with AsyncDatabase(database.engine.url) as async_database, async_database.session() as session:
            for target in (async_database, session):
                with pytest.raises(NotAKey, match="no unique key of id in the database") as found:
                    await upsert(PART, rows[:1], by=[PART.id]).run(target)
                assert "`tatame-db check`" in found.value.fix

    asyncio.run(refuse_async())
    for written in (rows[:1], rows, [{"id": number} for number in range(writes.COPY_MIN_ROWS)]):
        with pytest.raises(NotAKey, match="no unique key of id in the database"):
            upsert(PART, written, by=[PART.id], returning=PART.id).run(database)
    assert columns(database, Part.id) == []


def test_triggers_that_change_or_skip_rows_are_counted_as_the_server_does(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
                "  IF NEW.email = 'skip' THEN RETURN NULL; END IF;\n"
                "  NEW.first_name := TG_OP; RETURN NEW;\n"
                "END $$"
            )
        )
        connection.execute(
            text("CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION tidy()")
        )
    rows = [{"clerk_user_id": "a", "email": "1"}, {"clerk_user_id": "b", "email": "skip"}, {"clerk_user_id": "c"}]
    assert upsert(User, rows, by=[User.clerk_user_id]).run(database) == Upserted(inserted=2, updated=0)
    assert upsert(User, rows, by=[User.clerk_user_id]).run(database) == Upserted(inserted=0, updated=2)
    assert columns(database, User.clerk_user_id, User.first_name) == [("a", "UPDATE"), ("c", "UPDATE")]
    changes = [{"clerk_user_id": "a", "email": "skip"}, {"clerk_user_id": "c", "email": "2"}]
    assert update_many(User, changes, by=[User.clerk_user_id]).run(database) == 1


@pytest.fixture
def skipping(database: Database) -> Database:
    """Return a database with a trigger that skips the users with the email `skip`."""
    with database.engine.begin() as connection:
        for statement in (
            "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
            "  IF NEW.email = 'skip' THEN RETURN NULL; END IF; RETURN NEW;\n"
            "END $$",
            "CREATE TRIGGER skip BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION skip()",
        ):
            connection.execute(text(statement))
    return database


def on_each_target(database: Database, write: Any) -> list[Any]:
    """Run a write on a database, in a session, and on both for asyncio; return results, or the errors of skipped rows.

    Nothing of it is left.
    """

    def outcome(run: Callable[[], Any]) -> Any:
        try:
            return run()
        except RowsSkipped as error:
            return error

    async def main() -> list[Any]:
        async with AsyncDatabase(database.address) as asynchronous:
            results = [await asyncio.gather(write.run(asynchronous), return_exceptions=True)]
            delete()
            async with asynchronous.session() as session:
                results.append(await asyncio.gather(write.run(session), return_exceptions=True))
            return [result for [result] in results]

    def delete() -> None:
        with database.engine.begin() as connection:
            connection.execute(text("DELETE FROM users"))

    results = [outcome(lambda: write.run(database))]
    delete()
    with database.session() as session:
        results.append(outcome(lambda: write.run(session)))
    results += asyncio.run(main())
    return results


SKIPPED = [{"clerk_user_id": "a", "email": "1"}, {"clerk_user_id": "b", "email": "skip"}, {"clerk_user_id": "c"}]


@pytest.mark.parametrize("path", ["copy", "one statement"])
def test_an_insert_counts_the_rows_that_the_server_wrote(
    path: str, skipping: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1 if path == "copy" else 1_000)
    assert on_each_target(skipping, insert_many(User, SKIPPED)) == [2, 2, 2, 2]
    assert on_each_target(skipping, insert_many(User, SKIPPED[1:2])) == [0, 0, 0, 0]


def test_an_insert_that_a_rule_replaces_counts_no_rows(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("CREATE RULE nothing AS ON INSERT TO users DO INSTEAD NOTHING"))
    for _ in range(3):
        assert on_each_target(database, insert_many(User, SKIPPED)) == [0, 0, 0, 0]
    assert columns(database, User.id) == []


@pytest.mark.parametrize("kind", ["insert", "upsert"])
def test_results_that_do_not_match_the_rows_are_an_error_that_has_them(kind: str, skipping: Database) -> None:
    write: Any = (
        insert_many(User, SKIPPED, returning=User.clerk_user_id)
        if kind == "insert"
        else upsert(User, SKIPPED, by=[User.clerk_user_id], returning=User.clerk_user_id)
    )
    errors = on_each_target(skipping, write)
    assert all(isinstance(error, RowsSkipped) for error in errors)
    assert [(error.rows, error.written, sorted(error.returned)) for error in errors] == [(3, 2, ["a", "c"])] * 4
    assert [error.is_committed for error in errors] == [True, False, True, False]
    with skipping.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(RowsSkipped) as raised:
            write.run(connection)
        assert raised.value.is_committed
    assert "committed" in raised.value.means
    assert columns(skipping, User.clerk_user_id) == [("a",), ("c",)]


@pytest.fixture
def unreadable(database: Database) -> Database:
    """Return a database with a trigger that gives each user a moment that Python cannot represent."""
    with database.engine.begin() as connection:
        for statement in (
            "CREATE FUNCTION forever() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
            "  NEW.created_at := 'infinity'; RETURN NEW;\n"
            "END $$",
            "CREATE TRIGGER forever BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION forever()",
        ):
            connection.execute(text(statement))
    return database


def unreadable_writes(kind: str) -> Any:
    """Return a write of one statement, and one of two."""
    if kind == "insert":
        return insert_many(User, [{"clerk_user_id": "a"}], returning=User)
    write: Any = upsert if kind.startswith("upsert") else update_many
    rows = [{"clerk_user_id": "a", "email": "1"}, {"clerk_user_id": "b", "phone": "2"}]
    return write(User, rows if kind.endswith("2") else rows[:1], by=[User.clerk_user_id], returning=User)


@pytest.mark.parametrize("kind", ["insert", "upsert", "update", "upsert 2", "update 2"])
def test_a_write_whose_answer_cannot_be_read_says_what_became_of_its_rows(kind: str, unreadable: Database) -> None:
    def prepare() -> None:
        with unreadable.engine.begin() as connection:
            connection.execute(text("DELETE FROM users"))
            if kind.startswith("update"):
                connection.execute(text("INSERT INTO users (clerk_user_id) VALUES ('a'), ('b')"))

    def written() -> int:
        if kind.startswith("update"):
            with unreadable.engine.begin() as connection:
                query = "SELECT count(*) FROM users WHERE email IS NOT NULL OR phone IS NOT NULL"
                return int(connection.execute(text(query)).scalar_one())
        return len(columns(unreadable, User.id))

    async def main(uses: Callable[[Any], Any]) -> AnswerNotReadable:
        async with AsyncDatabase(unreadable.address) as asynchronous:
            with pytest.raises(AnswerNotReadable) as raised:
                await uses(asynchronous)
            return raised.value

    async def in_session(asynchronous: AsyncDatabase) -> None:
        async with asynchronous.session() as session:
            try:
                await write.run(session)
            finally:
                await session.commit()

    write = unreadable_writes(kind)
    facts: list[tuple[str, int]] = []
    prepare()
    with pytest.raises(AnswerNotReadable) as raised:
        write.run(unreadable)
    facts.append((raised.value.outcome, written()))
    prepare()
    with unreadable.session() as session:
        with pytest.raises(AnswerNotReadable) as raised:
            write.run(session)
        session.commit()
    facts.append((raised.value.outcome, written()))
    prepare()
    with (
        unreadable.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        pytest.raises(AnswerNotReadable) as raised,
    ):
        write.run(connection)
    facts.append((raised.value.outcome, written()))
    prepare()
    facts.append((asyncio.run(main(write.run)).outcome, written()))
    prepare()
    facts.append((asyncio.run(main(in_session)).outcome, written()))
    several = kind.endswith("2")
    transaction = ("undone", 0) if several else ("committed", 1)
    # The second statement is not sent after the answer of the first.
    assert facts == [transaction, ("open", 1), transaction, ("committed", 2 if several else 1), ("open", 1)]


def test_a_label_that_the_model_lacks_is_an_answer_that_cannot_be_read(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in (
            "ALTER TYPE label ADD VALUE 'a secret'",
            "ALTER TABLE labelled ALTER label SET DEFAULT 'a secret'",
        ):
            connection.execute(text(statement))
    with pytest.raises(AnswerNotReadable) as raised:
        insert_many(LABELLED, [{"id": 1}], returning=LABELLED.label).run(database)
    assert "a secret" not in repr(traceback.format_exception(raised.value))
    assert raised.value.outcome == "committed"


def test_updated_rows_keep_the_places_of_their_own_where_a_trigger_skips_one(skipping: Database) -> None:
    insert_many(User, [{"clerk_user_id": key} for key in "abc"]).run(skipping)
    changes = [{"clerk_user_id": key, "email": email} for key, email in (("c", "3"), ("a", "skip"), ("b", "2"))]
    write = update_many(User, changes, by=[User.clerk_user_id], returning=User.clerk_user_id)
    assert write.run(skipping) == ["c", "b"]


# --- Rows that the server rejects ------------------------------------------------------------------------------------

SECRET = "ana@gym.example"
GOOD: list[dict[str, Any]] = [
    {"code": SECRET, "guest": f"{SECRET} {number}", "price": Decimal(number), "since": datetime(2026, 3, 1 + number)}
    for number in range(4)
]
BAD: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({"price": Decimal("60.25")}, (), "violates the constraint `cheap`"),
    ({"room_id": 99}, ("room_id",), "refers to a row that does not exist"),
    ({"guest": "taken"}, ("guest",), "already exists"),
    ({"since": datetime(2025, 1, 1)}, ("since",), "conflicts with another row by the constraint `one_moment`"),
    ({"code": "no guest", "guest": None}, ("guest",), "must not be NULL"),
    ({"code": "far too long for its domain"}, ("code",), "has a text that is too long for its column"),
    ({"code": "bad"}, (), "violates the constraint `good`"),
]


@pytest.fixture
def strict_database(database: Database) -> Database:
    """Return a database whose table is stricter than its model."""
    with database.engine.begin() as connection:
        for statement in (
            "INSERT INTO bookings (id, guest, since) VALUES (1000, 'taken', '2025-01-01')",
            "ALTER TABLE bookings ALTER guest SET NOT NULL",
            "CREATE DOMAIN good AS varchar(20) CONSTRAINT good CHECK (value <> 'bad')",
            "ALTER TABLE bookings ALTER code TYPE good",
        ):
            connection.execute(text(statement))
    return database


def insert(rows: list[dict[str, Any]]) -> Any:
    return insert_many(BOOKING, rows)


def upsert_rows(rows: list[dict[str, Any]]) -> Any:
    return upsert(BOOKING, [{"id": number, **row} for number, row in enumerate(rows, 1)], by=[BOOKING.id])


def update(rows: list[dict[str, Any]]) -> Any:
    return update_many(BOOKING, [{"id": number, **row} for number, row in enumerate(rows, 1)], by=[BOOKING.id])


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[2])
@pytest.mark.parametrize("path", ["insert", "copy", "upsert", "update"])
def test_a_row_that_violates_a_constraint_is_named_without_its_values(
    path: str, bad: tuple[dict[str, Any], tuple[str, ...], str], strict_database: Database, monkeypatch: Any
) -> None:
    changes, blamed, words = bad
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1 if path == "copy" else 1_000)
    rows = [*GOOD[:2], {**GOOD[2], **changes}, GOOD[3]]
    if path == "update":
        short = [{**row, "code": None, "since": None} for row in GOOD]
        insert_many(BOOKING, [{"id": number, **row} for number, row in enumerate(short, 1)]).run(strict_database)
    before = columns(strict_database, Booking.id, Booking.code, Booking.price)
    write = {"insert": insert, "copy": insert, "upsert": upsert_rows, "update": update}[path](rows)

    with pytest.raises(RowRejected) as raised:
        write.run(strict_database)

    message = str(raised.value)
    assert words in message
    assert all(secret not in message for secret in ("ana@", "60.25", "taken", "2025"))
    assert raised.value.__cause__ is None
    assert columns(strict_database, Booking.id, Booking.code, Booking.price) == before
    # The server does not say which value of an INSERT or UPDATE a type refuses; COPY names the line.
    hidden = path != "copy" and words.startswith(("has a text", "violates the constraint `good`"))
    assert raised.value.position == (None if hidden else 2)
    domain = ("code",) if path == "copy" and "`good`" in words else blamed
    assert raised.value.columns == (() if hidden else domain)


def test_rows_that_look_alike_are_not_told_apart(strict_database: Database) -> None:
    row = {"guest": "a", "price": Decimal("60.25")}
    with pytest.raises(RowRejected, match="row 1 for Booking: violates the constraint `cheap`"):
        insert_many(BOOKING, [{"guest": "b", "price": Decimal(1)}, row, row]).run(strict_database)
    rows = [{"id": 1, "paid": True, "price": Decimal(60)}, {"id": 2, "paid": True, "price": Decimal(60)}]
    insert_many(BOOKING, [{"id": number, "guest": str(number)} for number in (1, 2)]).run(strict_database)
    with pytest.raises(RowRejected, match="row 0 for Booking: violates the constraint `cheap`"):
        update_many(BOOKING, rows, by=[BOOKING.id]).run(strict_database)


def test_a_constraint_of_a_table_that_a_trigger_writes_is_not_that_of_the_row(database: Database) -> None:
    with database.engine.begin() as connection:
        for statement in (
            "CREATE TABLE log (guest text CONSTRAINT users_pkey CHECK (guest <> 'ana'))",
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
            "INSERT INTO log VALUES (NEW.first_name); RETURN NULL; END $$",
            "CREATE TRIGGER note AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION note()",
        ):
            connection.execute(text(statement))
    with pytest.raises(RowRejected, match="a row for User: violates the constraint `users_pkey`") as raised:
        insert_many(User, [{"clerk_user_id": "1", "first_name": "ana"}]).run(database)
    assert raised.value.columns == ()
    assert "ana" not in str(raised.value)


@pytest.mark.parametrize("path", ["insert", "copy", "upsert", "update"])
@pytest.mark.parametrize("code", ["not_null_violation", "check_violation", "exclusion_violation", "unique_violation"])
def test_a_trigger_that_rejects_a_row_names_no_constraint(
    code: str, path: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1 if path == "copy" else 1_000)
    insert_many(User, [{"clerk_user_id": "1"}, {"clerk_user_id": "2"}]).run(database)
    with database.engine.begin() as connection:
        for statement in (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
            "IF NEW.first_name = 'ana' THEN\n"
            f"RAISE EXCEPTION 'no %', NEW.first_name USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
        ):
            connection.execute(text(statement))
    keys = ["1", "2"] if path == "update" else ["3", "4"]
    rows = [{"clerk_user_id": key, "first_name": name} for key, name in zip(keys, ["bia", "ana"], strict=True)]
    write: Any = {"upsert": upsert, "update": update_many}.get(path)
    write = write(User, rows, by=[User.clerk_user_id]) if write else insert_many(User, rows)
    with pytest.raises(RowRejected) as raised:
        write.run(database)
    assert not any(word in str(raised.value) for word in ("None", "ana", "`  "))
    assert raised.value.position == (1 if path == "copy" else None)
    assert columns(database, User.clerk_user_id, User.first_name) == [("1", None), ("2", None)]


@pytest.mark.parametrize("path", ["insert", "copy", "upsert"])
def test_a_null_that_a_domain_refuses_is_an_error_of_the_row(
    path: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1 if path == "copy" else 1_000)
    with database.engine.begin() as connection:
        connection.execute(text("CREATE DOMAIN present AS text NOT NULL"))
        connection.execute(text("ALTER TABLE users ALTER first_name TYPE present"))
    rows: list[dict[str, Any]] = [
        {"clerk_user_id": "1", "first_name": "bia"},
        {"clerk_user_id": "2", "first_name": None},
    ]
    write: Any = upsert(User, rows, by=[User.clerk_user_id]) if path == "upsert" else insert_many(User, rows)
    with pytest.raises(RowRejected, match=r"must not be NULL|has a NULL where PostgreSQL allows none") as raised:
        write.run(database)
    assert "None" not in str(raised.value)
    assert raised.value.position == (1 if path == "copy" else None)
    assert columns(database, User.clerk_user_id) == []


def test_an_error_that_is_not_the_fault_of_a_row_stays_that_of_a_session(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("DROP TABLE bookings"))
    with pytest.raises(DBAPIError, match="does not exist"):
        insert_many(BOOKING, [{"code": "a"}]).run(database)


def test_a_row_that_postgresql_would_not_accept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "MAX_ROW_BYTES", 1_000)
    monkeypatch.setattr(validate, "MAX_BATCH_CHARACTERS", 100)
    rows = [{"clerk_user_id": "x" * 900}, {"clerk_user_id": "ç" * 500}]
    with pytest.raises(RowInvalid, match="row 1 for User: is longer than 1 GB"):
        insert_many(User, rows)


def test_big_rows_are_copied_or_written_by_several_statements(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "MAX_BATCH_CHARACTERS", 1_000_000)
    big = "ç\\\t" * 200_000
    rows = [{"clerk_user_id": str(number), "email": big} for number in range(7)]
    logged: list[str] = []
    with Database(database.address) as observed:
        observed.on_statement(lambda event: logged.append(event.name))
        assert insert_many(User, rows).run(observed) == 7
        assert upsert(User, rows, by=[User.clerk_user_id]).run(observed) == Upserted(inserted=0, updated=7)
        returned = update_many(User, rows, by=[User.clerk_user_id], returning=User.clerk_user_id).run(observed)
        assert returned == [row["clerk_user_id"] for row in rows]
        more = [{**row, "clerk_user_id": f"more {row['clerk_user_id']}"} for row in rows]
        returned = insert_many(User, more, returning=User.clerk_user_id).run(observed)
        assert returned == [row["clerk_user_id"] for row in more]
    assert {name: logged.count(name) for name in logged} == {
        "copy User": 1,
        "upsert User": 7,
        "update User": 7,
        "insert User": 7,
    }
    assert columns(database, User.email) == [(big,)] * 14
