"""Tables that a migration made with another role than the owner: no other role of the app has rights on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.dialect import SCHEMA, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.roles.excess import duties_in_use
from tatame_db.roles.names import Names
from tatame_db.roles.needs import OWNING

if TYPE_CHECKING:
    from sqlalchemy import Connection


@fact
class TablesOfAnother(TatameError):
    """A role that is not the owner has migrated."""

    role: str
    tables: list[str]
    owner: str
    what = "{role} has migrated, not {owner}; to it belong {tables}"
    means = "The migrations are applied. The other roles of the app have no rights on these tables yet."
    fix = "run `{statements}`, then `tatame-db roles --apply`; and the next migration with the address of {owner}"

    @property
    def statements(self) -> str:
        """What transfers the tables."""
        return "; ".join(f"ALTER TABLE {table} OWNER TO {quoted(self.owner)}" for table in self.tables)


@dataclass(frozen=True)
class Stranger:
    """A table or view of `public` that does not belong to the owner."""

    table: str
    name: str
    """Quoted for SQL."""
    role: str
    owner: str
    """The role that owns the tables of the app."""

    @property
    def sentence(self) -> str:
        """Whose it is, and what transfers it."""
        transfer = f"`ALTER TABLE {self.name} OWNER TO {quoted(self.owner)}`"
        return f"{self.name} belongs to {self.role}: run {transfer}, then `tatame-db roles --apply`"


def strangers(connection: Connection) -> list[Stranger]:
    """Return the tables of `public` that do not belong to the owner, if there is one; asks the catalogue alone."""
    duties = duties_in_use(connection, Names())
    owner = next((role for role, duty in duties.items() if duty is OWNING), None)
    if owner is None:
        return []
    rows = connection.execute(
        text(
            "SELECT relname, format('%I.%I', nspname, relname), rolname FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_roles r ON r.oid = relowner"
            f" WHERE nspname = '{SCHEMA}' AND relkind IN ('r', 'p', 'v', 'm') AND rolname <> :owner AND NOT EXISTS ("
            " SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')"
            " ORDER BY 1"
        ),
        {"owner": owner},
    )
    return [Stranger(table, name, role, owner) for table, name, role in rows]


def tables_of_another(connection: Connection) -> TablesOfAnother | None:
    """Return what belongs to the role of the connection, which has migrated, and not to the owner."""
    role = str(connection.scalar(text("SELECT current_user")))
    found = [stranger for stranger in strangers(connection) if stranger.role == role]
    if not found:
        return None
    return TablesOfAnother(role=role, tables=[stranger.name for stranger in found], owner=found[0].owner)
