"""Names and arrays as SQL text, for queries that a driver's parameters cannot express."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBER = re.compile("-?[0-9]+")
# The whole row of a table of the source, which is `s` in every query, or of the target, which is `t`. Without the star,
# PostgreSQL would take the name for that of a column, and a table may have a column of any name.
SOURCE_ROW, TARGET_ROW = "s.*", "t.*"
_SPECIAL = re.compile(r'["\\]')


def beside_parameters(sql: str) -> str:
    """Double each `%` of names, which would count as a placeholder in a statement with parameters."""
    return sql.replace("%", "%%")


def array_items(ids: Iterable[str]) -> str:
    """Return ids in the form that they have between the braces of an array constant."""
    return ",".join(name if NUMBER.fullmatch(name) else '"' + _SPECIAL.sub(r"\\\g<0>", name) + '"' for name in ids)


def array(items: str, kind: str) -> str:
    """Return an array constant of this element type; `items` are from `array_items`."""
    # An array of another type than the column's is not hashed.
    return f"{literal(f'{{{items}}}')}::{kind}[]"
