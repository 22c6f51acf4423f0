"""The whole move, practised offline: a project of Supabase's shape and a target, on a server that nobody else knows."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.errors import NOTHING_CHANGED, TatameError, counted
from tatame_db.move.choices import Choices, Exclusion
from tatame_db.move.copy import OtherRowsInTarget, Report, copy
from tatame_db.move.open import open_for_reading, open_for_writing
from tatame_db.move.plan import Plan, plan
from tatame_db.move.proof import verify
from tatame_db.server.scratch import persistent_scratch, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import URL, Engine

    from tatame_db.server.scratch import Scratch

HERE = Path(__file__).parent
# A Supabase project as the app left it: names, types, keys and policies.
SUPABASE_SCHEMA = HERE / "supabase.sql"
ROWS = 200_000
# Two databases of some 500 bytes a row each.
MOST_IN_MEMORY = 1_000_000
CHOICES = Choices(orphans="null", misfits="null", duplicates="first", unknown="keep", rejects="keep")
# What those choices have to come to, row by row of `obstacles.sql`.
ASIDE = {
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
# For these nothing can be chosen, so they are mended at the source.
TO_BE_MENDED = {"missing-table", "missing-column"}
OBSTACLES = {kind for kind, _ in ASIDE} | TO_BE_MENDED
CHANGED = {"users", "checkins", "notifications"}
DAMAGED = 7


class RehearsalFailed(TatameError):
    """A step of the rehearsal did not end as it has to."""

    exit_code = 3

    def __init__(self, step: RehearsedStep) -> None:
        self.step = step
        super().__init__(
            f"the step `{step.name}` did not end as it has to: {step.told}",
            means=f"{NOTHING_CHANGED} All of it was practice.",
            fix="do not move with this version on this machine; `--keep` leaves both databases for looking at",
        )


@dataclass(frozen=True)
class RehearsedStep:
    """What a step did, and whether that is what it has to do."""

    name: str
    told: str
    seconds: float
    as_expected: bool


@dataclass(frozen=True)
class Rehearsal:
    """What was practised, up to the first step that did not end as it has to."""

    rows: int
    steps: list[RehearsedStep]
    seconds: float
    source: str | None
    target: str | None
    directory: str | None
    """Where the server goes on running with both databases; `None` where nothing was left."""

    @property
    def failed(self) -> RehearsedStep | None:
        """The step that did not end as it has to."""
        return next((step for step in self.steps if not step.as_expected), None)


def _silent(_: RehearsedStep) -> None:
    """Tell nobody."""


def rehearse(rows: int = ROWS, *, keep: bool = False, on_step: Callable[[RehearsedStep], None] = _silent) -> Rehearsal:
    """Practise the move with about so many rows; needs no network and no running server, and leaves nothing.

    With `keep`, the server goes on running.
    """
    server = persistent_scratch("tatame-rehearsal-") if keep else scratch(on_disk=rows > MOST_IN_MEMORY)
    with server as used, used.database("supabase") as source, used.database("tatame") as target:
        return _Rehearsal(source, target, rows, on_step).run(used if keep else None)


class _NotAsExpectedError(Exception):
    pass


def _expect(what: object, words: str) -> None:
    if not what:
        raise _NotAsExpectedError(words)


def run_statements(address: URL, file: str, rows: int) -> None:
    """Run one of the files beside this one on a project with so many rows, and commit it."""
    users = rows * 3 // 100
    gyms = max(2, users // 400)
    numbers = {"users": users, "gyms": gyms, "classes": 12 * gyms, "notifications": users // 2}
    # Two graduations for each user, an asset and an attachment for each class, and rows of a known number.
    others = 3 * users + gyms + 3 * numbers["classes"] + numbers["notifications"] + 18
    numbers["checkins"] = rows - others
    statements = (HERE / f"{file}.sql").read_text()
    # All statements of a file at once, which only values that stand in the text allow.
    with psycopg.connect(readable(address), cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(statements.encode(), numbers if "%(" in statements else None)


class _Rehearsal:
    def __init__(self, source: Engine, target: Engine, rows: int, on_step: Callable[[RehearsedStep], None]) -> None:
        self.source, self.target, self.rows, self.on_step = source, target, rows, on_step

    def run(self, kept: Scratch | None) -> Rehearsal:
        started, done = time.perf_counter(), list[RehearsedStep]()
        for name, step in self._steps().items():
            done.append(_taken(name, step))
            self.on_step(done[-1])
            if not done[-1].as_expected:
                break
        return Rehearsal(
            self.rows,
            done,
            time.perf_counter() - started,
            readable(self.source.url) if kept else None,
            readable(self.target.url) if kept else None,
            str(kept.server.directory) if kept else None,
        )

    def _steps(self) -> dict[str, Callable[[], str]]:
        return {
            "a project": self._make_project,
            "a target": self._make_target,
            "plan": self._plan_in_vain,
            "mend": self._mend,
            "plan with choices": self._plan,
            "copy": self._copy_all,
            "verify": self._verify,
            "a day passes": self._change,
            "copy what changed": self._copy_changes,
            "damage": self._damage,
            "repair": self._repair,
            "verify at the end": self._verify,
        }

    def _make_project(self) -> str:
        for file in ("supabase", "rows", "obstacles"):
            run_statements(self.source.url, file, self.rows)
        return f"{self.rows:,} rows as gyms write them, and every obstacle there is"

    def _make_target(self) -> str:
        applied = evolve.migrate(self.target)
        return f"migrated, {counted(len(applied), 'revision')}"

    def _plan_in_vain(self) -> str:
        planned = self._planned(Choices())
        _expect(not planned.whole, "nothing stands in the way")
        kinds = {obstacle.kind for obstacle in planned.obstacles}
        _expect(kinds == OBSTACLES, f"found {_listed(kinds)}, not {_listed(OBSTACLES)}")
        return f"{counted(len(planned.obstacles), 'obstacle')} of {len(kinds)} kinds"

    def _mend(self) -> str:
        run_statements(self.source.url, "mended", self.rows)
        left = {obstacle.kind for obstacle in self._planned(CHOICES).unresolved}
        _expect(not left, f"{_listed(left)} is left")
        return f"{_listed(TO_BE_MENDED)}: for these nothing can be chosen"

    def _plan(self) -> str:
        planned = self._planned(CHOICES)
        _expect(planned.whole, "something stands in the way")
        return f"whole, with {_told(_summed(planned.exclusions))}"

    def _copy_all(self) -> str:
        report = self._copied()
        found = _summed(report.exclusions)
        _expect(found == ASIDE, f"set aside was {found}, not {ASIDE}")
        written = sum(table.written for table in report.tables)
        arrived = sum(table.rows for table in report.tables)
        _expect(written == arrived, f"{written:,} rows were written, and {arrived:,} are there")
        return f"{arrived:,} rows written, each table proven before it was committed; {_told(found)}"

    def _verify(self) -> str:
        with open_for_reading(self.source.url, self.target) as connections:
            proof = verify(connections)
        _expect(proof.equal_but_for_choices, f"differences beyond the choices in {_listed(proof.unequal)}")
        by_choice = sum(rows for (_, action), rows in ASIDE.items() if action != "kept")
        _expect(proof.by_choice == by_choice, f"{proof.by_choice} rows differ by choice, not {by_choice}")
        rows = sum(table.target_rows for table in proof.tables)
        return f"equal but for {counted(proof.by_choice, 'row')} by choice, {rows:,} rows compared"

    def _change(self) -> str:
        run_statements(self.source.url, "changes", self.rows)
        return "rows were added, changed and deleted at the source, and two people exchanged accounts"

    def _copy_changes(self) -> str:
        report = self._copied()
        wrong = {table.table for table in report.tables if table.written or table.deleted} ^ CHANGED
        _expect(not wrong, f"rows were touched where nothing changed, or none where something did: {_listed(wrong)}")
        return f"{sum(table.written for table in report.tables):,} rows written, those that had changed"

    def _damage(self) -> str:
        with self.target.begin() as connection:
            connection.execute(text("UPDATE users SET email = email || '.' WHERE id = :id"), {"id": DAMAGED})
        with open_for_reading(self.source.url, self.target) as connections:
            proof = verify(connections)
        _expect(not proof.equal_but_for_choices, "a damaged value here was not found")
        found = [
            (table.table, row.id, *(value.column for value in row.values))
            for table in proof.tables
            for row in table.differences
            if row.choice is None
        ]
        _expect(found == [("users", str(DAMAGED), "email")], f"found {found}")
        return f"one letter more in the target; verify names it: users, id {DAMAGED}, email"

    def _repair(self) -> str:
        try:
            self._copied()
        except OtherRowsInTarget as error:
            _expect(list(error.rows) == ["users"], f"refused for {_listed(error.rows)}")
        else:
            raise _NotAsExpectedError("a table that was changed here was overwritten without a word")
        report = self._copied(replace_rows=True)
        written = {table.table: table.written for table in report.tables if table.written}
        _expect(written == {"users": 1}, f"written was {written}")
        return "refused, because users was changed here; with `--replace`, that row was written"

    def _planned(self, choices: Choices) -> Plan:
        with open_for_reading(self.source.url, self.target) as connections:
            return plan(connections, choices)

    def _copied(self, *, replace_rows: bool = False) -> Report:
        with open_for_writing(self.source.url, self.target, lambda: None) as connections:
            return copy(connections, choices=CHOICES, replace_rows=replace_rows)


def _taken(name: str, step: Callable[[], str]) -> RehearsedStep:
    started = time.perf_counter()
    as_expected = False
    try:
        told = step()
        as_expected = True
    except _NotAsExpectedError as error:
        told = str(error)
    except TatameError as error:
        told = error.what
    except psycopg.OperationalError as error:
        # A full disk, for instance.
        told = str(error).splitlines()[0]
    return RehearsedStep(name, told, time.perf_counter() - started, as_expected)


def _summed(exclusions: Iterable[Exclusion]) -> dict[tuple[str, str], int]:
    found: Counter[tuple[str, str]] = Counter()
    for what in exclusions:
        found[what.kind, what.action] += what.rows
    return dict(found)


def _told(exclusions: dict[tuple[str, str], int]) -> str:
    found: Counter[str] = Counter()
    for (_, action), rows in exclusions.items():
        found[action] += rows
    return ", ".join(f"{rows:,} {action}" for action, rows in found.items())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
