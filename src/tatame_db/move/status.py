"""The state of a move, as the target's own record has it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from tatame_db.errors import NOTHING_CHANGED, TatameError, fact
from tatame_db.move.back.stored import not_returned
from tatame_db.move.choices import REJECTED, Choices
from tatame_db.move.fingerprint import fingerprint
from tatame_db.move.follow.slot import forgotten_slots
from tatame_db.move.keys import disabled_keys, not_enforced_keys, unvalidated_keys
from tatame_db.move.record import Record, RunStatus
from tatame_db.move.switch.homes import known_homes
from tatame_db.move.watch import FollowerStatus, followers
from tatame_db.schema import phases

if TYPE_CHECKING:
    from datetime import datetime

    from tatame_db.move.choices import Exclusion
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.follow.slot import ForgottenSlot
    from tatame_db.move.record import TableRecord
    from tatame_db.move.switch.homes import Home


@fact
class MoveUnfinished(TatameError):
    """A run left foreign keys or indexes dropped or unvalidated: an answer of `check` and `status --check`."""

    exit_code = 3
    names: list[str]
    command: str
    what = "a move out of Supabase is unfinished; not restored or not validated: {names}"
    means = f"{NOTHING_CHANGED} Until the move is finished, rows that violate the schema are accepted."
    fix = "run `{command}`, which restores them and proves the rows; then check again"


@fact
class HomesUnknown(TatameError):
    """The homes of the tables contradict each other in the two databases."""

    problem: str
    what = "the homes of the tables are not known: {problem}"
    means = f"{NOTHING_CHANGED} No flag of the app is certain."
    fix = "keep the app's flags as they are; `tatame-db move switch --dry-run` says what to do next"


@dataclass(frozen=True)
class Unfinished:
    """The foreign keys and indexes that a move left dropped or unvalidated, and the command that restores them."""

    names: list[str]
    command: str

    @property
    def error(self) -> MoveUnfinished | None:
        """The error that states them; `None` if there are none."""
        return MoveUnfinished(names=self.names, command=self.command) if self.names else None


@dataclass(frozen=True)
class TableStatus:
    """The state of a table. `rows` are those of its last copy; `stale` means that it was written to since.

    `rejected` is the number of rows that were not copied by choice and are kept in `tatame_move.rejects`.
    """

    table: str
    phase: int
    rows: int | None
    copied_at: datetime | None
    proven_at: datetime | None
    stale: bool
    rejected: int
    home: Home | None
    """The database that takes its writes; `None` if that is not known."""


@dataclass(frozen=True)
class MoveStatus:
    """The state of a move."""

    tables: list[TableStatus]
    parked: list[str]
    """Foreign keys and indexes that a killed run left dropped."""
    unvalidated_keys: list[str]
    """Foreign keys that were not validated against the existing rows, are disabled or are not enforced."""
    exclusions: list[Exclusion]
    """The rows and values that were excluded by choice, and are kept in `tatame_move.rejects`."""
    not_returned: list[Exclusion]
    """The rows and values that a way back left on the target, and that are kept in `tatame_move.not_returned`."""
    last_run: RunStatus | None
    finish_command: str
    """The command that restores the keys and indexes that a killed run left dropped."""
    home_problem: str | None
    """Why the homes of the tables are not known."""
    followers: list[FollowerStatus]
    forgotten_slots: list[ForgottenSlot]
    """The replication slots of moves that no process reads, each with the WAL that its server keeps for it."""


def status(target: MoveConnection, source: MoveConnection | None = None) -> MoveStatus:
    """Return which tables are copied and proven, whether that still holds, and which keys and indexes are missing.

    Reads all rows of the copied tables of the target. With a connection to the source, a switch that was interrupted
    and the slots of the source show too.
    """
    record = Record(target)
    tables, exclusions = record.tables(), record.exclusions()
    known = known_homes(target, source)
    return MoveStatus(
        [
            _status(
                target,
                table,
                phase,
                tables.get(table),
                exclusions=exclusions,
                home=known.homes.get(table),
            )
            for table, phase in phases().items()
        ],
        record.parked(),
        _unvalidated(target),
        exclusions,
        not_returned(target),
        record.last_run(),
        _finish_command(record),
        known.problem,
        [follower.status for follower in followers(target)],
        # Both may be databases of one server.
        list(dict.fromkeys(slot for server in (target, source) if server for slot in _forgotten_slots(server))),
    )


def _status(
    target: MoveConnection,
    table: str,
    phase: int,
    last: TableRecord | None,
    *,
    exclusions: list[Exclusion],
    home: Home | None,
) -> TableStatus:
    if last is None:
        return TableStatus(table, phase, None, None, None, stale=False, rejected=0, home=home)
    stale = fingerprint(target, table) != last.fingerprint
    rejected = sum(found.rows for found in exclusions if (found.table, found.action) == (table, REJECTED))
    return TableStatus(
        table, phase, last.rows, last.copied_at, last.proven_at, stale=stale, rejected=rejected, home=home
    )


def _forgotten_slots(server: MoveConnection) -> list[ForgottenSlot]:
    # A standby has no position to write at, and nothing follows it.
    if server.rest or server.row("SELECT pg_is_in_recovery()")[0]:
        return []
    return forgotten_slots(server)


def unfinished(target: MoveConnection) -> Unfinished:
    """Return the keys and indexes that a killed run left dropped or unvalidated.

    Finds none if there never was a move into the target, which may have any schema.
    """
    record = Record(target)
    names = [*record.parked(), *_unvalidated(target)] if record.exists() else []
    return Unfinished(names, _finish_command(record))


def _unvalidated(target: MoveConnection) -> list[str]:
    found = {*unvalidated_keys(target), *disabled_keys(target), *not_enforced_keys(target)}
    return [f"{table}.{key}" for table, key in sorted(found)]


def _finish_command(record: Record) -> str:
    """Return the command that restores the parked keys and indexes: a copy with the options of the last run."""
    words = ["tatame-db move copy"]
    if options := record.last_options():
        if len(options["tables"]) < len(phases()):
            words += options["tables"]
        words += [f"--{choice.name} {options[choice.name]}" for choice in fields(Choices) if options.get(choice.name)]
        words += ["--emptied"] if options.get("emptied") else []
    return " ".join(words)
