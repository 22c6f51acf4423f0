"""A worker of Citus: it has the same tables, and only the coordinator may change and describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.address import readable
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.placement import is_worker, rows_on

if TYPE_CHECKING:
    from sqlalchemy import Connection


@fact
class NotCoordinator(TatameError):
    """The address leads to a worker of Citus; the commands and the app use the coordinator."""

    where: str
    coordinator: str | None
    what = "{where} is a worker of Citus, and this is for the coordinator"
    means = "Nothing was changed."
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """The address of the coordinator, if the worker knows it."""
        at = f" at {self.coordinator}" if self.coordinator else ""
        return f"set `DATABASE_URL` to the address of the coordinator{at}"


_COORDINATOR = "SELECT nodename || ':' || nodeport FROM pg_dist_node WHERE groupid = 0 AND noderole = 'primary'"


def refuse_worker(connection: Connection) -> None:
    """Raise `NotCoordinator` if a database is on a worker of Citus, which would be read or changed alone."""
    if is_worker(rows_on(connection)):
        coordinator = connection.scalar(text(_COORDINATOR))
        raise NotCoordinator(where=readable(connection.engine.url), coordinator=coordinator)
