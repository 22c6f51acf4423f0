"""The PostgreSQL foundation of Tatame: typed models, an embedded server, migrations, queries and seed data.

Apps import the names below from here. Each name and each package loads on first use (PEP 562), so that reading settings
does not load the ORM, and `tatame-db --help` loads next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tatame_db import evolve, move, schema, seed, studio, testing
    from tatame_db.database.pool import AsyncDatabase, Database
    from tatame_db.errors import TatameError
    from tatame_db.queries.read import Read, query, read
    from tatame_db.queries.write import insert_many, update_many, upsert
    from tatame_db.settings import Settings

__all__ = [
    "AsyncDatabase",
    "Database",
    "Read",
    "Settings",
    "TatameError",
    "evolve",
    "insert_many",
    "move",
    "query",
    "read",
    "schema",
    "seed",
    "studio",
    "testing",
    "update_many",
    "upsert",
]

_HOMES = {
    "AsyncDatabase": "database.pool",
    "Database": "database.pool",
    "Read": "queries.read",
    "Settings": "settings",
    "TatameError": "errors",
    "insert_many": "queries.write",
    "query": "queries.read",
    "read": "queries.read",
    "update_many": "queries.write",
    "upsert": "queries.write",
}


_LOCK = RLock()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Threads that import SQLAlchemy for the first time at the same moment find it half initialized.
    with _LOCK:
        return _load(name)


def _load(name: str) -> Any:
    # A package binds itself to its name here as it is imported.
    return (
        getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        if name in _HOMES
        else import_module(f"{__name__}.{name}")
    )


def __dir__() -> list[str]:
    return [*globals(), *__all__]
