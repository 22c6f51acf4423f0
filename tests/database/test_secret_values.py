"""No value of a parameter or row is in the text of an error, whatever the server says."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import ARRAY, URL, Integer, String, cast, func, literal, text
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from tatame_db.database.observer import StatementEvent
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import write as writes
from tatame_db.queries.errors import RowRejected
from tatame_db.queries.read import Read, read
from tatame_db.queries.write import insert_many, update_many, upsert
from tatame_db.schema import User

SECRET = "xyzzy42"

SETUP = (
    "INSERT INTO users (clerk_user_id, email) VALUES ('a', 'xyzzy42'), ('b', 'no secret')",
    "CREATE UNIQUE INDEX one_email ON users (email)",
    "CREATE FUNCTION refuse(value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN\n"
    "  RAISE EXCEPTION 'no %', value USING HINT = value, DETAIL = value;\n"
    "END $$",
    "CREATE FUNCTION refuse_rights(value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN\n"
    "  RAISE EXCEPTION 'no %', value USING ERRCODE = '42501';\n"
    "END $$",
    "CREATE FUNCTION refuse_oddly(value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN\n"
    "  RAISE EXCEPTION 'no %', value USING ERRCODE = 'ZZ001';\n"
    "END $$",
    "CREATE FUNCTION run_text(value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN\n"
    "  EXECUTE 'SELECT ' || value; RETURN value;\n"
    "END $$",
    "CREATE FUNCTION divide(value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN\n"
    "  EXECUTE 'LOCK TABLE users -- ' || value; PERFORM lo_get(99); RETURN value;\n"
    "END $$",
    "CREATE FUNCTION check_name() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN\n"
    "  IF NEW.first_name = 'raise' THEN RAISE EXCEPTION 'no %', NEW.email; END IF;\n"
    "  IF NEW.first_name = 'odd' THEN RAISE EXCEPTION 'no %', NEW.email USING ERRCODE = 'ZZ001'; END IF;\n"
    "  IF NEW.first_name = 'cast' THEN NEW.gym_id := NEW.email::integer; END IF;\n"
    "  IF NEW.first_name = 'run' THEN EXECUTE 'SELECT ' || NEW.email; END IF; RETURN NEW;\n"
    "END $$",
    "CREATE TRIGGER check_name BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION check_name()",
)


@pytest.fixture
def database(address: URL) -> Generator[Database]:
    with Database(address) as database:
        with database.engine.begin() as connection:
            for statement in SETUP:
                connection.execute(text(statement))
        yield database


def called(name: str) -> Read[Any]:
    return read(User).where(getattr(func, name)(literal(SECRET)) == "1")


READS: dict[str, Callable[[], Read[Any]]] = {
    "cast of a parameter": lambda: read(User).where(cast(literal(SECRET), Integer) == 1),
    "cast of an array": lambda: read(User).where(User.id == func.any(cast(literal(f"{{{SECRET}}}"), ARRAY(Integer)))),
    "cast of a row": lambda: read(User).where(cast(User.email, Integer) == 1),
    "name of a table": lambda: read(User).where(cast(cast(literal(SECRET), REGCLASS), String) == "1"),
    "text search": lambda: read(User).where(cast(func.to_tsquery(literal(f"{SECRET} {SECRET}")), String) == "1"),
    "pattern": lambda: read(User).where(User.email.regexp_match(f"{SECRET}[")),
    "RAISE": lambda: called("refuse"),
    "RAISE of missing rights": lambda: called("refuse_rights"),
    "RAISE of an unknown state": lambda: called("refuse_oddly"),
    "SQL of a function": lambda: called("run_text"),
    "context of a function": lambda: called("divide"),
}


def assert_is_silent(error: BaseException) -> None:
    """Fail if the value is in the text of an error, of its chain, or of their traceback."""
    seen: list[BaseException] = []

    def chain(error: BaseException | None) -> Iterator[BaseException]:
        if error is not None and error not in seen:
            seen.append(error)
            yield error
            yield from chain(error.__cause__)
            yield from chain(error.__context__)

    for link in chain(error):
        link.__suppress_context__ = False
        assert SECRET not in f"{link}{link!r}{link.args!r}{getattr(link, '__notes__', '')}"
    assert SECRET not in "".join(traceback.format_exception(error))


def failures(database: Database, call: Any, stream: Any = None) -> list[BaseException]:
    """Run a call on a database and in a session, for threads and asyncio, three times, so that it is prepared."""

    async def run_async() -> None:
        async with AsyncDatabase(database.address) as asynchronous:
            for _ in range(3):
                with pytest.raises(Exception) as raised:  # noqa: PT011, its text is the result
                    await call(asynchronous)
                errors.append(raised.value)
            async with asynchronous.session() as session:
                with pytest.raises(Exception) as raised:  # noqa: PT011, as above
                    await call(session)
                errors.append(raised.value)
            if stream:
                with pytest.raises(Exception) as raised:  # noqa: PT011, as above
                    async for _ in stream(asynchronous):
                        pass
                errors.append(raised.value)

    errors: list[BaseException] = []
    for _ in range(3):
        with pytest.raises(Exception) as raised:  # noqa: PT011, as above
            call(database)
        errors.append(raised.value)
    with database.session() as session:
        with pytest.raises(Exception) as raised:  # noqa: PT011, as above
            call(session)
        errors.append(raised.value)
    if stream:
        with pytest.raises(Exception) as raised:  # noqa: PT011, as above
            list(stream(database))
        errors.append(raised.value)
    asyncio.run(run_async())
    return errors


@pytest.mark.parametrize("kind", READS)
def test_a_read_that_fails_shows_no_value(kind: str, database: Database) -> None:
    statement = READS[kind]()
    for error in failures(database, statement.all, statement.stream):
        assert isinstance(error, DBAPIError)
        assert getattr(error.orig, "sqlstate", None)
        assert_is_silent(error)


ROWS = {
    name: {"clerk_user_id": "new", "first_name": name, "email": f"{SECRET} 2"}
    for name in ("raise", "odd", "cast", "run")
}
ROWS["a value twice"] = {"clerk_user_id": "new", "email": SECRET}


@pytest.mark.parametrize("way", ["insert", "copy", "upsert", "update"])
@pytest.mark.parametrize("kind", ROWS)
def test_a_write_that_fails_shows_no_value(
    kind: str, way: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROWS[kind]
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1 if way == "copy" else 1_000)
    if way in ("insert", "copy"):
        write: Any = insert_many(User, [row])
    elif way == "upsert":
        write = upsert(User, [row], by=[User.clerk_user_id], returning=User)
    else:
        insert_many(User, [{"clerk_user_id": row["clerk_user_id"]}]).run(database)
        write = update_many(User, [row], by=[User.clerk_user_id], returning=User)
    for error in failures(database, write.run):
        assert isinstance(error, DBAPIError | RowRejected)
        assert_is_silent(error)


def test_the_words_of_the_server_are_in_the_diagnosis_of_the_error(database: Database) -> None:
    with pytest.raises(ProgrammingError) as raised:
        READS["RAISE"]().all(database)
    assert isinstance(raised.value.orig, psycopg.errors.RaiseException)
    assert raised.value.orig.diag.message_primary == f"no {SECRET}"
    assert "P0001" in str(raised.value)


def test_an_error_about_the_statement_keeps_its_words(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE users RENAME email TO mail"))
    with pytest.raises(ProgrammingError, match=r"column users\.email does not exist"):
        read(User).all(database)


def test_no_repr_shows_a_value(database: Database) -> None:
    rows: list[dict[str, object]] = [{"clerk_user_id": SECRET, "first_name": SECRET}]
    found = read(User).where(User.first_name == SECRET).order_by(User.id)
    insert_many(User, rows).run(database)
    events: list[StatementEvent] = []
    database.on_statement(events.append)
    with pytest.raises(IntegrityError), database.session.begin() as session:
        session.add(User(clerk_user_id=SECRET))
    writes = [
        insert_many(User, rows),
        upsert(User, rows, by=[User.clerk_user_id]),
        update_many(User, rows, by=[User.clerk_user_id]),
        insert_many(User, []),
    ]
    assert list(map(repr, writes)) == [
        "<Write: insert User, 1 row>",
        "<Write: upsert User, 1 row>",
        "<Write: update User, 1 row>",
        "<Write: User, 0 rows>",
    ]
    statement, values = found._prepare("all", (), {})
    inside = [writes[0].batches, statement, statement.plan.parameters(values), found._statements, vars(found)]
    compiled = next(iter(found._statements.values()))._compiled
    shown = repr([*writes, *inside, compiled, events, found, found.all(database)])
    assert SECRET not in shown
    assert repr(found) == "<read User>"
    assert repr(events[0]) == f"StatementEvent('INSERT', seconds={events[0].seconds:.6f}, error=IntegrityError 23505)"


BROKEN_RULES = [
    "INSERT INTO users (clerk_user_id, email) VALUES ('c', :secret)",
    "INSERT INTO users (email) VALUES (:secret)",
    "UPDATE users SET clerk_user_id = :secret",
]


@pytest.mark.parametrize("statement", BROKEN_RULES)
def test_a_plain_statement_of_a_session_that_breaks_a_rule_shows_no_row(statement: str, database: Database) -> None:
    async def run_async() -> None:
        async with AsyncDatabase(database.address) as asynchronous, asynchronous.session() as session:
            await session.execute(text(statement), {"secret": SECRET})

    with pytest.raises(IntegrityError) as raised, database.session() as session:
        session.execute(text(statement), {"secret": SECRET})
    with pytest.raises(IntegrityError) as raised_async:
        asyncio.run(run_async())
    for found in (raised, raised_async):
        assert "constraint" in str(found.value)
        assert isinstance(found.value.orig, psycopg.Error)
        assert SECRET in str(found.value.orig.diag.message_detail)
        assert_is_silent(found.value)
