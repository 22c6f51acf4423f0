"""Search: the rows in which every word occurs, without case and accents, in any of several columns."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Function,
    Integer,
    SmallInteger,
    Text,
    and_,
    false,
    func,
    literal,
    literal_column,
    or_,
    text,
)
from sqlalchemy.sql.elements import quoted_name

from tatame_db.database.dialect import SCHEMA, quoted
from tatame_db.studio import folding
from tatame_db.studio.errors import BadInput, OutOfRange
from tatame_db.studio.filters import escape_pattern
from tatame_db.studio.kinds import kind_of
from tatame_db.studio.names import label_columns, name_expression
from tatame_db.studio.rows import Selection, estimate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

MAX_CHARACTERS = 200
MAX_WORDS = 10
MAX_COLUMNS = 16
_SMALL_TABLE_BYTES = 8_000_000
"""A table of this size is read within some milliseconds."""
_COMMON_SHARE = 0.25
_COMMON_SHARE_OF_SEVERAL = 0.5
"""Of a product of at least a half, about a third of the rows has all words, however they depend on each other."""
_TRIGRAM = re.compile(r"\w{3}")
"""A trigram index serves words with three letters or digits in a row."""
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_SECRET = re.compile(r"passw|secret|token|hash|salt|api_?key|private_?key", re.IGNORECASE)
_PHONE = re.compile(r"phone|mobile|whatsapp|telefone|celular", re.IGNORECASE)
_PHONE_PUNCTUATION = " -().+/"
_PHONE_DIGITS = 4


# --- The words --------------------------------------------------------------------------------------------------------


def words_of(typed: str) -> list[str]:
    """Split a search into its words. Raises `BadInput`, `OutOfRange`."""
    if "\0" in typed:
        raise BadInput(problem="the search contains a NUL character, which no text in PostgreSQL has")
    if len(typed) > MAX_CHARACTERS:
        raise OutOfRange(container="a search", noun="characters", number=len(typed), maximum=MAX_CHARACTERS)
    words = list(dict.fromkeys(word for word in typed.split() if folding.folded(word)))
    if len(words) > MAX_WORDS:
        raise OutOfRange(container="a search", noun="words", number=len(words), maximum=MAX_WORDS)
    return words


def text_columns(table: Table) -> list[Column[Any]]:
    """Return the columns that a search without an index reads: texts that are no secrets, the first of many."""
    return [column for column in table.columns if kind_of(column) == "text" and not is_secret(column)][:MAX_COLUMNS]


def is_secret(column: Column[Any]) -> bool:
    """Return whether the name of a column looks like that of a secret."""
    return _SECRET.search(column.name) is not None


# --- An index ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextIndex:
    """A trigram index on one expression of a table."""

    name: str
    expression: str
    columns: list[str]
    function: str | None
    """The function of a text around the expression, which folds the words too."""
    table_rows: int | None
    """The number of rows of the table, if it was analyzed."""


# An expression is written for the search path of the session that reads it, so it is valid there.
_INDEXES = text(
    """
    SELECT c.relname AS name, defined.expression, columns.names,
        nullif(t.reltuples, CASE WHEN t.relkind IN ('r', 'm') THEN -1 ELSE 0 END)::bigint AS table_rows,
        EXISTS (
            SELECT FROM pg_proc WHERE oid = to_regprocedure(substring(defined.expression FROM :call) || '(text)')
            AND provolatile = 'i' AND prorettype = 'text'::regtype AND has_function_privilege(oid, 'EXECUTE')
        ) AS folds
    FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_opclass o ON o.oid = x.indclass[0]
    JOIN pg_class t ON t.oid = x.indrelid
    CROSS JOIN LATERAL (SELECT pg_get_indexdef(x.indexrelid, 1, true) AS expression) AS defined
    CROSS JOIN LATERAL (
        SELECT array_agg(CAST(a.attname AS text) ORDER BY a.attnum) AS names,
            bool_and(has_column_privilege(x.indrelid, a.attnum, 'SELECT')) AS readable
        FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = x.indrelid AND d.refobjsubid > 0
    ) AS columns
    WHERE x.indrelid = to_regclass(:table) AND o.opcname = 'gin_trgm_ops' AND x.indnkeyatts = 1 AND x.indkey[0] = 0
    AND x.indisvalid AND x.indpred IS NULL AND columns.readable
    ORDER BY cardinality(columns.names) DESC, c.relname LIMIT 1
    """.replace("::", r"\:\:")
)
_IS_SMALL = text(
    "SELECT count(*) > 0 FROM pg_class WHERE oid = to_regclass(:table) AND relkind IN ('r', 'm', 'p')"
    " AND has_table_privilege(oid, 'SELECT') AND CASE relkind WHEN 'p'"
    " THEN (SELECT sum(pg_table_size(relid)) FROM pg_partition_tree(oid)) ELSE pg_table_size(oid) END <= :bytes"
)


async def text_index(connection: AsyncConnection, table: Table) -> TextIndex | None:
    """Find the trigram index over the most columns of a table, whatever its name."""
    parameters = {"table": _qualified(table), "call": f"^{_CALL.pattern}"}
    found = (await connection.execute(_INDEXES, parameters)).first()
    if found is None:
        return None
    function = outer_function(found.expression) if found.folds else None
    return TextIndex(found.name, found.expression, found.names, function, found.table_rows)


async def is_small(connection: AsyncConnection, table: Table) -> bool:
    """Return whether a search may read the whole table without a word about it."""
    return bool(await connection.scalar(_IS_SMALL, {"table": _qualified(table), "bytes": _SMALL_TABLE_BYTES}))


async def is_quick(connection: AsyncConnection, table: Table) -> bool:
    """Return whether a search in the table is worth a try while the user types."""
    return await is_small(connection, table) or await text_index(connection, table) is not None


def _qualified(table: Table) -> str:
    return f"{quoted(table.schema or SCHEMA)}.{quoted(table.name)}"


_CALL = re.compile(r'((?:[\w$]+|"(?:[^"]|"")+")(?:\.(?:[\w$]+|"(?:[^"]|"")+"))?)\(')
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|[()]""")


def outer_function(expression: str) -> str | None:
    """Return the name of the function whose call is the whole expression."""
    call = _CALL.match(expression)
    if call is None:
        return None
    depth = 0
    for token in _TOKEN.finditer(expression, call.end() - 1):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return call[1] if token.end() == len(expression) else None
    return None


# --- The condition ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """A search in a table: its condition, and how PostgreSQL can find the rows."""

    condition: ColumnElement[bool]
    columns: list[str]
    index: str | None
    words: int
    is_served: bool
    """Whether the index serves at least one of the words."""
    candidates: ColumnElement[bool]
    """The condition, or the part of it for which PostgreSQL reads the index."""
    table_rows: int | None = None


async def read_search(connection: AsyncConnection, table: Table, typed: str) -> Search | None:
    """Read a search as it was typed; `None` if it has no word. Raises `BadInput`, `OutOfRange`."""
    words = words_of(typed)
    if not words:
        return None
    index = await text_index(connection, table)
    alphabet = await _alphabet(connection)
    is_served = index is not None and any(_TRIGRAM.search(word) for word in words)
    if index and is_served:
        names, matches = index.columns, _in_index(index, words, alphabet)
    else:
        columns = [table.columns[name] for name in index.columns] if index else text_columns(table)
        names, matches = [column.name for column in columns], _in_columns(columns, words, alphabet)
    key = _key_is(table, typed.strip())
    condition = and_(*matches) if key is None else or_(and_(*matches), key)
    return Search(
        condition=condition,
        columns=names,
        index=index.name if index else None,
        words=len(words),
        is_served=is_served,
        candidates=condition,
        table_rows=index.table_rows if index else None,
    )


async def read_name_search(connection: AsyncConnection, table: Table, typed: str) -> Search | None:
    """Read a search in the names of the rows of a table, which references to them show; `None` if nothing names them.

    Raises `BadInput`, `OutOfRange`.
    """
    words, naming = words_of(typed), {column.name for columns in label_columns(table) for column in columns}
    if not words or not naming:
        return None
    alphabet = await _alphabet(connection)
    condition = and_(*_in_text(name_expression(table), words, alphabet))
    index, served = await text_index(connection, table), [word for word in words if _TRIGRAM.search(word)]
    if not index or not served or not naming.issubset(index.columns):
        return Search(condition, sorted(naming), None, len(words), is_served=False, candidates=condition)
    # The index may also hold texts that are no names, in which a word is frequent.
    candidates = and_(*_in_index(index, served, alphabet))
    both = and_(condition, candidates)
    return Search(
        both,
        sorted(naming),
        index.name,
        len(served),
        is_served=True,
        candidates=candidates,
        table_rows=index.table_rows,
    )


async def _alphabet(connection: AsyncConnection) -> folding.Alphabet:
    """Return the letters that the database can store, which the server has named when the session began."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    return folding.Alphabet(driver.info.parameter_status("server_encoding") or "UTF8")


def _in_index(index: TextIndex, words: list[str], alphabet: folding.Alphabet) -> list[ColumnElement[bool]]:
    whole: ColumnElement[str] = literal_column(index.expression, Text)
    # PostgreSQL rejects a parameter with a letter that it cannot store.
    forms = [[form for form in _forms(word) if alphabet.has(form)] for word in words]
    return [or_(false(), *(whole.ilike(_pattern(index, form), escape="\\") for form in either)) for either in forms]


def _pattern(index: TextIndex, word: str) -> ColumnElement[str]:
    """Write a pattern in which PostgreSQL folds the word as it folded the texts, before it plans the query."""
    if index.function is None:
        return literal(f"%{escape_pattern(word)}%", Text)
    # Its name comes from the server, with its schema and quotes.
    folded: Function[str] = Function(quoted_name(index.function, quote=False), literal(word, Text), type_=Text)
    return literal("%", Text) + func.regexp_replace(folded, r"([\\%_])", r"\\\1", "g", type_=Text) + literal("%", Text)


def _in_columns(columns: list[Column[Any]], words: list[str], alphabet: folding.Alphabet) -> list[ColumnElement[bool]]:
    if not columns:
        return [false()]
    phones = [func.translate(column, _PHONE_PUNCTUATION, "") for column in columns if _PHONE.search(column.name)]
    return _in_text(func.concat_ws(" ", *columns, *phones), words, alphabet)


def _in_text(whole: ColumnElement[Any], words: list[str], alphabet: folding.Alphabet) -> list[ColumnElement[bool]]:
    matches = whole.op("~*", is_comparison=True)
    expressions = [[folding.expression(written, alphabet) for written in _forms(word)] for word in words]
    return [or_(false(), *(matches(found) for found in either if found is not None)) for either in expressions]


def _forms(word: str) -> list[str]:
    """Return the word, and if it may be a phone number, the word without punctuation."""
    digits = word.translate(str.maketrans("", "", _PHONE_PUNCTUATION))
    return [word, digits] if digits != word and len(digits) >= _PHONE_DIGITS and digits.isdigit() else [word]


def _key_is(table: Table, typed: str) -> ColumnElement[bool] | None:
    """Write the condition that a number is the key of the row."""
    [*keys] = table.primary_key.columns
    if len(keys) != 1 or not isinstance(keys[0].type, Integer) or not _WHOLE_NUMBER.fullmatch(typed):
        return None
    bits = 63 if isinstance(keys[0].type, BigInteger) else 15 if isinstance(keys[0].type, SmallInteger) else 31
    return keys[0] == int(typed) if -(2**bits) <= int(typed) < 2**bits else None


# --- How the rows are found -------------------------------------------------------------------------------------------


def with_condition(selection: Selection, condition: ColumnElement[bool]) -> Selection:
    """Add a condition to a selection."""
    both = condition if selection.condition is None else and_(selection.condition, condition)
    return replace(selection, condition=both)


@asynccontextmanager
async def by_index(connection: AsyncConnection, whole: Selection, search: Search) -> AsyncGenerator[None]:
    """Make PostgreSQL use the index, unless so many rows match that reading the table finds enough of them at once.

    Left alone it would also read the table if it expects many matches and there are none, because it takes the words
    as independent of each other: a search for two frequent names that no person has together would take seconds.
    """
    expected = await estimate(connection, whole)
    share = _COMMON_SHARE if search.words == 1 else _COMMON_SHARE_OF_SEVERAL
    if expected is not None and search.table_rows and expected >= share * search.table_rows:
        yield
        return
    await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    yield
    await connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
