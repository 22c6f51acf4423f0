"""Servers with the four roles, for the tests of rights: a database for each set of roles, and roles that have less."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL
from tests.conftest import run_sql

from tatame_db import roles
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.roles import Names


@dataclass
class Roled:
    """A database with the four roles, seen by the superuser who made them."""

    address: URL
    names: Names = field(default_factory=lambda: _names(secrets.token_hex(4)))
    others: list[str] = field(default_factory=list)

    def run(self, *statements: str) -> None:
        run_sql(self.address, "; ".join(statements))

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(_conninfo(self.address), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def at(self, role: str) -> URL:
        return self.address.set(username=role)

    def role(self, *statements: str) -> str:
        """Create a role that may log in; `{role}` and the names of the duties stand for roles."""
        name = f"poor_{secrets.token_hex(4)}"
        self.others.append(name)
        filled = [statement.format(role=name, **vars(self.names)) for statement in statements]
        self.run(f"CREATE ROLE {name} LOGIN", *filled)
        return name

    def apply(self, names: Names | None = None, **options: bool) -> roles.RolesApplied:
        with Database(self.address) as database, database.engine.connect() as connection:
            return roles.apply(connection, names or self.names, **options)


def _names(suffix: str) -> Names:
    return Names(*(f"{name}_{suffix}" for name in vars(Names()).values()))


def _conninfo(address: URL) -> str:
    return readable(address)


@contextmanager
def with_roles(address: URL, names: Names | None = None) -> Generator[Roled]:
    """Drop the roles afterwards; the caller drops the database before."""
    roled = Roled(address) if names is None else Roled(address, names)
    try:
        yield roled
    finally:
        with psycopg.connect(readable(address.set(database="postgres")), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(str(address.database)))
            )
            for name in (*roled.names.by_duty.values(), *roled.others):
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
