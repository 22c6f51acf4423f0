"""Each conversion is exact: what it stores reads back as the source's value, and everything else is unstorable."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
import pytest

from tatame_db.database.address import readable
from tatame_db.move.conversion import INTEGERS, Conversion, about
from tatame_db.move.known_conversions import conversion
from tatame_db.schema.forms import DATE, TIME, TYPED_DATE, TYPED_DAY, Form
from tatame_db.testing.runs import Run

# The source's type, a value as an SQL constant, the target's type, and the text that the target stores; `None` if the
# value is unstorable.
CASES: list[tuple[str, str, str, str | None]] = [
    *(("real", value, "integer", stored) for value, stored in [("7", "7"), ("16777216", "16777216")]),
    *(("real", value, "integer", None) for value in ("0.5", "NaN", "Infinity", "-Infinity", "2147483648", "1e30")),
    ("double precision", "2147483647", "integer", "2147483647"),
    ("double precision", "-2147483648", "integer", "-2147483648"),
    *(("double precision", value, "integer", None) for value in ("2147483647.5", "2147483648", "NaN", "1e300")),
    *((kind, "0", integer, "0") for kind in ("real", "double precision") for integer in INTEGERS),
    *((kind, "-0", integer, None) for kind in ("real", "double precision") for integer in INTEGERS),
    ("double precision", "9007199254740993", "bigint", "9007199254740992"),
    ("double precision", "9223372036854775807", "bigint", None),
    ("double precision", "-9223372036854775808", "bigint", "-9223372036854775808"),
    ("numeric", "-0.00", "integer", "0"),
    *(("numeric", value, "integer", None) for value in ("NaN", "0.1", "2147483648", "-2147483649")),
    ("numeric", "9223372036854775807.0", "bigint", "9223372036854775807"),
    ("bigint", "32767", "smallint", "32767"),
    ("bigint", "32768", "smallint", None),
    ("text", "9223372036854775807", "bigint", "9223372036854775807"),
    *(("text", value, "integer", None) for value in ("", " 1", "01", "-0", "+1", "1.0", "2147483648", "9" * 30)),
    ("text", "-2147483648", "integer", "-2147483648"),
    # Moments
    ("text", "2024-02-29", "timestamp without time zone", "2024-02-29 00:00:00"),
    ("text", "2024-02-29T10:00", "timestamp without time zone", "2024-02-29 10:00:00"),
    ("text", "2024-02-29T10:00:00.120Z", "timestamp without time zone", "2024-02-29 10:00:00.12"),
    ("text", "2024-02-29 10:00:00.000+00", "timestamp without time zone", "2024-02-29 10:00:00"),
    ("text", "0001-01-01 23:59:59.999999+00:00", "timestamp without time zone", "0001-01-01 23:59:59.999999"),
    ("text", "9999-12-31T20:10:10.100000", "timestamp without time zone", "9999-12-31 20:10:10.1"),
    *(
        ("text", value, "timestamp without time zone", None)
        for value in (
            *("", "2024", "2024-1-5", "2024-02-30", "0000-01-01", "01/02/2024", "infinity", "now", "2024-02-29 24:00"),
            *("2024-02-29 10:00:60", "2024-02-29T10:00:00-03:00", "2024-02-29 10:00:00.1234567", "2024-02-29Z"),
            *("20240229", "2024-02-29\n", " 2024-02-29", "2024-13-01", "2024-02-29 BC"),
        )
    ),
    ("text", "2024-02-29", "date", "2024-02-29"),
    *(("text", value, "date", None) for value in ("2023-02-29", "2024-2-9", "today", "2024-02-29 00:00:00", "")),
    ("timestamp without time zone", "2024-02-29 00:00", "date", "2024-02-29"),
    *(
        ("timestamp without time zone", value, "date", None)
        for value in ("2024-02-29 00:00:00.000001", "infinity", "0001-01-01 BC", "10000-01-01")
    ),
    # Arrays
    ("jsonb", '["a", null, "", "NULL", "a,b", "\\"", "é🥋"]', "text[]", '{a,NULL,"","NULL","a,b","\\"",é🥋}'),
    ("jsonb", "[]", "text[]", "{}"),
    ("json", ' [ "a" ,\n"\\u00e9\\n"]', "text[]", '{a,"é\n"}'),
    ("json", "[]", "text[]", "{}"),
    *(
        (kind, value, "text[]", None)
        for kind in ("json", "jsonb")
        for value in ("null", "{}", '"a"', "[1]", '["a", true]', '[["a"]]', '[{"a": "b"}]')
    ),
    *(("json", value, "text[]", None) for value in ('["\\u0000"]', '["\\ud83e"]', "[1e400000]", "[" * 50 + "]" * 50)),
    ("integer[]", "{1,NULL,-2}", "text[]", "{1,NULL,-2}"),
    # Other types that a model may have
    ("text", "A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11", "uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    *(("text", value, "uuid", None) for value in ("", "a0eebc999c0b4ef8bb6d6bb9bd380a11", "x")),
    ("text", "true", "boolean", "true"),
    *(("text", value, "boolean", None) for value in ("t", "TRUE", "1", "")),
    ("text", "1.50", "numeric", "1.50"),
    *(("text", value, "numeric", None) for value in ("-0", "01", "1e5", ".5", "NaN", "")),
    # Limits
    ("text", "x" * 20, "varchar(20)", "x" * 20),
    *(("text", value, "varchar(20)", None) for value in ("x" * 21, "x" * 20 + " ")),
    ("text", "ab", "char(3)", "ab"),
    *(("text", value, "char(3)", None) for value in ("abcd", "ab ", "a  ")),
    ("bit(5)", "10101", "bit(5)", "10101"),
    ("bit varying", "101", "bit(5)", None),
    ("numeric", "12345678.90", "numeric(10, 2)", "12345678.90"),
    ("numeric", "1.5000", "numeric(10, 2)", "1.50"),
    ("text", "1.5", "numeric(10, 2)", "1.50"),
    ("integer", "12345678", "numeric(10, 2)", "12345678.00"),
    *(
        ("numeric", value, "numeric(10, 2)", None)
        for value in ("1.005", "123456789", "99999999.999", "NaN", "Infinity")
    ),
    *(("text", value, "numeric(10, 2)", None) for value in ("1.005", "123456789", "x")),
    (
        "timestamp without time zone",
        "2024-02-29 10:00:00.12",
        "timestamp(3) without time zone",
        "2024-02-29 10:00:00.12",
    ),
    ("timestamp without time zone", "2024-02-29 10:00:00.1234", "timestamp(3) without time zone", None),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "integer", None),
]
MIDNIGHT = [("2024-02-29 00:00", "2024-02-29"), ("0001-01-01 00:00", "0001-01-01")]
# The same for columns of text with a form.
FORMED: list[tuple[str, str, Form, str | None]] = [
    ("date", "2024-02-29", DATE, "2024-02-29"),
    *(("date", value, DATE, None) for value in ("infinity", "0001-01-01 BC", "10000-01-01")),
    *((kind, value, DATE, stored) for kind in ("timestamp", "timestamptz") for value, stored in MIDNIGHT),
    *(
        (kind, value, DATE, None)
        for kind in ("timestamp", "timestamptz")
        for value in ("2024-02-29 03:00", "infinity", "-infinity", "10000-01-01", "0001-01-01 BC")
    ),
    ("text", "2024-02-29", DATE, "2024-02-29"),
    *(("text", value, DATE, None) for value in ("", "2024-1-5", "2024-02-30", "29/02/2024", "2024-02-29 ", "x")),
    *(("integer", value, DATE, None) for value in ("20240229", "0")),
    ("text", "1990-1-5?", TYPED_DATE, "1990-1-5?"),
    ("date", "1990-01-05", TYPED_DATE, "1990-01-05"),
    ("timestamptz", "1990-01-05 03:00", TYPED_DATE, None),
    ("text", "31/12", TYPED_DAY, "31/12"),
    ("date", "1990-12-31", TYPED_DAY, None),
    ("time", "24:00", TIME, "24:00"),
    ("time", "18:30", TIME, "18:30"),
    *(("time", value, TIME, None) for value in ("18:30:45", "18:30:00.5")),
    ("timetz", "18:30+00", TIME, "18:30"),
    *(("timetz", value, TIME, None) for value in ("18:30-03", "18:30:45+00", "18:30+00:30")),
    ("text", "18:30", TIME, "18:30"),
    ("text", "18:30:00", TIME, "18:30"),
    *(("text", value, TIME, None) for value in ("", "8:30", "18:30:45", "24:01", "18h30", "18:30:00+00", "25:00")),
    ("interval", "18:30", TIME, None),
    ("json", '"18:30"', TIME, None),
]
KINDS = {"timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone", "bit(5)": '"bit"'} | {
    "time": "time without time zone",
    "timetz": "time with time zone",
}


Database = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def database(_tatame_run: Run) -> Generator[Database]:
    address = _tatame_run.sandbox.create()
    with psycopg.connect(readable(address), autocommit=True, options="-c TimeZone=UTC") as connection:
        yield connection
    _tatame_run.sandbox.drop(str(address.database))


def ask(database: Database, expressions: str, value: str) -> tuple[Any, ...]:
    """Evaluate expressions about a value, which is a column to the server and not a constant."""
    [row] = database.execute(f"SELECT {expressions} FROM (SELECT {value} AS v OFFSET 0) AS stored".encode()).fetchall()
    return row


def evaluated(database: Database, found: Conversion, value: str, target_type: str) -> str | None:
    """Return the text that a conversion stores, after the proof that it reads back; `None` if it is unstorable."""
    unstorable = about(found.unstorable or "false", "v")
    is_unstorable, source_text = ask(database, f"({unstorable}) IS TRUE, {about(found.source_text, 'v')}", value)
    if is_unstorable:
        return None
    converted = f"({about(found.convert, f'({value})')})::{target_type}"
    stored, target_text = ask(database, f"v::text, {about(found.target_text, 'v')}", converted)
    assert source_text == target_text
    return str(stored)


def null_is_stored(database: Database, found: Conversion, kind: str, target_type: str) -> bool:
    return evaluated(database, found, f"NULL::{kind}", target_type) == "None"


def constant(kind: str, value: str) -> str:
    escaped = value.replace("'", "''")
    return f"'{escaped}'::{kind}"


@pytest.mark.parametrize("kind", sorted({case[0] for case in CASES}))
def test_a_value_is_stored_exactly_or_is_unstorable(database: Database, kind: str) -> None:
    for value, target_type, stored in [case[1:] for case in CASES if case[0] == kind]:
        found = conversion(KINDS.get(kind, kind), target_type)
        case = kind, value, target_type
        assert (*case, evaluated(database, found, constant(kind, value), target_type)) == (*case, stored)
        assert null_is_stored(database, found, kind, target_type)


@pytest.mark.parametrize("kind", sorted({case[0] for case in FORMED}))
def test_a_text_with_a_form_is_stored_in_that_form_or_is_unstorable(database: Database, kind: str) -> None:
    for value, form, stored in [case[1:] for case in FORMED if case[0] == kind]:
        found = conversion(KINDS.get(kind, kind), "text", form)
        case = kind, value, form.pattern
        assert (*case, evaluated(database, found, constant(kind, value), "text")) == (*case, stored)
        assert null_is_stored(database, found, kind, "text")


ANY_TARGET = {
    "text": ["", "null", "18:30:00", "2024-02-30", "infinity", "\\", "é" * 50, "x"],
    "integer": ["0", "-2147483648", "2147483647"],
    "bigint": ["9223372036854775807"],
    "text[]": ["{}", "[0:1]={a,b}", "{{a},{b}}", "{NULL}"],
    "timestamp without time zone": ["infinity", "-infinity", "4713-01-01 BC", "294276-12-31 23:59:59.999999"],
    "date": ["infinity", "4713-01-01 BC", "5874897-12-31"],
    "numeric": ["NaN", "Infinity", "0.000"],
    "boolean": ["false"],
}
ANY_SOURCE = [
    *("smallint", "integer", "bigint", "numeric", "real", "double precision", "text", "date", "json", "jsonb", "uuid"),
    *("timestamp without time zone", "timestamp with time zone", "time without time zone", "time with time zone"),
    *("text[]", "integer[]", "boolean"),
]


@pytest.mark.parametrize("target_type", ANY_TARGET)
def test_a_text_of_the_target_never_fails_and_tells_its_values_apart(database: Database, target_type: str) -> None:
    """Values that a person wrote into the target are compared too."""
    forms = (None, DATE, TIME, TYPED_DAY) if target_type == "text" else (None,)
    for kind in ANY_SOURCE:
        for form in forms:
            found = conversion(kind, target_type, form)
            text = about(found.target_text, "v")
            texts = {ask(database, text, constant(target_type, value)) for value in ANY_TARGET[target_type]}
            assert len(texts) == len(ANY_TARGET[target_type]), (kind, target_type, form)


NASTY = ["", "x", "2024-13-45", "99:99", "[", '["\\ud800"]', "1e999999", "é", "\\", "a" * 40]


@pytest.mark.parametrize("target_type", [*ANY_TARGET, "uuid", "varchar(3)", "numeric(4, 2)"])
def test_any_text_of_the_source_is_judged_without_an_error(database: Database, target_type: str) -> None:
    for form in (None, DATE, TIME, TYPED_DAY) if target_type == "text" else (None,):
        found = conversion("text", target_type, form)
        for value in NASTY:
            evaluated(database, found, constant("text", value), target_type)
