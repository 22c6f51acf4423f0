"""The statements of a read: made at its first call, for each combination of parameters that are None."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tatame_db.queries.children import compile_list, shared_key
from tatame_db.queries.clauses import MAX_COUNT, checked_count
from tatame_db.queries.compile import LIMITS, CompiledRead, compile_count, compile_exists, compile_rows
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import ReadInvalid
from tatame_db.queries.keyset import after_condition, sort_columns, total_order, value_name, values_of_row
from tatame_db.queries.parameters import parameter_name
from tatame_db.queries.placed import compile_levels, differs, needs_levels, placed
from tatame_db.queries.repeat import may_repeat

if TYPE_CHECKING:
    from tatame_db.queries.description import RelationRead

Purpose: TypeAlias = Literal["first", "one", "all", "stream", "count", "exists", "explain"]

NO_VALUES: dict[str, Any] = {}

MAX_STATEMENTS = 256
"""How many statements of one read are cached: each pair of limit and offset has its own."""

# `one` reads a second row to know that there is none.
MOST_ROWS: dict[str, int] = {"first": 1, "one": 2}


class Statements:
    """The statements of a description, for calls in which no parameter of it is None."""

    def __init__(self, description: RelationRead, name: str, *, on_citus: bool = False) -> None:
        self.description = description
        self.is_for_citus = on_citus
        self.differs = differs(description)
        """Whether they have another form on Citus."""
        self.name = name
        self.cached: dict[tuple[Any, ...], Statement[Any]] = {}
        self._compiled: dict[tuple[str, frozenset[str]], CompiledRead] = {}
        self._fixed: dict[str, tuple[Statement[Any], CompiledRead]] = {}
        """The statements that are the same in each call."""
        self._may_repeat = may_repeat(description)
        numbers = (description.size, description.skip, description.page_number)
        self._is_fixed = description.last_row is None and not any(map(parameter_name, numbers))

    @cached_property
    def on_citus(self) -> Statements:
        """The statements of the same description for a database with Citus."""
        return Statements(self.description, self.name, on_citus=True) if self.differs else self

    def prepare(self, purpose: Purpose, values: dict[str, Any]) -> tuple[Statement[Any], dict[str, Any]]:
        """Return the statement for a purpose, with its limits written out, and the values to send with it."""
        known = self._fixed.get(purpose)
        if known is not None:
            return known[0], known[1].bind(values, self.name)
        if purpose in ("count", "exists"):
            last, count, skip = NO_VALUES, None, None
        else:
            last = self._last_values(values)
            count, skip = self._limits(purpose, values)
        nulls = frozenset(name for name, value in last.items() if value is None)
        compiled = self._compiled.get((purpose, nulls)) or self._compile(purpose, nulls, last)
        statement = self.cached.get((purpose, nulls, count, skip))
        if statement is None:
            limits = "" if count is None else f"LIMIT {count}"
            limits += f"\nOFFSET {skip}" if skip else ""
            statement = Statement(
                self.name,
                compiled.sql.replace(LIMITS, limits).rstrip(),
                compiled.make_row,
                may_repeat=self._may_repeat,
                make_rows=compiled.make_rows,
                differs=self.differs,
            )
            if len(self.cached) < MAX_STATEMENTS:
                self.cached[purpose, nulls, count, skip] = statement
        if self._is_fixed:
            self._fixed[purpose] = (statement, compiled)
        parameter = parameter_name(self.description.last_row)
        if last and parameter is not None:
            values = values | {value_name(parameter, name): value for name, value in last.items()}
        return statement, compiled.bind(values, self.name)

    def _last_values(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of the last row that the place of the next rows depends on."""
        last_row = self.description.last_row
        if last_row is None:
            return NO_VALUES
        parameter = parameter_name(last_row)
        row = last_row if parameter is None else values[parameter]
        return values_of_row(row, self.description, sort_columns(self.description))

    def _limits(self, purpose: str, values: dict[str, Any]) -> tuple[int | None, int | None]:
        """Return LIMIT and OFFSET, checked, because they become part of the SQL."""
        description = self.description
        count = self._number(description.size, values)
        skip = self._number(description.skip, values)
        if description.page_number is not None and count is not None:
            skip = ((self._number(description.page_number, values, least=1) or 1) - 1) * count
            if skip > MAX_COUNT:
                title = self._title(description.page_number)
                raise ReadInvalid(problem=f"{title} is a page after {MAX_COUNT:,} rows", advice="pass a smaller page")
        most = MOST_ROWS.get(purpose)
        if most is not None:
            count = most if count is None else min(count, most)
        return count, skip

    def _number(self, number: Any, values: dict[str, Any], *, least: int = 0) -> int | None:
        name = parameter_name(number)
        return number if name is None else checked_count(values[name], self._title(number), least=least)

    def _title(self, number: Any) -> str:
        name = parameter_name(number)
        return f"`page` of `{self.name}`" if name is None else f"the parameter `{name}` of `{self.name}`"

    def _compile(self, purpose: str, nulls: frozenset[str], last: dict[str, Any]) -> CompiledRead:
        description = placed(self.description) if self.is_for_citus else self.description
        if purpose == "count":
            compiled = compile_count(description)
        elif purpose == "exists":
            compiled = compile_exists(description)
        else:
            if description.is_paged:
                description = replace(description, order=total_order(description))
            if last:
                start = after_condition(description, sort_columns(description), last)
                description = replace(description, conditions=(*description.conditions, start))
            compiled = self._compile_rows(description, purpose)
        self._compiled[purpose, nulls] = compiled
        return compiled

    def _compile_rows(self, description: RelationRead, purpose: str) -> CompiledRead:
        """Compile to the form that costs least; measured with 20 to 1,000 rows."""
        if self.is_for_citus and needs_levels(description):
            return compile_levels(description)
        is_limited = purpose in MOST_ROWS or description.size is not None
        is_joined = not (is_limited and description.order)
        # A stream makes each row by itself, for one row nothing is shared, and joins cost as little or less.
        joins = is_joined and not all(relation.is_list for relation in description.relations)
        if purpose == "all" and not joins and any(map(shared_key, description.relations)):
            return compile_list(description)
        return compile_rows(description, joined=is_joined)
