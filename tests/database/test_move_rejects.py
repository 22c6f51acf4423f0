"""What is kept of excluded rows and values: exactly what the source had, and a script that brings it back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, Row, ask, change, copy_into

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.database.text_output import TEXT_OUTPUT
from tatame_db.move.restore import RESTORED, RowsWithoutText, values_of_row
from tatame_db.server.embedded import EmbeddedServer

Restore = Callable[..., None]


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


@pytest.fixture
def restore(server: EmbeddedServer, engine: Engine, bare_address: URL) -> Restore:
    """A function that runs the script of some tables in a database without tables."""

    def restore(*tables: str) -> None:
        with move.open_target(engine) as target:
            script = "".join(move.restoring_script(target, tables))
        subprocess.run(
            [server.program("psql"), "--no-psqlrc", "--quiet", "--file=-", readable(bare_address)],
            input=script.encode(),
            check=True,
            capture_output=True,
            env={"PATH": os.environ["PATH"], "PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "SQL, DMY"},
        )

    return restore


def texts(address: URL, table: str) -> list[Row]:
    """Return the rows of a table as text, which is the same in all sessions."""
    options = " ".join(f"-c {name}={value.replace(' ', '')}" for name, value in TEXT_OUTPUT.items())
    with psycopg.connect(readable(address), options=f"{options} -c lc_monetary=C") as connection:
        return sorted(connection.execute(f"SELECT its.*::text FROM {table} AS its".encode()).fetchall())


def kept(engine: Engine) -> list[Row]:
    return ask(engine.url, 'SELECT id, "row", row_text FROM tatame_move.rejects ORDER BY id')


# --- Values of every type --------------------------------------------------------------------------------------------

_NUMBERS = ["0", "-1", "32767"]
_TIMES = ["00:00:00", "23:59:59.999999", "24:00:00"]
# Values that are difficult to keep, of each type that a column can have.
VALUES: dict[str, list[str]] = {
    "bool": ["t", "f"],
    "bytea": ["", "\\x", "\\x00ff5c", "\\x27220a"],
    "char": ["a", "", "\\377", '"'],
    "name": ["", 'a "b" \\ c', "x" * 63],
    "int8": ["9223372036854775807", "-9223372036854775808"],
    "int2": [*_NUMBERS, "-32768"],
    "int2vector": ["", "1 -2 3"],
    "int4": ["2147483647", "-2147483648"],
    "regproc": ["-", "now", "pg_catalog.boolin"],
    "text": [
        "",
        " ",
        "NULL",
        "null",
        "\\N",
        "\\.",
        "a\tb\nc\rd\be\ff\vg",
        '"',
        "\\",
        "(,)",
        "é🥋",
        "{}",
        "'",
        "x" * 9000,
    ],
    "oid": ["0", "4294967295"],
    "tid": ["(0,0)", "(4294967295,65535)"],
    "xid": ["0", "4294967295"],
    "cid": ["0", "4294967295"],
    "oidvector": ["", "1 2 4294967295"],
    "json": [
        *(
            "null",
            "  null ",
            '{"a":1,"a":2}',
            '{ "b" : 1.0e5,\n"a": -0 }',
            '"\\u0000"',
            '"\\ud83e"',
            '"\\ud83e\\udd4b"',
        ),
        *("1e999999999", "-0.000", '"\\\\u0000"', "[" * 2_500 + "]" * 2_500, "1" * 200_000),
    ],
    "xml": ["", "<a/>", "text", "<?xml version='1.0'?><a b=\"&lt;\">é</a>"],
    "point": ["(-0,0)", "(Infinity,NaN)", "(1e-300,1.7976931348623157e308)"],
    "lseg": ["[(-0,1),(2,3)]"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))"],
    "box": ["(1,1),(-0,0)"],
    "polygon": ["((0,0),(1,1),(2,0))"],
    "line": ["{1,-1,0}", "{0,1,-0}"],
    "circle": ["<(1,1),0>", "<(NaN,1),5>"],
    "float4": ["-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "0.1"],
    "float8": ["-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e308", "0.1", "1e15", "1e16"],
    "money": ["-92233720368547758.08", "0.01"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "inet": ["192.168.0.1/24", "10.0.0.1", "::ffff:1.2.3.4/128", "::/0"],
    "cidr": ["192.168.0.0/24", "::/0"],
    "aclitem": ["=r*w/postgres", "postgres=arwdDxt/postgres"],
    "bpchar": ["", "a ", "ab"],
    "varchar": ["", " ", "x"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"],
    "time": _TIMES,
    "timetz": ["00:00:00+15:59", "24:00:00-15:59", "12:00:00.5+05:30:15"],
    "timestamp": ["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"],
    "timestamptz": ["infinity", "-infinity", "4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"],
    "interval": ["-178000000 years", "1 year -1 day 00:00:00.000001", "-1 mons +1 day -00:00:01", "00:00:00"],
    "bit": ["1"],
    "varbit": ["", "0", "101" * 50],
    "numeric": ["NaN", "Infinity", "-Infinity", "0.00", "-0.10", "1e131071", "1e-16383", "1.500"],
    "refcursor": ["", 'a "b"'],
    "regprocedure": ["-", "abs(integer)"],
    "regoper": ["0", "pg_catalog.||/"],
    "regoperator": ["0", "+(integer,integer)"],
    "regclass": ["-", "pg_class"],
    "regcollation": ["-", '"C"'],
    "regtype": ["-", "integer[]", '"char"'],
    "regrole": ["-", "postgres"],
    "regnamespace": ["-", "pg_catalog"],
    "regconfig": ["simple", "-"],
    "regdictionary": ["simple", "-"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "tsvector": ["", "'a ''b':1A,2 'c\\\\d'"],
    "tsquery": ["", "'a' & !( 'b':*A | 'c' <3> 'd' )"],
    "jsonb": ["null", '"null"', '{"a": null, "b": [1.0, -0, 1e2]}', '""', "{}"],
    "jsonpath": ["$", 'strict $."a b"[*] ? (@ > 1.0 && @ starts with "\\"")'],
    "txid_snapshot": ["1:1:", "10:20:10,14"],
    "pg_snapshot": ["1:1:", "10:20:10,14"],
    "xid8": ["0", "18446744073709551615"],
}
_RANGES: dict[str, list[str]] = {
    "int4range": ["empty", "(,)", "[1,5)", "(,-2147483648)"],
    "int8range": ["empty", "[1,)"],
    "numrange": ["empty", "(-Infinity,NaN]", "[1.50,)"],
    "daterange": ["[-infinity,infinity)", "[2024-01-01,2024-01-02)"],
    "tsrange": ['["-infinity","2024-01-01 00:00:00"]', "(,)"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)'],
}
VALUES |= _RANGES | {
    name.replace("range", "multirange"): ["{}", "{" + ",".join(ranges[1:2]) + "}"] for name, ranges in _RANGES.items()
}
# Types of the database's own, which the target of the script needs too.
OWN_TYPES = [
    "CREATE TYPE public.mood AS ENUM ('', 'a \"b\"', '(,)', 'null')",
    "CREATE DOMAIN public.settings AS json",
    'CREATE TYPE public.pair AS (a text, "b c" public.mood[], d json)',
    "CREATE TYPE public.texts AS RANGE (subtype = text)",
]
OWN_VALUES = {
    "public.mood": ["", 'a "b"', "(,)", "null"],
    "public.settings": ['{"a":1,"a":2}', '"\\u0000"'],
    "public.pair": ["(,,)", '("","{""(,)"",NULL}","""\\\\\\\\ud800""")'],
    "public.texts": ["empty", '[a,"b,""c""\\\\")'],
    "character(3)": ["a", ""],
    "character varying(5)": ["ab "],
    "bit(5)": ["10101"],
    "numeric(10,2)": ["1.5"],
    "time(0) without time zone": ["10:00:00"],
    "interval day to second(3)": ["1 day 00:00:00.001"],
}


def column_types(address: URL) -> list[str]:
    """Return the built-in types whose values can be written, without arrays."""
    names = ask(
        address,
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')"
        " AND typcategory <> 'A' ORDER BY 1",
    )
    return [name for (name,) in names if is_writable(address, name)]


def is_writable(address: URL, name: str) -> bool:
    """Return whether the server accepts a value of a type; it makes those of some types itself."""
    try:
        ask(address, f"SELECT ''::pg_catalog.\"{name}\"")
    except psycopg.errors.FeatureNotSupported:
        return False
    except psycopg.Error:
        return True
    return True


def every_value(address: URL) -> dict[str, list[str]]:
    """Return values of every type, and arrays of them: one with NULL, and one with bounds of its own."""
    values = {f'pg_catalog."{name}"': VALUES[name] for name in column_types(address)} | OWN_VALUES
    arrays = dict[str, list[str]]()
    for kind, its in values.items():
        items = [item for item in its if len(item) < 100]
        written = ",".join('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
        # The separator of boxes differs from that of all others.
        written = written.replace('","', '";"') if "box" in kind else written
        null = ";NULL" if "box" in kind else ",NULL"
        arrays[f"{kind}[]"] = ["{}", f"[5:{4 + len(items)}]={{{written}}}", f"{{{written}{null}}}"]
    return values | arrays


def fill(address: URL, table: str, values: dict[str, list[str]]) -> None:
    """Create a table with a column for each type, and in each row one more value of each, or NULL."""
    columns = ", ".join(f'"c{at}" {kind}' for at, kind in enumerate(values))
    rows = max(map(len, values.values())) + 1
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(f"SET lc_monetary = 'C'; CREATE TABLE {table} (id bigint PRIMARY KEY, {columns})".encode())
        for row in range(rows):
            its = [found[row] if row < len(found) else None for found in values.values()]
            connection.execute(
                f"INSERT INTO {table} VALUES ({', '.join(['%s'] * (len(its) + 1))})".encode(), [row, *its]
            )


def test_rows_with_values_of_every_type_come_back_as_they_were(
    copy: Copy, restore: Restore, supabase: URL, bare_address: URL
) -> None:
    for address in (supabase, bare_address):
        change(address, *OWN_TYPES)
    values = every_value(supabase)
    assert len(values) > 150
    fill(supabase, "every_type", values)
    copy("roles", choices=move.Choices(unknown="keep"))
    restore("every_type")
    assert texts(bare_address, f"{RESTORED}.every_type") == texts(supabase, "every_type")
    shapes = [
        ask(
            address,
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            f" WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum",
        )
        for address, table in [(supabase, "every_type"), (bare_address, f"{RESTORED}.every_type")]
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == len(values) + 1


# --- What is restored ------------------------------------------------------------------------------------------------

EXCLUDED = """
    ALTER TABLE users DROP CONSTRAINT users_gym_id_fkey; ALTER TABLE users DROP CONSTRAINT users_role_fkey;
    UPDATE users SET gym_id = 99, role = 'X' WHERE id = 2; UPDATE users SET created_at = 'infinity' WHERE id = -5;
    UPDATE notifications SET sent_at = 'infinity' WHERE id = 3;
    ALTER TABLE users ADD nickname json; UPDATE users SET nickname = ' {"a":1,"a":2}' WHERE id = 1;
    CREATE TABLE "a.b" (plan json); INSERT INTO "a.b" VALUES ('"\\ud800"'), ('"\\ud800"');
"""
CHOICES = move.Choices(orphans="null", misfits="null", unknown="keep", rejects="keep")


def test_each_excluded_row_is_restored_once(copy: Copy, restore: Restore, supabase: URL, bare_address: URL) -> None:
    change(supabase, EXCLUDED)
    copy(choices=CHOICES)
    restore()
    names = ask(bare_address, f"SELECT relname FROM pg_class WHERE relnamespace = '{RESTORED}'::regnamespace")
    # Of user 2, two values became NULL; of the bounds of the array, JSON knows nothing.
    expected = {
        "users": "users WHERE id IN (2, -5)",
        "notifications": "notifications WHERE id = 3",
        "users.nickname": "(SELECT id, nickname FROM users WHERE id = 1)",
        "a.b": '"a.b"',
    }
    assert {name for (name,) in names} == expected.keys()
    for name, rows in expected.items():
        source, _, where = rows.partition(" WHERE")
        found = texts(supabase, f"{source} AS its WHERE{where} --") if where and "(SELECT" not in rows else None
        assert texts(bare_address, f'{RESTORED}."{name}"') == (found or texts(supabase, rows))


def test_only_the_tables_that_are_named_are_restored(
    copy: Copy, restore: Restore, supabase: URL, engine: Engine, bare_address: URL
) -> None:
    change(supabase, EXCLUDED)
    copy(choices=CHOICES)
    restore("a.b")
    assert ask(bare_address, f"SELECT count(*) FROM pg_class WHERE relnamespace = '{RESTORED}'::regnamespace") == [(1,)]
    with move.open_target(engine) as target:
        assert {group.table for group in move.kept_rows(target, ["users"]).rejects} == {"users"}
        with pytest.raises(move.NotRejected) as caught:
            move.kept_rows(target, ["users", "gyms"])
    assert (caught.value.tables, caught.value.known) == (["gyms"], ["a.b", "notifications", "users"])


def test_the_values_of_a_row_are_those_that_postgresql_wrote(bare_address: URL) -> None:
    values = [
        None,
        "",
        " ",
        ",",
        "(",
        ")",
        '"',
        '""',
        "\\",
        "\\\\",
        '\\"',
        "a",
        "\n",
        "NULL",
        "\\N",
        "é🥋",
        "x" * 100_000,
    ]
    with psycopg.connect(readable(bare_address)) as connection:
        texts = ", ".join(["%s::text"] * len(values))
        [(row,)] = connection.execute(f"SELECT ROW({texts})::text".encode(), values).fetchall()
    assert values_of_row(row) == values


# --- JSON that `jsonb` cannot hold -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "readable_as_json"),
    [
        ('{"a": "\\u0000"}', False),
        ('{"\\u0000": 1}', False),
        ('["\\ud800"]', False),
        ('["\\udc00\\ud800"]', False),
        ("1e400000", False),
        ("-1E+131073", False),
        ("9" * 140_000, False),
        ("[" * 2_500 + "]" * 2_500, False),
        ('["\\\\u0000", "\\\\\\\\ud800"]', True),
        ('["\\ud83e\\udd4b", "\\u0001\\u00e9"]', True),
        ('{"a": 1, "a": 2}', True),
        ("1e-300", True),
        ("null", True),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_jsonb_cannot_hold_stops_no_table(
    copy: Copy, supabase: URL, engine: Engine, value: str, *, readable_as_json: bool
) -> None:
    change(supabase, "ALTER TABLE app_stores ADD extra json; UPDATE app_stores SET created_at = 'infinity'")
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE app_stores SET extra = %s", [value])
    choices = move.Choices(unknown="keep", rejects="keep")
    # As a row and as a value.
    [table] = [table for table in copy(choices=choices).tables if table.table == "app_stores"]
    assert table.rejected == 1
    found = kept(engine)
    assert [(row is not None, values_of_row(text)[-1]) for _, row, text in found] == [(readable_as_json, value)] * 2
    with move.open_for_reading(supabase, engine) as connections:
        proof = move.verify(connections)
    assert proof.equal_but_for_choices
    # A change that only the text shows is a change.
    change(supabase, "UPDATE app_stores SET extra = (extra::text || ' ')::json")
    with move.open_for_reading(supabase, engine) as connections:
        proof = move.verify(connections)
    assert not proof.equal_but_for_choices
    assert [changed.place for changed in proof.changed] == ["app_stores.extra"]


def test_a_large_row_is_kept_as_text_alone(
    copy: Copy, supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tatame_db.move.row_json._SURELY_SMALL_BYTES", 1_000)
    monkeypatch.setattr("tatame_db.move.row_json._MAX_BYTES", 5_000)
    change(
        supabase,
        # Values that are outside of the page, as large ones are.
        "ALTER TABLE assets ALTER content SET STORAGE EXTERNAL",
        "UPDATE assets SET valid_until = 'infinity', content = repeat('x', CASE id WHEN 1 THEN 4000 ELSE 6000 END)",
    )
    copy(choices=move.Choices(misfits="reject"))
    assert [(key, row is not None, len(text) > 4_000) for key, row, text in kept(engine)] == [
        ("1", True, True),
        ("2", False, True),
    ]


def test_a_row_that_is_longer_than_a_text_can_be_is_refused_in_words(copy: Copy, supabase: URL, engine: Engine) -> None:
    # A value that is too long only once it is sent: a real one takes half a minute.
    change(
        supabase,
        "CREATE FUNCTION long() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN IF current_query() LIKE 'COPY%' THEN"
        " RAISE EXCEPTION 'string buffer exceeds maximum allowed length' USING ERRCODE = '54000'; END IF;"
        " RETURN 'x'; END $$",
        "ALTER TABLE app_stores RENAME TO stored",
        "CREATE VIEW app_stores AS SELECT *, public.long() FROM stored",
    )
    with pytest.raises(move.RowTooLarge) as caught:
        copy(choices=move.Choices(unknown="keep"))
    assert caught.value.table == "app_stores"
    assert ask(engine.url, "SELECT outcome FROM tatame_move.runs") == [("failed",)]
    assert ask(engine.url, "SELECT count(*) FROM app_stores") == [(0,)]


# --- A record of an older version ------------------------------------------------------------------------------------

OLD_RECORD = """
    DROP INDEX tatame_move.rejects_id_index;
    ALTER TABLE tatame_move.rejects DROP row_text, DROP shape, ALTER "row" SET NOT NULL;
    DROP TABLE tatame_move.not_returned, tatame_move.shapes;
    CREATE INDEX rejects_table_name_index ON tatame_move.rejects (table_name);
"""


def test_a_record_of_an_older_version_is_compared_and_upgraded(
    copy: Copy, restore: Restore, supabase: URL, engine: Engine
) -> None:
    change(supabase, EXCLUDED, 'DROP TABLE "a.b"')
    copy(choices=CHOICES)
    expected = kept(engine)
    change(engine.url, OLD_RECORD)
    with move.open_for_reading(supabase, engine) as connections:
        assert move.verify(connections).equal_but_for_choices
    with move.open_target(engine) as target:
        assert len(move.kept_rows(target).rejects) == 5
    with pytest.raises(RowsWithoutText) as caught:
        restore()
    assert caught.value.tables == ["notifications", "users"]
    copy(choices=CHOICES)
    assert kept(engine) == expected
    restore()
    assert ask(engine.url, "SELECT to_regclass('tatame_move.rejects_table_name_index')") == [(None,)]


def test_ids_and_counts_are_listed(copy: Copy, supabase: URL, engine: Engine) -> None:
    with move.open_target(engine) as target:
        assert move.kept_rows(target).rejects == []
    change(supabase, EXCLUDED)
    copy(choices=CHOICES)
    with move.open_target(engine) as target:
        found = move.kept_rows(target).rejects
    assert {(group.place, group.action, *group.ids) for group in found} == {
        ("a.b", "kept", "NULL", "NULL"),
        ("notifications.sent_at", "nulled", "3"),
        ("users.created_at", "rejected", "-5"),
        ("users.gym_id", "nulled", "2"),
        ("users.nickname", "kept", "1"),
        ("users.role", "nulled", "2"),
    }
    assert all(group.rows == len(group.ids) for group in found)
