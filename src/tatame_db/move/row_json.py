"""A row as `jsonb`, as SQL that never fails: it is NULL for a row that `jsonb` cannot hold.

`jsonb` is narrower than `json`, which stores whatever follows the grammar: it has no character 0, no half of a
surrogate pair, no number that `numeric` cannot hold, and a limited depth and size. Where it is in doubt, the expression
is NULL: `tatame_move.rejects` has each row as text too, so that nothing is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal
from tatame_db.move.sql import SOURCE_ROW, TARGET_ROW

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move.catalogue import SourceTable

ROW_AS_TEXT = f"({SOURCE_ROW})::text"
"""A whole row of the source as PostgreSQL writes it, which its own type reads back exactly."""

# `jsonb` holds 256 MB, and the text of JSON 1 GB. A list of small numbers takes six times as many bytes in `jsonb` as
# in its text, and a control character as many in JSON as in the row.
_MAX_BYTES = 40_000_000
# As stored, and so perhaps compressed, to a 255th at best.
_SURELY_SMALL_BYTES = 30_000
# A server of the usual stack accepts a depth of some thousands; this is the number of all lists and objects.
_MAX_CONTAINERS = 2_000
_ESCAPE = r"\u"
_ESCAPED_BACKSLASH = r"\\\\"
_SURROGATE_PAIR = r"\\u[dD][89abAB][[:xdigit:]]{2}\\u[dD][c-fC-F][[:xdigit:]]{2}"
# In what is left without escaped backslashes and whole pairs: the character 0, half a pair, a number with a large
# exponent, or one with very many digits.
_UNSTORABLE = r"\\u0000|\\u[dD][89a-fA-F]|[0-9][eE][+-]?[0-9]{4}|[0-9]{255}"


def jsonb_of(row: str, json: str, jsonb: str, kinds: Iterable[str]) -> str:
    """Return `jsonb` where that cannot fail, and NULL elsewhere.

    `row` is the row itself, `json` and `jsonb` are expressions of these types, and `kinds` the types of its columns.
    """
    text = f"({json})::text"
    conditions = [
        f"CASE WHEN pg_column_size({row}) <= {_SURELY_SMALL_BYTES} THEN true"
        f" WHEN octet_length(({row})::text) > {_MAX_BYTES} THEN false"
        f" ELSE octet_length({text}) <= {_MAX_BYTES} END"
    ]
    if any(map(_may_hold_json, kinds)):
        conditions.append(_is_storable(text))
    # A CASE evaluates its conditions one after the other, which AND does not promise.
    whens = " ".join(f"WHEN NOT ({condition}) THEN NULL" for condition in conditions)
    return f"CASE {whens} ELSE {jsonb} END"


def row_as_jsonb(table: SourceTable) -> str:
    """Return a whole row of a table of the source as `jsonb`."""
    return _row_as_jsonb(SOURCE_ROW, [column.kind for column in table.columns.values()])


def target_row_as_jsonb(kinds: Iterable[str]) -> str:
    """Return a whole row of a table of the target, whose columns have these types, as `jsonb`."""
    return _row_as_jsonb(TARGET_ROW, kinds)


def _row_as_jsonb(row: str, kinds: Iterable[str]) -> str:
    return jsonb_of(row, f"to_json({row})", f"to_jsonb({row})", kinds)


def _may_hold_json(kind: str) -> bool:
    """Return whether values of a type may contain `json`; a type of the source's own, which has a schema, may."""
    return kind in ("json", "json[]") or "." in kind


def _is_storable(text: str) -> str:
    containers = f"length({text}) - length(translate({text}, '[{{', ''))"
    without_pairs = text
    for pattern in (_ESCAPED_BACKSLASH, _SURROGATE_PAIR):
        without_pairs = f"regexp_replace({without_pairs}, {literal(pattern)}, '', 'g')"
    # Another encoding may have no character for an escape.
    foreign = f"current_setting('server_encoding') <> 'UTF8' AND strpos({text}, {literal(_ESCAPE)}) > 0"
    return f"{containers} <= {_MAX_CONTAINERS} AND NOT ({without_pairs} ~ {literal(_UNSTORABLE)}) AND NOT ({foreign})"
