"""Any rows arrive: what each column has to become is said here a second time, by hand and in Python."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row
from sqlalchemy import URL, Column, Engine

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.database.dialect import DIALECT
from tatame_db.database.pool import Database
from tatame_db.move.rehearsal import SUPABASE_SCHEMA
from tatame_db.schema import Base
from tatame_db.testing.runs import Run

Row = dict[str, Any]
Rows = dict[str, list[Row]]
Values = st.SearchStrategy[Any]

# --- Values ----------------------------------------------------------------------------------------------------------

WORDS = [
    *(
        "",
        " ",
        "null",
        "NULL",
        "None",
        "\\N",
        "\\.",
        "\\",
        "\\\\n",
        "'",
        '"',
        "''",
        '""',
        "a,b",
        "{}",
        "{a}",
        "()",
        "(,)",
    ),
    *("\t", "\n", "\r\n", "\x01", "\x7f", "\x85", "\u2028", "\ufeff", "\u200b", "e\u0301", "é", "ß", "İ", "ﬁ"),
    *("🥋", "👨‍👩‍👧", "\U0010ffff", "שלום \u202eabc", "مرحبا", "%s", "$1", "--", "/*", ";", "t", "f", "0", "-0", "1e5"),
    *("NaN", "infinity", "2024-02-30", "18:30:45", "2024-01-01", "[0:1]={a,b}", "Ação", "x" * 300),
]
# An index of ours takes 2,704 bytes, and some of these stand in one with others.
short = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


class Long(str):
    """A megabyte that is shown as a few letters where an example breaks."""

    def __repr__(self) -> str:
        return f"{self[:10]!r}..."


long = st.one_of(
    short, short, short, st.sampled_from([Long(word * (1_000_000 // len(word))) for word in ("x", "ção\t", "🥋")])
)
numbers = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1)
# Ids that lie together in one range of 256 or 65,536, and ids that do not; the last number cannot be one.
ids = st.one_of(
    st.integers(1, 300), st.integers(65_500, 65_600), st.integers(-300, 0), st.integers(-(2**31), 2**31 - 2)
)
plain_moments = st.one_of(
    st.sampled_from(
        [datetime(1, 1, 1), datetime.max, datetime(2024, 2, 29, 23, 59, 59, 999_999), datetime(2000, 1, 1)]
    ),
    st.datetimes(),
)
days = st.one_of(
    st.sampled_from(["0001-01-01", "9999-12-31", "2024-02-29"]), st.dates().map(lambda day: day.isoformat())
)
times = st.one_of(
    st.sampled_from(["00:00", "23:59", "24:00"]),
    st.times().map(lambda moment: moment.strftime("%H:%M")),
)


@st.composite
def _zoned(draw: st.DrawFn) -> str:
    """Write a moment as one zone of the world or another would."""
    moment = draw(plain_moments)
    zone = timezone(timedelta(minutes=draw(st.integers(-14 * 60, 14 * 60))))
    try:
        return moment.replace(tzinfo=UTC).astimezone(zone).isoformat(" ")
    except OverflowError:
        return moment.replace(tzinfo=UTC).isoformat(" ")


zoned = _zoned()
plain = plain_moments.map(lambda moment: moment.isoformat(" "))
items = st.none() | short
arrays: Values = st.one_of(
    st.just([]),
    st.lists(items, max_size=4),
    st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(items, min_size=width, max_size=width), min_size=1, max_size=2)
    ),
)
# What needs an escape is refused by the plan in a column of text, so it cannot be in one that moves.
plain_items = st.none() | short.filter(lambda item: not set('"\\') & set(item))


class WrittenArray(str):
    """An array in the text that PostgreSQL writes for it."""

    array: list[str | None]

    def __new__(cls, array: list[str | None]) -> WrittenArray:
        made = super().__new__(cls, "{" + ",".join(map(cls._item, array)) + "}")
        made.array = array
        return made

    @staticmethod
    def _item(item: str | None) -> str:
        if item is None:
            return "NULL"
        bare = item and item.upper() != "NULL" and not set(" \t\n\v\f\r{},") & set(item)
        return item if bare else f'"{item}"'


# --- What each column of a project becomes ---------------------------------------------------------------------------


def same(value: Any) -> Any:
    return value


def utc(value: str) -> datetime:
    return datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)


def midnight(day: str) -> datetime:
    return datetime.fromisoformat(f"{day} 00:00:00")


def whole(number: Decimal) -> int:
    return int(number)


@dataclass(frozen=True)
class Cell:
    """A column: its name there and here, what it may hold there, and what that has to be here."""

    there: str
    here: str
    values: Values
    becomes: Callable[[Any], Any] = same
    parent: str | None = None
    """A table whose rows it names: what is drawn is a place in their list."""


def cell(name: str, values: Values, becomes: Callable[[Any], Any] = same, *, here: str = "") -> Cell:
    return Cell(name, here or name, st.none() | values, becomes)


def required(name: str, values: Values, becomes: Callable[[Any], Any] = same) -> Cell:
    return Cell(name, name, values, becomes)


def names_a(parent: str, name: str, *, here: str = "", may_be_null: bool = True) -> Cell:
    places = st.integers(0, 5)
    return Cell(name, here or name, st.none() | places if may_be_null else places, parent=parent)


def texts(*names: str, values: Values = short) -> list[Cell]:
    return [cell(name, values) for name in names]


created = required("created_at", zoned, utc)
numbered = [required("id", ids), created]
PROJECT: dict[str, list[Cell]] = {
    "roles": [required("id", short), created],
    "versions": [*numbered, cell("appVersion", short, here="app_version"), cell("disabled_at", days, midnight)],
    "app_stores": [*numbered, *texts("store", "url"), cell("disabled_at", days, midnight)],
    "gyms": [
        *numbered,
        required("name", long),
        required("address", short),
        names_a("users", "managerId", here="manager_id", may_be_null=False),
        cell("logo", short),
        required("since", days),
    ],
    "users": [
        *numbered,
        required("clerk_user_id", short),
        names_a("roles", "role"),
        names_a("gyms", "gym_id"),
        cell("approved_at", days, midnight),
        cell("denied_at", days, midnight),
        *texts("email", "first_name", "last_name", "profile_picture", "birth", "birth_day", "gender", "phone"),
        *texts("instagram", "expo_push_token", "customer_id", "subscription_id", "plan"),
        cell("migrated_at", zoned, utc),
        cell("deleted_at", zoned, utc),
    ],
    "graduations": [
        *numbered,
        *texts("belt", "modality"),
        cell("degree", numbers),
        names_a("users", "userId", here="user_id", may_be_null=False),
    ],
    "class": [
        *numbered,
        cell("description", long),
        cell("start", times),
        cell("end", times),
        *texts("day", "modality"),
        names_a("gyms", "gym_id"),
        names_a("users", "created_by"),
        names_a("users", "instructor_id"),
        cell("deleted_at", days, midnight),
    ],
    "checkins": [
        *numbered,
        names_a("users", "userId", here="user_id"),
        names_a("class", "classId", here="class_id"),
        cell("date", days),
    ],
    "assets": [
        *numbered,
        names_a("class", "class_id"),
        cell("content", long),
        cell("valid_until", days, midnight),
        *texts("type", "title"),
    ],
    "attachments": [
        *numbered,
        names_a("class", "class_id"),
        *texts("file_name", "file_url", "file_type"),
        cell("file_size", numbers),
    ],
    "notifications": [
        *numbered,
        cell("recipients", arrays),
        cell("viewed_by", arrays),
        names_a("users", "sent_by"),
        *texts("title", "status", "channel"),
        cell("content", long),
        cell("sent_at", days, midnight),
    ],
}

# How a project drifted from that: the columns that are of another type, and what they hold then.
DRIFT: dict[tuple[str, str], tuple[str, Cell]] = {
    ("roles", "id"): ("varchar", required("id", short)),
    ("gyms", "since"): ("text", required("since", short)),
    ("users", "migrated_at"): ("date", cell("migrated_at", days, midnight)),
    ("users", "approved_at"): ("timestamptz", cell("approved_at", zoned, utc)),
    ("graduations", "degree"): (
        "numeric",
        cell("degree", numbers.flatmap(lambda n: st.sampled_from([Decimal(n), Decimal(f"{n}.000")])), whole),
    ),
    ("class", "start"): ("text", cell("start", short)),
    ("class", "gym_id"): ("integer", names_a("gyms", "gym_id")),
    ("checkins", "date"): ("text", cell("date", short)),
    ("assets", "content"): ("varchar", cell("content", long)),
    ("attachments", "file_size"): ("text", cell("file_size", numbers.map(str), int)),
    ("notifications", "recipients"): (
        "text",
        cell("recipients", st.lists(plain_items, max_size=4).map(WrittenArray), lambda value: value.array),
    ),
}
for _table in ("users", "checkins", "notifications"):
    DRIFT[_table, "created_at"] = ("timestamp", required("created_at", plain, datetime.fromisoformat))
DRIFTED = {
    table: [DRIFT[table, cell.there][1] if (table, cell.there) in DRIFT else cell for cell in cells]
    for table, cells in PROJECT.items()
}


def test_every_column_of_ours_is_spoken_of_here() -> None:
    for project in (PROJECT, DRIFTED):
        assert {table: {cell.here for cell in cells} for table, cells in project.items()} == {
            table.name: set(table.columns.keys()) for table in Base.metadata.tables.values()
        }


# --- Rows ------------------------------------------------------------------------------------------------------------

Project = dict[str, list[Cell]]


def _unique(table: str) -> list[str]:
    return ["id", "clerk_user_id"] if table == "users" else ["id"]


@st.composite
def drawn(draw: st.DrawFn, project: Project) -> Rows:
    """Draw rows in which a name of another row is a place in a list."""
    rows: Rows = {}
    for table, cells in project.items():
        row = st.fixed_dictionaries({cell.there: cell.values for cell in cells})
        keys = tuple(lambda row, name=name: row[name] for name in _unique(table))
        rows[table] = draw(st.lists(row, min_size=table in ("roles", "users"), max_size=3, unique_by=keys))
    return rows


@st.composite
def changed(draw: st.DrawFn, project: Project, before: Rows) -> Rows:
    """Draw what the rows may have become later: some gone, some changed, some new."""
    new = draw(drawn(project))
    after: Rows = {}
    for table, cells in project.items():
        after[table] = []
        for row in before[table]:
            fate = draw(st.sampled_from(["stays", "stays", "changes", "goes"]))
            if fate == "changes":
                chosen = draw(st.sampled_from([cell for cell in cells if cell.there not in _unique(table)]))
                after[table].append(row | {chosen.there: draw(chosen.values)})
            elif fate == "stays":
                after[table].append(row)
        for row in new[table]:
            if all(row[name] not in {other[name] for other in after[table]} for name in _unique(table)):
                after[table].append(row)
    return after


def resolved(project: Project, rows: Rows) -> Rows:
    """Put ids where places in lists stand; a row that must name another one goes where there is none."""
    there = dict(rows)
    if not rows["users"]:
        there["gyms"] = there["graduations"] = []

    def value(cell: Cell, row: Row) -> Any:
        found = row[cell.there]
        if cell.parent is None or found is None:
            return found
        parents = there[cell.parent]
        return parents[found % len(parents)]["id"] if parents else None

    return {
        table: [{cell.there: value(cell, row) for cell in project[table]} for row in there[table]] for table in project
    }


def expected(project: Project, rows: Rows) -> dict[str, dict[Any, Row]]:
    """Say what the target has to hold."""
    return {
        table: {
            row["id"]: {
                cell.here: None if row[cell.there] is None else cell.becomes(row[cell.there]) for cell in project[table]
            }
            for row in its
        }
        for table, its in rows.items()
    }


# --- Databases -------------------------------------------------------------------------------------------------------

PROJECTS = {"plain": PROJECT, "drifted": DRIFTED}
ALL = ", ".join(f'public."{table}"' for table in PROJECT)


class World:
    """A project, a drifted one, and a target, which live as long as the tests."""

    def __init__(self, sources: dict[str, URL], target: Engine) -> None:
        self.sources, self.target = sources, target
        self.here = psycopg.connect(readable(target.url), autocommit=True, row_factory=dict_row)
        # What is damaged on purpose need not hold together.
        self.here.execute("SET session_replication_role = replica")
        self.there = {kind: psycopg.connect(readable(url), autocommit=True) for kind, url in sources.items()}
        self.there["plain"].execute(SUPABASE_SCHEMA.read_bytes())
        self.there["drifted"].execute(SUPABASE_SCHEMA.read_bytes())
        for (table, name), (kind, _) in DRIFT.items():
            self.there["drifted"].execute(f'ALTER TABLE public."{table}" ALTER "{name}" TYPE {kind}'.encode())

    def close(self) -> None:
        for connection in (self.here, *self.there.values()):
            connection.close()

    def begin(self, kind: str, rows: Rows) -> None:
        """Bring rows into an empty target."""
        self.here.execute(f"TRUNCATE {ALL}".encode())
        self.fill(kind, rows)
        self.copy(kind)

    def fill(self, kind: str, rows: Rows) -> None:
        """Let a source hold these rows and no others."""
        connection = self.there[kind]
        with connection.transaction():
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
            connection.execute(f"TRUNCATE {ALL}".encode())
            for table, its in rows.items():
                for row in its:
                    names = ", ".join(f'"{name}"' for name in row)
                    values = ", ".join(["%s"] * len(row))
                    connection.execute(
                        f'INSERT INTO public."{table}" ({names}) VALUES ({values})'.encode(), list(row.values())
                    )

    def copy(self, kind: str) -> move.Report:
        with move.open_for_writing(self.sources[kind], self.target, lambda: None) as connections:
            return move.copy(connections)

    def verify(self, kind: str, *tables: str) -> move.Proof:
        with move.open_for_reading(self.sources[kind], self.target) as connections:
            return move.verify(connections, tables)

    def target_rows(self) -> dict[str, dict[Any, Row]]:
        """Read the target with a driver that knows nothing of a move."""
        return {
            table: {row["id"]: row for row in self.here.execute(f'SELECT * FROM public."{table}"'.encode())}
            for table in PROJECT
        }

    def writers(self) -> dict[tuple[str, Any], str]:
        """Name the transaction that wrote each row."""
        return {
            (table, row["id"]): row["xmin"]
            for table in PROJECT
            for row in self.here.execute(f'SELECT id, xmin::text FROM public."{table}"'.encode())
        }

    def text(self, table: str, column: str, key: Any) -> str | None:
        """Read a value of ours as the server writes it."""
        query = f'SELECT "{column}"::text AS value FROM public."{table}" WHERE id = %s'.encode()
        [row] = self.here.execute(query, [key])
        return cast("str | None", row["value"])

    def damage(self, table: str, column: str, key: Any, value: Any) -> None:
        """Change one value of ours behind our back."""
        self.here.execute(f'UPDATE public."{table}" SET "{column}" = %s WHERE id = %s'.encode(), [value, key])


@pytest.fixture(scope="session")
def world(_tatame_run: Run) -> Generator[World]:
    sources = {kind: _tatame_run.sandbox.create() for kind in PROJECTS}
    address = _tatame_run.clone()
    with Database(address) as target:
        made = World(sources, target.engine)
        yield made
        made.close()
    for used in (*sources.values(), address):
        _tatame_run.sandbox.drop(str(used.database))


@st.composite
def projects(draw: st.DrawFn) -> tuple[str, Rows]:
    """Draw a project: its kind, and its rows."""
    kind = draw(st.sampled_from(list(PROJECTS)))
    return kind, draw(drawn(PROJECTS[kind]))


@st.composite
def projects_that_change(draw: st.DrawFn) -> tuple[str, Rows, Rows]:
    """Draw a project as it is, and as it is later."""
    kind, before = draw(projects())
    return kind, before, draw(changed(PROJECTS[kind], before))


# What may stand in a column of ours, whatever its source can hold: the type decides.
ANYTHING: dict[str, Values] = {
    "text": short,
    "integer": numbers,
    "timestamp without time zone": plain | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC"]),
    "text[]": arrays | st.just("[0:1]={a,b}"),
}


@dataclass(frozen=True)
class Damage:
    """One value of ours that is not what it was."""

    table: str
    column: Column[Any]
    key: Any
    value: Any


@st.composite
def damaged_projects(draw: st.DrawFn) -> tuple[str, Rows, list[Damage]]:
    """Draw a project, and one damage to each of its tables."""
    kind, places = draw(projects())
    rows = resolved(PROJECTS[kind], places)
    damages = []
    for table in [table for table in PROJECT if rows[table]]:
        key = draw(st.sampled_from([row["id"] for row in rows[table]]))
        column = draw(st.sampled_from(list(Base.metadata.tables[table].columns)))
        anything = ANYTHING[str(column.type.compile(DIALECT)).lower()]
        damages.append(Damage(table, column, key, draw(st.none() | anything if column.nullable else anything)))
    return kind, rows, damages


# --- Properties ------------------------------------------------------------------------------------------------------


@given(projects())
def test_any_rows_become_what_each_column_says(world: World, found: tuple[str, Rows]) -> None:
    kind, places = found
    rows = resolved(PROJECTS[kind], places)
    world.begin(kind, rows)
    assert world.target_rows() == expected(PROJECTS[kind], rows)
    assert world.verify(kind).unequal == []


@given(damaged_projects())
def test_one_changed_value_here_is_always_found_and_named(world: World, found: tuple[str, Rows, list[Damage]]) -> None:
    kind, rows, damages = found
    world.begin(kind, rows)
    for damage in damages:
        table, column, key = damage.table, damage.column.name, damage.key
        before = world.text(table, column, key)
        try:
            world.damage(table, column, key, damage.value)
        except psycopg.errors.UniqueViolation:
            continue
        now = damage.value if damage.column.primary_key else key
        if world.text(table, column, now) == before:
            continue
        [its] = world.verify(kind, table).tables
        assert not its.equal
        told = {(row.id, row.kind, *(value.column for value in row.values)) for row in its.differences}
        if damage.column.primary_key:
            assert told == {(str(key), "missing"), (str(now), "extra")}
        else:
            assert told == {(str(key), "differing", column)}
        world.damage(table, column, now, before)
    assert world.verify(kind).unequal == []


@given(projects_that_change())
def test_after_any_changes_a_second_copy_ends_equal_and_leaves_alone_what_did_not_change(
    world: World, found: tuple[str, Rows, Rows]
) -> None:
    kind, *places = found
    project = PROJECTS[kind]
    first, second = (resolved(project, rows) for rows in places)
    world.begin(kind, first)
    writers = world.writers()
    world.fill(kind, second)
    report = {table.table: table for table in world.copy(kind).tables}
    old, new = expected(project, first), expected(project, second)
    assert world.target_rows() == new
    now = world.writers()
    for table in project:
        if old[table] == new[table]:
            assert (report[table].written, report[table].deleted) == (0, 0)
        left = [(table, key) for key, row in new[table].items() if old[table].get(key) == row]
        assert [now[row] for row in left] == [writers[row] for row in left]
