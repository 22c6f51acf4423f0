"""Replicas behind a real PgBouncer, which goes on to report what its server was when it first connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, insert, text
from sqlalchemy.exc import InternalError
from tests.database.standbys import Pair, pair
from tests.database.test_replica_identity import Place, end_connections
from tests.database.test_replicas import ANA, WRITES

from tatame_db import doctor
from tatame_db.database.errors import ServerReadOnly
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.doctor import Limits, Setup, Verdict
from tatame_db.schema import User

__all__ = ["pair"]

Pooler = Callable[..., URL]

WISHES: list[Callable[[Any], Any]] = [
    lambda session: session.execute(text("SET TRANSACTION READ ONLY")),
    lambda session: session.execute(text("SELECT set_config('transaction_read_only', 'on', true)")),
    lambda session: session.connection(execution_options={"postgresql_readonly": True}),
]


def refuse_writes(database: Database) -> None:
    """Expect `ServerReadOnly` from each way to write."""
    for write in WRITES.values():
        with pytest.raises(ServerReadOnly):
            write(database)
    with pytest.raises(ServerReadOnly), database.session.begin() as session:
        session.execute(insert(User).values(ANA))
    with pytest.raises(ServerReadOnly):
        database.run_in_transaction(lambda session: session.execute(insert(User).values(ANA)))


def refuse_writes_by_wish(database: Database) -> None:
    """Expect the server's own words in a transaction that its caller wants to be read-only."""
    for wish in WISHES:
        with database.session() as session:
            wish(session)
            with pytest.raises(InternalError, match="read-only transaction"):
                session.execute(insert(User).values(ANA))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pooler_that_met_another_kind_of_server_first_is_no_witness(
    pair: Pair, pooler: Pooler, directory: Path, mode: str
) -> None:
    place = Place(directory / "place", "tatame")
    place.lead_to(pair.primary.address)
    # Two databases, because it remembers this for each.
    pooled = pooler(place.address, pool_mode=mode, default_pool_size=20)
    with Database(pooled) as database:
        assert (database.check(20).is_standby, database.check(20).lag_seconds) == (False, None)
        refuse_writes_by_wish(database)
        place.lead_to(pair.standby)
        end_connections(pair.primary.address)
        with Database(pair.primary.address, replica_address=pooled) as later:
            assert later.replica.check(20).is_standby
            assert later.replica.check(20).lag_seconds is not None
            for face in (database, later.replica):
                refuse_writes(face)
            refuse_writes_by_wish(database)
            # The wish ends with its transaction.
            refuse_writes(database)

        async def main() -> None:
            async with AsyncDatabase(pooled) as tasks:
                assert (await tasks.check(20)).is_standby
                for write in WRITES.values():
                    with pytest.raises(ServerReadOnly):
                        await write(tasks)
                async with tasks.session() as session:
                    with pytest.raises(ServerReadOnly):
                        await session.execute(insert(User).values(ANA))

        asyncio.run(main())
        setup = Setup(replica=pooled)
        examination = doctor.examine(pair.primary.address, setup, limits=Limits(), names=["replica"])
        assert [finding.verdict for finding in examination.findings] == [Verdict.GOOD]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_standby_that_was_promoted_behind_a_pooler_has_no_lag(
    pair: Pair, pooler: Pooler, directory: Path, mode: str
) -> None:
    place = Place(directory / "place", "tatame")
    place.lead_to(pair.standby)
    with Database(pooler(place.address, pool_mode=mode)) as database:
        assert (health := database.check(20)).is_standby
        assert health.lag_seconds is not None
        refuse_writes(database)
        # As a promotion does.
        place.lead_to(pair.primary.address)
        end_connections(pair.standby)
        health = database.check(20)
        assert (health.healthy, health.is_standby, health.lag_seconds) == (True, False, None)
        refuse_writes_by_wish(database)
        with database.session.begin() as session:
            session.execute(text("INSERT INTO users (clerk_user_id) VALUES ('ana')"))
        with database.session.begin() as session:
            session.execute(text("DELETE FROM users"))
