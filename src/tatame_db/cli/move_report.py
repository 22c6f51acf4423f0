"""What the commands of the move print."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tatame_db.cli import console
from tatame_db.cli.kept_report import show_not_returned
from tatame_db.errors import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from tatame_db.move import (
        Comparison,
        Exclusion,
        FollowerStatus,
        MoveStatus,
        Obstacle,
        Plan,
        Rehearsal,
        Report,
        TableCount,
        TableProof,
        TableStatus,
    )
    from tatame_db.move.differences import RowDifference
    from tatame_db.move.left_behind import LeftBehind
    from tatame_db.move.plan import PlannedTable
    from tatame_db.move.rehearsal.steps import RehearsedStep
    from tatame_db.move.rest import RestReading

# The labels of a report, `excluded` being the longest, and two spaces.
_LABEL_WIDTH = 10
_NAMES_SHOWN = 3
_ACTIONS = {
    "rejected": "rejected",
    "nulled": "set to NULL",
    "kept": "kept in tatame_move.rejects",
    "left": "left at the source",
}


def show_plan(plan: Plan) -> None:
    """Print both databases, where each column comes from, the obstacles, and whether all rows can be moved."""
    _show_databases(plan)
    for table in plan.tables:
        _show_planned_table(table)
    for table in plan.tables:
        for obstacle in table.obstacles:
            _show_obstacle(table.table, obstacle)
    for obstacle in plan.unknown_tables:
        _show_obstacle("source", obstacle)
    _show_target_objects(plan)
    console.answer(f"\na first copy takes about {plan.seconds:,.1f} s, estimated from the last copy or from the sizes")
    if not plan.unresolved:
        rows = sum(table.rows for table in plan.tables)
        rejected = sum(exclusion.rows for exclusion in plan.exclusions if exclusion.action == "rejected")
        movable = f"{rows - rejected:,} of {counted(rows, 'row')}" if rejected else f"all {counted(rows, 'row')}"
        console.answer(f"\n{'ready' if plan.complete else 'rows'}: {movable} can be moved")
        _show_exclusions(plan.exclusions)
    if plan.empty:
        _show_empty_source()
    if plan.left_behind:
        _show_left_behind(plan.left_behind)


def _show_left_behind(left: LeftBehind) -> None:
    rows = [(found.kind, found.number, _first(found.names, found.number)) for found in left.objects]
    if left.buckets:
        objects = counted(sum(bucket.objects for bucket in left.buckets), "object")
        size = f"{sum(bucket.size_bytes for bucket in left.buckets):,} bytes"
        if unknown := sum(bucket.without_size for bucket in left.buckets):
            size = f"at least {size}, the size of {counted(unknown, 'object')} is unknown"
        names = [f"{bucket.name} ({bucket.objects:,})" for bucket in left.buckets]
        buckets = f"{objects}, {size}: {_first(names, len(names))}"
        rows.append(("storage buckets", len(left.buckets), buckets))
    if left.links:
        links = [f"{link.column} ({link.values:,})" for link in left.links]
        rows.append(("links to the project", sum(link.values for link in left.links), _first(links, len(links))))
    console.answer("\nnot moved, and lost when the project is deleted:\n")
    console.table(["kind", "number", "names"], rows or [("nothing was found", 0, "")])
    console.answer("")
    _show("links", f"a link is a value that contains {' or '.join(left.hosts)}")
    for table in left.not_readable:
        _show("NOT READ", f"{table.name}: {table.reason}")
    if left.over_rest:
        _show("not seen", "over REST only views and links can be seen; set `SUPABASE_DB_URL` to see the rest")
    _show("not seen", "column defaults, checks, ON DELETE rules, unique keys, privileges: compare them with the models")
    _show("not seen", "edge functions, their secrets and the settings of the project: review them in the dashboard")


def _first(names: list[str], number: int) -> str:
    shown = names[:_NAMES_SHOWN]
    hidden = f" and {number - len(shown):,} more" if shown and number > len(shown) else ""
    return ", ".join(shown) + hidden


def _show_target_objects(plan: Plan) -> None:
    for title, changes_rows in [
        ("can change rows of the target as they are written, which the proof of a copy would find", True),
        ("on the target and not in the models; a copy leaves them as they are", False),
    ]:
        if objects := [found for found in plan.target_objects if found.changes_rows == changes_rows]:
            console.answer(f"\n{title}:")
            for found in objects:
                console.answer(
                    f"  {found.table}: {' '.join(filter(None, (found.kind, found.name, found.description)))}"
                )


def _show_planned_table(table: PlannedTable) -> None:
    size = "" if table.size_bytes is None else f" {table.size_bytes:,} bytes,"
    console.answer(
        f"\n{table.table}: phase {table.phase}, {counted(table.rows, 'row')},{size} about {table.seconds:,.1f} s"
    )
    console.table(
        ["column", "source", "conversion"],
        [
            (column.target, f"{column.source} ({column.source_type})" if column.source else None, column.conversion)
            for column in table.columns
        ],
    )


def _show_obstacle(place: str, obstacle: Obstacle) -> None:
    ids = f", for example {', '.join(obstacle.ids)}" if obstacle.ids else ""
    console.answer(f"\n{place}: {obstacle.reason}: {counted(obstacle.rows, 'row')}{ids}")
    if obstacle.chosen:
        outcome = ", ".join(
            f"{counted(rows, _noun(obstacle.kind, action))} {_ACTIONS[action]}"
            for action, rows in obstacle.outcome.items()
        )
        console.answer(f"  resolved by `{obstacle.chosen}`: {outcome or 'no row remains'}")
        return
    console.answer("  to resolve it:")
    for choice in obstacle.choices:
        console.answer(f"    {choice}")


def _show_databases(report: Plan | Report, moment: str | None = None) -> None:
    server = "PostgREST" if report.rest else "PostgreSQL"
    _show("source", f"{report.source}, {server} {report.source_version}{f', as of {moment}' if moment else ''}")
    _show_reading(report.rest)
    _show("target", f"{report.target}, PostgreSQL {report.target_version}")
    if report.views:
        _show("VIEWS", f"{', '.join(report.views)}: filled from a view, which may show fewer rows than there are")


def _show_reading(rest: RestReading | None) -> None:
    if rest is None:
        return
    cap = f" of at most {rest.cap:,} rows" if rest.cap else ""
    _show("rest", f"read as {rest.role} in {rest.pages:,} pages{cap}, not as of one moment")
    if rest.anon_sees_all:
        _show("", "not checked: rows may be hidden from this role, but `--anon-sees-all` trusts that none are")


def _show_exclusions(exclusions: Iterable[Exclusion], label: str = "excluded") -> None:
    for exclusion in exclusions:
        place = exclusion.table if exclusion.action == "rejected" else exclusion.place
        rows = counted(exclusion.rows, _noun(exclusion.kind, exclusion.action))
        _show(label, f"{rows} of {place} ({_ACTIONS[exclusion.action]}): {exclusion.reason}")


def _noun(kind: str, action: str) -> str:
    return "row" if action == "rejected" or kind == "unknown-table" else "value"


def _show_empty_source() -> None:
    _show("EMPTY", "all tables of the source are empty: this may be the wrong database")


def _show(label: str, text: str) -> None:
    console.answer(f"{label:<{_LABEL_WIDTH}}{text}")


def show_copy(report: Report) -> None:
    """Print what was copied, how it was proven, what was excluded, and what to do next."""
    from tatame_db.schema import phases

    _show_databases(report, report.moment)
    console.answer("")
    console.table(
        ["table", "rows", "written", "deleted", "seconds", "digest"],
        [
            (table.table, table.rows, table.written, table.deleted, table.seconds, f"{table.target_digest}")
            for table in report.tables
        ],
    )
    console.answer("")
    rows = sum(table.rows for table in report.tables)
    written = sum(table.written for table in report.tables)
    tables = counted(len(report.tables), "table")
    _show("equal", f"{counted(rows, 'row')} in {tables}, proven by digests with {report.hash}")
    _show("", "each server digests its own rows, those of the target read in the source's types")
    _show_sha256(report)
    _show("keys", f"{counted(report.foreign_keys, 'foreign key')} checked over all rows")
    _show("inserts", f"a new row was inserted into {counted(len(report.insert_tested), 'table')} and rolled back")
    _show_exclusions(report.exclusions)
    _show_exclusions(report.more_excluded, "NEW")
    if not report.exclusions:
        _show("excluded", "nothing, every row was copied")
    waiting = [f"{', '.join(table.waiting)} of {table.table}" for table in report.tables if table.waiting]
    for columns in waiting:
        _show("waiting", f"{columns}, for rows of a later phase")
    known = phases()
    if len(report.tables) == len(known) and not rows and not any(what.table in known for what in report.exclusions):
        _show_empty_source()
    _show("time", f"{report.seconds:.1f} s, {counted(written, 'row')} written")
    if report.outdated:
        _show("outdated", f"{', '.join(report.outdated)}: written to since the last copy, and not part of this one")
    for step in _next_steps(report, waiting=bool(waiting)):
        _show("next", step)


def _show_sha256(report: Report) -> None:
    if read_back := [(table.table, table.sha256) for table in report.tables if table.sha256]:
        _show("sha256", f"{counted(len(read_back), 'table')} read back with the bytes that were copied:")
        console.table(["table", "SHA-256"], read_back)


def _next_steps(report: Report, *, waiting: bool) -> list[str]:
    steps: list[str] = []
    if any(exclusion.action != "left" for exclusion in report.exclusions):
        steps.append(
            "review `tatame_move.rejects`: the next `tatame-db move copy` copies the rows that were fixed at the source"
        )
    if report.not_copied:
        steps.append(f"copy the later phases; not copied yet: {', '.join(report.not_copied)}")
    elif waiting:
        steps.append("copy the later phases")
    elif not steps:
        steps.append(
            "switch without a stop: `tatame-db move follow`, then `tatame-db move switch`; or, once Supabase is closed"
            " for writing: `tatame-db move copy` again, then `tatame-db move verify` and `tatame-db check`"
        )
    return steps


def show_status(status: MoveStatus) -> None:
    """Print the last run, what it left unfinished, the state of each table, and what was excluded."""
    if run := status.last_run:
        outcome = run.outcome or "running, or interrupted"
        error = f", {run.error}" if run.error else ""
        console.answer(f"run {run.id} of {_minute(run.started_at)}: {outcome}{error}\n")
    if status.parked:
        _show_not_ready(
            "dropped during a copy and not restored", status.parked, f"`{status.finish_command}` restores them"
        )
    if status.unvalidated_keys:
        _show_not_ready(
            "foreign keys not validated", status.unvalidated_keys, f"`{status.finish_command}` validates them"
        )
    console.table(
        ["table", "phase", "home", "rows", "copied", "proven", "notes"],
        [_status_row(table) for table in status.tables],
    )
    if status.home_problem:
        console.answer(f"\nNOT READY  {status.home_problem}")
    for follower in status.followers:
        console.answer(f"\n{_follower(follower)}")
    for slot in status.forgotten_slots:
        held = f"{slot.wal_bytes / 1024 / 1024:,.1f} MB of WAL"
        console.answer(f"\nthe slot {slot.name} of the database {slot.database} holds {held}, and no process reads it")
    if status.exclusions or status.not_returned:
        console.answer("")
        _show_exclusions(status.exclusions)
        show_not_returned(status.not_returned)


def _follower(follower: FollowerStatus) -> str:
    other = "source" if follower.home == "target" else "target"
    if not follower.runs:
        return f"the {other} followed the {follower.home} until {follower.at:%H:%M:%S} UTC; no process follows it now"
    rows = "" if follower.rows is None else f"{counted(follower.rows, 'row')} and "
    held = "" if follower.wal_bytes is None else f", {follower.wal_bytes / 1024 / 1024:,.1f} MB of WAL held"
    return f"the {other} follows the {follower.home}: {rows}{follower.seconds:.1f} s behind{held}"


def _show_not_ready(problem: str, names: list[str], remedy: str) -> None:
    console.answer(f"NOT READY  {problem}: {', '.join(names)}\n           {remedy}\n")


def _status_row(table: TableStatus) -> tuple[object, ...]:
    if table.copied_at is None:
        return table.table, table.phase, table.home, None, "no", "no", None
    notes = [f"{table.rejected:,} rejected"] if table.rejected else []
    notes += ["changed since, so the proof is out of date"] if table.stale else []
    proven = _minute(table.proven_at) if table.proven_at else "no"
    return table.table, table.phase, table.home, table.rows, _minute(table.copied_at), proven, "; ".join(notes)


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def show_counts(counts: list[TableCount], rest: RestReading | None) -> None:
    """Print the number of rows of each table in both databases."""
    _show_reading(rest)
    console.table(
        ["table", "source", "target", "result"],
        [
            (count.table, "unknown" if count.source is None else count.source, count.target, _count_result(count))
            for count in counts
        ],
    )


def _count_result(count: TableCount) -> str:
    result = "equal" if count.agrees else "differs by choice" if count.by_choice else "differs"
    rejected = ", ".join(f"{rows:,} rejected: {kind}" for kind, rows in count.rejected.items())
    return f"{result}, {rejected}" if rejected else result


def show_proof(comparison: Comparison) -> None:
    """Print for each table whether it is equal, with the rows and values that differ, which are read meanwhile."""
    proof = comparison.proof
    _show_reading(proof.rest)
    for table in proof.tables:
        _show_table_proof(table, comparison.differences(table))
    for exclusion in proof.changed:
        console.answer(f"{exclusion.place}: the source has changed since these values were excluded")
    _show_exclusions(proof.exclusions)


def _show_table_proof(proof: TableProof, differences: Iterator[RowDifference]) -> None:
    if proof.source_rows is None:
        console.answer(f"{proof.table}: cannot be compared, the source has no such table")
        return
    if proof.equal:
        console.answer(f"{proof.table}: equal, {counted(proof.target_rows, 'row')}, digest {proof.target_digest}")
        return
    console.answer(
        f"{proof.table}: {counted(proof.missing, 'row')} missing, {proof.extra:,} extra, {proof.differing:,} differing"
        f" ({proof.source_rows:,} in the source, {proof.target_rows:,} in the target)"
        + (f"; {proof.by_choice:,} of them by choice" if proof.by_choice else "")
    )
    for row in differences:
        console.answer(f"  {row.id}  {row.kind}{f' by choice: {row.choice}' if row.choice else ''}")
        for value in row.values:
            console.answer(
                f"    {value.column}: {_literal(value.source)} in the source, {_literal(value.target)} in the target"
            )
    if hidden := proof.missing + proof.extra + proof.differing - len(proof.differences):
        console.answer(f"  and {hidden:,} more")


def _literal(value: str | None) -> str:
    return "NULL" if value is None else repr(value)


def step_line(step: RehearsedStep) -> str:
    """Return the line about one step of the rehearsal."""
    return f"{step.seconds:7.1f} s  {step.name}: {step.summary}"


def show_rehearsal(rehearsal: Rehearsal) -> None:
    """Print the end of a rehearsal, and where its databases are if they were kept."""
    if rehearsal.failed is None:
        console.answer(f"{rehearsal.seconds:7.1f} s  all steps passed")
    if rehearsal.directory:
        console.answer("")
        _show("source", str(rehearsal.source))
        _show("target", str(rehearsal.target))
        # From `/`, because an empty variable falls back to a `.env`, which is looked for in all parent directories.
        variables = f"DATABASE_URL= TATAME_ENV= TATAME_DATA_DIR={shlex.quote(rehearsal.directory)}"
        console.answer(f"\ndelete both with `(cd / && {variables} tatame-db down --yes)`")
