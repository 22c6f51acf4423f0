"""Databases, sessions and rows for tests: pytest fixtures, and three functions for other test runners.

The names below load when they are first used (PEP 562), because pytest imports this package in every run, with a
database or without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tatame_db.testing import factories
    from tatame_db.testing.runs import clear_test_data, setup_test_database, teardown_test_database

__all__ = ["clear_test_data", "factories", "setup_test_database", "teardown_test_database"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A module binds itself to its name here as it is imported.
    if name == "factories":
        return import_module(f"{__name__}.factories")
    return getattr(import_module(f"{__name__}.runs"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
