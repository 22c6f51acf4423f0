"""Steps outside a transaction: they stay if another fails, so each is alone in its migration or can be repeated."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from alembic.script import Script
    from sqlalchemy import Connection

_BLOCK = "autocommit_block"
_REPEATABLE = {"create_index": "if_not_exists", "drop_index": "if_exists"}
_INVALID_INDEXES = text(
    "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND n.nspname NOT LIKE 'pg\\_%'"
    # An index of a partitioned table is invalid until each partition has one.
    " AND c.relkind = 'i' AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p"
    " WHERE p.index_relid = i.indexrelid AND p.pid <> pg_backend_pid()) ORDER BY 1"
)


@fact
class AutocommitMixed(TatameError):
    """A migration has other steps beside one outside a transaction."""

    files: list[str]
    what = "these migrations have other steps beside an `autocommit_block`: {files}"
    means = "Nothing was run: a step outside a transaction would stay if another step failed."
    fix = (
        "put each step of an `autocommit_block` into a migration of its own; only indexes with `if_not_exists` or"
        " `if_exists` can share a block"
    )


@fact
class IndexInvalid(TatameError):
    """A migration outside a transaction found or left invalid indexes, which no query uses."""

    revision: str
    indexes: list[str]
    what = "after migration {revision}, these indexes are invalid: {indexes}"
    means = "The migration is not recorded as applied."
    fix = "run `DROP INDEX CONCURRENTLY {first}` for each, then the command again"

    @property
    def first(self) -> str:
        """One of them, for the example."""
        return self.indexes[0]


def refuse_mixed(scripts: Iterable[Script]) -> None:
    """Raise `AutocommitMixed` if a step outside a transaction is not alone in its migration."""
    if mixed := [Path(script.path).name for script in scripts if _is_mixed(Path(script.path))]:
        raise AutocommitMixed(files=mixed)


def invalid_indexes(connection: Connection) -> list[str]:
    """Return the invalid indexes that no session is building."""
    return list(connection.scalars(_INVALID_INDEXES))


def _is_mixed(file: Path) -> bool:
    tree = ast.parse(file.read_bytes())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    ways = [function for function in functions if function.name in ("upgrade", "downgrade")]
    # In a function that `upgrade` calls, a block may come after any other step.
    elsewhere = [function for function in functions if function not in ways and _has_block(function)]
    return bool(elsewhere) or any(_has_block(way) and not _is_alone(way) for way in ways)


def _has_block(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr == _BLOCK for part in ast.walk(node))


def _is_alone(way: ast.FunctionDef) -> bool:
    steps = [step for step in way.body if not isinstance(step, ast.Pass) and not _is_docstring(step)]
    match steps:
        case [ast.With(items=items, body=body)] if any(_has_block(item) for item in items):
            return len(body) == 1 or all(map(_is_repeatable, body))
        case _:
            return False


def _is_docstring(step: ast.stmt) -> bool:
    return isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant)


def _is_repeatable(step: ast.stmt) -> bool:
    match step:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name), keywords=keywords)) if name in _REPEATABLE:
            return any(keyword.arg == _REPEATABLE[name] and _is_true(keyword.value) for keyword in keywords)
        case _:
            return _is_docstring(step)


def _is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True
