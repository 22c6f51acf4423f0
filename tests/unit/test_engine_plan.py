"""Statements as libpq takes them: numbered SQL and dumped parameters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.json import Jsonb
from sqlalchemy import Integer, bindparam, column, literal_column, select, table

from tatame_db.database.dialect import DIALECT
from tatame_db.queries.engine.plan import Plan, Statement
from tatame_db.queries.errors import ParameterInvalid

VALUES: list[Any] = [
    1,
    40_000,
    2**40,
    2**70,
    "a",
    True,
    1.5,
    Decimal("1.50"),
    None,
    b"x",
    datetime(2026, 3, 1, tzinfo=UTC),
    UUID(int=1),
    [1, 70_000],
    ["a", None],
    [],
    [[1.5]],
    Jsonb({"a": 1}),
]


def plan(sql: str) -> Plan[Any]:
    return Statement("find_user", sql, tuple).plan


@pytest.mark.parametrize(
    ("sql", "numbered", "names"),
    [
        ("SELECT 1", "SELECT 1", ()),
        ("SELECT %(b)s, %(a)s, %(b)s::INTEGER", "SELECT $1, $2, $1::INTEGER", ("b", "a")),
        ("SELECT 5 %% %(a)s, '100%%', '%%(a)s'", "SELECT 5 % $1, '100%', '%(a)s'", ("a",)),
        ("SELECT '%%%%', %(a)s", "SELECT '%%', $1", ("a",)),
        ("SELECT %(a b.c-d[0]:é)s", "SELECT $1", ("a b.c-d[0]:é",)),
        ("SELECT %(é)s, '🥋'", "SELECT $1, '🥋'", ("é",)),
    ],
)
def test_names_become_numbers_and_doubled_percent_signs_single_ones(
    sql: str, numbered: str, names: tuple[str, ...]
) -> None:
    made = plan(sql)
    assert (made.sql.decode(), made.names) == (numbered, names)


@pytest.mark.parametrize("name", ["percent %", "brackets (x)", "colon:", "[a]", "a.b", "ç", "a'b", 'a"b', "$1", "1"])
def test_every_name_that_sqlalchemy_writes_is_recognized(name: str) -> None:
    statement: Any = select(column("%x%")).select_from(table("%s")).where(literal_column("'50%'") == bindparam(name, 1))
    made = plan(str(statement.compile(dialect=DIALECT)))
    assert b'"%x%"' in made.sql
    assert b"'50%' = $1" in made.sql
    assert len(made.names) == 1


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_parameter_without_a_cast_is_sent_as_psycopg_sends_it(value: object) -> None:
    transformer = Transformer()
    dumped = transformer.dump_sequence([value], [PyFormat.AUTO])
    parameters = plan("SELECT f(%(a)s)").parameters({"a": value})
    assert [*map(repr, parameters.values)] == [*map(repr, dumped)]
    assert (parameters.types, list(parameters.formats)) == (transformer.types, transformer.formats)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_an_integer_with_a_cast_has_no_type_and_another_value_keeps_its_own(value: object) -> None:
    sql = str(select(bindparam("a", type_=Integer)).compile(dialect=DIALECT))
    transformer = Transformer()
    transformer.dump_sequence([value], [PyFormat.AUTO])
    [kind] = plan(sql).parameters({"a": value}).types
    is_small = value in (1, 40_000, 2**40) and not isinstance(value, bool)
    assert kind == (0 if is_small or value == [1, 70_000] else (transformer.types or ())[0])


def test_integers_of_every_size_share_a_prepared_statement() -> None:
    made = plan("SELECT %(a)s::INTEGER, %(b)s::BIGINT[]")
    sent = [made.parameters({"a": number, "b": [number]}) for number in (0, 40_000, 2**40)]
    assert {parameters.types for parameters in sent} == {(0, 0)}
    assert [[*map(bytes, parameters.values)] for parameters in sent] == [  # type: ignore[arg-type]  # no NULL
        [b"0", b"{0}"],
        [b"40000", b"{40000}"],
        [b"1099511627776", b"{1099511627776}"],
    ]


@pytest.mark.parametrize("sql", ["%(a)s::INTEGER + %(a)s", "%(a)s::VARCHAR", "%(a)s::INTEGER = %(a)s::BIGINT"])
def test_an_integer_that_is_not_always_cast_to_one_integer_keeps_its_type(sql: str) -> None:
    assert plan(f"SELECT {sql}").parameters({"a": 1}).types == (21,)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("secret\0", "contains NUL, which PostgreSQL's text cannot hold"),
        (["secret", "\0"], "contains NUL, which PostgreSQL's text cannot hold"),
        ("secret\ud800", "contains half of a surrogate pair, which is not text"),
        (["secret\udfff"], "contains half of a surrogate pair, which is not text"),
        ([1, "secret"], "is a list of different types"),
        ({"secret": 1}, "is of type `dict`, which PostgreSQL has no type for, or has a value outside its range"),
        (object(), "is of type `object`, which PostgreSQL has no type for, or has a value outside its range"),
        (Jsonb(object()), "is of type `Jsonb`, which PostgreSQL has no type for, or has a value outside its range"),
    ],
    ids=lambda argument: type(argument).__name__,
)
def test_a_value_that_cannot_be_sent_is_refused_by_the_name_of_its_parameter(value: object, problem: str) -> None:
    with pytest.raises(ParameterInvalid) as caught:
        plan("SELECT %(first)s, %(name)s").parameters({"first": "secret", "name": value})
    assert caught.value.what == f"`find_user`: the value of `name` {problem}"
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_refused_value_leaves_nothing_behind_for_the_next_call() -> None:
    made = plan("SELECT %(a)s, %(b)s")
    for _ in range(3):
        with pytest.raises(ParameterInvalid):
            made.parameters({"a": 1, "b": "\0"})
        assert made.parameters({"a": 1, "b": "x"}).types == (21, 0)


def test_threads_share_a_plan_and_each_gets_its_own_parameters() -> None:
    made = plan("SELECT %(a)s, %(b)s::INTEGER")
    kinds: list[tuple[Any, int]] = [(1, 21), (40_000, 23), ("x", 0), (1.5, 701), (None, 0), (True, 16)]

    def wrong(number: int) -> int:
        value, kind = kinds[number % len(kinds)]
        found = 0
        for turn in range(500):
            values, types, _ = made.parameters({"a": value, "b": turn})
            found += types != (kind, 0) or values[1] is None or bytes(values[1]) != str(turn).encode()
        return found

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(wrong, range(48))) == 0


def test_psycopg_still_raises_for_what_we_refuse() -> None:
    # `ParameterInvalid` tells NUL by psycopg's text, because it has no other sign of it.
    with pytest.raises(psycopg.DataError, match="NUL"):
        Transformer().dump_sequence(["\0"], [PyFormat.AUTO])
