"""The schema: pending migrations, drift, and what does not apply although it exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db import evolve
from tatame_db.database.dialect import VERSION_SCHEMA
from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, named, unknown, warn, worst
from tatame_db.doctor.lines import line
from tatame_db.evolve.history import (
    DatabaseAhead,
    History,
    MigrationEdited,
    MigrationUnreadable,
    TwoHeads,
    current_revisions,
)
from tatame_db.evolve.placement import is_worker

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer

_GROUP = "Schema"


@line(_GROUP, bad="migrations are pending, or the database has some that do not exist here", command="check")
def migrations(examination: Examination) -> Answer | None:
    """Whether every migration is applied."""
    if is_worker(examination.rows):
        return None
    if problem := examination.setup.models_problem:
        return bad(problem.what, problem.fix)
    try:
        history = History()
        with examination.engine.connect() as connection:
            pending = [script.revision for script in history.pending(connection)]
            reached = history.reached(connection)
    except (DatabaseAhead, MigrationUnreadable, TwoHeads) as error:
        return bad(error.what, error.fix)
    if pending:
        where = f"the database is at {reached}" if reached else "the database was never migrated"
        role = advice.as_role(examination, advice.migrating_role(examination))
        return bad(f"{where}; pending: {named(pending)}", f"`tatame-db migrate`{role}")
    return good(f"all applied, up to {reached}")


@line(
    _GROUP,
    warns="another table of Alembic exists, or an applied migration has no checksum",
    bad="an applied migration was edited, or is recorded twice",
    command="check",
)
def history(examination: Examination) -> Answer:
    """Whether the record of the applied migrations is one, and fits their files."""
    if examination.setup.models_problem:
        return _without_models()
    role = advice.migrating_role(examination)
    with examination.engine.connect() as connection:
        answers = [*_problems_of_history(connection, examination, role)]
    others = examination.rows(
        "SELECT format('%I.%I', nspname, relname) AS name, quote_ident(pg_get_userbyid(relowner)) AS owner"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relname = 'alembic_version' AND relkind IN ('r', 'p') AND nspname <> :schema ORDER BY 1",
        schema=VERSION_SCHEMA,
    )
    if others:
        answers.append(
            warn(
                f"{named([other.name for other in others])} is another record of migrations, by which another program"
                " may change the tables",
                "if no program uses it any more, "
                + advice.sql(examination, *((f"DROP TABLE {other.name}", other.owner) for other in others)),
            )
        )
    return worst(answers, good("one record, and no applied migration was edited"))


_DELETE = f"DELETE FROM {VERSION_SCHEMA}.alembic_version WHERE version_num = '{{}}'"


def _problems_of_history(connection: Connection, examination: Examination, role: str) -> list[Answer]:
    history = History()
    answers: list[Answer] = []
    try:
        history.refuse_edited(connection)
    except MigrationEdited as error:
        answers.append(bad(error.what, error.fix))
    if unrecorded := history.unrecorded(connection):
        answers.append(
            warn(
                f"an edit of {named(unrecorded)} would not be seen, because no checksum is recorded",
                "apply migrations with `tatame-db migrate` alone",
            )
        )
    current = current_revisions(connection)
    before = {
        script.revision
        for revision in current
        for script in history.scripts.iterate_revisions(revision, "base")
        if script.revision != revision
    }
    if twice := sorted(before & set(current)):
        answers.append(
            bad(
                f"{named(twice)} is recorded beside a migration that follows it",
                advice.sql(examination, *((_DELETE.format(revision), role) for revision in twice)),
            )
        )
    return answers


@line(_GROUP, bad="`tatame-db check` finds a difference", command="check", slow=True)
def drift(examination: Examination) -> Answer:
    """Whether migrations, models and database agree, by comparison with a database that the migrations build."""
    if examination.setup.models_problem:
        return _without_models()
    try:
        found = evolve.check(examination.engine).without_placement
    except (DatabaseAhead, MigrationUnreadable) as error:
        return unknown(error.what, error.fix)
    if not found.failed:
        return good("the database matches its migrations, and the migrations match the models")
    failed = evolve.CheckFailed(check=found)
    differences = [*(found.database or []), *(found.migrations or [])]
    shown = [difference.splitlines()[0].partition(":")[0] for difference in differences]
    return bad(f"{failed.what}: {named(shown)}" if shown else failed.what, f"`tatame-db check` lists all; {failed.fix}")


def _without_models() -> Answer:
    return unknown("the models of the app are not loaded", "fix what the line `migrations` reports")


@line(_GROUP, warns="an index is invalid, so that it serves no query", bad="the invalid index is unique")
def invalid_indexes(examination: Examination) -> Answer:
    """Indexes that `CREATE INDEX CONCURRENTLY` left unfinished: every write pays for them."""
    found = examination.rows(_INVALID)
    if not found:
        return good("none")
    names = [row.name for row in found]
    fix = advice.sql(examination, *((row.statement, row.owner) for row in found))
    again = "create the index again: `tatame-db migrate` does it if a migration had failed"
    if found[0].duplicates is None:
        return warn(f"{named(names)}: serves no query, and slows down every write", f"{fix}; then {again}")
    return bad(
        f"{named(names)}: unique indexes among them may not keep duplicates out",
        f"{fix}; then remove the duplicates that `{found[0].duplicates}` finds, and {again}",
    )


# An index that an interrupted REINDEX CONCURRENTLY left behind has its name with `_ccnew` or `_ccold`.
_INVALID = """
SELECT format('%I', c.relname) AS name, quote_ident(pg_get_userbyid(c.relowner)) AS owner,
    format(CASE WHEN EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid)
        THEN 'REINDEX INDEX CONCURRENTLY %I' ELSE 'DROP INDEX CONCURRENTLY %I' END, c.relname) AS statement,
    CASE WHEN indisunique THEN format('SELECT %s, count(*) FROM %s%s GROUP BY %1$s HAVING count(*) > 1',
        keys.list, indrelid::regclass, ' WHERE ' || nullif(concat_ws(' AND ',
            '(' || pg_get_expr(indpred, indrelid, true) || ')',
            CASE WHEN coalesce(to_jsonb(i) ->> 'indnullsnotdistinct', 'false') = 'false' THEN keys.present END), ''))
    END AS duplicates
FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
CROSS JOIN LATERAL (
    SELECT string_agg(key, ', ' ORDER BY n) AS list, string_agg(key || ' IS NOT NULL', ' AND ' ORDER BY n) AS present
    FROM generate_series(1, indnkeyatts) AS n CROSS JOIN pg_get_indexdef(indexrelid, n, true) AS key
) keys
WHERE NOT indisvalid AND relnamespace = to_regnamespace('public') AND relkind = 'i'
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = indexrelid)
ORDER BY indisunique DESC, 1
"""


@line(_GROUP, warns="a constraint is NOT VALID")
def unvalidated_constraints(examination: Examination) -> Answer:
    """Constraints that apply to new rows, and that old rows may violate."""
    found = examination.rows(_UNVALIDATED)
    if not found:
        return good("none")
    return warn(
        f"old rows may violate {named([f'{row.name}.{row.key}' for row in found])}",
        f"remove or correct the rows that `{found[0].violations}` finds; then"
        f" {advice.sql(examination, *((row.statement, row.owner) for row in found))}, which blocks no reader or writer",
    )


_UNVALIDATED = f"""
SELECT format('%I', relname) AS name, format('%I', conname) AS key, quote_ident(pg_get_userbyid(relowner)) AS owner,
    format('ALTER TABLE %I VALIDATE CONSTRAINT %I', relname, conname) AS statement,
    {advice.violations("k")} AS violations
FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid
WHERE NOT convalidated AND relnamespace = to_regnamespace('public') AND conparentid = 0
    AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
ORDER BY 1, 2
"""


@line(_GROUP, bad="a foreign key is NOT ENFORCED, or its triggers are disabled")
def disabled_keys(examination: Examination) -> Answer:
    """Foreign keys that reject no row."""
    found = examination.rows(_DISABLED)
    if not found:
        return good("none")
    keys = dict.fromkeys(f"{row.name}.{row.key}" for row in found)
    statements = dict.fromkeys((row.statement, row.owner or advice.SUPERUSER) for row in found)
    parts = [
        f"remove or correct the rows that `{found[0].violations}` finds",
        advice.sql(examination, *statements),
    ]
    if found[0].owner is None:
        # Triggers do not look at older rows, so they can stop new ones first.
        parts.reverse()
    return bad(f"the database accepts rows that violate {named(keys)}", "; then ".join(parts))


# A key without enforcement has no triggers. Those of a key are on both tables, and only a superuser can change them.
_DISABLED = f"""
SELECT DISTINCT format('%I', c.relname) AS name, format('%I', k.conname) AS key, {advice.violations("k")} AS violations,
    CASE WHEN t.oid IS NULL THEN quote_ident(pg_get_userbyid(c.relowner)) END AS owner,
    CASE WHEN t.oid IS NULL THEN format('ALTER TABLE %I ALTER CONSTRAINT %I ENFORCED', c.relname, k.conname)
        ELSE format('ALTER TABLE %s ENABLE TRIGGER ALL', t.tgrelid::regclass) END AS statement
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
LEFT JOIN pg_trigger t ON t.tgconstraint = k.oid AND t.tgenabled NOT IN ('O', 'A')
WHERE k.contype = 'f' AND c.relnamespace = to_regnamespace('public')
    AND (t.oid IS NOT NULL OR NOT coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true))
ORDER BY 1, 2
"""
