"""Where a database stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.pool import readable
from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.evolve.history import History, current_revisions
from tatame_db.schema import Base

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class SchemaBehind(TatameError):
    """Migrations are waiting, and what was asked for needs them."""

    def __init__(self, pending: list[str]) -> None:
        self.pending = pending
        super().__init__(
            f"pending: {', '.join(pending)}",
            means=NOTHING_CHANGED,
            fix="apply them with `tatame-db migrate`",
        )


class TablesMissing(TatameError):
    """Every migration was applied, and still there are tables missing."""

    def __init__(self, tables: list[str]) -> None:
        self.tables = tables
        super().__init__(
            f"tables are missing, although every migration was applied: {', '.join(tables)}",
            means=NOTHING_CHANGED,
            fix="`tatame-db check` shows what else was changed by hand; `tatame-db push` puts it right in development",
        )


class CheckedBehind(SchemaBehind):
    """Migrations are waiting: the answer of `status --check`."""

    exit_code = 3


@dataclass(frozen=True)
class Status:
    """Where a database stands. `tables` holds the server's estimates of the row counts."""

    database: str
    server_version: str
    embedded: bool
    revision: str | None
    head: str
    pending: list[str]
    tables: dict[str, int]


def status(engine: Engine, *, embedded: bool) -> Status:
    """Read where a database stands; changes nothing. Raises `DatabaseAhead`, `TwoHeads`, `MigrationUnreadable`."""
    history = History()
    with engine.connect() as connection:
        return Status(
            database=readable(engine.url),
            server_version=str(connection.scalar(text("SELECT current_setting('server_version')"))).split()[0],
            embedded=embedded,
            revision=", ".join(current_revisions(connection)) or None,
            head=history.head,
            pending=[script.revision for script in history.pending(connection)],
            tables=_estimated_rows(connection),
        )


def refuse_incomplete(connection: Connection) -> None:
    """Raise `SchemaBehind` where migrations are pending, `TablesMissing` where tables went by other ways."""
    if waiting := History().pending(connection):
        raise SchemaBehind([script.revision for script in waiting])
    if missing := Base.metadata.tables.keys() - _estimated_rows(connection).keys():
        raise TablesMissing(sorted(missing))


def _estimated_rows(connection: Connection) -> dict[str, int]:
    # A table that was never analysed has no estimate yet; then the running statistics know best.
    query = text(
        "SELECT relname, CASE WHEN reltuples < 0 THEN pg_stat_get_live_tuples(oid) ELSE reltuples END::bigint AS rows"
        " FROM pg_class"
        " WHERE oid = ANY(SELECT to_regclass(quote_ident(name)) FROM unnest(CAST(:names AS text[])) AS name)"
        " ORDER BY relname"
    )
    found = connection.execute(query, {"names": list(Base.metadata.tables)})
    return {row.relname: row.rows for row in found}
