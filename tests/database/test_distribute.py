"""The placement of the tables on Citus: its order, its refusals, and that no stop or kill loses a row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import psycopg
import pytest
from sqlalchemy import URL, Identity, Index, MetaData, select, update
from tests.conftest import until
from tests.database.cituses import citus_address, citus_database
from tests.database.conftest import serving
from tests.database.moves import Killed, ask, change, contents
from typer.testing import CliRunner, Result

from tatame_db import doctor, evolve, insert_many, read, seed
from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.database.citus import know, knows_citus
from tatame_db.database.errors import NodeUnavailable
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.doctor import Finding, Verdict
from tatame_db.evolve import silent_nodes
from tatame_db.evolve.distribute_errors import CopyNotCounted
from tatame_db.evolve.placement import wanted_places
from tatame_db.schema import Base, Checkin, DistributionInvalid, User
from tatame_db.studio.access import open_access

PLAN = seed.SeedPlan(gyms=1, members=10, days=20)
PLACED = dict.fromkeys(Base.metadata.tables, "on every node") | dict.fromkeys(
    ("checkins", "notifications"), "distributed by id"
)


def run(address: URL, arguments: str) -> Result:
    environment = {"DATABASE_URL": readable(address), "COLUMNS": "200"}
    return CliRunner().invoke(commands.app, arguments.split(), env=environment, catch_exceptions=False)


# --- Without Citus ----------------------------------------------------------------------------------------------------


def test_the_large_tables_are_distributed_after_those_that_they_refer_to() -> None:
    places = {name: str(place) for name, place in wanted_places().items()}
    assert places == PLACED
    assert list(places)[-2:] == ["checkins", "notifications"]


@pytest.mark.parametrize(
    ("table", "unique", "reason"),
    [
        ("users", None, "gyms refers to it"),
        ("checkins", "date", "one of its unique keys lacks id"),
        ("checkins", None, "id is an identity"),
    ],
)
def test_a_table_whose_keys_span_the_nodes_is_not_distributed(
    table: str, unique: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Base.metadata.tables[table]
    monkeypatch.setattr(model, "info", model.info | {"distributed": True})
    if reason == "id is an identity":
        monkeypatch.setattr(model.columns["id"], "identity", Identity())
    if unique:
        copy = model.to_metadata(MetaData())
        index = Index("one", copy.columns[unique], unique=True)
        monkeypatch.setattr(model, "indexes", {index})
    with pytest.raises(DistributionInvalid, match=reason):
        wanted_places()


def test_a_server_without_citus_is_refused(address: URL) -> None:
    done = run(address, "distribute --yes --json")
    assert done.exit_code == 1
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["means"]) == ("CitusMissing", "Nothing was changed.")
    assert "is on a server without Citus" in error["what"]
    assert "CREATE EXTENSION citus" in error["fix"]


# --- On Citus ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def coordinator() -> Generator[URL]:
    """The address of a seeded database on the coordinator, in which nothing is placed yet."""
    with citus_database() as address:
        with Database(address) as database:
            evolve.migrate(database.engine)
            with database.engine.begin() as connection:
                seed.seed(connection, PLAN)
        yield address


def citus_line(address: URL) -> Finding:
    return next(line for line in doctor.examine(address).findings if line.name == "citus")


def nodes_of(address: URL) -> list[URL]:
    return [
        address.set(host=host, port=port) for host, port in ask(address, "SELECT nodename, nodeport FROM pg_dist_node")
    ]


def test_each_step_can_be_the_last_one_and_no_row_is_lost(coordinator: URL) -> None:
    rows = contents(coordinator)
    with Database(coordinator) as database:
        assert evolve.status(database.engine).placement == dict.fromkeys(PLACED, "on the coordinator")
        [planned] = plans(database)
        assert [step.table for step in planned.steps] == [*wanted_places(), None]
        for number in range(len(planned.steps)):

            def stop(_: evolve.PlacementStep) -> None:
                raise Killed

            with pytest.raises(Killed):
                evolve.distribute(database.engine, agree=lambda _: True, on_step=stop)
            assert contents(coordinator) == rows
            if number < len(planned.steps) - 2:
                assert evolve.check(database.engine).failed == ["placement"]
                assert citus_line(coordinator).verdict == Verdict.WARN
        done = evolve.distribute(database.engine, agree=lambda _: False)
        assert done is not None
        assert (done.steps, done.placed) == ([], PLACED)
        report = evolve.status(database.engine)
        assert report.placement == PLACED
        assert report.tables == {name: len(rows[name]) for name in PLACED}
        assert evolve.check(database.engine).failed == []
    assert {tuple(map(len, contents(node).values())) for node in nodes_of(coordinator)} == {
        tuple(map(len, rows.values()))
    }
    assert citus_line(coordinator).text.startswith("version ")
    assert (
        "nothing to do: 9 tables on every node, 2 tables distributed by id are placed"
        in run(coordinator, "distribute").output
    )


def test_the_question_counts_the_other_sessions_and_none_of_its_own(coordinator: URL) -> None:
    others = """
        SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND backend_type = 'client backend' AND application_name NOT LIKE 'citus%'
    """
    # A session that has just been closed is there for some moments.
    until(lambda: not ask(coordinator, others))
    assert "other session" not in run(coordinator, "distribute --dry-run").output
    until(lambda: not ask(coordinator, others))
    with psycopg.connect(readable(coordinator)):
        assert "1 other session of this database" in run(coordinator, "distribute --dry-run").output


def plans(database: Database) -> list[evolve.Distribution]:
    found: list[evolve.Distribution] = []

    def refuse(planned: evolve.Distribution) -> bool:
        found.append(planned)
        return False

    assert evolve.distribute(database.engine, agree=refuse) is None
    return found


def test_the_studio_counts_and_names_the_place_of_each_table(coordinator: URL) -> None:
    rows = contents(coordinator)
    assert run(coordinator, "distribute --yes").exit_code == 0
    with (
        Database(coordinator) as database,
        serving(open_access(database, embedded=True, write=True)) as client,
    ):
        overview = client.get("/api/overview")
        assert overview["problems"] == {}
        shown = {table["name"]: (table["rows_estimated"], table["place"]) for table in overview["tables"]}
        assert shown == {name: (len(rows[name]), PLACED[name]) for name in PLACED}
        assert min(table["size_bytes"] for table in overview["tables"]) > 0
        for name, expected in rows.items():
            assert client.get(f"/api/rows/{name}")["estimated"] == len(expected)
            assert client.get(f"/api/count/{name}") == {"rows": len(expected)}


def test_a_placed_database_migrates_and_says_in_words_what_citus_refuses(
    coordinator: URL, add: Callable[..., str]
) -> None:
    assert run(coordinator, "distribute --yes").exit_code == 0
    add(
        upgrade="op.add_column('checkins', sa.Column('note', sa.Text))\n"
        "    op.create_index('checkins_note_index', 'checkins', ['note'])",
        downgrade="op.drop_column('checkins', 'note')",
    )
    for command in ("migrate", "rollback --yes --accept-data-loss", "migrate"):
        assert run(coordinator, command).exit_code == 0
    assert contents(nodes_of(coordinator)[1])["checkins"][0][0].endswith(",)")
    add(upgrade="op.create_index('checkins_date_unique', 'checkins', ['date'], unique=True)")
    done = run(coordinator, "migrate")
    assert (done.exit_code, "on non-partition columns is currently unsupported" in done.output) == (1, True)
    assert "hint: change the migration to what Citus supports" in done.output


def test_another_placement_is_refused_with_the_statement_that_undoes_it(coordinator: URL) -> None:
    change(coordinator, "SELECT create_distributed_table('public.app_stores', 'id')")
    done = run(coordinator, "distribute --yes")
    assert done.exit_code == 1
    assert "app_stores is distributed by id, not on every node" in done.output
    change(coordinator, done.output.split("with `")[1].split("`")[0])
    assert run(coordinator, "distribute --yes").exit_code == 0


def test_a_partitioned_table_that_is_not_distributed_is_refused_before_the_first_step(coordinator: URL) -> None:
    change(
        coordinator,
        "DROP TABLE attachments CASCADE",
        "CREATE TABLE attachments (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    )
    for arguments in ("distribute --dry-run", "distribute --yes"):
        done = run(coordinator, arguments)
        assert done.exit_code == 1
        assert "Citus copies no partitioned table to every node: attachments" in done.output
    assert ask(coordinator, "SELECT count(*) FROM pg_dist_partition") == [(0,)]


def test_a_server_that_cannot_place_tables_is_refused(coordinator: URL) -> None:
    worker = nodes_of(coordinator)[1]
    for command in ("distribute --yes", "up", "migrate", "push --yes", "seed", "check", "status"):
        done = run(worker, command)
        assert (done.exit_code, "is a worker of Citus" in done.output) == (1, True)
        assert f"at {coordinator.host}:{coordinator.port}" in done.output
    first = doctor.examine(worker).findings[0]
    assert (first.verdict, "is a worker of Citus" in first.text) == (Verdict.BAD, True)
    change(
        coordinator,
        "CREATE SCHEMA tatame_move",
        "CREATE FUNCTION tatame_move.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE TRIGGER fence BEFORE INSERT ON users EXECUTE FUNCTION tatame_move.refuse()",
    )
    done = run(coordinator, "distribute --yes")
    assert (done.exit_code, "a move is under way, with triggers or publications on users" in done.output) == (1, True)
    change(coordinator, "DROP SCHEMA tatame_move CASCADE", "ALTER TABLE users DROP COLUMN phone")
    done = run(coordinator, "distribute --yes")
    assert (done.exit_code, "the database does not match its migrations" in done.output) == (3, True)


def test_the_owner_of_the_tables_places_them_and_the_app_is_refused(coordinator: URL) -> None:
    names = {
        role: f"{role.replace('-', '_')}_{coordinator.database}" for role in ("owner", "app", "read-only", "backup")
    }
    options = " ".join(f"--{role} {name}" for role, name in names.items())
    try:
        assert run(coordinator, f"roles --apply --yes {options}").exit_code == 0
        done = run(coordinator.set(username=names["app"]), "distribute --yes")
        assert (done.exit_code, "has too few rights; it lacks" in done.output) == (1, True)
        # The pool of a command ends with its process, which is the test's.
        change(coordinator, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{names['app']}'")
        assert run(coordinator.set(username=names["owner"]), "distribute --yes").exit_code == 0
        assert run(coordinator.set(username=names["app"]), "check").exit_code == 0
    finally:
        # What the coordinator drops, it drops on every node.
        change(coordinator, *(f"DROP OWNED BY {name} CASCADE" for name in names.values()))
        for node in nodes_of(coordinator):
            change(node, *(f"DROP ROLE IF EXISTS {name}" for name in names.values()))


def test_a_pool_that_is_older_than_the_extension_learns_of_citus() -> None:
    with citus_database() as address:
        change(address, "DROP EXTENSION citus")
        with Database(address) as database:
            evolve.migrate(database.engine)
            with database.engine.begin() as connection:
                seed.seed(connection, PLAN)
            read(User).first(database)
            assert not knows_citus(database.engine.dialect)
            [node, *workers] = [node.set(database=address.database) for node in nodes_of(citus_address())]
            change(
                address,
                "CREATE EXTENSION citus",
                f"SELECT citus_set_coordinator_host('{node.host}', {node.port})",
                *(f"SELECT citus_add_node('{worker.host}', {worker.port})" for worker in workers),
            )
            assert run(address, "distribute --yes").exit_code == 0
            # As with a pooler, whose clients stay connected.
            know(database.engine, has_citus=False)
            history = read(User).order_by(User.id).load(read(User.checkins).order_by(Checkin.id).limit(2))
            assert any(user.checkins for user in history.all(database))
            know(database.engine, has_citus=False)
            rows = [{"user_id": 1, "date": f"row {number}"} for number in range(100)]
            ids = insert_many(Checkin, rows, returning=Checkin.id).run(database)
            stored = {checkin.id: checkin.date for checkin in read(Checkin).where(Checkin.id.in_(ids)).all(database)}
            assert [stored[number] for number in ids] == [row["date"] for row in rows]


def test_a_step_that_is_committed_is_not_called_a_rollback_if_its_copies_cannot_be_counted(coordinator: URL) -> None:
    with Database(coordinator) as database, ExitStack() as held:

        def hold(step: evolve.PlacementStep) -> None:
            if step.table == "roles":
                held.enter_context(psycopg.connect(readable(coordinator))).execute(
                    "LOCK TABLE roles IN ROW EXCLUSIVE MODE"
                )

        timeouts = evolve.Timeouts(lock_timeout_ms=300)
        with pytest.raises(CopyNotCounted, match=r"did not count its copy of roles: .*lock timeout") as caught:
            evolve.distribute(database.engine, agree=lambda _: True, on_step=hold, timeouts=timeouts)
        assert caught.value.means.startswith("The table is placed")
        placement = evolve.status(database.engine).placement
        assert placement is not None
        assert placement["roles"] == "on every node"


def test_the_node_that_was_lost_is_named_during_a_step_and_after_it(
    coordinator: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = nodes_of(coordinator)[2]
    name = f"{away.host}:{away.port}"
    elsewhere = away.set(database="postgres")
    monkeypatch.setattr(silent_nodes, "SECONDS", 0.05)

    def lose(_: evolve.PlacementStep) -> None:
        change(
            elsewhere,
            f"ALTER DATABASE {away.database} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{away.database}'",
        )

    with Database(coordinator) as database:
        with pytest.raises(CopyNotCounted, match=f"^{name} did not count its copy of roles"):
            evolve.distribute(database.engine, agree=lambda _: True, on_step=lose)
        named = Event()
        found: list[str] = []

        def name_nodes(nodes: list[str]) -> None:
            found.extend(nodes)
            named.set()

        with silent_nodes.watched(coordinator, name_nodes):
            assert named.wait(60)
        assert found == [name]
        change(elsewhere, f"ALTER DATABASE {away.database} ALLOW_CONNECTIONS true")
        assert evolve.distribute(database.engine, agree=lambda _: True)
        assert evolve.check(database.engine).failed == []


def test_a_node_that_is_added_gets_its_copies_even_between_two_steps(coordinator: URL) -> None:
    [_, worker, second] = nodes_of(coordinator)
    change(coordinator, f"SELECT citus_remove_node('{second.host}', {second.port})")
    with Database(coordinator) as database:

        def stop(_: evolve.PlacementStep) -> None:
            raise Killed

        with pytest.raises(Killed):
            evolve.distribute(database.engine, agree=lambda _: True, on_step=stop)
        change(coordinator, f"SELECT citus_add_node('{second.host}', {second.port})")
        lacking = f"the node {second.host}:{second.port} has no copy of roles"
        assert lacking in evolve.check(database.engine).placement
        assert lacking in citus_line(coordinator).text
        done = evolve.distribute(database.engine, agree=lambda _: True)
        assert done is not None
        assert done.steps[0].sql.startswith("SELECT replicate_reference_tables(")
        assert evolve.check(database.engine).failed == []
        assert contents(second) == contents(worker) == contents(coordinator)


def test_a_node_that_is_away_is_an_unavailable_database(coordinator: URL) -> None:
    assert run(coordinator, "distribute --yes").exit_code == 0
    away = nodes_of(coordinator)[2]
    with Database(coordinator) as database, database.session() as writer:
        writer.add(User(clerk_user_id="written before"))
        writer.flush()
        change(
            away.set(database="postgres"),
            f"ALTER DATABASE {away.database} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{away.database}'",
        )
        # It holds a lock that the other writers wait for.
        with pytest.raises(NodeUnavailable, match="may have been done"):
            writer.commit()
        assert read(User).all(database)
        uses: list[Callable[[], object]] = [
            lambda: read(Checkin).all(database),
            lambda: insert_many(Checkin, [{"user_id": 1}] * 20, returning=Checkin.id).run(database),
            lambda: insert_many(User, [{"clerk_user_id": "new"}]).run(database),
        ]
        for use in uses:
            with pytest.raises(NodeUnavailable, match=f"cannot reach one of its nodes.*:{away.port}"):
                use()
        with pytest.raises(NodeUnavailable), database.session.begin() as session:
            session.get_one(User, 1).phone = "1"
        assert evolve.status(database.engine).tables["checkins"] is None
    done = run(coordinator, "seed --replace --yes")
    assert (done.exit_code, "start the node" in done.output) == (1, True)
    done = run(coordinator, "check")
    assert (done.exit_code, f"{away.port} cannot be compared" in done.output) == (3, True), done.output


def test_check_finds_a_shard_that_lacks_an_index_and_backup_refuses(coordinator: URL, tmp_path: Path) -> None:
    assert run(coordinator, "distribute --yes").exit_code == 0
    [(name, host, port)] = ask(
        coordinator,
        "SELECT shard_name(logicalrelid, shardid)::text, nodename, nodeport FROM pg_dist_shard JOIN"
        " pg_dist_shard_placement USING (shardid) WHERE logicalrelid = 'checkins'::regclass ORDER BY shardid LIMIT 1",
    )
    change(
        coordinator.set(host=host, port=port),
        "SET citus.enable_manual_changes_to_shards = on",
        f"DROP INDEX checkins_user_id_date_index_{name.rpartition('_')[2]}",
    )
    done = run(coordinator, "check")
    assert (done.exit_code, f"on {host}:{port} has 2 indexes" in done.output) == (3, True)
    for kind in ("", "--logical"):
        done = run(coordinator, f"backup {tmp_path} {kind}")
        assert (done.exit_code, "on several servers with Citus" in done.output) == (1, True)


def test_a_transaction_through_a_pooler_writes_both_kinds_of_tables(
    coordinator: URL, pooler: Callable[[URL], URL]
) -> None:
    assert run(coordinator, "distribute --yes").exit_code == 0

    async def write_async(address: URL) -> None:
        async with AsyncDatabase(address) as database, database.session.begin() as session:
            await session.execute(update(Checkin).values(date="again"))
            (await session.get_one(User, 1)).phone = "2"

    pooled = pooler(coordinator)
    with Database(pooled) as database, database.session.begin() as session:
        assert session.scalars(select(Checkin)).all()
        session.execute(update(Checkin).values(date="today"))
        session.get_one(User, 1).phone = "1"
        assert insert_many(User, [{"clerk_user_id": f"pooled {number}"} for number in range(3)]).run(session) == 3
    asyncio.run(write_async(pooled))
    with Database(coordinator) as database:
        assert {checkin.date for checkin in read(Checkin).all(database)} == {"again"}
        assert read(User).where(User.id == 1).one(database).phone == "2"


def test_one_node_is_enough_if_it_is_asked_for() -> None:
    with citus_database(workers=False) as address:
        assert run(address, "migrate").exit_code == 0
        done = run(address, "distribute --yes")
        assert (done.exit_code, "has no active worker" in done.output) == (1, True)
        assert run(address, "distribute --yes --single-node").exit_code == 0
        assert "nothing to do" in run(address, "distribute").output
