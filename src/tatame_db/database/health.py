"""The result of a health check."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from sqlalchemy.exc import SQLAlchemyError


@dataclass(frozen=True)
class Health:
    """The result of `check()`: how long a round trip took, or why there was none."""

    healthy: bool
    latency_ms: float | None = None
    reason: str | None = None


def healthy_since(started: float) -> Health:
    """Return the health of a database that answered now; `started` is a `time.perf_counter()`."""
    return Health(healthy=True, latency_ms=(time.perf_counter() - started) * 1000)


def unhealthy(error: TatameError | SQLAlchemyError) -> Health:
    """Return the health of a database that could not answer."""
    return Health(healthy=False, reason=error.what if isinstance(error, TatameError) else str(error).splitlines()[0])
