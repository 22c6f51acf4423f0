"""Binary answers, compared with the text that psycopg's cursors read."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus, Format
from sqlalchemy import URL

from tatame_db.database.address import readable
from tatame_db.database.driver import check_intervals
from tatame_db.queries.engine.plan import Prepared, Statement
from tatame_db.schema import Base

# SQL of values that are easily lost, by type.
SAMPLES: dict[str, list[str]] = {
    "bool": ["true", "false"],
    "int2": ["'-32768'", "32767"],
    "int4": ["'-2147483648'", "2147483647"],
    "int8": ["'-9223372036854775808'", "9223372036854775807"],
    "float8": ["0.1", "-0.0", "1e-308", "1.7976931348623157e308", "'NaN'", "'-Infinity'", "5e-324"],
    "numeric": [
        "0",
        "0.00",
        "-1.50",
        "1e20",
        "1e-20",
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
        "12345678901234567890.123",
    ],
    "text": ["''", "'NULL'", "E'\\\\'", "'🥋'", "E'a\\nb'", "repeat('x', 300000)"],
    "varchar": ["'a '", "'{}'"],
    "bpchar(4)": ["'a'", "''"],
    "name": ["'users'"],
    "bytea": ["''", "'\\x00ff'", "'\\x5c'"],
    "uuid": ["'00000000-0000-0000-0000-000000000001'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    "date": ["'0001-01-01'", "'9999-12-31'", "'1969-12-31'"],
    "time": ["'00:00'", "'23:59:59.999999'"],
    "timestamp": ["'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'1969-12-31 23:59:59.999999'"],
    "timestamptz": ["'2026-03-29 00:59:59.999999+00'", "'2026-03-29 01:00+00'", "'1900-01-01 00:00+00'"],
    "interval": ["'1 month'", "'-1 month -3 days'", "'1 year -2 mons 3 days -04:05:06.7'", "'-0.000001 s'", "'25:00'"],
    "json": ["'null'", "'{\"a\": [1, 1.5, null]}'", "'\"🥋\"'"],
    "jsonb": ["'null'", "'{\"a\": [1, 1.5, null]}'", "'\"\"'"],
    # These stay text.
    "float4": ["0.1", "1.1"],
    "belt": ["'BLUE'"],
    "inet": ["'10.0.0.1'"],
    "int4range": ["'[1,5)'"],
    "pg_lsn": ["'0/1'"],
}
UNREADABLE = {
    "date": ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'10000-01-01'"],
    "timestamp": ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'10000-01-01'"],
    "timestamptz": ["'infinity'", "'-infinity'", "'0044-03-15 BC'", "'10000-01-02'"],
    "time": ["'24:00'"],
    "interval": ["'infinity'", "'-infinity'", "'10000000 years'", "'-2147483648 days'"],
}
STAYS_TEXT = {"float4", "belt", "inet", "int4range", "pg_lsn"}


@pytest.fixture
def connection(bare_address: URL) -> Generator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(readable(bare_address), autocommit=True) as connection:
        connection.execute("CREATE TYPE belt AS ENUM ('BLUE')")
        connection.execute("SET TimeZone = 'Europe/Lisbon'")
        check_intervals(connection)
        yield connection


def answers(connection: psycopg.Connection[Any], sql: str) -> tuple[list[list[Any]], list[Format]]:
    """Return the rows of three answers of a prepared statement, and the form of each."""
    server = connection.pgconn
    assert server.prepare(b"p", sql.encode()).status == ExecStatus.COMMAND_OK
    plan, prepared = Statement("values", sql, tuple).plan, Prepared(b"p", connection)
    rows: list[list[Any]] = []
    formats: list[Format] = []
    try:
        for _ in range(3):
            result = server.exec_prepared(b"p", [], result_format=prepared.result_format)
            assert result.status == ExecStatus.TUPLES_OK, result.error_message
            formats.append(Format(result.fformat(0)))
            rows.append(prepared.rows(plan, result))
    finally:
        server.exec_(b"DEALLOCATE p")
    return rows, formats


def sql_of(kind: str, samples: list[str]) -> str:
    """Return SQL for values alone, in arrays of one and two dimensions, and for NULL."""
    values = [f"{sample}::{kind}" for sample in samples]
    both = f"{values[0]}, NULL"
    return f"""SELECT {", ".join(values)}, NULL::{kind}, ARRAY[{", ".join(values)}, NULL]::{kind}[], '{{}}'::{kind}[],
        NULL::{kind}[], ARRAY[[{both}], [NULL, {values[-1]}]]::{kind}[], ('[0:1]=' || ARRAY[{both}]::text)::{kind}[]"""


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_binary_answer_has_the_values_of_a_cursor(connection: psycopg.Connection[Any], kind: str) -> None:
    sql = sql_of(kind, SAMPLES[kind])
    expected = connection.execute(sql.encode()).fetchall()
    rows, formats = answers(connection, sql)
    # NaN is equal to nothing, and -0.0 to 0.0.
    assert [[[repr(value) for value in row] for row in answer] for answer in rows] == [
        [[repr(value) for value in row] for row in expected]
    ] * 3
    later = Format.TEXT if kind in STAYS_TEXT else Format.BINARY
    assert formats == [Format.TEXT, later, later]


@pytest.mark.parametrize(("kind", "sample"), [(kind, sample) for kind in UNREADABLE for sample in UNREADABLE[kind]])
def test_a_value_that_python_cannot_represent_is_refused_in_both_forms(
    connection: psycopg.Connection[Any], kind: str, sample: str
) -> None:
    server = connection.pgconn
    assert server.prepare(b"p", f"SELECT {sample}::{kind}".encode()).status == ExecStatus.COMMAND_OK
    plan, prepared = Statement("values", "", tuple).plan, Prepared(b"p", connection)
    for form in (Format.TEXT, Format.BINARY):
        result = server.exec_prepared(b"p", [], result_format=form)
        with pytest.raises(psycopg.DataError) as caught:
            prepared.rows(plan, result)
        assert caught.value.sqlstate is None


def test_every_column_of_the_schema_is_answered_in_binary(engine: Any) -> None:
    with psycopg.connect(readable(engine.url), autocommit=True) as connection:
        for table in Base.metadata.sorted_tables:
            listed = ", ".join(f'"{column.name}"' for column in table.columns)
            _, formats = answers(connection, f'SELECT {listed} FROM "{table.name}"')
            assert formats[1:] == [Format.BINARY] * 2, table.name


def test_a_new_time_zone_of_the_session_applies_to_the_next_answer(connection: psycopg.Connection[Any]) -> None:
    sql = "SELECT '2026-07-01 12:00+00'::timestamptz, ARRAY['2026-07-01 12:00+00'::timestamptz]"
    server = connection.pgconn
    server.prepare(b"p", sql.encode())
    plan, prepared = Statement("values", sql, tuple).plan, Prepared(b"p", connection)
    for zone in ("UTC", "Asia/Tokyo", "America/Sao_Paulo", "UTC"):
        server.exec_(f"SET TimeZone = '{zone}'".encode())
        [found] = prepared.rows(plan, server.exec_prepared(b"p", [], result_format=prepared.result_format))
        assert repr(found) == repr(connection.execute(sql.encode()).fetchone())


def test_a_text_answer_follows_the_date_style_of_the_session(connection: psycopg.Connection[Any]) -> None:
    sql = "SELECT '2026-07-01'::date, 'BLUE'::belt"
    server = connection.pgconn
    server.prepare(b"p", sql.encode())
    plan, prepared = Statement("values", sql, tuple).plan, Prepared(b"p", connection)
    for style in ("ISO", "German", "SQL, DMY", "SQL, MDY"):
        server.exec_(f"SET DateStyle = '{style}'".encode())
        [found] = prepared.rows(plan, server.exec_prepared(b"p", [], result_format=prepared.result_format))
        assert found == connection.execute(sql.encode()).fetchone()


def test_loaders_hold_no_answer_after_use(connection: psycopg.Connection[Any]) -> None:
    server = connection.pgconn
    server.prepare(b"p", b"SELECT repeat('x', 1000000)")
    plan, prepared = Statement("values", "", lambda values: len(values[0])).plan, Prepared(b"p", connection)
    for _ in range(2):
        assert prepared.rows(plan, server.exec_prepared(b"p", [], result_format=prepared.result_format)) == [1_000_000]
    assert prepared._transformer is not None
    assert prepared._transformer.pgresult is None
