"""The ids that both databases have handed out, so that the target never hands one of them out again.

The rows alone don't tell: the last ones may be deleted or rejected, and phones or invoices still know their ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.dialect import DIALECT, literal, public, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.move.catalogue import SourceUnreadable
from tatame_db.move.conversion import INTEGERS

if TYPE_CHECKING:
    from sqlalchemy import Table

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import Mapping, TableMap

LARGEST_IDS = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
# A row with an id that near to the largest one got it by hand: a sequence that continued after it would soon end.
_LAST_IDS = 1_000_000


@fact
class IdsExhausted(TatameError):
    """The source has handed out an id after which no other fits into the target's column."""

    table: str
    sequence: str
    last: int
    largest: int
    what = (
        "no new row of {table} could get an id: the sequence {sequence} of the old home stands at {last:,}, and the"
        " largest id that the other database can hold is {largest:,}"
    )
    fix = (
        "if no row has ever had ids that large, set that sequence back: `SELECT setval('{sequence}', …)`; otherwise"
        " make the id a `bigint` in the other database"
    )


def highest_ids(source: MoveConnection, mapping: Mapping) -> dict[str, int]:
    """Return the highest id of each table that the source has handed out to any row; 0 for none.

    Sequences are read as they are now, and rows as of the moment of the snapshot. Raises `SourceUnreadable`,
    `IdsExhausted`.
    """
    return {table.name: max(_of_rows(source, table), _of_sequences(source, table)) for table in mapping.tables}


def advance_sequence(target: MoveConnection, table: Table, highest: int) -> None:
    """Let a table continue after this id, its own highest and the last that its sequence handed out.

    The highest of its rows, except for some that are so high that hardly another one could follow. Never sets the
    sequence back. PostgreSQL does not roll it back either.
    """
    column, sequence = table.autoincrement_column, sequence_of(target, table)
    if column is not None and sequence:
        key, kind = quoted(column.name), str(column.type.compile(DIALECT)).lower()
        largest = f"(SELECT max({key}) FROM {public(table.name)} WHERE {key} <= {_highest_to_follow(kind)})"
        target.rows(
            f"SELECT setval({literal(sequence)}, ids.highest) FROM (SELECT greatest({highest}, {largest}) AS highest,"
            f" {_LAST} AS own FROM {sequence} AS q) AS ids WHERE ids.highest > ids.own"
        )


def advance_source(source: MoveConnection, target: MoveConnection, table: TableMap) -> None:
    """Let a table of the source continue after the last id that the target has handed out, and the highest of its rows.

    Never sets a sequence back. PostgreSQL does not roll it back either. Raises what `highest_of_target` raises.
    """
    highest = highest_of_target(target, table)
    if table.key.source is None or not highest:
        return
    sequences = source.rows(_SEQUENCES, {"table": public(table.name), "column": table.key.source.name})
    for schema, name, *_ in sequences:
        own = f"{quoted(schema)}.{quoted(name)}"
        source.rows(
            f"SELECT setval({literal(own)}, least({highest}, p.seqmax)) FROM {own} AS q JOIN pg_sequence AS p"
            f" ON p.seqrelid = {literal(own)}::regclass WHERE p.seqincrement > 0 AND {highest} > {_LAST}"
        )


def highest_of_target(target: MoveConnection, table: TableMap) -> int:
    """Return the last id that the target has handed out, or the highest of its rows that the source can continue after.

    0 if there is none. Raises `IdsExhausted` if no other one fits into the column of the source.
    """
    key = table.key
    if key.source is None or key.type not in LARGEST_IDS:
        return 0
    kind = key.source.kind if key.source.kind in LARGEST_IDS else key.type
    most = min(_highest_to_follow(kind), _highest_to_follow(key.type))
    [highest] = target.row(
        f"SELECT coalesce(max({key.target_value}), 0) FROM {table.target_sql} WHERE {key.target_value} <= {most}"
    )
    if sequence := sequence_of(target, table.table):
        [last] = target.row(f"SELECT {_LAST} FROM {sequence} AS q")
        if last >= LARGEST_IDS[kind]:
            raise IdsExhausted(table=table.name, sequence=sequence, last=last, largest=LARGEST_IDS[kind])
        highest = max(highest, last)
    return int(highest)


def sequence_of(target: MoveConnection, table: Table) -> str | None:
    """Return the name of the sequence of a table as SQL; `None` if it has none."""
    column = table.autoincrement_column
    if column is None:
        return None
    [name] = target.row(f"SELECT pg_get_serial_sequence({literal(public(table.name))}, {literal(column.name)})")
    return None if name is None else str(name)


def next_id(target: MoveConnection, sequence: str) -> int:
    """Return the id that a sequence hands out next, unless another session is faster."""
    [following] = target.row(f"SELECT {_LAST} + 1 FROM {sequence} AS q")
    return int(following)


# The id that a sequence handed out last.
_LAST = "CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END"


def _of_rows(source: MoveConnection, table: TableMap) -> int:
    """Return the largest id of all rows, with the rejected ones, after which the target can continue."""
    key, rows = table.key, table.with_all_rows.source_sql
    if key.source is None or key.type not in LARGEST_IDS:
        return 0
    value = key.source_value
    if key.source.kind not in INTEGERS:
        rows, value = f"(SELECT ({key.compared})::bigint AS id FROM {rows}) AS ids", "ids.id"
    [largest] = source.row(f"SELECT max({value}) FROM {rows} WHERE {value} <= {_highest_to_follow(key.type)}")
    return largest or 0


def _highest_to_follow(kind: str) -> int:
    """Return the highest id of a row after which a sequence of this type may continue."""
    return LARGEST_IDS[kind] - min(_LAST_IDS, LARGEST_IDS[kind] // 100)


def _of_sequences(source: MoveConnection, table: TableMap) -> int:
    key = table.key.source
    largest = LARGEST_IDS.get(table.key.type)
    if table.source is None or key is None or largest is None:
        return 0
    sequences = source.rows(_SEQUENCES, {"table": public(table.source.name), "column": key.name})
    if unreadable := [f"{schema}.{name}" for schema, name, readable, *_ in sequences if not readable]:
        [role] = source.row("SELECT current_user")
        raise SourceUnreadable(role=role, forbidden=unreadable)
    highest = 0
    for schema, name, _, increment, start in sequences:
        sequence = f"{quoted(schema)}.{quoted(name)}"
        [last, is_called] = source.row(f"SELECT {_LAST}, q.is_called FROM {sequence} AS q")
        # One that counts down begins with its highest id.
        handed_out = last if increment > 0 else start if is_called else 0
        if handed_out >= largest:
            raise IdsExhausted(table=table.name, sequence=sequence, last=handed_out, largest=largest)
        highest = max(highest, handed_out)
    return highest


# The sequences that belong to a column, and those that its default uses.
_SEQUENCES = """
SELECT n.nspname, q.relname, has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(q.oid, 'SELECT'),
    p.seqincrement, p.seqstart
FROM pg_attribute a
JOIN pg_class q ON q.relkind = 'S' AND q.oid IN (
    SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
    UNION ALL
    SELECT d.refobjid FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
    WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum AND d.refclassid = 'pg_class'::regclass
)
JOIN pg_sequence p ON p.seqrelid = q.oid
JOIN pg_namespace n ON n.oid = q.relnamespace
WHERE a.attrelid = %(table)s::regclass AND a.attname = %(column)s
ORDER BY 1, 2
"""
