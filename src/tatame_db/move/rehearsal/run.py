"""The run of a rehearsal: a temporary server, the steps one after the other, and the end of both databases."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.address import readable
from tatame_db.errors import TatameError, fact
from tatame_db.move.rehearsal.copies import Copies
from tatame_db.move.rehearsal.day import Day
from tatame_db.move.rehearsal.steps import RehearsedStep, run_step
from tatame_db.server.errors import DirectoryUnusable
from tatame_db.server.scratch import persistent_scratch, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

ROWS = 200_000
# Both databases take some 500 bytes a row each.
MAX_ROWS_IN_MEMORY = 1_000_000
# A server that cannot write another file of its log, which has 16 MB, has no room.
_NEEDED_BYTES = 1 << 24


@fact
class RehearsalFailed(TatameError):
    """A step of the rehearsal failed."""

    exit_code = 3
    step: str
    problem: str
    what = "the step `{step}` of the rehearsal failed: {problem}"
    means = "Only the databases of the rehearsal were changed."
    fix = "do not move with this version on this machine; `--keep` keeps both databases for inspection"


@fact
class NoPlaceForRehearsal(TatameError):
    """The temporary directory cannot hold the databases of a rehearsal."""

    directory: Path
    reason: str
    what = "no place for the databases of the rehearsal in {directory}: {reason}"
    means = "The rehearsal says nothing about a move; its databases are deleted."
    fix = "set `TMPDIR` to a directory that you can write to, with free space, or rehearse with fewer `--rows`"


@dataclass(frozen=True)
class Rehearsal:
    """The steps of a rehearsal, up to the first that failed."""

    rows: int
    steps: list[RehearsedStep]
    seconds: float
    source: str | None
    target: str | None
    directory: str | None
    """The data directory of the server with both databases if they were kept, as are their addresses."""

    @property
    def passed(self) -> bool:
        """Whether no step failed."""
        return self.failed is None

    @property
    def failed(self) -> RehearsedStep | None:
        """The step that failed."""
        return next((step for step in self.steps if not step.passed), None)


def rehearse(
    rows: int = ROWS, *, keep: bool = False, on_step: Callable[[RehearsedStep], None] | None = None
) -> Rehearsal:
    """Rehearse the move with about `rows` rows, and call `on_step` after each step.

    Needs no network and no running server. Everything is deleted at the end, unless `keep` leaves the server running.
    Raises `NoPlaceForRehearsal`.
    """
    server = persistent_scratch("tatame-rehearsal-") if keep else scratch(on_disk=rows > MAX_ROWS_IN_MEMORY)
    with contextlib.ExitStack() as opened:
        opened.enter_context(_without_variables_of_libpq())
        try:
            running = opened.enter_context(server)
        except DirectoryUnusable as error:
            raise NoPlaceForRehearsal(directory=error.directory, reason=error.reason) from error
        directory = running.server.directory
        started = time.perf_counter()
        steps = list[RehearsedStep]()
        source, target = (opened.enter_context(running.database(name)) for name in ("supabase", "tatame"))
        day = opened.enter_context(Day(source.url, target, rows))
        for name, step in (Copies(source, target, rows).steps() | day.steps()).items():
            steps.append(run_step(name, step))
            if not steps[-1].passed and shutil.disk_usage(directory).free < _NEEDED_BYTES:
                raise NoPlaceForRehearsal(directory=directory.parent, reason="the disk is full")
            if on_step:
                on_step(steps[-1])
            if not steps[-1].passed:
                break
        return Rehearsal(
            rows=rows,
            steps=steps,
            seconds=time.perf_counter() - started,
            source=readable(source.url) if keep else None,
            target=readable(target.url) if keep else None,
            directory=str(directory) if keep else None,
        )


@contextlib.contextmanager
def _without_variables_of_libpq() -> Generator[None]:
    """Hide `PGSERVICE` and its like, which would apply to every connection, and are meant for other databases."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        yield
    finally:
        os.environ.update(hidden)
