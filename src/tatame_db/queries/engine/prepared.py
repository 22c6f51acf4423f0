"""The statements that one session of the server has prepared."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

from tatame_db.queries.engine.plan import Prepared

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext

    from tatame_db.queries.engine.plan import Parameters, Plan

Key: TypeAlias = "tuple[bytes, tuple[int, ...]]"
"""The SQL of a statement and the types of its parameters."""

MAX_PREPARED = 500
"""How many statements a session keeps prepared: each takes some ten to hundred kilobytes of the server's memory."""


class PreparedStatements:
    """The prepared statements of a connection of asyncio, whose calls may overlap.

    One that runs once is not worth a name; its second use prepares it.
    """

    def __init__(self, connection: AdaptContext) -> None:
        self._connection = connection
        # In both, what was added first comes first.
        self._ready: dict[Key, Prepared] = {}
        self._ran_once: dict[Key, None] = {}
        self._numbers = count()
        self.surplus: list[bytes] = []
        """Names that are no longer used, and that the server may forget."""

    def find(self, plan: Plan[Any], parameters: Parameters) -> Prepared | None:
        """Return the statement that the server has prepared for this SQL and parameters of these types."""
        return self._ready.get((plan.sql, parameters.types))

    def new(self, plan: Plan[Any], parameters: Parameters) -> Prepared | None:
        """Return a statement that is to be prepared now, or `None` for one to run without a name."""
        key = plan.sql, parameters.types
        if key in self._ran_once:
            # Until the server has confirmed the name, further calls do without it.
            del self._ran_once[key]
            return Prepared(b"tatame_async_%d" % next(self._numbers), self._connection)
        if len(self._ran_once) >= MAX_PREPARED:
            del self._ran_once[next(iter(self._ran_once))]
        self._ran_once[key] = None
        return None

    def confirm(self, prepared: Prepared, plan: Plan[Any], parameters: Parameters) -> None:
        """Use a name from now on."""
        known = self._ready.pop((plan.sql, parameters.types), None)
        if known is not None:
            self.surplus.append(known.name)
        self._ready[plan.sql, parameters.types] = prepared
        if len(self._ready) > MAX_PREPARED:
            self.surplus.append(self._ready.pop(next(iter(self._ready))).name)

    def forget(self, prepared: Prepared, plan: Plan[Any], parameters: Parameters) -> None:
        """Stop using a name that the server no longer knows, or whose columns have changed."""
        key = plan.sql, parameters.types
        if self._ready.get(key) is prepared:
            del self._ready[key]
