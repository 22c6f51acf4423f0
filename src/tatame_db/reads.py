"""Descriptions of reads: made once from the models, each one statement, whatever it loads."""

from __future__ import annotations

import inspect as python
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

import msgspec
from sqlalchemy import BindParameter, Text, bindparam, func, inspect, literal_column, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.util import ClauseAdapter
from typing_extensions import ParamSpec

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.lane import (
    DIALECT,
    ForAsyncio,
    InStep,
    Statement,
    fetch,
    fetch_for_asyncio,
    is_in_step,
    stream,
    stream_for_asyncio,
)
from tatame_db.rows import python_type, row_type
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from sqlalchemy import ColumnElement, ScalarSelect, Select

T = TypeVar("T")
Model = TypeVar("Model", bound=Base)
P = ParamSpec("P", default=...)
Q = ParamSpec("Q")

KEPT_STATEMENTS = 256

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
class Related:
    """Which rows of a model, or of a relation, and what of them; each step gives a new description."""

    model: type[Base]
    attribute: Any = None
    """The relation, such as `User.gym`; none for the outermost rows."""
    filters: tuple[ColumnElement[bool], ...] = ()
    orders: tuple[Any, ...] = ()
    count: int | BindParameter[int] | None = None
    skip: int | BindParameter[int] | None = None
    chosen: tuple[str, ...] = ()
    relations: tuple[Related, ...] = ()

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

    def load(self, *relations: InstrumentedAttribute[Any] | Related) -> Self:
        """Bring these relations along: as they are, or as `read(Model.relation)` describes them."""
        added = tuple(one if isinstance(one, Related) else read(one) for one in relations)
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

    def selected(self, entity: Any) -> tuple[list[Any], list[Any]]:
        """Return what is selected from the model or an alias of it: its columns, and its relations as JSON."""
        return [getattr(entity, name) for name in self.names], [one.as_json(entity) for one in self.relations]

    def narrowed(self, statement: Select[Any], adapt: Callable[[Any], Any]) -> Select[Any]:
        """Add conditions and order."""
        return statement.where(*map(adapt, self.filters)).order_by(*map(adapt, self.orders))

    def as_json(self, parent: Any) -> ScalarSelect[Any]:
        """Write the related rows as one JSON value for each row of the parent.

        A subquery in the SELECT list, and not a LATERAL join: it runs for the rows that LIMIT left, after sorting.
        """
        self._check_json()
        alias = aliased(self.model)
        adapter = ClauseAdapter(inspect(alias).selectable)
        columns, relations = self.selected(alias)
        rows = select(func.json_build_array(*columns, *relations).label("row"))
        rows = rows.where(getattr(parent, self.relation).of_type(alias)).correlate(parent)
        rows = self.narrowed(rows, lambda part: adapter.traverse(inspect(part).__clause_element__()))
        rows = rows.limit(_literal(self.count)).offset(_literal(self.skip))
        if not self.is_list:
            return rows.scalar_subquery()
        found = rows.subquery()
        empty: ColumnElement[Any] = literal_column("'[]'::json")
        return select(func.coalesce(func.json_agg(found.c.row), empty)).correlate(parent).scalar_subquery()

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
    make: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Read(Related, Generic[T, P]):
    """What to read, in one statement that is compiled once; `read` and `query` make it.

    Each way to run it takes a database, or a session or connection whose transaction it joins, and then the
    parameters. It returns at once on `SyncDatabase`, `Session` and `Connection`, and is to be awaited on the others.
    """

    name: str = ""
    """What the log calls it."""
    parameters: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])

    @overload
    def first(self, on: InStep, /, *args: P.args, **kwargs: P.kwargs) -> T | None: ...
    @overload
    def first(self, on: ForAsyncio, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T | None]: ...
    def first(self, on: InStep | ForAsyncio, /, *args: Any, **kwargs: Any) -> Any:
        """Return the first row, or `None`."""
        return self._run(on, lambda rows: rows[0] if rows else None, args, kwargs, at_most=1)

    @overload
    def one(self, on: InStep, /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def one(self, on: ForAsyncio, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...
    def one(self, on: InStep | ForAsyncio, /, *args: Any, **kwargs: Any) -> Any:
        """Return the only row; raises `NotOneRow`."""
        return self._run(on, self._the_only, args, kwargs, at_most=2)

    @overload
    def all(self, on: InStep, /, *args: P.args, **kwargs: P.kwargs) -> list[T]: ...
    @overload
    def all(self, on: ForAsyncio, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, list[T]]: ...
    def all(self, on: InStep | ForAsyncio, /, *args: Any, **kwargs: Any) -> Any:
        """Return all rows."""
        statement, values = self._prepared(args, kwargs)
        return fetch(on, statement, values) if is_in_step(on) else fetch_for_asyncio(on, statement, values)

    @overload
    def stream(self, on: InStep, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]: ...
    @overload
    def stream(self, on: ForAsyncio, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...
    def stream(self, on: InStep | ForAsyncio, /, *args: Any, **kwargs: Any) -> Any:
        """Yield the rows, a batch of which is in memory at a time."""
        statement, values = self._prepared(args, kwargs)
        return stream(on, statement, values) if is_in_step(on) else stream_for_asyncio(on, statement, values)

    @overload
    def explain(self, on: InStep, /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    @overload
    def explain(self, on: ForAsyncio, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, str]: ...
    def explain(self, on: InStep | ForAsyncio, /, *args: Any, **kwargs: Any) -> Any:
        """Run it and return the server's plan, with times and rows."""
        statement, values = self._prepared(args, kwargs)
        explained = Statement(f"EXPLAIN {statement.name}", f"EXPLAIN (ANALYZE, BUFFERS) {statement.sql}", str)
        if is_in_step(on):
            return "\n".join(fetch(on, explained, values))
        return _finished("\n".join, fetch_for_asyncio(on, explained, values))

    def _run(
        self, on: Any, finish: Callable[[list[Any]], Any], args: Any, kwargs: dict[str, Any], *, at_most: int
    ) -> Any:
        statement, values = self._prepared(args, kwargs, at_most)
        if is_in_step(on):
            return finish(fetch(on, statement, values))
        return _finished(finish, fetch_for_asyncio(on, statement, values))

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
        compiled = self._compiled
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
            compiled = self._compiled
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
        columns, relations = self.selected(self.model)
        # As text, because the driver would parse what is JSON, and slower.
        statement: Any = select(*columns, *(sql_cast(one, Text) for one in relations)).select_from(self.model)
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
            self._maker(),
        )

    def _maker(self) -> Callable[..., Any]:
        make = self.row_type
        width = len(self.names)
        decoders = [msgspec.json.Decoder(one.field_type).decode for one in self.relations]
        if not decoders:
            return cast("Callable[..., Any]", make)

        def make_with_relations(*values: Any) -> Any:
            related = zip(decoders, values[width:], strict=True)
            return make(*values[:width], *[None if text is None else decode(text) for decode, text in related])

        return make_with_relations


async def _finished(finish: Callable[[list[Any]], Any], rows: Coroutine[Any, Any, list[Any]]) -> Any:
    return finish(await rows)


@overload
def read(what: type[Model]) -> Read[Model]: ...
@overload
def read(what: InstrumentedAttribute[Any]) -> Related: ...
def read(what: Any) -> Any:
    """Describe a read of a model's rows, or of a relation for `load`.

    Parameters are `bindparam("name")` in the conditions; `query` has typed ones.
    """
    if not isinstance(what, InstrumentedAttribute):
        return Read[Any](what)
    related = inspect(what.class_).relationships.get(what.key)
    if related is None:
        raise NotDescribable(f"{what} is a column", "name a model, or a relation such as `User.gym`")
    return Related(related.mapper.class_, what)


def query(function: Callable[Q, Read[T]]) -> Read[T, Q]:
    """Make a description of a function that returns one; the function's parameters become those of the read.

    The function is called once, here, with placeholders: its result must not depend on their values.
    """
    parameters = python.signature(function).parameters
    described = cast("Callable[..., Read[T]]", function)(**{name: bindparam(name) for name in parameters})
    defaults = {name: one.default for name, one in parameters.items() if one.default is not one.empty}
    named = replace(described, name=function.__name__, parameters=tuple(parameters), defaults=defaults)
    return cast("Read[T, Q]", named)
