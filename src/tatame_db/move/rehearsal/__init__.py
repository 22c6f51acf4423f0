"""A rehearsal of the whole move, offline: a project like Supabase's and a target, on a temporary server."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateColumn, CreateTable

from tatame_db import evolve
from tatame_db.database.address import readable, without_environment
from tatame_db.database.dialect import DIALECT, public
from tatame_db.errors import TatameError, counted, fact
from tatame_db.evolve.lock import ignore
from tatame_db.move.choices import Choices, Exclusion
from tatame_db.move.copy import Report, copy
from tatame_db.move.copy_table import CopyDiffers
from tatame_db.move.left_behind import KINDS
from tatame_db.move.mapping import map_source
from tatame_db.move.open import open_for_reading, open_for_writing, open_source
from tatame_db.move.plan import Plan, plan
from tatame_db.move.proof import verify
from tatame_db.move.refusals import OtherRowsInTarget
from tatame_db.move.stages import Stage
from tatame_db.server.errors import DirectoryUnusable
from tatame_db.server.scratch import persistent_scratch, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from sqlalchemy import URL, Engine

HERE = Path(__file__).parent
# The schema of a Supabase project as the app uses it: names, types, keys and policies.
SUPABASE_SCHEMA = HERE / "supabase.sql"
ROWS = 200_000
# Both databases take some 500 bytes a row each.
MAX_ROWS_IN_MEMORY = 1_000_000
CHOICES = Choices(orphans="null", misfits="null", duplicates="first", unknown="keep", rejects="keep")
# The result of these choices for the rows in `obstacles.sql`.
EXCLUSIONS = {
    ("missing-value", "rejected"): 1,
    ("duplicate", "rejected"): 1,
    ("misfit", "nulled"): 2,
    ("misfit", "rejected"): 1,
    ("last-id", "rejected"): 1,
    ("too-long", "rejected"): 1,
    ("orphan", "nulled"): 1,
    ("orphan", "rejected"): 1,
    ("unknown-column", "kept"): 3,
    ("unknown-table", "kept"): 5,
}
# No choice resolves these obstacles; `fixes.sql` fixes them at the source.
FIXED_AT_SOURCE = {"missing-table", "missing-column"}
OBSTACLES = {kind for kind, _ in EXCLUSIONS} | FIXED_AT_SOURCE
# The kinds of objects in `left_behind.sql`: the server of the rehearsal has no extensions, and a database with a
# subscription cannot be dropped.
LEFT_BEHIND = set(KINDS) - {"extensions", "subscriptions"}
# The tables that `changes.sql` changes.
CHANGED_TABLES = {"users", "checkins", "notifications"}
DAMAGED_USER = 7
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
class RehearsedStep:
    """A step of the rehearsal; `summary` is its result, or the problem if it failed."""

    name: str
    summary: str
    seconds: float
    passed: bool


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
        for name, step in _Rehearsal(source, target, rows).steps().items():
            steps.append(_run_step(name, step))
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


class _StepFailedError(Exception):
    """A step did something else than expected."""


def _expect(condition: object, problem: str) -> None:
    if not condition:
        raise _StepFailedError(problem)


def run_statements(address: URL, file: str, rows: int) -> None:
    """Run one of the SQL files beside this module on a project with about `rows` rows, and commit it."""
    users = rows * 3 // 100
    gyms = max(2, users // 400)
    numbers = {"users": users, "gyms": gyms, "classes": 12 * gyms, "notifications": users // 2}
    # Two graduations per user, an asset and an attachment per class, and the rows of a fixed number.
    others = 3 * users + gyms + 3 * numbers["classes"] + numbers["notifications"] + 18
    numbers["checkins"] = rows - others
    statements = (HERE / f"{file}.sql").read_text()
    # A file is sent as one query, in which the server accepts no parameters: the client inserts the values.
    with psycopg.connect(
        make_conninfo(readable(address), **without_environment(address)), cursor_factory=psycopg.ClientCursor
    ) as connection:
        connection.execute(statements.encode(), numbers if "%(" in statements else None)


def _add_later_models(source: Engine) -> None:
    """Create the tables and the required columns that were added to the models after `supabase.sql` was written.

    A project without them has obstacles that no choice resolves.
    """
    with open_source(source.url) as connection:
        tables = map_source(connection).tables
    with source.begin() as project:
        for table in tables:
            if table.source is None:
                project.execute(CreateTable(table.table, include_foreign_key_constraints=[]))
                continue
            for column in table.columns:
                if column.required and column.source is None:
                    definition = CreateColumn(table.table.columns[column.name]).compile(dialect=DIALECT)
                    project.exec_driver_sql(f"ALTER TABLE {public(table.name)} ADD COLUMN {definition}")


class _Rehearsal:
    """The steps. Each returns a summary, and raises `_StepFailedError` if its result is not the expected one."""

    def __init__(self, source: Engine, target: Engine, rows: int) -> None:
        self.source, self.target, self.rows = source, target, rows

    def steps(self) -> dict[str, Callable[[], str]]:
        return {
            "create a project": self._create_project,
            "create a target": self._create_target,
            "plan": self._plan_without_choices,
            "fix the source": self._fix_source,
            "plan with choices": self._plan,
            "copy": self._copy_all,
            "verify": self._verify,
            "add to the target": self._add_to_target,
            "change the source": self._change_source,
            "meet a trigger": self._meet_trigger,
            "copy the changes": self._copy_changes,
            "damage the target": self._damage_target,
            "repair the target": self._repair_target,
            "verify at the end": self._verify,
        }

    def _create_project(self) -> str:
        run_statements(self.source.url, "supabase", self.rows)
        _add_later_models(self.source)
        for file in ("rows", "left_behind", "obstacles"):
            run_statements(self.source.url, file, self.rows)
        return f"{self.rows:,} rows, with every kind of obstacle"

    def _create_target(self) -> str:
        applied = evolve.migrate(self.target)
        return f"migrated, {counted(len(applied), 'revision')}"

    def _plan_without_choices(self) -> str:
        found = self._planned(Choices())
        _expect(not found.complete, "expected obstacles, found none")
        kinds = {obstacle.kind for obstacle in found.obstacles}
        _expect(kinds == OBSTACLES, f"expected the obstacles {_listed(OBSTACLES)}; found {_listed(kinds)}")
        left = {objects.kind for objects in found.left_behind.objects} if found.left_behind else set[str]()
        _expect(left == LEFT_BEHIND, f"expected to leave behind {_listed(LEFT_BEHIND)}; found {_listed(left)}")
        return f"{counted(len(found.obstacles), 'obstacle')} of {len(kinds)} kinds"

    def _fix_source(self) -> str:
        run_statements(self.source.url, "fixes", self.rows)
        unresolved = {obstacle.kind for obstacle in self._planned(CHOICES).unresolved}
        _expect(not unresolved, f"expected no unresolved obstacle, found {_listed(unresolved)}")
        return f"{_listed(FIXED_AT_SOURCE)}, which no choice resolves"

    def _plan(self) -> str:
        found = self._planned(CHOICES)
        unresolved = _listed(obstacle.kind for obstacle in found.unresolved)
        _expect(found.complete, f"expected a complete plan; unresolved: {unresolved}")
        return f"complete, with {_summary(_counts(found.exclusions))}"

    def _copy_all(self) -> str:
        report = self._copied()
        excluded = _counts(report.exclusions)
        _expect(excluded == EXCLUSIONS, f"exclusions differ: {_differences(EXCLUSIONS, excluded)}")
        written = sum(table.written for table in report.tables)
        rows = sum(table.rows for table in report.tables)
        _expect(written == rows, f"expected {written:,} rows in the target, found {rows:,}")
        return f"{rows:,} rows written, each table proven before its commit; {_summary(excluded)}"

    def _verify(self) -> str:
        with open_for_reading(self.source.url, self.target) as connections:
            proof = verify(connections)
        _expect(
            proof.equal_but_for_choices, f"expected differences only by choice; differing: {_listed(proof.unequal)}"
        )
        by_choice = sum(rows for (_, action), rows in EXCLUSIONS.items() if action != "kept")
        _expect(proof.by_choice == by_choice, f"expected {by_choice} rows that differ, found {proof.by_choice}")
        rows = sum(table.target_rows for table in proof.tables)
        return f"{rows:,} rows compared, equal except for {counted(proof.by_choice, 'row')} excluded by choice"

    def _add_to_target(self) -> str:
        run_statements(self.target.url, "additions", self.rows)
        found = {(found.kind, found.name) for found in self._planned(CHOICES).target_objects}
        named = found >= {("trigger", "shout"), ("column", "note"), ("foreign key", "lockers_user_id_fkey")}
        _expect(named, "expected the plan to name the additions of the target; it did not")
        return "a trigger, a column and a table that refers to users, all of which the plan names"

    def _change_source(self) -> str:
        run_statements(self.source.url, "changes", self.rows)
        return "rows added, changed and deleted; two users swapped their accounts"

    def _meet_trigger(self) -> str:
        try:
            self._copied()
        except CopyDiffers as error:
            _expect(error.table == "users", f"expected users to differ, {error.table} does")
        else:
            raise _StepFailedError("expected the copy to fail, because a trigger changed what it wrote; it succeeded")
        with self.target.begin() as connection:
            connection.execute(text("DROP FUNCTION shout CASCADE"))
        return "a trigger changed rows as they were written; copy rolled them back"

    def _copy_changes(self) -> str:
        before = self._own_rows()
        with ThreadPoolExecutor(1) as other:
            waiting: list[Future[None]] = []

            def rewrite_source(stage: Stage, _: str | None) -> None:
                if stage is Stage.COMPARE and not waiting:
                    waiting.append(other.submit(self._rewrite_source))
                if stage is Stage.RECORD:
                    _expect(not waiting[0].done(), "expected a rewrite of the source to wait; it did not")

            report = self._copied(on_stage=rewrite_source)
            waiting[0].result()
        _expect(self._own_rows() == before, "expected rows and values of the target's own to stay; they changed")
        written = {table.table for table in report.tables if table.written or table.deleted}
        _expect(
            written == CHANGED_TABLES,
            f"expected changes in {_listed(CHANGED_TABLES)}; found changes in {_listed(written)}",
        )
        rows = sum(table.written for table in report.tables)
        return f"{rows:,} rows written, only in the changed tables; a rewrite of the source waited, own rows stayed"

    def _rewrite_source(self) -> None:
        """Rewrite a table of the source, which makes it look empty to a snapshot that was taken before."""
        rewrite = "ALTER TABLE checkins ALTER created_at TYPE timestamptz USING created_at + interval '0'"
        with self.source.begin() as connection:
            connection.execute(text(rewrite))

    def _own_rows(self) -> list[Any]:
        own = "SELECT l.id, l.user_id, u.note FROM lockers AS l JOIN users AS u ON u.id = l.user_id ORDER BY 1"
        with self.target.connect() as connection:
            return [tuple(row) for row in connection.execute(text(own))]

    def _damage_target(self) -> str:
        with self.target.begin() as connection:
            connection.execute(text("UPDATE users SET email = email || '.' WHERE id = :id"), {"id": DAMAGED_USER})
        with open_for_reading(self.source.url, self.target) as connections:
            proof = verify(connections)
        _expect(not proof.equal_but_for_choices, "expected verify to find the damaged value; it found none")
        expected = f"users, id {DAMAGED_USER}, email"
        found = "; ".join(
            f"{table.table}, id {row.id}, {', '.join(value.column for value in row.values)}"
            for table in proof.tables
            for row in table.differences
            if row.choice is None
        )
        _expect(found == expected, f"expected verify to name {expected}; it named {found or 'no row'}")
        return f"one letter added to a value; verify names it: {expected}"

    def _repair_target(self) -> str:
        try:
            self._copied()
        except OtherRowsInTarget as error:
            _expect(list(error.rows) == ["users"], f"expected copy to refuse users, it refused {_listed(error.rows)}")
        else:
            raise _StepFailedError("expected copy to refuse users, which was changed; it overwrote the table")
        report = self._copied(replace_rows=True)
        written = {table.table: table.written for table in report.tables if table.written}
        found = ", ".join(f"{counted(rows, 'row')} of {table}" for table, rows in written.items()) or "no row"
        _expect(written == {"users": 1}, f"expected 1 row of users to be written; written: {found}")
        return "copy refuses the changed table; with `--replace` it writes that row"

    def _planned(self, choices: Choices) -> Plan:
        with open_for_reading(self.source.url, self.target) as connections:
            return plan(connections, choices)

    def _copied(self, *, replace_rows: bool = False, on_stage: Callable[[Stage, str | None], None] = ignore) -> Report:
        with open_for_writing(self.source.url, self.target) as connections:
            return copy(connections, choices=CHOICES, replace_rows=replace_rows, on_stage=on_stage)


def _run_step(name: str, step: Callable[[], str]) -> RehearsedStep:
    started = time.perf_counter()
    passed = False
    try:
        summary = step()
        passed = True
    except _StepFailedError as error:
        summary = str(error)
    except TatameError as error:
        summary = error.what
    except (psycopg.OperationalError, OperationalError) as error:
        # A full disk, for instance.
        summary = str(error).splitlines()[0]
    return RehearsedStep(name, summary, time.perf_counter() - started, passed)


def _counts(exclusions: Iterable[Exclusion]) -> dict[tuple[str, str], int]:
    """Count excluded rows and values by kind of obstacle and action."""
    rows: Counter[tuple[str, str]] = Counter()
    for exclusion in exclusions:
        rows[exclusion.kind, exclusion.action] += exclusion.rows
    return dict(rows)


def _summary(excluded: dict[tuple[str, str], int]) -> str:
    rows: Counter[str] = Counter()
    for (_, action), count in excluded.items():
        rows[action] += count
    return ", ".join(f"{count:,} {action}" for action, count in rows.items())


def _differences(expected: dict[tuple[str, str], int], found: dict[tuple[str, str], int]) -> str:
    return "; ".join(
        f"{' '.join(key)}: expected {expected.get(key, 0)}, found {found.get(key, 0)}"
        for key in sorted(expected.keys() | found.keys())
        if expected.get(key, 0) != found.get(key, 0)
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
