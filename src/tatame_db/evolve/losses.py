"""The data that a migration drops, counted before it runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.errors import TatameError, counted, fact
from tatame_db.evolve.failure import listed
from tatame_db.evolve.statements import QUALIFIED, statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_TABLES = re.compile(
    rf"(?:DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?|TRUNCATE\s+(?:TABLE\s+)?(?:ONLY\s+)?)"
    rf"(?P<names>{QUALIFIED}(?:\s*,\s*{QUALIFIED})*)",
    re.IGNORECASE,
)
_ALTERED = re.compile(rf"ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?(?P<table>{QUALIFIED})", re.IGNORECASE)
_COLUMN = re.compile(
    rf"\bDROP\s+(?!CONSTRAINT\b)(?:COLUMN\s+)?(?:IF\s+EXISTS\s+)?(?P<column>{QUALIFIED})", re.IGNORECASE
)
# What follows ALTER COLUMN … DROP.
_NO_COLUMN = {"default", "not", "identity", "expression"}


@fact
class DataLoss(TatameError):
    """A change would drop or rewrite data, which the caller did not accept."""

    change: str
    losses: list[str]
    what = "`tatame-db {change}` would lose data:\n{lines}"
    fix = "{advice}"

    @property
    def lines(self) -> str:
        """The losses, one a line."""
        return listed(self.losses)

    @property
    def advice(self) -> str:
        """How to accept the loss, or to avoid it."""
        if self.change == "push":
            return "accept the loss with `--accept-data-loss`, or keep the data of a renamed column with `--rename`"
        return f"back the data up, then accept the loss with `tatame-db {self.change} --accept-data-loss`"


def loss_of_table(table: str, rows: int, verb: str = "is dropped") -> str:
    """Describe the loss of the rows of a table."""
    return f"table {table} {verb}, with {counted(rows, 'row')}"


def loss_of_column(column: str, rows: int) -> str:
    """Describe the loss of the values of a column, `table.column`."""
    return f"column {column} is dropped, with values in {counted(rows, 'row')}"


def losses_of(connection: Connection, sql: str) -> Iterator[str]:
    """Describe, one sentence each, the tables and columns with values that SQL drops or empties."""
    for statement in statements(sql):
        yield from _losses(connection, statement)


def _losses(connection: Connection, statement: str) -> Iterator[str]:
    if dropped := _TABLES.match(statement):
        verb = "is emptied" if statement[0] in "tT" else "is dropped"
        for table in re.findall(QUALIFIED, dropped["names"]):
            if rows := _count(connection, table, "*"):
                yield loss_of_table(_readable(table), rows, verb)
    elif altered := _ALTERED.match(statement):
        table = altered["table"]
        for column in _COLUMN.findall(statement, altered.end()):
            if column.lower() not in _NO_COLUMN and (rows := _count(connection, table, column)):
                yield loss_of_column(f"{_readable(table)}.{_readable(column)}", rows)


def _count(connection: Connection, table: str, column: str) -> int:
    """Return the number of rows, or of values; 0 if the table or the column does not exist yet."""
    exists = "SELECT to_regclass(:table) IS NOT NULL"
    if column != "*":
        exists += " AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(:table) AND NOT attisdropped"
        exists += " AND attname = (parse_ident(:column))[1])"
    names = {"table": table, "column": column}
    if not connection.scalar(text(exists), names):
        return 0
    return connection.exec_driver_sql(f"SELECT count({column}) FROM {table}".replace("%", "%%")).scalar() or 0


def _readable(name: str) -> str:
    return name.replace('"', "")
