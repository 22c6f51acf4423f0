"""The mapping of a copy whose target may have been the home of tables: their own values are not overwritten.

A first copy fills a column that the source lacks with its default. Once the target was the home of a table, the app may
have filled that column, and its values exist nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tatame_db.move.mapping import read_mapping
from tatame_db.move.record import Record, identity_of

if TYPE_CHECKING:
    from tatame_db.move.connection import Connections
    from tatame_db.move.mapping import Mapping


def read_mapping_to_target(connections: Connections) -> Mapping:
    """Read the mapping, without columns whose values are the target's own. Raises `SourceUnreadable`."""
    mapping = read_mapping(connections)
    came_back = Record(connections.target).tables_that_came_back(identity_of(connections.source))
    return replace(
        mapping,
        tables=[table.with_own_columns if table.name in came_back else table for table in mapping.tables],
    )
