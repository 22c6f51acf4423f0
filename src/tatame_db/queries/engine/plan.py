"""Statements in the form that libpq takes: numbered SQL, dumped parameters, and loaders for the rows of answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, TypeVar

import psycopg
from psycopg import postgres
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format

from tatame_db.database.session_state import changes_session
from tatame_db.queries.errors import ParameterInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import abc
    from psycopg.abc import AdaptContext, Buffer
    from psycopg.pq.abc import PGresult

T = TypeVar("T")

# SQLAlchemy doubles each other `%`, and replaces `)` in names.
_PLACEHOLDER = re.compile(r"%(?:%|\(([^)]*)\)s)")
_INTEGER_CAST = re.compile(r"::(?:SMALLINT|INTEGER|BIGINT)\b(?:\[\])*", re.IGNORECASE)

_UNTYPED = 0
_INTEGERS = frozenset(postgres.types[name].oid for name in ("int2", "int4", "int8"))
_INTEGER_TYPES = _INTEGERS | {postgres.types[name].array_oid for name in ("int2", "int4", "int8")}

# The binary form of these types becomes the same Python value as their text. That of float4 has more digits, and that
# of enums and other types of a database is bytes.
_BINARY_NAMES = (
    *("bool", "int2", "int4", "int8", "float8", "numeric", "text", "varchar", "bpchar", "name", "bytea", "uuid"),
    *("date", "time", "timestamp", "timestamptz", "interval", "json", "jsonb"),
)
_BINARY_TYPES = frozenset(
    oid for name in _BINARY_NAMES for oid in (postgres.types[name].oid, postgres.types[name].array_oid)
)
# Their loaders remember the time zone of the session, which may change.
_ZONED_TYPES = frozenset((postgres.types["timestamptz"].oid, postgres.types["timestamptz"].array_oid))


@dataclass(frozen=True)
class Statement(Generic[T]):
    """SQL with named placeholders, and how the values of a row of its answer become what the caller receives."""

    name: str
    """The name in the log and in errors."""
    sql: str
    make_row: Callable[[Sequence[Any]], T]
    has_rows: bool = True
    """If it returns none, its answer is one number instead: of the rows that the server wrote."""
    may_repeat: bool = False
    """Whether it may run twice without effect: then it is sent again if its connection is lost."""
    make_rows: Callable[[list[Any]], list[T]] | None = None
    """Makes the rows of a whole answer of what `make_row` made, where a row of it has values for other rows."""
    differs: bool = False
    """Whether a database with Citus runs another form of it."""
    written_by_row: Callable[[Any], int] | None = None
    """Returns how many rows it wrote, of each row of an answer that consists of such numbers."""

    @cached_property
    def sql_bytes(self) -> bytes:
        """The SQL as bytes: psycopg's types accept `str` only as a literal."""
        return self.sql.encode()

    @cached_property
    def plan(self) -> Plan[T]:
        """The statement as libpq takes it."""
        return Plan(self)

    @cached_property
    def _may_change_session(self) -> bool:
        return changes_session(self.sql)

    def changes_session(self, values: Mapping[str, Any]) -> bool:
        """Return whether a call changes a setting for longer than its transaction, so that no other may follow it."""
        return self._may_change_session and changes_session(self.sql, values)

    def finished(self, rows: list[Any]) -> list[T]:
        """Return the rows of a whole answer, of what `make_row` made of each."""
        return rows if self.make_rows is None else self.make_rows(rows)

    def written(self, number: int | None) -> list[Any]:
        """Return the answer of a statement without rows; an unknown number is psycopg's -1 or libpq's `None`."""
        return [max(number or 0, 0)]

    def number_of_rows(self, rows: list[Any]) -> int:
        """Return how many rows it returned or, if it returns only their number, wrote; of what the caller receives."""
        if not self.has_rows:
            return sum(rows)
        return len(rows) if self.written_by_row is None else sum(map(self.written_by_row, rows))

    def row_factory(self, _: object) -> Callable[[Sequence[Any]], T]:
        """Return the maker of rows, in the form that psycopg expects."""
        return self.make_row


class Parameters(NamedTuple):
    """The parameters of a call, in the order of their numbers."""

    values: Sequence[Buffer | None]
    types: tuple[int, ...]
    """The types to send, 0 for those that the server infers. A statement is prepared once for each combination."""
    formats: Sequence[Format]

    def __repr__(self) -> str:
        """Show how many there are, without their values."""
        return f"<Parameters: {len(self.values)}>"


class Plan(Generic[T]):
    """A statement as libpq takes it. It holds no connection, and threads may share it."""

    def __init__(self, statement: Statement[T]) -> None:
        self.statement = statement
        self.name = statement.name
        self.make_row = statement.make_row
        self.has_rows = statement.has_rows
        self.may_repeat = statement.may_repeat
        sql, uses = _numbered(statement.sql)
        self.sql = sql.encode()
        """The SQL with `$1` in place of the first name, and so on."""
        self.names = tuple(uses)
        """The names of the parameters in the order of their numbers."""
        self._is_integer = [_is_integer(casts) for casts in uses.values()]
        # The binary form of an `int` has a type of the size of its value. As text, one prepared statement serves all.
        self._formats = [PyFormat.TEXT if integer else PyFormat.AUTO for integer in self._is_integer]

    def parameters(self, values: Mapping[str, Any]) -> Parameters:
        """Return the values to send; values of other names are ignored.

        Raises `ParameterInvalid` for a value that cannot be sent.
        """
        if not self.names:
            return _NO_PARAMETERS
        ordered = [values[name] for name in self.names]
        # A transformer serves one call at a time. Appending to a list and popping from it are atomic.
        transformer = _idle_transformer()
        try:
            dumped = transformer.dump_sequence(ordered, self._formats)
        except (psycopg.Error, ValueError, TypeError, OverflowError) as error:
            self._raise_invalid(ordered, error)
        types, formats = transformer.types or (), transformer.formats or ()
        _transformers.append(transformer)
        if any(types):
            types = tuple(
                _UNTYPED if integer and kind in _INTEGER_TYPES else kind
                for kind, integer in zip(types, self._is_integer, strict=True)
            )
        return Parameters(dumped, types, formats)

    def _raise_invalid(self, ordered: list[Any], reason: Exception) -> NoReturn:
        for name, value, wanted in zip(self.names, ordered, self._formats, strict=True):
            try:
                Transformer().dump_sequence([value], [wanted])
            except (psycopg.Error, ValueError, TypeError, OverflowError) as error:
                raise ParameterInvalid(name=self.name, parameter=name, problem=_problem(value, error)) from None
        raise reason


_NO_PARAMETERS = Parameters((), (), ())
_transformers: list[abc.Transformer] = []
"""Those that dump no parameters at the moment."""


def _idle_transformer() -> abc.Transformer:
    try:
        return _transformers.pop()
    except IndexError:
        return Transformer()


def _numbered(sql: str) -> tuple[str, dict[str, list[str]]]:
    """Return SQL with numbered placeholders, and the cast to an integer that follows each use of a name, or ""."""
    uses: dict[str, list[str]] = {}
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        cast = _INTEGER_CAST.match(sql, found.end())
        uses.setdefault(name, []).append(cast[0].upper() if cast else "")
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    return _PLACEHOLDER.sub(number, sql), uses


def _is_integer(casts: list[str]) -> bool:
    """Return whether the server infers an integer, or an array of them, from the one cast at each use."""
    return bool(casts[0]) and len(set(casts)) == 1


def _problem(value: Any, error: Exception) -> str:
    """Say why a value cannot be sent, without showing it: messages of psycopg and Python may contain it."""
    kind = type(value).__name__
    if isinstance(error, UnicodeEncodeError):
        return "contains half of a surrogate pair, which is not text"
    if isinstance(error, psycopg.DataError) and "NUL" in str(error):
        return "contains NUL, which PostgreSQL's text cannot hold"
    if isinstance(value, list) and isinstance(error, psycopg.DataError):
        return "is a list of different types"
    return f"is of type `{kind}`, which PostgreSQL has no type for, or has a value outside its range"


# --- Rows ------------------------------------------------------------------------------------------------------------


class Prepared:
    """A statement that one session of the server has prepared, and the loaders of its answers.

    Statements with equal SQL and equal types share it: an app may describe the same read in each request. The loaders
    serve every answer, because the server refuses to run a prepared statement whose columns have changed.
    """

    def __init__(self, name: bytes, connection: AdaptContext, result_format: Format = Format.TEXT) -> None:
        self.name = name
        self.result_format = result_format
        """The form to ask for: text, until an answer shows types whose binary form gives the same values."""
        self._connection = connection
        self._transformer: abc.Transformer | None = None

    def rows(self, plan: Plan[T], result: PGresult) -> list[T]:
        """Return the rows of an answer, or how many the statement wrote.

        Raises `psycopg.DataError` without an SQLSTATE for a value that Python cannot represent.
        """
        if not plan.has_rows:
            return plan.statement.written(result.command_tuples)
        if result.nfields == 0 or result.fformat(0) == Format.TEXT:
            # Loaders of text depend on settings of the session, so they live as long as one answer.
            self.result_format = binary_format(result)
            return load_rows(plan, self._connection, result)
        transformer = self._transformer
        if transformer is None:
            if any(result.ftype(column) in _ZONED_TYPES for column in range(result.nfields)):
                return load_rows(plan, self._connection, result)
            transformer = self._transformer = Transformer(self._connection)
            transformer.set_pgresult(result)
        else:
            transformer.set_pgresult(result, set_loaders=False)
        try:
            rows = transformer.load_rows(0, result.ntuples, plan.make_row)
        finally:
            # Otherwise a big answer stays in memory until the next call.
            transformer.set_pgresult(None, set_loaders=False)
        return plan.statement.finished(rows)


def load_rows(plan: Plan[T], connection: AdaptContext, result: PGresult) -> list[T]:
    """Return the rows of the answer to an unnamed statement, whose columns may differ from those of the last answer."""
    if not plan.has_rows:
        return plan.statement.written(result.command_tuples)
    transformer = Transformer(connection)
    transformer.set_pgresult(result)
    return plan.statement.finished(transformer.load_rows(0, result.ntuples, plan.make_row))


def binary_format(result: PGresult) -> Format:
    """Return the form to ask for in the next answer with the same columns."""
    types = {result.ftype(column) for column in range(result.nfields)}
    return Format.BINARY if types <= _BINARY_TYPES else Format.TEXT
