"""Rows that stay on the target while the home of their table moves, and rows of other tables that refer to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.dialect import public, quoted
from tatame_db.move.back.errors import LeftRowsReferenced
from tatame_db.move.back.left import LeftRows, fitting_ids
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.back.flow import BackFlow
    from tatame_db.move.mapping import TableMap


def refuse_references(flow: BackFlow, tables: Collection[str], staying: Collection[str]) -> None:
    """Raise `LeftRowsReferenced` if rows of tables that stay refer to rows that only the target has of these tables.

    A target that follows the source deletes such rows.
    """
    found: list[str] = []
    for table in [flow.maps[name] for name in flow.tables if name in tables]:
        ids = _only_on_target(flow, table)
        for child in [flow.maps[name].table for name in flow.maps if ids and name in staying]:
            for key in [key for key in child.foreign_keys if key.column.table.name == table.name]:
                [refers] = flow.home.row(
                    f"SELECT EXISTS (SELECT FROM {public(child.name)} AS c JOIN {table.target_sql}"
                    f" ON c.{quoted(key.parent.name)} = t.{quoted(key.column.name)}"
                    f" WHERE {table.key.target_value} = ANY({array(array_items(ids), table.key.type)}))"
                )
                if refers:
                    found.append(f"{child.name}.{key.parent.name} to {table.name}")
    if found:
        raise LeftRowsReferenced(references=found)


def _only_on_target(flow: BackFlow, table: TableMap) -> set[str]:
    left = flow.left.get(table.name, LeftRows()).ids.keys()
    among = table.among(array_items(fitting_ids(table, left)))
    query = f"SELECT {table.source_id} FROM {table.with_all_rows.source_sql} WHERE {among}"
    return left - {key for (key,) in flow.follower.rows(query)} if left else set()
