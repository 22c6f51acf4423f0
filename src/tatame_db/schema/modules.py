"""Loads every module of a package of models, so that no model is invisible because its file is not imported."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def load_modules(package: ModuleType) -> None:
    """Import the modules of a package and of the packages in it, by name; a module without others has none.

    `__main__` is a program, not a module to import.
    """
    for found in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{package.__name__}."):
        if not found.name.endswith(".__main__"):
            load_modules(importlib.import_module(found.name))
