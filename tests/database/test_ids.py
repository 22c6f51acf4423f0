"""How many ids the keys and sequences have used, and when they end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
        "CREATE TABLE other.tags (id smallserial PRIMARY KEY)",
        "CREATE SEQUENCE other.numbers MAXVALUE 10",
        "SELECT setval('other.numbers', 9)",
        "INSERT INTO other.tags VALUES (1)",
    )
    assert use(engine, "other.numbers").share == 0.9
    assert use(engine, "other.tags.id").next_is_taken
