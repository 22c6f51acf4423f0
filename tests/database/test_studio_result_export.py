"""Exports of the whole result of a statement, which runs again and must not write."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from sqlalchemy import text

from tatame_db.database.pool import Database

Client = Any
HARD = """SELECT 9007199254740993 AS n, 1.50 AS n, true AS yes, '{"a": [1]}'::jsonb AS doc,
    ARRAY['x,"y"', NULL] AS list, '=1+1' AS formula,
    '-infinity'::timestamp AS moment, NULL::int AS nothing, '' AS empty, 'NaN'::float8 AS nan"""


def export(studio: Client, statement: str, form: str = "csv", query: str = "") -> Any:
    return studio.ask(f"/api/sql/export/{form}{query}", {"text": statement})


def test_all_rows_are_exported_whatever_the_limit_of_the_page(filled_studio: Client) -> None:
    rows = list(csv.reader(io.StringIO(export(filled_studio, "SELECT id, date FROM checkins ORDER BY id").text)))
    assert len(rows) == 1006
    assert rows[:2] == [["id", "date"], ["1", "2026-03-01"]]
    assert export(filled_studio, "SELECT 1 AS a WHERE false").text == "a\r\n"
    assert export(filled_studio, "SELECT 1 AS a WHERE false", "json").json == []


def test_a_result_is_exported_as_a_table_is(filled_studio: Client) -> None:
    names, values = export(filled_studio, HARD, query="?separator=;&null=%5CN&mark&harmless").text.splitlines()
    assert names == "\ufeffn;n;yes;doc;list;formula;moment;nothing;empty;nan"
    assert values == ('9007199254740993;1.50;t;"{""a"": [1]}";"{""x,\\""y\\"""",NULL}";"\'=1+1";-infinity;\\N;"";NaN')
    [line] = export(filled_studio, HARD, "jsonl").text.splitlines()
    assert line.startswith('{"n":9007199254740993,"n_2":1.50,"yes":true,"doc":{"a": [1]},"list":"{')
    assert json.loads(line)["nothing"] is None
    assert json.loads(line)["nan"] == "NaN"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM gyms RETURNING id", "read-only transaction"),
        ("WITH gone AS (DELETE FROM gyms RETURNING id) SELECT * FROM gone", "read-only transaction"),
        ("SELECT id FROM gyms FOR UPDATE", "read-only transaction"),
        ("SET TRANSACTION READ WRITE", "read-write mode must be set before any query"),
        ("COMMIT", "returns no rows"),
        ("SELECT 1; DELETE FROM gyms", "multiple commands"),
        ("COPY gyms TO STDOUT", "COPY"),
        ("SELECT repeat('x', 10000000)", "larger than 8 MB"),
        ("SELECT * FROM nothing", "does not exist"),
        ("SELEC", "syntax error"),
        ("", "no statement"),
        ("SELECT '\0'", "NUL character"),
    ],
)
def test_a_statement_that_writes_or_fails_is_explained_in_write_mode_too(
    writing_studio: Client, committed_database: Database, statement: str, words: str
) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO gyms (name, address, since) VALUES ('Norte', '', '2019')"))
    response = export(writing_studio, statement)
    assert 400 <= response.status < 500, response.text
    assert words in response.json["what"]
    assert response.json["fix"]
    with committed_database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM gyms")) == 1
