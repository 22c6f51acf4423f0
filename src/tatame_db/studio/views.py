"""The views of PostgreSQL itself, such as `pg_stat_activity`: every role may read them until that is revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tatame_db.errors import fact
from tatame_db.roles.rights import grant
from tatame_db.studio.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

# Views that do not exist in this version of PostgreSQL are left out.
_UNREADABLE = """
SELECT quote_ident(current_user), array_agg(name ORDER BY name) FROM unnest(CAST(%(views)s AS text[])) AS name
WHERE NOT has_table_privilege(to_regclass('pg_catalog.' || name), 'SELECT')
"""


@fact
class ViewsUnreadable(Refused):
    """The role of the studio may not read views of PostgreSQL."""

    role: str
    views: list[str]
    status = 403
    what = "the role {role} may not read {views}"
    fix = "let a superuser run `{grants}`"

    @property
    def grants(self) -> str:
        """The statement that gives the rights."""
        return grant("SELECT", ", ".join(f"pg_catalog.{view}" for view in self.views), self.role)


def refuse_unreadable(rows: Callable[[str, dict[str, Any]], Any], *views: str) -> None:
    """Raise `ViewsUnreadable` if the role may not read one of the views; PostgreSQL's refusal names no remedy.

    `rows` runs a query with parameters as psycopg writes them.
    """
    [(role, unreadable)] = rows(_UNREADABLE, {"views": list(views)})
    if unreadable:
        raise ViewsUnreadable(role=role, views=unreadable)


async def refuse_unreadable_async(connection: AsyncConnection, *views: str) -> None:
    """Do what `refuse_unreadable` does."""
    await connection.run_sync(lambda opened: refuse_unreadable(opened.exec_driver_sql, *views))
