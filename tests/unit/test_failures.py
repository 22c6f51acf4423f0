"""Which error a message stands for, where a real server cannot be made to send it."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import URL

from tatame_db.database.address import parse_address
from tatame_db.database.errors import (
    ConnectionRefused,
    DatabaseMissing,
    DatabaseUnavailable,
    HostUnknown,
    PasswordRejected,
    PoolerBusy,
    PoolerWithoutServer,
    ServerNotReady,
    ServerNotRunning,
    ServerReadOnly,
    TlsFailed,
    TooManyConnections,
)
from tatame_db.database.failures import connection_error, statement_error

ADDRESS = URL.create("postgresql+psycopg", "ana", "a secret", "db.example", 5432, "tatame")
PREFIX = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("FATAL:  the database system is starting up", ServerNotReady),
        ("FATAL:  the database system is shutting down", ServerNotReady),
        ("FATAL:  the database system is in recovery mode", ServerNotReady),
        ("FATAL:  terminating connection due to administrator command", ServerNotReady),
        ("FATAL:  sorry, too many clients already", TooManyConnections),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", TooManyConnections),
        ('FATAL:  too many connections for role "ana"', TooManyConnections),
        ("FATAL:  no more connections allowed (max_client_conn)", TooManyConnections),
        ("FATAL:  Max client connections reached", TooManyConnections),
        ("FATAL:  MaxClientsInSessionMode: max clients reached - limited to pool_size", TooManyConnections),
        ("FATAL:  query_wait_timeout", PoolerBusy),
        ("FATAL:  server login has been failing, cached error: connect failed", PoolerWithoutServer),
        ("FATAL:  server login failed: FATAL password authentication failed", PasswordRejected),
        ("FATAL:  pgbouncer cannot connect to server", PoolerWithoutServer),
        ("FATAL:  no such database: tatame", DatabaseMissing),
        ('FATAL:  database "tatame" does not exist', DatabaseMissing),
        ('FATAL:  password authentication failed for user "ana"', PasswordRejected),
        ("fe_sendauth: no password supplied", PasswordRejected),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.2", user "ana"', ConnectionRefused),
        ("FATAL:  das Datenbanksystem startet", ConnectionRefused),
        ('could not translate host name "db.example" to address: Name or service not known', HostUnknown),
        ('root certificate file "/root.crt" does not exist', TlsFailed),
        ("SSL error: certificate verify failed", TlsFailed),
        ('server certificate for "db.example" does not match host name "10.0.0.1"', TlsFailed),
        ("server does not support SSL, but SSL was required", TlsFailed),
        ("session is read-only", ServerReadOnly),
        ("server is in hot standby mode", ServerReadOnly),
        ("Permission denied", ConnectionRefused),
        ("Connection refused\n\tIs the server running on that host?", ServerNotRunning),
        ("timeout expired", ServerNotRunning),
    ],
)  # fmt: skip
def test_a_message_has_its_class(message: str, kind: type[DatabaseUnavailable]) -> None:
    error = connection_error(ADDRESS, psycopg.OperationalError(PREFIX + message))
    assert type(error) is kind
    assert "\n" not in error.what
    assert "a secret" not in str(error)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("postgresql://postgres@/tatame?host=/nowhere/tatame-db", "start it with `tatame-db start`"),
        ("postgresql://postgres@/tatame?host=/tmp", "start the server, or the pooler, of this address"),
        ("postgresql://tatame_app@127.0.0.1:6432/tatame", "start the server, or the pooler, of this address"),
        ("postgresql://tatame_app@db.example/tatame", "check the host and the port"),
    ],
)
def test_only_the_embedded_server_is_started_with_our_command(address: str, advice: str) -> None:
    error = connection_error(parse_address(address), psycopg.OperationalError(f"{PREFIX}Connection refused"))
    assert error.fix.startswith(advice)


def test_what_is_silent_at_a_port_may_be_a_pooler() -> None:
    silent = psycopg.errors.ConnectionTimeout("connection timeout expired")
    error = connection_error(parse_address("postgresql://tatame_app@127.0.0.1:6432/tatame"), silent)
    assert error.what.startswith("a server or a pooler listens at postgresql://tatame_app@127.0.0.1:6432/tatame")
    assert "it has logged in to PostgreSQL itself" in error.fix


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("query_wait_timeout", PoolerBusy),
        ("server login has been failing, try again later (server_login_retry)", PoolerWithoutServer),
        # The statement may have run.
        ("server conn crashed?", None),
        ("client_idle_timeout", None),
    ],
)
def test_a_pooler_that_may_have_run_a_statement_is_not_explained(
    message: str, kind: type[DatabaseUnavailable] | None
) -> None:
    error = statement_error(ADDRESS, psycopg.errors.ProtocolViolation(message), None)
    assert (type(error) if error else None) is kind
