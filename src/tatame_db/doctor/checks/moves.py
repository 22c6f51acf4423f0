"""A move out of Supabase: what an interrupted one left behind. Without a record of a move, no line is shown."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tatame_db import move
from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, named, size, unknown, warn, worst
from tatame_db.doctor.lines import line
from tatame_db.errors import TatameError
from tatame_db.move.follow.slot import forgotten_slots
from tatame_db.move.open import open_source
from tatame_db.move.record import Record
from tatame_db.move.switch.fence import FenceDamaged
from tatame_db.move.switch.homes import BothHomesOpen, MovedElsewhere

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer
    from tatame_db.move.connection import MoveConnection

_GROUP = "Move"


@contextlib.contextmanager
def _target(examination: Examination) -> Generator[MoveConnection | None]:
    """Open the database for reading; yield `None` if there was never a move into it."""
    with move.open_target(examination.engine, check_schema=False) as target:
        yield target if Record(target).exists() else None


@contextlib.contextmanager
def _source(examination: Examination) -> Generator[MoveConnection | None]:
    """Open the source, if the settings name one."""
    if examination.setup.source is None:
        yield None
        return
    with open_source(examination.setup.source) as source:
        examination.watch(source)
        yield source


@line(_GROUP, bad="keys or indexes that a move dropped are missing, or not validated", command="status")
def unfinished_move(examination: Examination) -> Answer | None:
    """Whether a move that was killed left foreign keys or indexes dropped."""
    with _target(examination) as target:
        if target is None:
            return None
        found = move.unfinished(target)
    if not found.names:
        return good("every key and index is restored")
    return bad(f"not restored or not validated: {named(found.names)}", f"`{found.command}`")


@line(
    _GROUP,
    bad="a table has no home, both databases take its writes, or the app uses the other one",
    command="status",
)
def homes(examination: Examination) -> Answer | None:
    """Whether exactly one database takes the writes of each table, and the app uses that one."""
    with _target(examination) as target:
        if target is None:
            return None
        known = move.known_homes(target)
        if not (known.fenced or known.problem):
            return None
        answers: list[Answer | None] = []
        if known.problem:
            answers.append(bad(known.problem, "`tatame-db move status` shows the home of each table"))
        if use := examination.setup.use_postgres:
            answers += [
                bad(str(flag), "`tatame-db move status --env` prints the flags that fit")
                for flag in move.mismatches(use, known.fenced)
            ]
        try:
            with _source(examination) as source:
                answers += _homes_of_both(target, source) if source and not known.problem else []
        except TatameError as error:
            answers.append(unknown(error.what, error.fix))
    return worst(answers, good("one database takes the writes of each table"))


def _homes_of_both(target: MoveConnection, source: MoveConnection) -> list[Answer]:
    try:
        found = move.homes(move.Connections(source, target))
    except (BothHomesOpen, FenceDamaged, MovedElsewhere) as error:
        return [bad(error.what, error.fix)]
    if neither := [table for table, home in found.items() if home is move.Home.NEITHER]:
        unfinished = move.SwitchUnfinished(tables=neither)
        return [bad(unfinished.what, unfinished.fix)]
    return []


@line(
    _GROUP,
    warns="a slot of a move at the source is not read",
    bad="it keeps {slot_bad_mb} MB of WAL or more, or is lost; or the address of the source cannot be read",
    command="status",
)
def slots_of_source(examination: Examination) -> Answer | None:
    """Whether the source keeps WAL for a move that does not follow any more, until its disk is full."""
    if problem := examination.setup.source_problem:
        return bad(problem.what, problem.fix)
    if examination.setup.source is None:
        return None
    with _target(examination) as target:
        if target is None:
            return None
        with _source(examination) as source:
            found = forgotten_slots(source) if source else []
    answers: list[Answer | None] = [
        (bad if slot.wal_bytes >= examination.limits.slot_bad_mb * 1024**2 or slot.wal_status == "lost" else warn)(
            f"the source keeps {size(slot.wal_bytes)} of WAL for the slot {slot.name}, which nothing reads",
            "continue with `tatame-db move follow`, or drop it at the source:"
            f" `SELECT pg_drop_replication_slot('{slot.name}')`, as {advice.SUPERUSER}",
        )
        for slot in found
    ]
    return worst(answers, good("the source keeps no WAL for a move"))
