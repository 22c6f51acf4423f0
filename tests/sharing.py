"""One server for the scratch databases of many commands; starting one each time would take the longest."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.scratch import Scratch


@dataclass(frozen=True)
class SharedScratch(Scratch):
    """Scratch databases on a server that others use too, dropped at once."""

    @contextlib.contextmanager
    def database(self, name: str, template: str = "template0") -> Generator[Engine]:
        try:
            with super().database(name, template) as engine:
                yield engine
        finally:
            self.drop(name)


def share(directory: Path | str, replace: Callable[[object, str, object], None]) -> SharedScratch:
    """Let the commands for the schema use the running server in a directory."""
    shared = SharedScratch(EmbeddedServer(Path(directory), durable=False))

    @contextlib.contextmanager
    def scratch(**_: object) -> Generator[Scratch]:
        yield shared

    for module in ("check", "effects", "generate", "push", "script"):
        replace(importlib.import_module(f"tatame_db.evolve.{module}"), "scratch", scratch)
    return shared
