"""Databases on Citus, where `TATAME_CITUS_URL` names one of a coordinator; CI has none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from sqlalchemy import URL
from tests.database.moves import ask, change

from tatame_db.database.address import parse_address

VARIABLE = "TATAME_CITUS_URL"
NO_CITUS = f"no Citus: {VARIABLE} names no database of a coordinator with workers"


def citus_address() -> URL:
    """Return the address of a database with Citus and its workers, as a superuser; skip the test if there is none."""
    written = os.environ.get(VARIABLE)
    return parse_address(written) if written else pytest.skip(NO_CITUS)


@contextmanager
def citus_database(*, workers: bool = True) -> Generator[URL]:
    """Create an empty database on the nodes of Citus, and drop it afterwards."""
    address = citus_address()
    name = f"tatame_{secrets.token_hex(6)}_test"
    found = ask(address, "SELECT nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid")
    nodes = [address.set(host=host, port=port) for host, port in found]
    for node in nodes:
        change(node, f"CREATE DATABASE {name}")
        change(node.set(database=name), "CREATE EXTENSION citus")
    coordinator = nodes[0].set(database=name)
    try:
        if workers:
            change(
                coordinator,
                f"SELECT citus_set_coordinator_host('{nodes[0].host}', {nodes[0].port})",
                *(f"SELECT citus_add_node('{node.host}', {node.port})" for node in nodes[1:]),
            )
        yield coordinator
    finally:
        for node in nodes:
            change(node, f"DROP DATABASE {name} WITH (FORCE)")
