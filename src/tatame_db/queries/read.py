"""Descriptions of reads: made once from the models, each one statement, whatever it loads."""

from __future__ import annotations

import inspect as python
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar, cast, overload

import msgspec
from sqlalchemy import (
    BindParameter,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    String,
    Text,
    Time,
    Uuid,
    and_,
    bindparam,
    func,
    inspect,
    literal_column,
    select,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.util import ClauseAdapter
from typing_extensions import ParamSpec

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.queries.row import python_type, row_type
from tatame_db.queries.run import (
    DIALECT,
    AsyncTarget,
    Statement,
    SyncTarget,
    fetch,
    fetch_async,
    is_sync,
    stream,
    stream_async,
)
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from sqlalchemy import ColumnElement, ScalarSelect, Select

T = TypeVar("T")
Model = TypeVar("Model", bound=Base)
P = ParamSpec("P", default=...)
Q = ParamSpec("Q")

Maker: TypeAlias = "Callable[[Sequence[Any]], Any]"

KEPT_STATEMENTS = 256
# Of these types, what the driver gives is what the ORM returns; of others, SQLAlchemy may make something else.
AS_GIVEN = (Boolean, Date, DateTime, Float, Integer, Interval, LargeBinary, String, Time, Uuid)

# What `json_build_array` takes.
WIDEST_RELATION = 100


class NotDescribable(TatameError):
    """A description asks for what one statement cannot bring."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, means=NOTHING_CHANGED, fix=fix)


class ParametersDiffer(TatameError):
    """A read was run with other parameters than its description has."""

    def __init__(self, name: str, *, missing: set[str], unknown: set[str]) -> None:
        self.missing, self.unknown = missing, unknown
        parts = [f"is missing {', '.join(sorted(missing))}"] if missing else []
        parts += [f"does not know {', '.join(sorted(unknown))}"] if unknown else []
        super().__init__(
            f"`{name}` {' and '.join(parts)}",
            means=NOTHING_CHANGED,
            fix="give each parameter of the description by its name, and no other",
        )


class NotOneRow(TatameError):
    """`one` found no row, or several."""

    def __init__(self, name: str, found: str) -> None:
        self.found = found
        super().__init__(
            f"`{name}` found {found} where there is to be exactly one",
            means=NOTHING_CHANGED,
            fix="use `first` where there may be none, and `all` where there may be several",
        )


@dataclass(frozen=True, eq=False)
class RelationRead:
    """Which rows of a model, or of a relation, and what of them; each step gives a new description."""

    model: type[Base]
    attribute: Any = None
    """The relation, such as `User.gym`; none for the outermost rows."""
    filters: tuple[ColumnElement[bool], ...] = ()
    orders: tuple[Any, ...] = ()
    count: int | BindParameter[int] | None = None
    skip: int | BindParameter[int] | None = None
    chosen: tuple[str, ...] = ()
    relations: tuple[RelationRead, ...] = ()

    def where(self, *conditions: ColumnElement[bool]) -> Self:
        """Keep the rows for which all conditions hold, those of earlier calls included."""
        return replace(self, filters=self.filters + conditions)

    def order_by(self, *orders: Any) -> Self:
        """Sort by these columns or expressions, after those of earlier calls."""
        return replace(self, orders=self.orders + orders)

    def limit(self, count: int, *, skip: int | None = None) -> Self:
        """Return at most so many rows after those that are skipped.

        Both become part of the text that is sent, because PostgreSQL plans badly for a number it does not know.
        """
        return replace(self, count=count, skip=skip)

    def columns(self, *columns: InstrumentedAttribute[Any]) -> Self:
        """Read these columns alone; any other raises `NotLoaded`."""
        for column in columns:
            if column.class_ is not self.model or column.key not in inspect(self.model).columns:
                raise NotDescribable(f"{column} is no column of {self.model.__name__}", "choose from its own columns")
        return replace(self, chosen=tuple(column.key for column in columns))

    def load(self, *relations: InstrumentedAttribute[Any] | RelationRead) -> Self:
        """Bring these relations along: as they are, or as `read(Model.relation)` describes them."""
        added = tuple(one if isinstance(one, RelationRead) else read(one) for one in relations)
        names = [one.relation for one in self.relations + added]
        for one in added:
            if not one.relation or getattr(self.model, one.relation, None) is not one.attribute:
                raise NotDescribable(
                    f"{one.title} is no relation of {self.model.__name__}",
                    f"load the relations of {self.model.__name__} here, and those of others on their own description",
                )
            if names.count(one.relation) > 1:
                raise NotDescribable(f"{one.title} is loaded twice", "describe it once")
        return replace(self, relations=self.relations + added)

    @property
    def relation(self) -> str:
        """The name of the relation."""
        return self.attribute.key if self.attribute is not None else ""

    @property
    def title(self) -> str:
        """What this is about, in the words of the models."""
        return str(self.attribute) if self.relation else self.model.__name__

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return self.chosen or tuple(inspect(self.model).columns.keys())

    @cached_property
    def row_type(self) -> Any:
        """The struct of one row."""
        return row_type(self.model, self.names, tuple((one.relation, one.field_type) for one in self.relations))

    @property
    def is_list(self) -> bool:
        """Whether the relation leads to many rows."""
        return bool(self.attribute.property.uselist)

    @property
    def field_type(self) -> Any:
        """What the row that has this relation holds there."""
        return list[self.row_type] if self.is_list else self.row_type | None  # type: ignore[name-defined]

    def narrowed(self, statement: Select[Any], adapt: Callable[[Any], Any]) -> Select[Any]:
        """Add conditions and order."""
        return statement.where(*map(adapt, self.filters)).order_by(*map(adapt, self.orders))

    def adapted(self) -> tuple[Any, Callable[[Any], Any]]:
        """Return an alias of the model, and what makes conditions on the model conditions on the alias."""
        alias = aliased(self.model)
        adapter = ClauseAdapter(inspect(alias).selectable)
        return alias, lambda part: adapter.traverse(inspect(part).__clause_element__())

    def as_json(self, parent: Any) -> ScalarSelect[Any]:
        """Write the related rows as one JSON value for each row of the parent.

        A subquery in the SELECT list, and not a LATERAL join: it runs for the rows that LIMIT left, after sorting.
        """
        self._check_json()
        alias, adapt = self.adapted()
        fields = [getattr(alias, name) for name in self.names] + [one.as_json(alias) for one in self.relations]
        rows = select(func.json_build_array(*fields).label("row"))
        rows = rows.where(getattr(parent, self.relation).of_type(alias)).correlate(parent)
        rows = self.narrowed(rows, adapt)
        rows = rows.limit(_literal(self.count)).offset(_literal(self.skip))
        if not self.is_list:
            return rows.scalar_subquery()
        found = rows.subquery()
        empty: ColumnElement[Any] = literal_column("'[]'::json")
        return select(func.coalesce(func.json_agg(found.c.row), empty)).correlate(parent).scalar_subquery()

    def part(self, entity: Any, *, joined: bool) -> _Part:
        """Return what is selected from the model or an alias of it, and how its values become a row.

        A relation to one row is joined, which costs the server less than JSON; unless the rows are sorted and then
        limited, because a join comes before both.
        """
        self._check_columns()
        columns = [getattr(entity, name) for name in self.names]
        joins: list[tuple[Any, Any]] = []
        makers: list[Maker] = []
        for one in self.relations:
            start = len(columns)
            if joined and not one.is_list and one.count is None and one.skip is None:
                alias, adapt = one.adapted()
                inner = one.part(alias, joined=True)
                joins += [(alias, and_(getattr(entity, one.relation).of_type(alias), *map(adapt, one.filters)))]
                joins += inner.joins
                # Its key says whether there is such a row.
                columns += [getattr(alias, one.key), *inner.columns]
                makers.append(_made_if_there(inner.make, start, len(columns)))
            else:
                # As text, because the driver would parse what is JSON, and slower.
                columns.append(sql_cast(one.as_json(entity), Text))
                makers.append(_decoded(msgspec.json.Decoder(one.field_type).decode, start))
        return _Part(columns, joins, _made(self.row_type, len(self.names), makers))

    @property
    def key(self) -> str:
        """The name of the first column of the primary key."""
        return str(inspect(self.model).primary_key[0].key)

    def _check_columns(self) -> None:
        for name in self.names:
            kind = inspect(self.model).columns[name].type
            if python_type(kind) is None and (not isinstance(kind, AS_GIVEN) or isinstance(kind, Enum)):
                raise NotDescribable(
                    f"{self.title} has `{name}` of type {kind!r}, which SQLAlchemy makes from what the driver gives",
                    f"choose others with `.columns(…)`, or use `select({self.model.__name__})` in a session",
                )

    def _check_json(self) -> None:
        instead = f"choose others with `read({self.title}).columns(…)`, or use `selectinload` in a session"
        for name in self.names:
            if python_type(inspect(self.model).columns[name].type) is None:
                kind = inspect(self.model).columns[name].type
                raise NotDescribable(f"{self.title} has `{name}` of type {kind}, which JSON does not carry", instead)
        if len(self.names) + len(self.relations) > WIDEST_RELATION:
            raise NotDescribable(f"{self.title} has more than {WIDEST_RELATION} columns and relations", instead)
        for number in (self.count, self.skip):
            if isinstance(number, BindParameter):
                raise NotDescribable(
                    f"the limit of {self.title} is a parameter", "write a number: only the outermost limit can vary"
                )


@dataclass(frozen=True)
class _Part:
    columns: list[Any]
    joins: list[tuple[Any, Any]]
    make: Maker


def _made(row: Callable[..., Any], width: int, makers: list[Maker]) -> Maker:
    if not makers:
        return lambda values: row(*values)
    return lambda values: row(*values[:width], *[make(values) for make in makers])


def _made_if_there(make: Maker, start: int, end: int) -> Maker:
    return lambda values: None if values[start] is None else make(values[start + 1 : end])


def _decoded(decode: Callable[[str], Any], at: int) -> Maker:
    return lambda values: None if values[at] is None else decode(values[at])


def _literal(number: Any) -> ColumnElement[int] | None:
    return None if number is None else literal_column(str(_whole(number)))


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise NotDescribable("a limit is not a whole number from 0 on", "count rows with an `int`")
    return number


@dataclass(frozen=True)
class _Compiled:
    sql: str
    fixed: dict[str, Any]
    """The values that the description itself holds."""
    asked: frozenset[str]
    """The names of those that each call gives, limits included."""
    converters: dict[str, Callable[[Any], Any]]
    make: Maker


@dataclass(frozen=True, eq=False)
class Read(RelationRead, Generic[T, P]):
    """What to read, in one statement that is compiled once; `read` and `query` make it.

    Each way to run it takes a database, or a session or connection whose transaction it joins, and then the
    parameters. It returns at once on `Database`, `Session` and `Connection`, and is to be awaited on the others.
    """

    name: str = ""
    """What the log calls it."""
    parameters: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])

    @overload
    def first(self, on: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T | None: ...
    @overload
    def first(self, on: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T | None]: ...
    def first(self, on: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return the first row, or `None`."""
        return self._run(on, lambda rows: rows[0] if rows else None, args, kwargs, at_most=1)

    @overload
    def one(self, on: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def one(self, on: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...
    def one(self, on: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return the only row; raises `NotOneRow`."""
        return self._run(on, self._the_only, args, kwargs, at_most=2)

    @overload
    def all(self, on: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> list[T]: ...
    @overload
    def all(self, on: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, list[T]]: ...
    def all(self, on: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return all rows."""
        statement, values = self._prepared(args, kwargs)
        return fetch(on, statement, values) if is_sync(on) else fetch_async(on, statement, values)

    @overload
    def stream(self, on: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]: ...
    @overload
    def stream(self, on: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...
    def stream(self, on: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Yield the rows, a batch of which is in memory at a time."""
        statement, values = self._prepared(args, kwargs)
        return stream(on, statement, values) if is_sync(on) else stream_async(on, statement, values)

    @overload
    def explain(self, on: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    @overload
    def explain(self, on: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, str]: ...
    def explain(self, on: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Run it and return the server's plan, with times and rows."""
        statement, values = self._prepared(args, kwargs)
        explained = Statement(f"EXPLAIN {statement.name}", f"EXPLAIN (ANALYZE, BUFFERS) {statement.sql}", _only)
        if is_sync(on):
            return "\n".join(fetch(on, explained, values))
        return _finished("\n".join, fetch_async(on, explained, values))

    def _run(
        self, on: Any, finish: Callable[[list[Any]], Any], args: Any, kwargs: dict[str, Any], *, at_most: int
    ) -> Any:
        statement, values = self._prepared(args, kwargs, at_most)
        if is_sync(on):
            return finish(fetch(on, statement, values))
        return _finished(finish, fetch_async(on, statement, values))

    def _the_only(self, rows: list[Any]) -> Any:
        if len(rows) != 1:
            raise NotOneRow(self._title, "several rows" if rows else "no row")
        return rows[0]

    @property
    def _title(self) -> str:
        return self.name or f"read {self.model.__name__}"

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], at_most: int | None = None
    ) -> tuple[Statement[Any], dict[str, Any]]:
        """Return the statement with its limits written out, and the values of its parameters."""
        is_limited = at_most is not None or self.count is not None
        compiled = self._compiled_for_the_first if is_limited else self._compiled
        given = {**self.defaults, **dict(zip(self.parameters, args, strict=False)), **kwargs}
        if given.keys() != compiled.asked or len(args) > len(self.parameters):
            missing, unknown = compiled.asked - given.keys(), given.keys() - compiled.asked
            extra = {"one more value"} if len(args) > len(self.parameters) else set[str]()
            raise ParametersDiffer(self._title, missing=set(missing), unknown=set(unknown) | extra)
        count = _whole(given.pop(self.count.key)) if isinstance(self.count, BindParameter) else self.count
        skip = _whole(given.pop(self.skip.key)) if isinstance(self.skip, BindParameter) else self.skip
        if at_most is not None:
            count = at_most if count is None else min(_whole(count), at_most)
        for name, convert in compiled.converters.items():
            given[name] = convert(given[name])
        return self._limited(count, skip), {**compiled.fixed, **given}

    def _limited(self, count: Any, skip: Any) -> Statement[Any]:
        known = self._statements.get((count, skip))
        if known is None:
            compiled = self._compiled if count is None else self._compiled_for_the_first
            limits = "" if count is None else f"\nLIMIT {_whole(count)}"
            limits += f"\nOFFSET {_whole(skip)}" if skip else ""
            known = Statement(self._title, compiled.sql + limits, compiled.make)
            if len(self._statements) < KEPT_STATEMENTS:
                self._statements[count, skip] = known
        return known

    @cached_property
    def _statements(self) -> dict[tuple[Any, Any], Statement[Any]]:
        return {}

    @cached_property
    def _compiled(self) -> _Compiled:
        return self._compile(joined=True)

    @cached_property
    def _compiled_for_the_first(self) -> _Compiled:
        return self._compile(joined=False) if self.orders else self._compiled

    def _compile(self, *, joined: bool) -> _Compiled:
        part = self.part(self.model, joined=joined)
        statement: Any = select(*part.columns).select_from(self.model)
        for alias, condition in part.joins:
            statement = statement.outerjoin(alias, condition)
        statement = self.narrowed(statement, lambda part: part)
        compiled = statement.compile(dialect=DIALECT)
        asked = {name for name, bind in compiled.binds.items() if bind.required}
        for name in asked:
            if compiled.binds[name].expanding:
                raise NotDescribable(
                    f"`{self._title}` has `in_` with the parameter `{name}`, which needs another text for each length",
                    f"compare with the array: `Model.column == any_({name})`",
                )
        # Lists that are part of the description are written out.
        expanded = compiled.construct_expanded_state(dict.fromkeys(asked))
        converters: dict[str, Any] = dict(expanded.processors)
        limits = {number.key for number in (self.count, self.skip) if isinstance(number, BindParameter)}
        return _Compiled(
            expanded.statement,
            {
                name: converters[name](value) if name in converters else value
                for name, value in expanded.parameters.items()
                if name not in asked
            },
            frozenset(asked | limits),
            {name: convert for name, convert in converters.items() if name in asked},
            part.make,
        )


def _only(values: Sequence[Any]) -> str:
    return str(values[0])


async def _finished(finish: Callable[[list[Any]], Any], rows: Coroutine[Any, Any, list[Any]]) -> Any:
    return finish(await rows)


@overload
def read(what: type[Model]) -> Read[Model]: ...
@overload
def read(what: InstrumentedAttribute[Any]) -> RelationRead: ...
def read(what: Any) -> Any:
    """Describe a read of a model's rows, or of a relation for `load`.

    Parameters are `bindparam("name")` in the conditions; `query` has typed ones.
    """
    if not isinstance(what, InstrumentedAttribute):
        return Read[Any](what)
    related = inspect(what.class_).relationships.get(what.key)
    if related is None:
        raise NotDescribable(f"{what} is a column", "name a model, or a relation such as `User.gym`")
    return RelationRead(related.mapper.class_, what)


def query(function: Callable[Q, Read[T]]) -> Read[T, Q]:
    """Make a description of a function that returns one; the function's parameters become those of the read.

    The function is called once, here, with placeholders: its result must not depend on their values.
    """
    parameters = python.signature(function).parameters
    described = cast("Callable[..., Read[T]]", function)(**{name: bindparam(name) for name in parameters})
    defaults = {name: one.default for name, one in parameters.items() if one.default is not one.empty}
    named = replace(described, name=function.__name__, parameters=tuple(parameters), defaults=defaults)
    return cast("Read[T, Q]", named)
