"""Values of every column type on every path: each is stored as it is, or refused, and alike on all of them."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable, Generator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    JSON,
    REAL,
    TIMESTAMP,
    BigInteger,
    Boolean,
    Enum,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Text,
    Time,
    Uuid,
    any_,
    bindparam,
    func,
    null,
    select,
)
from sqlalchemy import update as update_statement
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB
from sqlalchemy.dialects.postgresql import TIME as PRECISE_TIME
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import write as writes
from tatame_db.queries.errors import ParameterInvalid, ReadInvalid, RowInvalid
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.write import insert_many, update_many, upsert
from tatame_db.testing.runs import Run


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"


class Mood(enum.Enum):
    """Its labels in PostgreSQL are values, not names."""

    GOOD = "fine"
    FINE = "good"


class Size(enum.StrEnum):
    SMALL = "s"


class Odd(str, enum.Enum):  # noqa: UP042, as code that is older than `StrEnum`
    """A text whose value is another one."""

    def __new__(cls, label: str, value: str) -> Odd:
        member = str.__new__(cls, label)
        member._value_ = value
        return member

    ODD = ("label", "value")


class Level(enum.IntEnum):
    LOW = 1


class Markup(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Number(int):
    def __int__(self) -> int:
        return 99


class Moment(datetime):
    """As those of libraries that freeze time."""


class Words(list[str]):
    pass


class Countable:
    """As the numbers of numpy, which are no `int`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number

    __int__ = __index__

    def __float__(self) -> float:
        return float(self.number)


class Elsewhere(DeclarativeBase):
    """Tables with types and names that the models of the package lack."""


class Sample(Elsewhere):
    __tablename__ = 'samples 100% "quoted"'
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column("from", unique=True)
    text: Mapped[str | None] = mapped_column("%s of %(rows)s")
    short: Mapped[str | None] = mapped_column(String(5))
    small: Mapped[int | None] = mapped_column(SmallInteger)
    number: Mapped[int | None]
    big: Mapped[int | None] = mapped_column(BigInteger)
    price: Mapped[Decimal | None] = mapped_column(Numeric(6, 2))
    exact: Mapped[Decimal | None] = mapped_column(Numeric)
    ratio: Mapped[float | None]
    real: Mapped[float | None] = mapped_column(REAL)
    flag: Mapped[bool | None]
    day: Mapped[date | None]
    moment: Mapped[datetime | None] = mapped_column(TIMESTAMP)
    zoned: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    at: Mapped[time | None]
    at_zoned: Mapped[time | None] = mapped_column(Time(timezone=True))
    at_second: Mapped[time | None] = mapped_column(PRECISE_TIME(precision=0))
    lasts: Mapped[timedelta | None]
    token: Mapped[UUID | None]
    token_text: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    raw: Mapped[bytes | None]
    data: Mapped[Any] = mapped_column(JSONB, nullable=True)
    plain: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True)
    color: Mapped[Color | None]
    mood: Mapped[Mood | None] = mapped_column(Enum(Mood, values_callable=lambda moods: [mood.value for mood in moods]))
    label: Mapped[str | None] = mapped_column(Enum("low", "high%", name="label"))
    texts: Mapped[Any] = mapped_column(ARRAY(Text), nullable=True)
    numbers: Mapped[Any] = mapped_column(ARRAY(SmallInteger), nullable=True)
    flags: Mapped[Any] = mapped_column(ARRAY(Boolean), nullable=True)
    exacts: Mapped[Any] = mapped_column(ARRAY(Numeric), nullable=True)
    moments: Mapped[Any] = mapped_column(ARRAY(TIMESTAMP(timezone=True)), nullable=True)
    raws: Mapped[Any] = mapped_column(ARRAY(LargeBinary), nullable=True)
    colors: Mapped[Any] = mapped_column(ARRAY(Enum(Color)), nullable=True)
    host: Mapped[str | None] = mapped_column(INET)


MODEL: Any = Sample


@pytest.fixture(scope="module")
def samples(_tatame_run: Run) -> Generator[Database]:
    address = _tatame_run.clone()
    with Database(address) as database:
        Elsewhere.metadata.create_all(database.engine)
        yield database
    _tatame_run.sandbox.drop(str(address.database))


@pytest.fixture(scope="module")
def target(samples: Database) -> Generator[Database]:
    """The same database for writes alone, whose connections no session uses."""
    with Database(samples.address) as database:
        yield database


@pytest.fixture
def database(samples: Database) -> Database:
    with samples.session.begin() as session:
        session.query(MODEL).delete()
        session.add_all([Sample(key=f"old {number}") for number in range(3)])
    return samples


# --- Paths -----------------------------------------------------------------------------------------------------------


def insert_one(column: str, value: Any) -> Any:
    return insert_many(MODEL, [{"key": "new", column: value}], returning=getattr(MODEL, column))


def insert_several(column: str, value: Any) -> Any:
    rows = [{"key": "first"}, {"key": "second"}, {"key": "new", column: value}]
    return insert_many(MODEL, rows, returning=getattr(MODEL, column))


def insert_object(column: str, value: Any) -> Any:
    return insert_many(MODEL, [Sample(**{"key": "new", column: value})])


def copy(column: str, value: Any) -> Any:
    return insert_many(MODEL, [{"key": "first"}, {"key": "second"}, {"key": "new", column: value}])


def upsert_new(column: str, value: Any) -> Any:
    return upsert(MODEL, [{"key": "old 0"}, {"key": "new", column: value}], by=[MODEL.key])


def upsert_old(column: str, value: Any) -> Any:
    return upsert(MODEL, [{"key": "old 0"}, {"key": "old 1", column: value}], by=[MODEL.key])


def update(column: str, value: Any) -> Any:
    rows = [{"key": "old 0", "text": "-"}, {"key": "old 1", column: value}]
    return update_many(MODEL, rows, by=[MODEL.key], returning=getattr(MODEL, column))


PATHS: dict[Callable[[str, Any], Any], tuple[str, int]] = {
    insert_one: ("new", 0),
    insert_several: ("new", 2),
    insert_object: ("new", 0),
    copy: ("new", 2),
    upsert_new: ("new", 1),
    upsert_old: ("old 1", 1),
    update: ("old 1", 1),
}
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)


def shown(value: Any) -> Any:
    """Return a value with its type, and NaN equal to itself."""
    if isinstance(value, list):
        return [shown(item) for item in value]
    return type(value), repr(value) if isinstance(value, float | Decimal) else value


def session_value(database: Database, column: str, key: str) -> Any:
    with database.session() as session:
        return session.scalars(select(getattr(MODEL, column)).where(MODEL.key == key)).one()


# --- Values that are stored ------------------------------------------------------------------------------------------

NOON = datetime(2026, 3, 1, 12, 0, 0, 1)
SAO_PAULO = ZoneInfo("America/Sao_Paulo")
SAME: dict[str, list[Any]] = {
    "text": [
        "",
        "null",
        '"',
        "\\",
        "\\u0000",
        "\\N",
        "\\.",
        "{}",
        "tab\tline\nreturn\r",
        "\x01\x7f\u2028",
        "ç 🥋",
        "%s",
    ],
    "short": ["", "12345", "🥋" * 5, "a    "],
    "small": [0, -(2**15), 2**15 - 1],
    "number": [-(2**31), 2**31 - 1],
    "big": [-(2**63), 2**63 - 1, 2**53 + 1],
    "price": [Decimal("0.00"), Decimal("-9999.99"), Decimal("1.50"), Decimal("NaN")],
    "exact": [Decimal("1.500"), Decimal("0.1") ** 40, Decimal(10**60 + 1), Decimal("Infinity"), Decimal("-Infinity")],
    "ratio": [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 1e22],
    "real": [0.5, 0.1, -0.0, math.inf, math.nan],
    "flag": [True, False],
    "day": [date.min, date.max, date(2026, 3, 1)],
    "moment": [datetime.min, datetime.max, NOON, datetime(2026, 3, 1)],
    "at": [time.min, time.max, time(12, 30)],
    "at_second": [time(12, 30, 59)],
    "at_zoned": [time(12, 30, 0, 1, timezone(-timedelta(hours=3, minutes=6, seconds=28)))],
    "lasts": [
        timedelta(0),
        timedelta(-1, 1, 1),
        timedelta(microseconds=-1),
        timedelta(400, 5, 7),
        timedelta(999_999_999),
    ],
    "token": [UUID(int=0), UUID(int=2**128 - 1)],
    "token_text": [str(UUID(int=5))],
    "raw": [b"", b"\x00\xff\\x", bytes(range(256))],
    "data": [{}, [], "", 0, False, None, {"a": [1, {"b": None}], "ç 🥋": "\\u0000"}, 1.5, 10**400, "\\", [None]],
    "plain": [{"b": 1, "a": 2}, [1.0, "x"], None],
    "color": [Color.RED, Color.GREEN],
    "mood": [Mood.GOOD, Mood.FINE],
    "label": ["low", "high%"],
    "texts": [[], ["a", None], [["a"], ["b"]], [None], ["NULL", "null", "", '{,}"\\', " "], [[["a", None]]]],
    "numbers": [[], [1, None, -(2**15)], [[1, 2], [3, 4]]],
    "flags": [[True, None, False]],
    "exacts": [[Decimal("1.50"), None, Decimal("-7")], [[Decimal(1)], [Decimal(2)]]],
    "raws": [[b"\x00\\", None, b""]],
    "colors": [[Color.RED, None, Color.GREEN], []],
}
# Values that are stored as an equal value of a plain type.
CHANGED: list[tuple[str, Any, Any]] = [
    ("text", Markup("<b>"), "<b>"),
    ("text", Size.SMALL, "s"),
    ("text", Odd.ODD, "label"),
    ("small", Level.LOW, 1),
    ("number", Number(5), 5),
    ("price", 7, Decimal("7.00")),
    ("price", Decimal("1.5"), Decimal("1.50")),
    ("price", Decimal("1E+3"), Decimal("1000.00")),
    ("exact", 10**30, Decimal(10**30)),
    ("ratio", 3, 3.0),
    ("ratio", 2**60, float(2**60)),
    ("moment", Moment(2026, 3, 1), datetime(2026, 3, 1)),
    ("zoned", NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=UTC)),
    ("zoned", NOON.replace(tzinfo=SAO_PAULO), NOON.replace(hour=15, tzinfo=UTC)),
    ("zoned", datetime(1900, 1, 1, tzinfo=SAO_PAULO), datetime(1900, 1, 1, 3, 6, 28, tzinfo=UTC)),
    ("zoned", datetime(2018, 2, 17, 23, 30, tzinfo=SAO_PAULO, fold=1), datetime(2018, 2, 18, 2, 30, tzinfo=UTC)),
    ("token_text", "{00000000-0000-0000-0000-00000000000A}", "00000000-0000-0000-0000-00000000000a"),
    ("raw", bytearray(b"\x00a"), b"\x00a"),
    ("raw", memoryview(b"\x00ab")[::2], b"\x00b"),
    ("data", (1, 2), [1, 2]),
    ("data", {"size": Size.SMALL, "level": Level.LOW}, {"size": "s", "level": 1}),
    ("data", JSON.NULL, None),
    ("data", null(), None),
    ("color", "RED", Color.RED),
    ("texts", ("a", "b"), ["a", "b"]),
    ("texts", Words(["a", Markup("b")]), ["a", "b"]),
    ("texts", [("a",), ["b"]], [["a"], ["b"]]),
    ("numbers", [Level.LOW, Number(2)], [1, 2]),
    ("moments", [NOON.replace(tzinfo=SAO_PAULO), None], [NOON.replace(hour=15, tzinfo=UTC), None]),
]
STORED = [(column, value, value) for column, values in SAME.items() for value in [*values, None]] + CHANGED


@each_path
@pytest.mark.parametrize("column", SAME | {column: [] for column, _, _ in CHANGED})
def test_a_value_is_stored_as_it_is(
    path: Callable[[str, Any], Any], column: str, database: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1 if path is copy else 1_000)
    key, _ = PATHS[path]
    for value, stored in [(value, stored) for name, value, stored in STORED if name == column]:
        returned = path(column, value).run(target)

        assert shown(session_value(database, column, key)) == shown(stored), repr(value)
        if isinstance(returned, list):
            assert shown(returned[-1]) == shown(stored)
        with database.engine.begin() as connection:
            names = connection.dialect.identifier_preparer
            table = names.format_table(MODEL.__table__)
            connection.exec_driver_sql(
                f"DELETE FROM {table} WHERE \"from\" NOT LIKE 'old%%'".replace("%%", "%"),
                execution_options={"no_parameters": True},
            )


def test_the_null_of_json_is_not_that_of_sql(database: Database, target: Database) -> None:
    rows = [
        {"key": "a", "data": None},
        {"key": "b", "data": null()},
        {"key": "c"},
        {"key": "d", "data": JSON.NULL},
    ]
    for write in (insert_many(MODEL, rows), upsert(MODEL, rows, by=[MODEL.key])):
        write.run(target)
        with database.session() as session:
            kinds = session.scalars(
                select(MODEL.data.cast(Text)).where(MODEL.key.in_(list("abcd"))).order_by(MODEL.key)
            ).all()
        assert kinds == ["null", None, None, "null"]


# --- Values that are refused -----------------------------------------------------------------------------------------

# No message may show this.
SECRET = "ana@gym.example"
RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)
NOT_TEXT = "contains half of a surrogate pair"
REFUSED: list[tuple[str, Any, str]] = [
    ("text", f"{SECRET}\0", "contains NUL"),
    ("text", f"{SECRET}\ud800", NOT_TEXT),
    ("text", Markup(f"{SECRET}\udfff"), NOT_TEXT),
    ("text", SECRET.encode(), "expected `str`, got `bytes`"),
    ("text", 1, "expected `str`, got `int`"),
    ("text", Color.RED, "expected `str`, got `Color`"),
    ("text", [SECRET], "expected `str`, got `list`"),
    ("short", SECRET, "has more than 5 characters"),
    ("short", "a     ", "has more than 5 characters"),
    ("small", 2**15, "is out of range: expected >= -32768 and <= 32767"),
    ("number", -(2**31) - 1, "expected >= -2147483648 and <= 2147483647"),
    ("big", 2**63, "is out of range"),
    ("big", 10**5_000, "is out of range"),
    ("number", True, "expected `int`, got `bool`"),
    ("number", 1.0, "expected `int`, got `float`"),
    ("number", Decimal(1), "expected `int`, got `Decimal`"),
    ("number", Countable(1), "expected `int`, got `Countable`"),
    ("number", "1", "expected `int`, got `str`"),
    ("flag", 1, "expected `bool`, got `int`"),
    ("flag", "true", "expected `bool`, got `str`"),
    ("price", Decimal("1.001"), "has more than 2 digits after the point"),
    ("price", Decimal(10_000), "has more than 4 digits before the point"),
    ("price", Decimal("Infinity"), "is infinite"),
    ("price", Decimal("sNaN"), "is a signaling NaN"),
    ("price", 1.5, "expected `Decimal`, got `float`"),
    ("price", "1.5", "expected `Decimal`, got `str`"),
    ("price", False, "expected `Decimal`, got `bool`"),
    ("exact", Decimal("1E+131072"), "has more than 131072 digits before the point"),
    ("exact", Decimal("1E-16384"), "has more than 16383 digits after the point"),
    ("ratio", Decimal("1.5"), "expected `float`, got `Decimal`"),
    ("ratio", True, "expected `float`, got `bool`"),
    ("ratio", Countable(1), "expected `float`, got `Countable`"),
    ("ratio", 2**53 + 1, "is an `int` that no `float` equals"),
    ("ratio", 10**400, "is an `int` that no `float` equals"),
    ("real", 1e300, "is out of the range of `real`"),
    ("real", 1e-300, "is out of the range of `real`"),
    ("day", datetime(2026, 3, 1), "expected `date`, got `datetime`"),
    ("day", "2026-03-01", "expected `date`, got `str`"),
    ("moment", date(2026, 3, 1), "expected `datetime`, got `date`"),
    ("moment", "2026-03-01T00:00:00", "expected `datetime`, got `str`"),
    ("moment", "infinity", "expected `datetime`, got `str`"),
    ("moment", NOON.replace(tzinfo=UTC), "expected `datetime` with no timezone"),
    ("moment", 1_772_366_400, "expected `datetime`, got `int`"),
    ("zoned", NOON, "expected `datetime` with a timezone"),
    ("at", time(12, tzinfo=UTC), "expected `time` with no timezone"),
    ("at", NOON, "expected `time`, got `datetime`"),
    ("at_second", time(12, 0, 0, 1), "has more than 0 digits of a second"),
    ("at_zoned", time(12), "expected `time` with an offset from UTC"),
    ("at_zoned", time(12, tzinfo=SAO_PAULO), "expected `time` with an offset from UTC"),
    ("lasts", 60, "expected `timedelta`, got `int`"),
    ("lasts", "1 day", "expected `timedelta`, got `str`"),
    ("token", str(UUID(int=0)), "expected `UUID`, got `str`"),
    ("token_text", SECRET, "is not a UUID"),
    ("token_text", UUID(int=0), "expected `str`, got `UUID`"),
    ("raw", SECRET, "expected `bytes`, got `str`"),
    ("raw", [1, 2], "expected `bytes`, got `list`"),
    ("data", {1: SECRET}, "contains a key that is a `int`, not a `str`"),
    ("data", {SECRET: Decimal(1)}, "contains a `Decimal`, which JSON cannot represent"),
    ("data", [SECRET, math.nan], "contains a number that JSON cannot represent"),
    ("data", 10**5_000, "contains a number with too many digits"),
    ("data", {"a": f"{SECRET}\0"}, "contains NUL"),
    ("data", {f"{SECRET}\ud800": 1}, NOT_TEXT),
    ("data", RECURSIVE, "contains itself, or too many levels"),
    ("data", {SECRET}, "contains a `set`, which JSON cannot represent"),
    ("plain", b"{}", "contains a `bytes`, which JSON cannot represent"),
    ("color", SECRET, "is not one of RED, GREEN"),
    ("color", "r", "is not one of RED, GREEN"),
    ("color", Size.SMALL, "is not one of RED, GREEN"),
    ("color", 1, "expected `Color`, got `int`"),
    ("label", SECRET, "is not one of low, high%"),
    ("label", Color.RED, "expected `str`, got `Color`"),
    ("texts", SECRET, "expected `list`, got `str`"),
    ("texts", {SECRET}, "expected `list`, got `set`"),
    ("texts", {SECRET: 1}, "expected `list`, got `dict`"),
    ("texts", iter([SECRET]), "expected `list`, got `list_iterator`"),
    ("texts", [b"x"], "contains an item that is of the wrong type: expected `str`, got `bytes`"),
    ("texts", [True], "expected `str`, got `bool`"),
    ("texts", [{}], "expected `str`, got `dict`"),
    ("texts", [SECRET, 2], "expected `str`, got `int`"),
    ("texts", [math.nan], "expected `str`, got `float`"),
    ("texts", [f"{SECRET}\0"], "contains an item that contains NUL"),
    ("texts", [["\ud800"]], NOT_TEXT),
    ("texts", ["a", ["b"]], "is not an array"),
    ("texts", [["a"], ["b", "c"]], "is not an array"),
    ("texts", [[]], "is not an array"),
    ("texts", [["a"], None], "is not an array"),
    ("texts", [[[[[[["a"]]]]]]], "has more than 6 dimensions"),
    ("texts", RECURSIVE, "has more than 6 dimensions"),
    ("numbers", [True], "expected `int`, got `bool`"),
    ("numbers", [1, "2"], "expected `int`, got `str`"),
    ("numbers", [2**15], "is out of range"),
    ("flags", [1], "expected `bool`, got `int`"),
    ("exacts", [1.5], "expected `Decimal`, got `float`"),
    ("moments", [NOON], "expected `datetime` with a timezone"),
    ("raws", [SECRET], "expected `bytes`, got `str`"),
    ("colors", [SECRET], "contains an item that is not one of RED, GREEN"),
    ("host", "127.0.0.1", "has the type INET(), which only a session writes"),
    ("key", None, "expected `str`, got `None`"),
]


def case_name(case: Any) -> str:
    return f"{case[0]} {case[2]}"


@pytest.mark.parametrize("case", REFUSED, ids=case_name)
def test_a_value_that_would_change_or_fail_is_refused_by_row_and_column(case: tuple[str, Any, str]) -> None:
    column, value, words = case
    for path, (_, position) in PATHS.items():
        if column == "key" and path in (upsert_new, upsert_old, update):
            continue
        with pytest.raises(RowInvalid) as raised:
            path(column, value)
        assert (raised.value.position, raised.value.column) == (position, column), path.__name__
        assert words in raised.value.what
        assert "ana@" not in str(raised.value)


# A parameter may be longer or more precise than a column, whose type only a write has to keep.
ONLY_WRITTEN = ("has more than 5 characters", "after the point", "before the point", "is infinite", "`real`")


@pytest.mark.parametrize("case", [case for case in REFUSED if case[0] not in {"host", "key"}], ids=case_name)
def test_a_parameter_is_refused_where_a_row_is(case: tuple[str, Any, str], target: Database) -> None:
    column, value, words = case
    found = read(MODEL).columns(MODEL.id).where(getattr(MODEL, column) == bindparam("value"))
    if column in {"price", "short", "real"} and words.endswith(ONLY_WRITTEN):
        assert found.all(target, value=value) == []
        return
    with pytest.raises(ParameterInvalid) as raised:
        found.all(target, value=value)
    assert raised.value.what.startswith("`read Sample`: the value of `value` ")
    assert words in raised.value.what
    assert "ana@" not in str(raised.value)


# PostgreSQL compares no values of JSON.
@pytest.mark.parametrize("column", [column for column in SAME if column != "plain"])
def test_a_parameter_finds_the_row_that_has_its_value(column: str, database: Database, target: Database) -> None:
    found = read(MODEL).columns(MODEL.id).where(getattr(MODEL, column) == bindparam("value"))
    for value, stored in [(value, stored) for name, value, stored in STORED if name == column]:
        # PostgreSQL compares a `real` with the exact `float`, and no NULL.
        if value is None or isinstance(value, type(null())) or (column, value) == ("real", 0.1):
            continue
        with database.session.begin() as session:
            session.execute(update_statement(MODEL).values({column: stored}).where(MODEL.key == "old 1"))
            [expected] = session.scalars(select(MODEL.id).where(MODEL.key == "old 1"))
        assert [row.id for row in found.all(target, value=value)] == [expected], repr(value)


@pytest.mark.usefixtures("database")
def test_a_value_in_a_description_is_converted_as_a_session_does(target: Database) -> None:
    insert_many(MODEL, [{"key": "new", "mood": Mood.GOOD, "data": {"a": 1}}]).run(target)
    for condition in (
        MODEL.mood == Mood.GOOD,
        MODEL.mood.in_([Mood.GOOD]),
        MODEL.data == {"a": 1},
        MODEL.data.contains({"a": 1}),
    ):
        assert [row.key for row in read(MODEL).columns(MODEL.key).where(condition).all(target)] == ["new"]


def test_a_parameter_in_a_list_of_the_description_is_named(target: Database) -> None:
    @query
    def tagged(tag: str) -> Read[Any]:
        return cast("Read[Any]", read(MODEL).columns(MODEL.id).where(MODEL.texts.contains([tag])))

    assert tagged.all(target, tag="of no row") == []
    with pytest.raises(ParameterInvalid, match="`tagged`: the value of `tag` contains an item that is of the wrong"):
        tagged.all(target, tag=cast("Any", 1))
    with pytest.raises(ParameterInvalid, match="`tagged`: the value of `tag` contains an item that contains NUL"):
        tagged.all(target, tag="a\0")


@pytest.mark.parametrize("value", ["ana\0", "ana\ud800", Markup("ana\0")])
def test_text_that_postgresql_cannot_hold_is_refused_wherever_it_is_compared(value: str, target: Database) -> None:
    text: Any = bindparam("value")
    for condition in (
        MODEL.text.icontains(text),
        MODEL.text == "%" + text + "%",
        func.lower(MODEL.text) == func.lower(text),
        MODEL.text == any_(text),
        text == any_(MODEL.texts),
        MODEL.data["a"].astext == text,
    ):
        with pytest.raises(ParameterInvalid, match=r"contains (NUL|half of a surrogate pair)") as raised:
            read(MODEL).columns(MODEL.id).where(condition).all(target, value=value)
        assert "ana" not in str(raised.value)


@pytest.mark.parametrize("untyped", [False, True])
@pytest.mark.parametrize("method", ["first", "one", "all", "stream", "count", "exists", "explain"])
def test_every_method_refuses_a_parameter_alike(method: str, untyped: bool, target: Database) -> None:
    column = func.lower(MODEL.text) if untyped else MODEL.text
    found = read(MODEL).columns(MODEL.id).where(column == bindparam("value"))

    def called(on: Any) -> Any:
        result = getattr(found, method)(on, value="ana\0")
        return list(result) if method == "stream" and isinstance(on, Database) else result

    async def awaited(on: Any) -> Any:
        return [row async for row in called(on)] if method == "stream" else await called(on)

    async def main() -> None:
        async with AsyncDatabase(target.address) as asynchronous, asynchronous.session() as session:
            for on in (asynchronous, session, await session.connection()):
                with pytest.raises(ParameterInvalid, match="contains NUL"):
                    await awaited(on)

    with pytest.raises(ParameterInvalid, match="contains NUL") as raised:
        called(target)
    assert "ana" not in str(raised.value)
    with target.session() as session, pytest.raises(ParameterInvalid, match="contains NUL"):
        _ = list(called(session)) if method == "stream" else called(session)
    asyncio.run(main())


def test_a_parameter_that_is_compared_with_two_types_has_to_be_of_both(target: Database) -> None:
    number: Any = bindparam("number")
    found = read(MODEL).columns(MODEL.id).where((MODEL.small == number) | (MODEL.big == number))
    assert found.all(target, number=5) == []
    with pytest.raises(ParameterInvalid, match="is out of range: expected >= -32768"):
        found.all(target, number=2**40)


@given(st.data())
def test_any_text_and_number_is_stored_or_refused_alike_on_every_path(
    samples: Database, target: Database, data: st.DataObject
) -> None:
    column = data.draw(
        st.sampled_from(["text", "short", "big", "exact", "ratio", "moment", "zoned", "lasts", "data", "texts"])
    )
    values: st.SearchStrategy[Any] = st.one_of(
        st.text(st.characters()),
        st.integers(),
        st.decimals(),
        st.floats(),
        st.datetimes(timezones=st.none() | st.timezones()),
        st.timedeltas(),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
    )
    value = data.draw(values)
    outcomes = set()
    for path, (key, _) in PATHS.items():
        with samples.session.begin() as session:
            session.query(MODEL).delete()
            session.add_all([Sample(key=f"old {number}") for number in range(3)])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(writes, "COPY_MIN_ROWS", 1 if path is copy else 1_000)
            try:
                path(column, value).run(target)
            except RowInvalid as error:
                outcomes.add(error.problem)
            else:
                outcomes.add(repr(session_value(samples, column, key)))
    assert len(outcomes) == 1


# --- Pages -----------------------------------------------------------------------------------------------------------


# SQLAlchemy converts them in Python.
NOT_READ = {"data", "plain", "color", "mood", "label", "colors", "price", "exact", "exacts", "raws", "token_text"}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("column", sorted(SAME.keys() - NOT_READ))
def test_pages_after_each_other_by_a_column_of_any_type_are_the_rows_in_order(
    column: str, database: Database, *, descending: bool
) -> None:
    values = [*SAME[column], *SAME[column], None, None]
    with database.session.begin() as session:
        session.query(MODEL).delete()
        session.add_all([Sample(key=f"{number}", **{column: value}) for number, value in enumerate(values)])
    found: Any = getattr(MODEL, column)
    order = found.desc() if descending else found.asc()
    ordered = read(MODEL).columns(MODEL.id, found).order_by(order)

    @query
    def page(last: Sample | None = None) -> Read[Sample]:
        return cast("Read[Sample]", ordered.after(last).limit(1))

    expected = [row.id for row in ordered.page(1, size=100).all(database)]
    for next_page in (page.all, lambda database, last: ordered.after(last).limit(1).all(database)):
        ids: list[int] = []
        last = None
        while len(ids) <= len(values) and (rows := next_page(database, last)):
            [last] = rows
            ids.append(last.id)
        assert ids == expected


@pytest.mark.parametrize("column", sorted(NOT_READ))
def test_a_column_that_sqlalchemy_converts_is_not_read(column: str, database: Database) -> None:
    with pytest.raises(ReadInvalid, match=f"has `{column}` of type .*, which SQLAlchemy converts in Python"):
        read(MODEL).columns(MODEL.id, getattr(MODEL, column)).all(database)
