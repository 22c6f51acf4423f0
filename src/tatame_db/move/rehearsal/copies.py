"""The steps of a rehearsal that plan, copy and verify."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from tatame_db import evolve
from tatame_db.errors import counted
from tatame_db.evolve.lock import ignore
from tatame_db.move.choices import Choices, Exclusion
from tatame_db.move.copy import Report, copy
from tatame_db.move.copy_table import CopyDiffers
from tatame_db.move.left_behind import KINDS
from tatame_db.move.open import open_for_reading, open_for_writing
from tatame_db.move.plan import Plan, plan
from tatame_db.move.proof import verify
from tatame_db.move.refusals import OtherRowsInTarget
from tatame_db.move.rehearsal.project import add_later_models, run_statements
from tatame_db.move.rehearsal.steps import StepFailedError, expect, listed
from tatame_db.move.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Engine

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


class Copies:
    """The steps. Each returns a summary, and raises `StepFailedError` if its result is not the expected one."""

    def __init__(self, source: Engine, target: Engine, rows: int) -> None:
        self.source, self.target, self.rows = source, target, rows

    def steps(self) -> dict[str, Callable[[], str]]:
        """Return the steps by name, in their order."""
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
        add_later_models(self.source)
        for file in ("rows", "left_behind", "obstacles"):
            run_statements(self.source.url, file, self.rows)
        return f"{self.rows:,} rows, with every kind of obstacle"

    def _create_target(self) -> str:
        applied = evolve.migrate(self.target)
        return f"migrated, {counted(len(applied), 'revision')}"

    def _plan_without_choices(self) -> str:
        found = self._planned(Choices())
        expect(not found.complete, "expected obstacles, found none")
        kinds = {obstacle.kind for obstacle in found.obstacles}
        expect(kinds == OBSTACLES, f"expected the obstacles {listed(OBSTACLES)}; found {listed(kinds)}")
        left = {objects.kind for objects in found.left_behind.objects} if found.left_behind else set[str]()
        expect(left == LEFT_BEHIND, f"expected to leave behind {listed(LEFT_BEHIND)}; found {listed(left)}")
        return f"{counted(len(found.obstacles), 'obstacle')} of {len(kinds)} kinds"

    def _fix_source(self) -> str:
        run_statements(self.source.url, "fixes", self.rows)
        unresolved = {obstacle.kind for obstacle in self._planned(CHOICES).unresolved}
        expect(not unresolved, f"expected no unresolved obstacle, found {listed(unresolved)}")
        return f"{listed(FIXED_AT_SOURCE)}, which no choice resolves"

    def _plan(self) -> str:
        found = self._planned(CHOICES)
        unresolved = listed(obstacle.kind for obstacle in found.unresolved)
        expect(found.complete, f"expected a complete plan; unresolved: {unresolved}")
        return f"complete, with {_summary(_counts(found.exclusions))}"

    def _copy_all(self) -> str:
        report = self._copied()
        excluded = _counts(report.exclusions)
        expect(excluded == EXCLUSIONS, f"exclusions differ: {_differences(EXCLUSIONS, excluded)}")
        written = sum(table.written for table in report.tables)
        rows = sum(table.rows for table in report.tables)
        expect(written == rows, f"expected {written:,} rows in the target, found {rows:,}")
        return f"{rows:,} rows written, each table proven before its commit; {_summary(excluded)}"

    def _verify(self) -> str:
        with open_for_reading(self.source.url, self.target) as connections:
            proof = verify(connections)
        expect(proof.equal_but_for_choices, f"expected differences only by choice; differing: {listed(proof.unequal)}")
        by_choice = sum(rows for (_, action), rows in EXCLUSIONS.items() if action != "kept")
        expect(proof.by_choice == by_choice, f"expected {by_choice} rows that differ, found {proof.by_choice}")
        rows = sum(table.target_rows for table in proof.tables)
        return f"{rows:,} rows compared, equal except for {counted(proof.by_choice, 'row')} excluded by choice"

    def _add_to_target(self) -> str:
        run_statements(self.target.url, "additions", self.rows)
        found = {(found.kind, found.name) for found in self._planned(CHOICES).target_objects}
        named = found >= {("trigger", "shout"), ("column", "note"), ("foreign key", "lockers_user_id_fkey")}
        expect(named, "expected the plan to name the additions of the target; it did not")
        return "a trigger, a column and a table that refers to users, all of which the plan names"

    def _change_source(self) -> str:
        run_statements(self.source.url, "changes", self.rows)
        return "rows added, changed and deleted; two users swapped their accounts"

    def _meet_trigger(self) -> str:
        try:
            self._copied()
        except CopyDiffers as error:
            expect(error.table == "users", f"expected users to differ, {error.table} does")
        else:
            raise StepFailedError("expected the copy to fail, because a trigger changed what it wrote; it succeeded")
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
                    expect(not waiting[0].done(), "expected a rewrite of the source to wait; it did not")

            report = self._copied(on_stage=rewrite_source)
            waiting[0].result()
        expect(self._own_rows() == before, "expected rows and values of the target's own to stay; they changed")
        written = {table.table for table in report.tables if table.written or table.deleted}
        expect(
            written == CHANGED_TABLES,
            f"expected changes in {listed(CHANGED_TABLES)}; found changes in {listed(written)}",
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
        expect(not proof.equal_but_for_choices, "expected verify to find the damaged value; it found none")
        expected = f"users, id {DAMAGED_USER}, email"
        found = "; ".join(
            f"{table.table}, id {row.id}, {', '.join(value.column for value in row.values)}"
            for table in proof.tables
            for row in table.differences
            if row.choice is None
        )
        expect(found == expected, f"expected verify to name {expected}; it named {found or 'no row'}")
        return f"one letter added to a value; verify names it: {expected}"

    def _repair_target(self) -> str:
        try:
            self._copied()
        except OtherRowsInTarget as error:
            expect(list(error.rows) == ["users"], f"expected copy to refuse users, it refused {listed(error.rows)}")
        else:
            raise StepFailedError("expected copy to refuse users, which was changed; it overwrote the table")
        report = self._copied(replace_rows=True)
        written = {table.table: table.written for table in report.tables if table.written}
        found = ", ".join(f"{counted(rows, 'row')} of {table}" for table, rows in written.items()) or "no row"
        expect(written == {"users": 1}, f"expected 1 row of users to be written; written: {found}")
        return "copy refuses the changed table; with `--replace` it writes that row"

    def _planned(self, choices: Choices) -> Plan:
        with open_for_reading(self.source.url, self.target) as connections:
            return plan(connections, choices)

    def _copied(self, *, replace_rows: bool = False, on_stage: Callable[[Stage, str | None], None] = ignore) -> Report:
        with open_for_writing(self.source.url, self.target) as connections:
            return copy(connections, choices=CHOICES, replace_rows=replace_rows, on_stage=on_stage)


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
