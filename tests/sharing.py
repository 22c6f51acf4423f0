"""One server for the scratch databases of many commands; starting one each time would take the longest."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine

from tatame_db.database.address import readable
from tatame_db.database.creation import create_database
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.run_directory import in_memory
from tatame_db.server.scratch import Scratch


@dataclass(frozen=True)
class SharedScratch(Scratch):
    """Scratch databases on a server that others use too, dropped at once."""

    migrated: dict[str, str] = field(default_factory=dict[str, str], compare=False)
    """By the name of a database in which a command first runs the migrations: a database that has them already."""

    @cached_property
    def connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        """The connection for all statements that create and drop databases."""
        return psycopg.connect(readable(self.server.address.set(database="postgres")), autocommit=True)

    @contextlib.contextmanager
    def database(self, name: str, template: str = "template0") -> Generator[Engine]:
        address = self.server.address.set(database=name)
        chosen = self.migrated.get(name, template)
        create_database(self.connection, address, template=chosen, file_copy=in_memory(self.server.directory))
        try:
            with Database(address) as database:
                yield database.engine
        finally:
            self.drop(name)

    def drop(self, name: str) -> None:
        self.connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def share(directory: Path | str, replace: Callable[[object, str, object], None]) -> SharedScratch:
    """Let the commands for the schema use the running server in a directory."""
    shared = SharedScratch(EmbeddedServer(Path(directory), durable=False))

    @contextlib.contextmanager
    def scratch(**_: object) -> Generator[Scratch]:
        yield shared

    for module in ("check", "effects", "generate", "push", "script"):
        replace(importlib.import_module(f"tatame_db.evolve.{module}"), "scratch", scratch)
    return shared
