"""The options of a `Database`, and what remains of them beside an address.

One rule: what the address says comes first, then the argument, then the environment (`from_env()` alone reads it), then
the default.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict

from tatame_db.database.address import parse_address

if TYPE_CHECKING:
    from sqlalchemy import URL

POOL_SIZE = 20
POOL_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 2
APPLICATION_NAME = "tatame-db"

_DAY = 86_400

# The smallest value of each option, and the largest that PostgreSQL and libpq accept. libpq waits two seconds at least.
_BOUNDS: dict[str, tuple[float, float]] = {
    "pool_size": (1, 10_000),
    "pool_timeout_seconds": (0.001, _DAY),
    "statement_timeout_ms": (1, 2**31 - 1),
    "connect_timeout_seconds": (2, _DAY),
    "slow_statement_ms": (1, 2**31 - 1),
}


class DatabaseOptions(TypedDict, total=False):
    """The keyword arguments of `Database` and `AsyncDatabase`."""

    pool_size: int
    """The largest number of connections, 20 by default; each process has its own."""
    pool_timeout_seconds: float
    """How long a session or query waits for a free connection, 30 seconds by default; then `ConnectionsExhausted`."""
    statement_timeout_ms: int | None
    """After how long the server ends a statement; by default the server's own setting applies."""
    connect_timeout_seconds: int
    """How long a login may take, for each address of the host, and then each answer until the connection is ready: 2
    seconds by default and at least."""
    application_name: str
    """The name of the sessions in `pg_stat_activity`, `tatame-db` by default."""
    slow_statement_ms: int | None
    """From how long a statement is logged as a warning: its name and time, never its values. By default never."""
    log_statements: bool
    """Whether every statement is logged, with its name and time."""
    replica_address: URL | str | None
    """The address of a standby, or of several as hosts in one address, for `db.replica`; by default the same server."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options with their defaults; each is described in `DatabaseOptions`.

    Raises `ValueError` for a value that cannot be used, and `AddressInvalid`.
    """

    pool_size: int = POOL_SIZE
    pool_timeout_seconds: float = POOL_TIMEOUT_SECONDS
    statement_timeout_ms: int | None = None
    connect_timeout_seconds: int = CONNECT_TIMEOUT_SECONDS
    application_name: str = APPLICATION_NAME
    slow_statement_ms: int | None = None
    log_statements: bool = False
    replica_address: URL | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.replica_address, str):
            # An address hides its password, and a text does not.
            object.__setattr__(self, "replica_address", parse_address(self.replica_address))
        for field in fields(self):
            if problem := option_problem(field.name, getattr(self, field.name)):
                raise ValueError(f"{field.name} {problem}")

    def beside(self, address: URL) -> dict[str, Any]:
        """Return the parameters for libpq that the address does not contain itself, and those that it cannot change."""
        parameters = {"connect_timeout": self.connect_timeout_seconds, "application_name": self.application_name}
        own = {name: value for name, value in parameters.items() if name not in address.query}
        # No address may choose another encoding: queries send their parameters in this one.
        return {**own, "client_encoding": "UTF8"}

    def statement_timeout_beside(self, address: URL) -> int | None:
        """Return the time-out in milliseconds to set, or `None` where the address or the server decides."""
        given = re.search(r"\bstatement[_-]timeout\s*=", str(address.query.get("options", "")), re.IGNORECASE)
        return None if given else self.statement_timeout_ms


def option_problem(name: str, value: object) -> str | None:
    """Return why a value of an option cannot be used, as the rest of a sentence, or `None`."""
    if name == "application_name":
        text = str(value)
        return None if text.strip() and "\0" not in text else "should not be empty"
    if name not in _BOUNDS or value is None:
        return None
    lowest, highest = _BOUNDS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "should be a number"
    if isinstance(value, float) and name != "pool_timeout_seconds":
        return "should be a whole number"
    return None if lowest <= value <= highest else f"should be from {lowest:,} to {highest:,}"


def check_seconds(name: str, value: object) -> None:
    """Raise `TypeError` for a time that is no number, and `ValueError` for one below 0 or above a day."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, and not {type(value).__name__}")
    if not 0 <= value <= _DAY:
        raise ValueError(f"{name} is a number of seconds, from 0 to {_DAY:,}")
