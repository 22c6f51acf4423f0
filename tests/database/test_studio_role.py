"""The role of the studio on the embedded server: its password, its settings, and its statements in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from tests.conftest import free_port

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.studio.access import WRITER, Access, open_access

Client = Any
SETTINGS = "SELECT rolconfig FROM pg_roles WHERE rolname = 'tatame_studio_writer'"


def test_the_role_has_no_password_that_opens_no_settings_that_stay_and_no_values_in_the_log(
    fresh_server: EmbeddedServer, serve_studio: Callable[[Access], Client]
) -> None:
    port = free_port()
    fresh_server.start(port)
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database:
        evolve.migrate(database.engine)
        studio = serve_studio(open_access(database, embedded=True, write=True))
        with database.engine.connect() as connection:
            settings = connection.scalar(text(SETTINGS))
            connection.rollback()
            studio.run(f"ALTER USER CURRENT_USER PASSWORD 'open'; ALTER ROLE {WRITER} SET search_path = evil")
            studio.run(f"ALTER ROLE {WRITER} IN DATABASE {database.address.database} SET work_mem = '9MB'")
            for statement in ("VALID UNTIL 'infinity'", "RENAME TO ana", "SET temp_file_limit = -1", "CREATEDB"):
                assert studio.error(f"ALTER ROLE {WRITER} {statement}")["code"] in {"42501", "0A000"}, statement
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(
                    host="127.0.0.1", port=port, user=WRITER, password="open", dbname=database.address.database
                )
            access = open_access(database, embedded=True, write=True)
            assert connection.scalar(text(SETTINGS)) == settings
            assert connection.scalar(text(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{WRITER}'")) is None
            assert serve_studio(access).run("SHOW work_mem")[1]["rows"] == [["4MB"]]

    # The log of the server holds none of these, nor of the statements of a superuser in a SQL tab.
    superuser = serve_studio(Access(fresh_server.address, "postgres", write=True))
    for client in (studio, superuser):
        client.error("SELECT 'ana@example.com'::int")
        client.error("INSERT INTO roles VALUES ('ana@example.com'), ('ana@example.com')")
        client.error("SELECT nothing('ana@example.com')")
    bad = [{"op": "insert", "table": "users", "values": {"gym_id": "ana@example.com"}}]
    assert studio.ask("/api/changes", {"changes": bad}).status == 422
    with psycopg.connect(readable(fresh_server.address)) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT nothing('another')")
    log = fresh_server.log.read_text()
    assert "another" in log
    assert "ana@example.com" not in log
