"""How many ids the keys and sequences have used, and when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from tatame_db import evolve
from tatame_db.schema import Base

WEEK = 7 * 86_400


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def use(engine: Engine, name: str) -> evolve.IdUse:
    [found] = [found for found in evolve.id_uses(engine) if found.name == name]
    return found


def test_every_numbered_key_of_the_models_is_among_them(engine: Engine) -> None:
    numbered = {f"{table.name}.id" for table in Base.metadata.sorted_tables if table.name != "roles"}
    assert numbered == {found.name for found in evolve.id_uses(engine)}
    assert {(found.share, found.end) for found in evolve.id_uses(engine)} == {(0.0, None)}


def test_the_end_follows_from_the_newest_rows(engine: Engine) -> None:
    run(
        engine,
        "INSERT INTO versions (id, created_at) VALUES (820000000, now() - interval '10 days'), (900000000, now())",
        "SELECT setval('versions_id_seq', 900000000)",
    )
    found = use(engine, "versions.id")
    assert (found.last, found.largest) == (900_000_000, 2**31 - 1)
    assert found.end
    expected = datetime.now(UTC) + timedelta(days=10 * (2**31 - 1 - 900_000_000) / 80_000_000)
    assert abs((found.end - expected).total_seconds()) < WEEK


def test_a_partitioned_table_counts_by_the_column_with_the_sequence(engine: Engine) -> None:
    run(
        engine,
        "CREATE TABLE visits (id serial, created_at timestamp NOT NULL, PRIMARY KEY (id, created_at))"
        " PARTITION BY RANGE (created_at)",
        "CREATE TABLE visits_old PARTITION OF visits FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
        "CREATE TABLE visits_new PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)",
        "INSERT INTO visits SELECT 1000000000 + n * 1000000, timestamp '2025-12-01' + n * interval '1 day'"
        " FROM generate_series(1, 100) AS n",
        "SELECT setval('visits_id_seq', 1100000000)",
    )
    assert "visits_old.id" not in {found.name for found in evolve.id_uses(engine)}
    days_left = use(engine, "visits.id").days_left
    assert days_left is not None
    assert abs(days_left - (2**31 - 1 - 1_100_000_000) / 1_000_000) < 1


def test_a_locked_table_is_not_readable_and_is_not_waited_for(engine: Engine) -> None:
    run(engine, "CREATE TABLE tags (id smallint PRIMARY KEY)", "INSERT INTO tags VALUES (300)")
    assert use(engine, "tags.id").last == 300
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE tags"))
        assert not use(engine, "tags.id").readable
        connection.execute(text("TRUNCATE versions RESTART IDENTITY"))
        unread = {found.name for found in evolve.id_uses(engine) if not found.readable}
        assert unread == {"tags.id", "versions.id"}


def test_the_change_to_bigint_runs_as_printed_on_a_partitioned_table(engine: Engine) -> None:
    run(
        engine,
        "CREATE TABLE visits (id serial, user_id integer REFERENCES users, created_at timestamp NOT NULL,"
        " PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at)",
        "CREATE TABLE visits_old PARTITION OF visits FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
        "CREATE TABLE visits_new PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)",
    )
    for name in ("users.id", "visits.id"):
        run(engine, *use(engine, name).enlarge.split("; "))
        assert use(engine, name).largest == 2**63 - 1


def test_an_end_that_is_not_known_or_far_has_words(engine: Engine) -> None:
    assert use(engine, "versions.id").end_in_words == "no rate yet"
    run(
        engine,
        "INSERT INTO versions (id, created_at) VALUES (90, now() - interval '10 days'), (100, now())",
        "SELECT setval('versions_id_seq', 100)",
    )
    assert use(engine, "versions.id").end_in_words == "over 100 years"
    # The rows before a jump do not show how fast ids are used, nor do a few behind it.
    run(engine, "SELECT setval('versions_id_seq', 1200000000)")
    assert use(engine, "versions.id").end_in_words == "no rate yet"
    run(engine, "INSERT INTO versions DEFAULT VALUES", "INSERT INTO versions DEFAULT VALUES")
    assert use(engine, "versions.id").end_in_words == "no rate yet"
    run(engine, "SELECT setval('versions_id_seq', 2147483647)")
    assert use(engine, "versions.id").end_in_words == "none is left"


def test_the_last_id_is_that_of_the_sequence_and_rows_beyond_it_are_named(engine: Engine) -> None:
    run(engine, f"SELECT setval('versions_id_seq', {2**31 - 48}, false)")
    assert (use(engine, "versions.id").last, use(engine, "versions.id").next_id) == (2**31 - 49, 2**31 - 48)
    run(engine, "ALTER SEQUENCE versions_id_seq MAXVALUE 1000 RESTART 990")
    assert use(engine, "versions.id").share == 0.989

    run(
        engine,
        "ALTER SEQUENCE versions_id_seq RESTART 3 MAXVALUE 2147483647",
        "INSERT INTO versions (id) VALUES (3), (6)",
    )
    found = use(engine, "versions.id")
    assert (found.last, found.of_rows, found.next_is_taken) == (2, 6, True)
    run(engine, "SELECT nextval('versions_id_seq')")
    found = use(engine, "versions.id")
    assert (found.taken, found.next_is_taken) == (6, False)
    assert found.behind
    assert found.behind.endswith("when it comes to 6, the insert fails")
    # Two servers share out odd and even ids.
    run(engine, "ALTER SEQUENCE versions_id_seq INCREMENT 2 RESTART 5")
    assert use(engine, "versions.id").behind is None
    run(engine, "INSERT INTO versions (id) VALUES (2147483000)", "ALTER SEQUENCE versions_id_seq INCREMENT 1")
    found = use(engine, "versions.id")
    assert found.share < 0.01
    assert found.behind
    assert "the last of which has the id 2,147,483,000: when it comes to 6, the insert fails" in found.behind


def test_a_sequence_may_count_down_and_start_again(engine: Engine) -> None:
    run(engine, "CREATE TABLE tags (id serial PRIMARY KEY)", "INSERT INTO tags VALUES (1)")
    run(engine, "ALTER SEQUENCE tags_id_seq MAXVALUE 100 CYCLE RESTART 100", "SELECT nextval('tags_id_seq')")
    found = use(engine, "tags.id")
    assert (found.share, found.next_id, found.next_is_taken) == (1.0, 1, True)
    run(engine, "ALTER SEQUENCE tags_id_seq INCREMENT -1 MINVALUE 1 RESTART 41")
    found = use(engine, "tags.id")
    assert (found.share, found.taken) == (0.59, 1)
    run(engine, "ALTER SEQUENCE tags_id_seq MINVALUE -100 MAXVALUE -1 START -1 RESTART -90")
    assert use(engine, "tags.id").share == 0.89


def test_sequences_of_other_schemas_are_among_them(engine: Engine) -> None:
    run(
        engine,
        "CREATE SCHEMA other",
        r'CREATE TABLE "odd \:name" ("\:id" serial PRIMARY KEY)',
        "CREATE TABLE other.tags (id smallserial PRIMARY KEY)",
        "CREATE SEQUENCE other.numbers MAXVALUE 10",
        "SELECT setval('other.numbers', 9)",
        "INSERT INTO other.tags VALUES (1)",
    )
    assert use(engine, "other.numbers").share == 0.9
    assert use(engine, "odd :name.:id").readable
    assert use(engine, "other.tags.id").next_is_taken


@pytest.mark.parametrize("first", ["small", "wide"])
@pytest.mark.parametrize("owner", ["NONE", "small.id", "wide.id"])
def test_a_sequence_counts_for_each_column_that_it_fills(engine: Engine, first: str, owner: str) -> None:
    tables = {
        "small": "CREATE TABLE small (id integer PRIMARY KEY DEFAULT nextval('numbers'))",
        "wide": "CREATE TABLE wide (id bigint PRIMARY KEY DEFAULT nextval('numbers'))",
    }
    run(
        engine,
        "CREATE SEQUENCE numbers",
        tables.pop(first),
        *tables.values(),
        f"ALTER SEQUENCE numbers OWNED BY {owner}",
        "INSERT INTO small VALUES (100)",
        "SELECT setval('numbers', 99)",
    )
    assert (use(engine, "small.id").next_is_taken, use(engine, "wide.id").taken) == (True, None)
    run(engine, "SELECT setval('numbers', 2100000000)")
    assert use(engine, "small.id").share > 0.97
    assert use(engine, "wide.id").share < 0.01
    assert "numbers" not in {found.name for found in evolve.id_uses(engine)}


def test_the_sequence_of_a_column_is_that_of_its_default(engine: Engine) -> None:
    run(
        engine,
        "ALTER TABLE checkins ALTER id SET DEFAULT nextval('attachments_id_seq')",
        "ALTER SEQUENCE attachments_id_seq AS bigint MAXVALUE 9223372036854775807",
        "SELECT setval('attachments_id_seq', 2147483640), setval('checkins_id_seq', 2147483646)",
        "CREATE TABLE tags (id serial PRIMARY KEY)",
        "ALTER TABLE tags ALTER id DROP DEFAULT",
        "INSERT INTO tags VALUES (1)",
    )
    assert use(engine, "checkins.id").sequence == "'attachments_id_seq'"
    assert use(engine, "checkins.id").share > 0.99
    assert use(engine, "attachments.id").share > 0.99
    # The two that fill no column stand for themselves.
    assert use(engine, "checkins_id_seq").share > 0.99
    assert use(engine, "tags_id_seq").share == 0
    assert use(engine, "tags.id").behind is None


TYPES = {
    "smallint": 32_767,
    "integer": 2**31 - 1,
    "numeric(5,0)": 99_999,
    "numeric(7,2)": 99_999,
    "numeric(5,-2)": 9_999_999,
    "numeric(40)": 2**63 - 1,
    "numeric": 2**63 - 1,
    "short": 32_767,
    "few": 999,
}
KEYS = ("UNIQUE", "PRIMARY KEY", "NOT NULL")


def test_the_type_of_each_column_that_a_sequence_fills_counts(engine: Engine) -> None:
    run(
        engine,
        "CREATE DOMAIN shorter AS smallint",
        "CREATE DOMAIN short AS shorter CHECK (value > 0)",
        "CREATE DOMAIN few AS numeric(3)",
        "CREATE SEQUENCE numbers",
        *(
            f"CREATE TABLE \"{kind} {key}\" (id {kind} {key} DEFAULT nextval('numbers'));"
            f'INSERT INTO "{kind} {key}" VALUES (100)'
            for kind in TYPES
            for key in KEYS
        ),
        "SELECT setval('numbers', 99)",
    )
    found = {found.name: found for found in evolve.id_uses(engine)}
    for kind, largest in TYPES.items():
        for key in KEYS:
            column = found[f"{kind} {key}.id"]
            # A number that need not be unique is not compared.
            taken = None if key == "NOT NULL" else 100
            assert (column.largest, column.next_id, column.taken) == (largest, 100, taken), column
    run(engine, """INSERT INTO "numeric UNIQUE" VALUES ('NaN'), ('Infinity'), ('-Infinity'), (1e30), (200.5)""")
    assert use(engine, "numeric UNIQUE.id").of_rows == 100


def test_a_default_that_computes_is_compared_with_the_type_and_not_with_the_sequence(engine: Engine) -> None:
    computing = ["nextval('n') * 10", "nextval('n') + 1000", "2 + nextval('n')::int", "round(nextval('n') / 3)"]
    plain = ["nextval('n')::integer", "(nextval('n'))::numeric::smallint", "nextval('n')"]
    run(
        engine,
        "CREATE SEQUENCE n",
        *(
            f"CREATE TABLE tags_{number} (id integer PRIMARY KEY DEFAULT {default})"
            for number, default in enumerate(computing + plain)
        ),
        "CREATE TABLE codes (code text UNIQUE DEFAULT 'x' || nextval('n'))",
        *(f"INSERT INTO tags_{number} VALUES (2147483000)" for number in range(7)),
        "SELECT setval('n', 214748300)",
    )
    found = {found.name: found for found in evolve.id_uses(engine)}
    for number in range(7):
        column = found[f"tags_{number}.id"]
        computes = number < len(computing)
        assert (column.computed, column.behind is None, column.sequence is None) == (computes, computes, computes)
        assert (column.share > 0.99) is computes
    assert (found["codes.code"].computed, found["codes.code"].unique) == (True, True)


LATE = {"late": "nextval('odd.\"Ids\"'::text)", "explicit": "nextval('odd.\"Ids\"'::text::regclass)"}


def test_a_sequence_that_the_catalogue_does_not_name_is_found_or_not_judged(engine: Engine) -> None:
    run(
        engine,
        "CREATE SCHEMA odd",
        'CREATE SEQUENCE odd."Ids"',
        "CREATE SEQUENCE near",
        *(f"CREATE TABLE {name} (id integer PRIMARY KEY DEFAULT {default})" for name, default in LATE.items()),
        "CREATE TABLE near_late (id integer PRIMARY KEY DEFAULT nextval('near'::text))",
        "CREATE TABLE built (id integer PRIMARY KEY DEFAULT nextval(('ne' || 'ar')::regclass))",
        "CREATE TABLE unknown (id integer PRIMARY KEY DEFAULT nextval('no_sequence'::text))",
        "CREATE DOMAIN own AS integer DEFAULT nextval('near')",
        "CREATE DOMAIN owner AS own",
        "CREATE TABLE by_domain (id own PRIMARY KEY)",
        "CREATE TABLE by_domains (id owner PRIMARY KEY)",
        "CREATE TABLE not_by_domain (id own PRIMARY KEY DEFAULT 5)",
        "CREATE TABLE none_by_domain (id own PRIMARY KEY DEFAULT NULL)",
        "CREATE VIEW looked AS SELECT id FROM by_domain",
        *(
            f"INSERT INTO {name} VALUES (20)"
            for name in [*LATE, "near_late", "by_domain", "by_domains", "not_by_domain", "none_by_domain"]
        ),
        """SELECT setval('odd."Ids"', 19), setval('near', 19)""",
    )
    found = {found.name: found for found in evolve.id_uses(engine)}
    for name in ("late", "explicit", "near_late", "by_domain", "by_domains"):
        assert found[f"{name}.id"].next_is_taken, name
    for name in ("built", "unknown"):
        assert (found[f"{name}.id"].computed, found[f"{name}.id"].sequence) == (True, None)
    for name in ("not_by_domain", "none_by_domain"):
        assert (found[f"{name}.id"].sequence, found[f"{name}.id"].computed) == (None, False)
    assert not {"looked.id", "near", 'odd."Ids"', "odd.Ids"} & found.keys()
    run(engine, """SELECT setval('odd."Ids"', 2147483647)""")
    assert use(engine, "late.id").share == 1


def test_a_column_that_is_no_number_is_not_compared(engine: Engine) -> None:
    kinds = {"varchar(4)": 9_999, "char(4)": 9_999, "text": 2**63 - 1, "varchar": 2**63 - 1, "real": 2**63 - 1}
    run(
        engine,
        "CREATE SEQUENCE n",
        *(f"CREATE TABLE \"{kind}\" (id {kind} PRIMARY KEY DEFAULT nextval('n'))" for kind in kinds),
        'CREATE TABLE shorter (id varchar(3) REFERENCES "varchar(4)")',
        "CREATE TABLE names (id varchar(4) PRIMARY KEY)",
        "SELECT setval('n', 500)",
    )
    found = {found.name: found for found in evolve.id_uses(engine)}
    for kind, largest in kinds.items():
        column = found[f"{kind}.id"]
        assert (column.largest, column.of_sequence) == (999 if kind == "varchar(4)" else largest, 500)
        assert (column.computed, column.compared, column.unique) == (True, False, True)
    assert "names.id" not in found
    run(engine, *use(engine, "varchar(4).id").enlarge.split("; "))
    assert use(engine, "varchar(4).id").largest == 2**63 - 1


def test_an_exclusion_by_equality_makes_a_number_unique(engine: Engine) -> None:
    run(
        engine,
        "CREATE TABLE tags (id serial, EXCLUDE USING btree (id WITH =))",
        "CREATE TABLE marks (id serial, EXCLUDE USING btree (id WITH =) WHERE (id > 0))",
        "INSERT INTO tags VALUES (4)",
        "INSERT INTO marks VALUES (4)",
        "SELECT setval('tags_id_seq', 3), setval('marks_id_seq', 3)",
    )
    assert (use(engine, "tags.id").next_is_taken, use(engine, "tags.id").unique) == (True, True)
    assert use(engine, "marks.id").taken is None


def test_children_count_with_their_table_unless_they_have_a_sequence_of_their_own(engine: Engine) -> None:
    run(
        engine,
        "CREATE TABLE tags (id serial PRIMARY KEY)",
        "CREATE TABLE labels (PRIMARY KEY (id)) INHERITS (tags)",
        "CREATE TABLE marks (PRIMARY KEY (id)) INHERITS (tags)",
        "CREATE SEQUENCE own OWNED BY marks.id",
        "ALTER TABLE marks ALTER id SET DEFAULT nextval('own')",
        "CREATE TABLE visits (id serial, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE visits_past PARTITION OF visits FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
        "INSERT INTO visits VALUES (7, '2026-01-01')",
    )
    found = {found.name: found.sequence for found in evolve.id_uses(engine)}
    assert (found["tags.id"], found["marks.id"]) == ("'tags_id_seq'", "'own'")
    # An index knows no rows of children.
    run(engine, "INSERT INTO labels VALUES (7)")
    assert (use(engine, "tags.id").taken, use(engine, "tags.id").unique) == (7, False)
    run(engine, "INSERT INTO tags VALUES (6)")
    assert (use(engine, "tags.id").taken, use(engine, "tags.id").unique) == (6, True)
    # Its key is one, and has no sequence that is not counted already.
    assert found["labels.id"] is None
    assert "visits_past.id" not in found
    assert use(engine, "visits.id").taken == 7


def test_a_large_table_is_read_by_an_index_only(engine: Engine) -> None:
    run(
        engine,
        "CREATE TABLE tags (gym integer, id serial, PRIMARY KEY (gym, id))",
        "INSERT INTO tags VALUES (1, 5)",
    )
    assert use(engine, "tags.id").taken == 5
    run(engine, "UPDATE pg_class SET relpages = 100000 WHERE relname = 'tags'")
    assert (use(engine, "tags.id").unread, use(engine, "tags.id").taken) == ("no index", None)
    run(engine, "CREATE INDEX ON tags (id)")
    assert (use(engine, "tags.id").unread, use(engine, "tags.id").taken) == (None, 5)
