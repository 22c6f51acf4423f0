"""What the package knows of Citus: whether a database has it, and the forms of SQL that it runs.

A table of Citus is local, on every node (a reference table), or in parts on several (a distributed one). It refuses
subqueries that compare columns of a distributed table with those of a reference table around them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import JSON, Select, event, literal_column, select
from sqlalchemy.sql import operators, util, visitors
from sqlalchemy.sql.elements import BooleanClauseList, ColumnClause
from sqlalchemy.sql.selectable import Exists, ScalarSelect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import URL, ClauseElement, ColumnElement, Connection, Engine

HAS_CITUS = "EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus')"
"""SQL of whether the database has Citus. Its settings exist wherever the server has loaded its library."""

SEQUENTIAL = "set_config('citus.multi_shard_modify_mode', 'sequential', false)"
"""SQL that lets a session reach each node by one connection.

By several at once, Citus refuses a transaction that has read or changed a distributed table, and then changes a row
that its keys refer to.
"""

TRANSACTION_IN_SEQUENCE = "SET LOCAL citus.multi_shard_modify_mode = 'sequential'"
"""The same for a transaction, through a pooler."""

IS_LOADED = "current_setting('citus.version', true) IS NOT NULL"
"""SQL of whether the server has loaded the library: without it the tables of the extension look empty."""

_IN_SEQUENCE = f"""
SELECT set_config('citus.multi_shard_modify_mode', 'sequential', {{}}),
    set_config('citus.enable_local_execution', 'off', {{}})
WHERE {HAS_CITUS}"""
IN_SEQUENCE = _IN_SEQUENCE.format("true", "true")
"""Lets a transaction do on Citus what it does elsewhere: write whole tables, change them and analyze them. It is its
first statement, and changes nothing on other servers."""
SESSION_IN_SEQUENCE = _IN_SEQUENCE.format("false", "false")
"""The same for a session."""

_FIXED = "no_replacement_traverse"
_ATTRIBUTE = "has_citus_of_tatame"


_addresses: set[URL] = set()
"""Those of databases with Citus, whose errors are explained."""

_QUERY = re.compile(r"\s*(?:SELECT|WITH|INSERT|UPDATE|DELETE|MERGE|COPY|LOCK)\b", re.IGNORECASE)


def know(engine: Engine, *, has_citus: bool) -> None:
    """Note whether the database of an engine has Citus, as its newest connection found."""
    knew = knows_citus(engine.dialect)
    (_addresses.add if has_citus else _addresses.discard)(engine.url)
    setattr(engine.dialect, _ATTRIBUTE, has_citus)
    if has_citus and not knew:
        event.listen(engine, "before_execute", _rewrite, retval=True)
    elif knew and not has_citus:
        event.remove(engine, "before_execute", _rewrite)


def knows_citus(dialect: Any) -> bool | None:
    """Return whether the database of an engine's dialect has Citus; `None` before the first connection."""
    return getattr(dialect, _ATTRIBUTE, None)


def is_on_citus(address: URL) -> bool:
    """Return whether a connection of this process found Citus at an address."""
    return address in _addresses


def is_query(sql: str | None) -> bool:
    """Return whether a statement reads or writes rows; the commands explain those that change the schema."""
    return bool(_QUERY.match(sql or ""))


def _rewrite(_: Connection, statement: Any, parameters: Any, values: Any, __: Any) -> tuple[Any, Any, Any]:
    if _is_select(statement) and any(map(has_subquery, (*statement._where_criteria, *statement._raw_columns))):
        around = set(map(name_of, statement.get_final_froms()))
        statement = statement._generate()
        for part in ("_where_criteria", "_raw_columns", "_order_by_clauses"):
            clauses = getattr(statement, part)
            setattr(statement, part, type(clauses)(uncorrelated(clause, around) for clause in clauses))
    return statement, parameters, values


def has_subquery(clause: ClauseElement) -> bool:
    """Return whether a clause has an EXISTS, as that of `any` and `has`, or a subquery that is one value."""
    return any(isinstance(element, Exists | ScalarSelect) for element in visitors.iterate(clause))


def uncorrelated(clause: Any, around: Iterable[str]) -> Any:
    """Return a clause each subquery of which reads its rows without those of the tables around it, which are named.

    `EXISTS (SELECT FROM checkins WHERE user_id = users.id AND date > …)` becomes `EXISTS (SELECT FROM (SELECT DISTINCT
    user_id FROM checkins WHERE date > … OFFSET 0) c WHERE c.user_id = users.id)`. It has the same value for each row,
    NULLs included. Citus runs the inner subquery first, and joins with its rows. PostgreSQL by itself would do the
    same, and read all rows where an index finds one, so that it gets the first form.
    """
    if not has_subquery(clause):
        return clause

    def replaced(element: Any, **_: Any) -> Any:
        if not isinstance(element, Exists | ScalarSelect):
            return None
        return _replaced(select_of(element), set(around), is_exists=isinstance(element, Exists))

    return replace_elements(replaceable(clause), replaced)


def replaceable(clause: Any) -> Any:
    """Return a clause in which elements of the conditions of `any` can be replaced, which SQLAlchemy prevents."""
    return cast("Any", util)._deep_deannotate(clause, [_FIXED])


def select_of(element: Any) -> Any:
    """Return the SELECT of an EXISTS or of a value; `None` if it is none of its own, such as a union."""
    inner: Any = element.element
    while not _is_select(inner) and hasattr(inner, "element"):
        inner = inner.element
    return inner if _is_select(inner) else None


def replace_elements(clause: Any, replaced: Callable[..., Any]) -> Any:
    """Return a copy of a clause with other elements where `replaced` returns one."""
    return cast("Any", visitors).replacement_traverse(clause, {}, replaced)


def _elements(clause: Any) -> Iterator[Any]:
    return cast("Any", visitors).iterate(clause)  # type: ignore[no-any-return]  # as SQLAlchemy declares it


def _is_select(element: Any) -> bool:
    return isinstance(element, Select)


def _is_column(element: Any) -> bool:
    return isinstance(element, ColumnClause) and cast("Any", element).table is not None


def _replaced(inner: Any, around: set[str], *, is_exists: bool) -> Any:
    """Return the EXISTS or value of another form; `None` leaves the one that there is."""
    if inner is None:
        return None
    tables = _tables_of(inner, around)
    conditions = [part for criterion in inner._where_criteria for part in _parts(criterion)]
    around = around | tables.keys()
    inside = [uncorrelated(part, around) for part in conditions if _used(part) <= tables.keys()]
    outside = [uncorrelated(part, around) for part in conditions if not _used(part) <= tables.keys()]
    if not outside or not tables or _finds_one_row(outside, conditions, tables):
        return None
    others = () if is_exists else (*inner._raw_columns, *inner._order_by_clauses, *inner._group_by_clauses)
    columns = _columns([*outside, *others, *inner._having_criteria], tables)
    one: ColumnElement[Any] = literal_column("1")
    # Without OFFSET Citus would see through the subquery. Without DISTINCT it would send all rows to each node.
    rows: Any = select(*(columns.values() or [one])).select_from(*tables.values()).where(*inside).correlate(None)
    rows = rows.offset(literal_column("0"))
    if is_exists and not any(isinstance(column.type, JSON) for column in columns.values()):
        rows = rows.distinct()
    # Its tables are its own, even if an alias replaces the same table around it, hence the annotation.
    found = rows._annotate({_FIXED: True}).subquery()
    places = dict(zip(columns, found.c, strict=False))

    def moved(element: Any, **_: Any) -> Any:
        return places.get(_key(element)) if _is_column(element) else None

    def adapt(clause: Any) -> Any:
        return replace_elements(clause, moved)

    if is_exists and inner._limit_clause is None and not inner._group_by_clauses:
        return select(one).select_from(found).where(*map(adapt, outside)).correlate_except(found).exists()
    if is_exists or inner._having_criteria or inner._distinct:
        return None
    changed = select(*map(adapt, inner._raw_columns)).select_from(found).where(*map(adapt, outside))
    changed = changed.order_by(*map(adapt, inner._order_by_clauses)).group_by(*map(adapt, inner._group_by_clauses))
    changed = changed.limit(inner._limit_clause).offset(inner._offset_clause)
    return changed.correlate_except(found).scalar_subquery()


def _tables_of(inner: Any, around: set[str]) -> dict[str, Any]:
    """Return the tables that a subquery reads itself, by name."""
    if inner._correlate_except:
        return {name_of(table): plain(table) for table in inner._correlate_except}
    outer = set(map(name_of, inner._correlate)) or around
    return {name_of(table): plain(table) for table in inner.get_final_froms() if name_of(table) not in outer}


def _finds_one_row(outside: list[Any], conditions: list[Any], tables: dict[str, Any]) -> bool:
    """Return whether a subquery finds the one row that another one refers to, as that of `has`: Citus runs it.

    The row that it finds is in a table on every node.
    """
    if any(map(has_subquery, conditions)) or len(outside) != 1:
        return False
    sides = [side for side in outside[0].get_children() if _is_column(side)]
    keys = [side for side in sides if name_of(side.table) in tables and getattr(side, "primary_key", False)]
    refers = any(side.foreign_keys for side in sides if side not in keys)
    return getattr(outside[0], "operator", None) is operators.eq and len(keys) == 1 and refers


def _parts(clause: Any) -> Iterator[Any]:
    """Yield the conditions that all have to hold."""
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _parts(part)
    else:
        yield clause


def _columns(clauses: list[Any], tables: dict[str, Any]) -> dict[Any, Any]:
    """Return the columns of these tables that clauses use, by the names of both."""
    found: dict[Any, Any] = {}
    for clause in clauses:
        for element in _elements(clause):
            if _is_column(element) and name_of(element.table) in tables:
                found.setdefault(_key(element), plain(element))
    return found


def _used(clause: Any) -> set[str]:
    """Return the tables whose columns a clause uses, without those that its own subqueries read."""
    used: set[str] = set()
    own: set[str] = set()
    for element in _elements(clause):
        if _is_column(element):
            used.add(name_of(element.table))
        elif _is_select(element):
            own |= _tables_of(element, set()).keys() if element._correlate_except else set()
    return used - own


def plain(element: Any) -> Any:
    """Return an element without the annotations of the ORM."""
    return element._deannotate()


def name_of(table: Any) -> str:
    """Return the name of a table or alias in its statement; copies of an alias have the same."""
    return str(getattr(table, "fullname", None) or table.name)


def _key(column: Any) -> tuple[str, str]:
    return name_of(column.table), column.key
