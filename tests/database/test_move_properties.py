"""Any rows are copied correctly: what each column has to become is stated a second time, by hand and in Python."""

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
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
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
# An index entry has at most 2,704 bytes, and some of these values share one with others.
short = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


class Long(str):
    """A megabyte that is printed as a few letters if an example fails."""

    def __repr__(self) -> str:
        return f"{self[:10]!r}..."


long = st.one_of(
    short, short, short, st.sampled_from([Long(word * (1_000_000 // len(word))) for word in ("x", "ção\t", "🥋")])
)
numbers = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-(2**31), 2**31 - 1)
# Ids of one range of 256 or 65,536, and ids of several; the largest integer cannot be an id.
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
    """Write a moment in some time zone."""
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
# In a column of text, the plan refuses an element that needs an escape, so none can be in one that is copied.
plain_items = st.none() | short.filter(lambda item: not set('"\\') & set(item))


class WrittenArray(str):
    """An array as the text that PostgreSQL writes."""

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


# --- What each column has to become ----------------------------------------------------------------------------------


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
    """A column: its names in source and target, the values that the source may have, and what each has to become."""

    there: str
    here: str
    values: Values
    becomes: Callable[[Any], Any] = same
    parent: str | None = None
    """A reference to a row of a table, drawn as a position in the list of its rows."""


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

# How a project drifted from that: the columns that have another type, and their values.
DRIFT: dict[tuple[str, str], tuple[str, Cell]] = {
    ("roles", "id"): ("varchar", required("id", short)),
    ("gyms", "since"): ("text", required("since", days)),
    ("users", "migrated_at"): ("date", cell("migrated_at", days, midnight)),
    ("users", "approved_at"): ("timestamptz", cell("approved_at", zoned, utc)),
    ("graduations", "degree"): (
        "numeric",
        cell("degree", numbers.flatmap(lambda n: st.sampled_from([Decimal(n), Decimal(f"{n}.000")])), whole),
    ),
    ("class", "start"): (
        "text",
        # A column of times that became text has their seconds.
        cell("start", times.flatmap(lambda t: st.sampled_from([t, f"{t}:00"])), lambda value: value[:5]),
    ),
    ("class", "gym_id"): ("integer", names_a("gyms", "gym_id")),
    ("checkins", "date"): ("text", cell("date", days)),
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


def test_every_column_has_an_expectation() -> None:
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
    """Draw rows in which a reference is a position in a list."""
    rows: Rows = {}
    for table, cells in project.items():
        row = st.fixed_dictionaries({cell.there: cell.values for cell in cells})
        keys = tuple(lambda row, name=name: row[name] for name in _unique(table))
        rows[table] = draw(st.lists(row, min_size=table in ("roles", "users"), max_size=3, unique_by=keys))
    return rows


@st.composite
def changed(draw: st.DrawFn, project: Project, before: Rows) -> Rows:
    """Draw a later state of the rows: some deleted, some changed, some new, and unique values in other rows."""
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
    accounts = draw(st.permutations([row["clerk_user_id"] for row in after["users"]]))
    after["users"] = [row | {"clerk_user_id": account} for row, account in zip(after["users"], accounts, strict=True)]
    return after


def resolved(project: Project, rows: Rows) -> Rows:
    """Replace positions by ids; leave out a row that must refer to another one if there is none."""
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
    """Return the expected rows of the target."""
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
# A column of the team's own in each table of the target, and a table whose rows refer to users.
OWN_COLUMN = "own"
OWN_TABLE = "CREATE TABLE public.notes (user_id int REFERENCES public.users ON DELETE CASCADE)"


class World:
    """A project, a drifted one, and a target, for all tests."""

    def __init__(self, sources: dict[str, URL], target: Engine) -> None:
        self.sources, self.target = sources, target
        self.here = psycopg.connect(readable(target.url), autocommit=True, row_factory=dict_row)
        self.here.execute(OWN_TABLE)
        for table in PROJECT:
            self.here.execute(f'ALTER TABLE public."{table}" ADD {OWN_COLUMN} text'.encode())
        # Damage on purpose may violate keys.
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
        """Copy rows into an empty target."""
        self.here.execute(f"TRUNCATE {ALL}, public.notes".encode())
        self.fill(kind, rows)
        self.copy(kind)

    def fill(self, kind: str, rows: Rows) -> None:
        """Replace all rows of a source by these."""
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
            return move.copy(connections, accept_emptied=True)

    def verify(self, kind: str, *tables: str) -> move.Proof:
        with move.open_for_reading(self.sources[kind], self.target) as connections:
            return move.verify(connections, tables)

    def target_rows(self) -> dict[str, dict[Any, Row]]:
        """Read the columns of the models with a plain driver."""
        rows = {table: self.here.execute(f'SELECT * FROM public."{table}"'.encode()).fetchall() for table in PROJECT}
        return {
            table: {row["id"]: {name: row[name] for name in row if name != OWN_COLUMN} for row in its}
            for table, its in rows.items()
        }

    def own_values(self) -> dict[tuple[str, Any], str | None]:
        """Return what the team's own column has in each row."""
        return {
            (table, row["id"]): row[OWN_COLUMN]
            for table in PROJECT
            for row in self.here.execute(f'SELECT id, {OWN_COLUMN} FROM public."{table}"'.encode())
        }

    def own_rows(self) -> list[Any]:
        """Return the users to which the rows of the team's own table refer."""
        return [row["user_id"] for row in self.here.execute("SELECT user_id FROM public.notes ORDER BY 1")]

    def writers(self) -> dict[tuple[str, Any], str]:
        """Return the transaction that wrote each row."""
        return {
            (table, row["id"]): row["xmin"]
            for table in PROJECT
            for row in self.here.execute(f'SELECT id, xmin::text FROM public."{table}"'.encode())
        }

    def text(self, table: str, column: str, key: Any) -> str | None:
        """Read a value of the target as text."""
        query = f'SELECT "{column}"::text AS value FROM public."{table}" WHERE id = %s'.encode()
        [row] = self.here.execute(query, [key])
        return cast("str | None", row["value"])

    def damage(self, table: str, column: str, key: Any, value: Any) -> None:
        """Change one value of the target."""
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
    """Draw the kind of a project and its rows."""
    kind = draw(st.sampled_from(list(PROJECTS)))
    return kind, draw(drawn(PROJECTS[kind]))


@st.composite
def projects_that_change(draw: st.DrawFn) -> tuple[str, Rows, Rows]:
    """Draw a project now and later."""
    kind, before = draw(projects())
    return kind, before, draw(changed(PROJECTS[kind], before))


# What a column of the target may hold, whatever its source has: its type decides.
ANYTHING: dict[str, Values] = {
    "text": short,
    "integer": numbers,
    "timestamp without time zone": plain | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC"]),
    "text[]": arrays | st.just("[0:1]={a,b}"),
}


@dataclass(frozen=True)
class Damage:
    """A changed value of the target."""

    table: str
    column: Column[Any]
    key: Any
    value: Any


@st.composite
def damaged_projects(draw: st.DrawFn) -> tuple[str, Rows, list[Damage]]:
    """Draw a project and one damage to each of its tables."""
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
def test_any_rows_are_copied_as_each_column_expects(world: World, found: tuple[str, Rows]) -> None:
    kind, places = found
    rows = resolved(PROJECTS[kind], places)
    world.begin(kind, rows)
    assert world.target_rows() == expected(PROJECTS[kind], rows)
    assert world.verify(kind).unequal == []


@given(damaged_projects())
def test_one_changed_value_in_the_target_is_always_found_and_named(
    world: World, found: tuple[str, Rows, list[Damage]]
) -> None:
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
        shown = {(row.id, row.kind, *(value.column for value in row.values)) for row in its.differences}
        if damage.column.primary_key:
            assert shown == {(str(key), "missing"), (str(now), "extra")}
        else:
            assert shown == {(str(key), "differing", column)}
        world.damage(table, column, now, before)
    assert world.verify(kind).unequal == []


@given(projects_that_change())
def test_after_any_changes_a_second_copy_ends_equal_and_changes_nothing_else(
    world: World, found: tuple[str, Rows, Rows]
) -> None:
    kind, *places = found
    project = PROJECTS[kind]
    first, second = (resolved(project, rows) for rows in places)
    world.begin(kind, first)
    old, new = expected(project, first), expected(project, second)
    for table in project:
        world.here.execute(f'UPDATE public."{table}" SET {OWN_COLUMN} = id::text'.encode())
    stays = sorted(old["users"].keys() & new["users"].keys())
    world.here.execute("INSERT INTO public.notes SELECT unnest(%s::int[])", [stays])
    writers = world.writers()
    world.fill(kind, second)
    report = {table.table: table for table in world.copy(kind).tables}
    assert world.target_rows() == new
    now = world.writers()
    for table in project:
        if old[table] == new[table]:
            assert (report[table].written, report[table].deleted) == (0, 0)
        left = [(table, key) for key, row in new[table].items() if old[table].get(key) == row]
        assert [now[row] for row in left] == [writers[row] for row in left]
    assert world.own_rows() == stays
    assert world.own_values() == {
        (table, key): str(key) if key in old[table] else None for table in project for key in new[table]
    }
