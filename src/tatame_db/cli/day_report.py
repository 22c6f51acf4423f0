"""What the commands of the day print: the lag of a follower, a switch, and the end of a move."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from tatame_db.cli import console, move_json
from tatame_db.cli.kept_report import show_not_returned
from tatame_db.errors import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move import Exclusion, Finished, Lag, SwitchedTable, SwitchReport

# A busy app would fill the terminal with a line for every batch.
_LINE_SECONDS = 10.0


class LagLines:
    """Prints a JSON object for each batch."""

    def __call__(self, lag: Lag) -> None:
        """Print what a batch wrote, and how far the follower is behind."""
        console.answer_json_line(move_json.as_json(lag))

    def end(self) -> None:
        """Print nothing: the lines say it all."""


class LagReport:
    """Prints a line now and then: the time, how far the follower is behind, and what was written since the last one."""

    def __init__(self) -> None:
        self.said_at = 0.0
        self.reason: str | None = None
        self.written: Counter[str] = Counter()
        self.deleted: Counter[str] = Counter()
        self.all_written = self.all_deleted = 0
        self.not_returned: list[Exclusion] = []

    def __call__(self, lag: Lag) -> None:
        """Add a batch, and print a line if one is due."""
        if lag.reason and lag.reason != self.reason:
            self.reason = lag.reason
            console.say(f"no slot: {lag.reason}; comparing whole tables again and again")
        if not self.said_at:
            for table, why in lag.compared.items():
                if not lag.reason:
                    console.say(f"{table} is compared whole now and then, because {why}")
        self.not_returned = lag.not_returned
        for found in lag.applied:
            self.written[found.table] += found.written
            self.deleted[found.table] += found.deleted
            self.all_written += found.written
            self.all_deleted += found.deleted
        if not self.said_at or time.monotonic() - self.said_at > _LINE_SECONDS:
            self.said_at = time.monotonic()
            console.say(f"{datetime.now():%H:%M:%S}  {_lag(lag)}  {self._carried_over()}")
            self.written.clear()
            self.deleted.clear()

    def _carried_over(self) -> str:
        parts = [
            f"{table} {self.written[table]:,} written"
            + (f" {self.deleted[table]:,} deleted" if self.deleted[table] else "")
            for table in self.written
        ]
        return ", ".join(parts) or "nothing to carry over"

    def end(self) -> None:
        """Print what all batches wrote, and what stays on the target."""
        console.answer(f"{counted(self.all_written, 'row')} written, {self.all_deleted:,} deleted")
        show_not_returned(self.not_returned)


def _lag(lag: Lag) -> str:
    parts = [] if lag.rows is None else [f"{counted(lag.rows, 'row')} behind"]
    parts.append(f"{lag.seconds:.1f} s behind")
    if lag.wal_bytes is not None:
        parts.append(f"{lag.wal_bytes / 1024 / 1024:,.1f} MB of WAL held")
    if lag.not_returned:
        parts.append(f"{_rows_and_values(lag.not_returned)} not written back")
    return ", ".join(parts)


def _rows_and_values(exclusions: Iterable[Exclusion]) -> str:
    numbers = {"row": 0, "value": 0}
    for found in exclusions:
        numbers["value" if found.column else "row"] += found.rows
    return " and ".join(counted(number, noun) for noun, number in numbers.items() if number)


def show_switch(report: SwitchReport) -> None:
    """Print the proof of each table, the pause, and what to do next."""
    from tatame_db.move import environment_lines

    console.table(
        ["table", "rows", "digest", "proof"],
        [(table.table, table.rows, table.target_digest, _proof(table, report.not_returned)) for table in report.tables],
    )
    console.answer("")
    if report.not_returned:
        show_not_returned(report.not_returned)
        # Values of a column that the source lacks stay where they are.
        if not report.is_dry_run and any(found.kind != "unknown-column" for found in report.not_returned):
            console.answer(
                "kept in tatame_move.not_returned, because a target that follows holds what its source holds:"
            )
            console.answer("`tatame-db move rejects` shows it")
        console.answer("")
    if report.is_dry_run:
        console.answer(
            f"dry run: nothing was changed; writers would wait for about {report.pause_seconds:.1f} s or more"
        )
        if any(not table.is_equal for table in report.tables):
            console.answer("rows that are not equal yet are carried over first, while writers go on")
        console.answer("flags of the app afterwards:")
        for line in environment_lines(dict.fromkeys([table.table for table in report.tables], report.home)):
            console.answer(f"  {line}")
        return
    if report.closed_again:
        console.answer(
            f"the source refuses writes to {', '.join(report.closed_again)} again: its triggers were gone or disabled;"
            " rows that were written there meanwhile are overwritten by the way back"
        )
    if not report.tables:
        return
    if report.is_interrupted:
        console.answer("Ctrl-C came too late: both databases were committed, so the switch was completed")
    console.answer(f"the home is the {report.home} now; writers waited for {report.pause_seconds:.2f} s")
    if report.no_slot_because:
        console.answer(f"the way back compares whole tables, because {report.no_slot_because}")
    else:
        console.answer(f"the slot {report.slot} holds what is written there, for the way back; it holds WAL until then")
    for left in report.left:
        console.answer(f"left behind: {left}; `tatame-db move finish` removes it")
    back = " --back" if report.home == "target" else ""
    console.answer("next: `tatame-db move status --env` prints the flags of the app, and")
    console.answer(f"`tatame-db move follow{back}` keeps the other database equal")


def _proof(table: SwitchedTable, not_returned: list[Exclusion]) -> str:
    if not table.is_equal:
        return "not equal yet"
    left = _rows_and_values(found for found in not_returned if found.table == table.table)
    return f"equal, except for {left} not written back" if left else "equal"


def show_finished(found: Finished) -> None:
    """Print what is left after the end of a move."""
    if not (found.removed or found.left):
        console.answer("nothing to remove: neither database has an object of a move")
        return
    for left in found.left:
        console.answer(f"not removed: {left}")
    if found.stayed_at_source:
        console.answer(
            f"their home is the source, which has newer rows from now on: {', '.join(found.stayed_at_source)}"
        )
    if found.kept_rejects:
        console.answer(f"kept: {counted(found.kept_rejects, 'excluded row')} in tatame_move.rejects")
    if found.kept_not_returned:
        rows = counted(found.kept_not_returned, "row")
        console.answer(f"kept: {rows} in tatame_move.not_returned, of rows and values that were not written back")
    if not found.left:
        console.answer("finished: both databases take writes, and nothing connects them any more")
