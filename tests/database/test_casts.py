"""Of all conversions that PostgreSQL has, only those that keep every value are called lossless."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, Engine

from tatame_db.evolve import casts, catalogue
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.evolve.ddl import constant
from tatame_db.evolve.plan import plan

# Values at the limits of their types, which conversions round, cut, wrap or write in another way.
VALUES = (
    *("0", "1", "-1", "7", "127", "255", "32767", "-32768", "2147483647", "-2147483648", "16777217", "4294967295"),
    *("9007199254740993", "9223372036854775807", "-9223372036854775808", "1e30", "0.1", "1.005", "1.10", "-0"),
    *("0.12345678901234567890123", "123456.789", "NaN", "Infinity", "-Infinity", "1e-7", "3.4028235e38"),
    *("", "a", "x  ", "  x", "x" * 80, "é", "t", "f", "yes", "\t", "a'b\\c", "public", "users", "pg_class", "integer"),
    *("2026-02-28", "2026-01-31 23:30:15.123456", "2026-01-31 23:30:15.5+05:45", "infinity", "0044-03-15 BC"),
    *("23:59:59.999999", "24:00:00", "10:00:00+05", "1 year 2 days 03:04:05.678", "-1 mon +1 day", "P1Y2M"),
    *('{"a": 1, "a": 2}', '{"b":1,"a":[1,  2.50]}', "[]", "null", '"é"', "<a/>", "\\xdeadbeef", "101", "11110101"),
    *("10.0.0.1/8", "10.0.0.0/8", "192.168.0.1", "::1", "08:00:2b:01:02:03", "08:00:2b:ff:fe:01:02:03"),
    *("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "(1.5,2)", "(1,2),(0,0)", "<(1,2),3>", "[(0,0),(1,1)]", "{1,2,3}"),
    *(
        "[1,5)",
        "(,)",
        "empty",
        "{[1,3),[5,7)}",
        "[2026-01-01,2026-02-01)",
        "a b:1 c:2A",
        "a & b",
        "$1,234.50",
        "16/B374D848",
    ),
    *("10:20:10,14,15", "$.a[*]", "1 2 3", "(0,1)"),
)
# These have another form and the same meaning: converted back, they are as before.
OTHER_FORM = {
    ("numeric", "numeric"),
    ("date", "timestamp without time zone"),
    ("timestamp without time zone", "timestamp with time zone"),
    ("timestamp with time zone", "timestamp without time zone"),
}
TYPES = """
    SELECT format_type(oid, NULL) FROM pg_type
    WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'
    UNION SELECT format_type(typarray, NULL) FROM pg_type
    WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typarray <> 0
    UNION SELECT unnest(ARRAY['character(3)', 'character(5)', 'character varying(3)', 'character varying(5)',
        'numeric(10,4)', 'numeric(12,5)', 'numeric(10,1)', 'numeric(3,-2)', 'timestamp(0) without time zone',
        'timestamp(3) without time zone', 'timestamp(3) with time zone', 'time(0) without time zone',
        'time(6) without time zone', 'time(3) with time zone', 'interval(0)', 'interval(6)', 'interval day',
        'interval year to month', 'interval day to second(3)', 'bit(3)', 'bit varying(3)', 'bit varying(8)',
        'mood', 'mood[]'])
    ORDER BY 1
"""
# What the session of a migration may have set, and what reads the values.
HOSTILE = (
    "SET LOCAL extra_float_digits = -15",
    "SET LOCAL DateStyle = 'SQL, DMY'",
    "SET LOCAL IntervalStyle = sql_standard",
    "SET LOCAL TimeZone = 'America/Sao_Paulo'",
    "SET LOCAL bytea_output = escape",
    "SET LOCAL xmloption = document",
)
PLAIN = (
    "SET LOCAL extra_float_digits = 1",
    "SET LOCAL DateStyle = ISO",
    "SET LOCAL IntervalStyle = postgres",
    "SET LOCAL TimeZone = 'UTC'",
)


def _catalogue(connection: Connection, types: list[str]) -> catalogue.Catalogue:
    """Create a table with a column of each type, and read it."""
    columns = ", ".join(f"c{number} {name}" for number, name in enumerate(types))
    run_verbatim(connection, f"DROP TABLE IF EXISTS pairs; CREATE TABLE pairs (id integer, {columns})")
    return catalogue.read(connection)


def _texts(connection: Connection, types: list[str]) -> list[list[str | None]]:
    """Return the text of each value, a list for each column."""
    columns = [f"array_agg(c{number}::{name}::text ORDER BY id)" for number, name in enumerate(types)]
    found: list[list[str | None]] = []
    for statement in PLAIN:
        run_verbatim(connection, statement)
    found.extend(run_verbatim(connection, f"SELECT {', '.join(columns)} FROM pairs").one())
    return found


def test_a_conversion_that_changes_a_value_is_a_loss(bare_engine: Engine) -> None:
    with bare_engine.connect() as connection:
        run_verbatim(connection, "CREATE TYPE mood AS ENUM ('a', 'yes', 'x  ')")
        types = list(run_verbatim(connection, TYPES).scalars())
        enums = frozenset({"mood"})
        pairs = [(old, new) for old in types for new in types if old != new and casts.is_lossless(old, new, enums)]
        assert len(pairs) > 100
        sources, targets = [old for old, _ in pairs], [new for _, new in pairs]
        new = _catalogue(connection, targets)
        old = _catalogue(connection, sources)
        for number, value in enumerate(VALUES):
            texts = [constant(f'{{"{value}"}}' if name.endswith("[]") else value) for name in sources]
            valid = [f"pg_input_is_valid({text}, '{name}')" for text, name in zip(texts, sources, strict=True)]
            fits = run_verbatim(connection, f"SELECT {', '.join(valid)}").one()
            fitting = [text if fit else "NULL" for text, fit in zip(texts, fits, strict=True)]
            run_verbatim(connection, f"INSERT INTO pairs VALUES ({number}, {', '.join(fitting)})")
        before = _texts(connection, sources)
        assert not [pair for pair, values in zip(pairs, before, strict=True) if not any(values)]
        planned = plan(connection, old, new)
        assert not [step.losses for step in planned.steps if step.losses]
        for statement in (*HOSTILE, *(step.sql for step in planned.steps)):
            run_verbatim(connection, statement)
        read_as = [old if (casts.parse(old).base, casts.parse(new).base) in OTHER_FORM else new for old, new in pairs]
        after = _texts(connection, read_as)
        for pair, values, found in zip(pairs, before, after, strict=True):
            assert found == values, pair


# Found by hand, each with a value that was changed without a word.
CHANGED = [
    ("bigint", "double precision"),
    ("numeric", "double precision"),
    ("numeric", "real"),
    ("integer", "real"),
    ("bigint", "real"),
    ("double precision", "numeric"),
    ("double precision", "text"),
    ("real", "double precision"),
    ("interval", "interval day"),
    ("interval", "interval year"),
    ("interval", "interval(0)"),
    ("macaddr8", "macaddr"),
    ("text", "name"),
    ("character varying(80)", "name"),
    ("character(5)", "text"),
    ("text", "character varying(5)"),
    ("integer", "oid"),
    ("timestamp(6) without time zone", "timestamp(3) with time zone"),
    ("timestamp with time zone", "date"),
    ("timestamp without time zone[]", "timestamp with time zone[]"),
    ("date", "timestamp with time zone"),
    ("numeric(10,4)", "numeric(10,1)"),
    ("numeric(10,4)", "numeric(10,5)"),
    ("json", "jsonb"),
    ("bytea", "text"),
    ("inet", "cidr"),
    ("integer", "boolean"),
    ("text", "text[]"),
]


@pytest.mark.parametrize(("before", "after"), CHANGED)
def test_a_conversion_that_once_changed_values_is_a_loss(before: str, after: str) -> None:
    assert not casts.is_lossless(before, after)
    assert not casts.is_lossless(f"{before}[]", f"{after}[]") or after.endswith("[]")
