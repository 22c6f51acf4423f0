"""Positions after a failover: no server that is on another timeline counts as a replica of the primary."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import URL, text
from tests.conftest import run_sql
from tests.database.standbys import another_standby, standby_pair

from tatame_db import doctor
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.doctor import Finding, Limits, Setup, Verdict
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer

_MUCH_LOG = "SELECT pg_logical_emit_message(false, '', repeat('-', 5000000))"


def reader_sees_its_row(primary: URL, replica: URL, name: str) -> str:
    """Write a row, let a reader of each face see it, as a role without rights too, and return which server answered."""
    answered = set()
    with Database(primary, replica_address=replica) as database:
        insert_many(User, [{"clerk_user_id": name}]).run(database)
        lsn = database.current_lsn()
        expected = database.replica.caught_up(lsn, within_seconds=20)
        for role in ("postgres", "app"):
            with (
                Database(primary.set(username=role), replica_address=replica.set(username=role)) as as_role,
                as_role.reader(after=lsn, within_seconds=20) as session,
            ):
                assert read(User).where(User.clerk_user_id == name).count(session) == 1
                answered.add(session.info["server"])
        assert database.caught_up(lsn, within_seconds=0)

    async def main() -> None:
        async with (
            AsyncDatabase(primary, replica_address=replica) as database,
            database.reader(after=lsn, within_seconds=20) as session,
        ):
            assert await read(User).where(User.clerk_user_id == name).count(session) == 1
            answered.add(session.info["server"])

    asyncio.run(main())
    [server] = answered
    assert expected == (server == "replica")
    return str(server)


def examined(primary: URL, replica: URL) -> Finding:
    [finding] = doctor.examine(primary, Setup(replica=replica), limits=Limits(), names=["replica"]).findings
    return finding


def test_only_a_replica_on_the_timeline_of_the_primary_answers_a_reader(
    fresh_server: EmbeddedServer, directory: Path
) -> None:
    with (
        standby_pair(fresh_server, directory / "second") as second,
        another_standby(fresh_server, directory / "third") as third,
        another_standby(fresh_server, directory / "fourth", "primary_conninfo=''") as fourth,
    ):
        # It has replayed no transaction yet, and receives nothing.
        health = Database(fourth.standby).check()
        assert (health.is_standby, (health.lag_seconds or 0) > 0) == (True, True)
        assert fourth.pg_ctl("stop").returncode == 0
        fourth.start_standby("fsync=off", f"primary_conninfo='host={second.home} user=postgres'")
        first = fresh_server.address
        run_sql(first, "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA public TO app; GRANT SELECT ON users TO app")
        assert reader_sees_its_row(first, second.standby, "ana") == "replica"
        assert examined(first, second.standby).verdict == Verdict.GOOD

        # A replica that was promoted beside its primary, and has written more.
        second.promote()
        run_sql(second.standby, _MUCH_LOG)
        assert reader_sees_its_row(first, second.standby, "bia") == "primary"
        assert reader_sees_its_row(first, third.standby, "caio") == "replica"
        finding = examined(first, second.standby)
        assert (finding.verdict, "a primary of its own, on timeline 2" in finding.text) == (Verdict.BAD, True)

        # It is the primary by now; the old one and its standby have replayed more, and do not follow it.
        run_sql(first, f"{_MUCH_LOG}; {_MUCH_LOG}; {_MUCH_LOG}")
        with Database(first) as old:
            assert Database(third.standby).caught_up(old.current_lsn(), within_seconds=20)
        assert reader_sees_its_row(second.standby, third.standby, "dora") == "primary"
        assert reader_sees_its_row(second.standby, first, "edu") == "primary"
        finding = examined(second.standby, third.standby)
        assert (finding.verdict, "follows another server" in finding.text) == (Verdict.BAD, True)

        # The one that received from it before follows.
        with Database(second.standby) as database:
            lsn = database.current_lsn()
        assert Database(fourth.standby).caught_up(lsn, within_seconds=20)
        # The role without rights sees it after the next checkpoint.
        run_sql(second.standby, "CHECKPOINT")
        with Database(second.standby) as database:
            lsn = database.current_lsn()
        assert Database(fourth.standby).caught_up(lsn, within_seconds=20)
        run_sql(fourth.standby, "CHECKPOINT")
        assert reader_sees_its_row(second.standby, fourth.standby, "fabi") == "replica"

        # Two that were promoted have the same timeline, and other rows.
        third.promote()
        run_sql(third.standby, _MUCH_LOG)
        with Database(third.standby) as database, database.engine.begin() as connection:
            assert connection.scalar(text("SELECT pg_walfile_name(pg_current_wal_lsn())")).startswith("00000002")
        assert reader_sees_its_row(second.standby, third.standby, "gil") == "primary"
