"""The command for roles and their rights."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, Target, Yes, app, confirm, target_of
from tatame_db.cli.schema import timeouts

if TYPE_CHECKING:
    from tatame_db.roles import Names, Roles


@app.command()
def roles(
    database_url: DatabaseUrl = None,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that gives four roles their rights.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Run that SQL in one transaction.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as --sql.")] = False,
    owner: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The role that owns the tables and migrates; by default tatame_owner."),
    ] = None,
    app_role: Annotated[
        str | None,
        typer.Option("--app", metavar="NAME", help="The role that reads and writes rows; by default tatame_app."),
    ] = None,
    read_only: Annotated[
        str | None, typer.Option(metavar="NAME", help="The role that only reads; by default tatame_read.")
    ] = None,
    backup: Annotated[
        str | None, typer.Option(metavar="NAME", help="The role that backs up; by default tatame_backup.")
    ] = None,
    no_replication: Annotated[
        bool, typer.Option("--no-replication", help="Do without REPLICATION, which only pg_basebackup needs.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show who may do what in the database, or give four roles their rights."""
    from tatame_db.roles import Names, as_text, list_roles, script

    named = {"owner": owner, "app": app_role, "read_only": read_only, "backup": backup}
    names = Names(**{duty: name for duty, name in named.items() if name is not None})
    target = target_of(database_url)
    if sql or dry_run:
        with target.database.engine.connect() as connection:
            console.answer(as_text(script(connection, names, replication=not no_replication)))
    elif apply:
        names.refuse_invalid()
        confirm(f"`tatame-db roles --apply` makes {names.owner} the owner of all tables in {target.readable}", yes=yes)
        _apply(target, names, replication=not no_replication, as_json=as_json)
    else:
        with target.database.engine.connect() as connection:
            found = list_roles(connection, names)
        if as_json:
            console.answer_json(asdict(found))
        else:
            _show(found)


def _apply(target: Target, names: Names, *, replication: bool, as_json: bool) -> None:
    from tatame_db import roles as rights
    from tatame_db.database.dialect import quoted
    from tatame_db.evolve.lock import exclusive

    with exclusive(target.database.engine, timeouts()) as connection:
        applied = rights.apply(connection, names, replication=replication)
    if as_json:
        console.answer_json(asdict(applied))
    else:
        for change in applied.changes:
            console.answer(change)
    for role in applied.created:
        console.say(f"{role} has no password yet: set one with `tatame-db psql` and `\\password {quoted(role)}`")
    if applied.remaining:
        raise rights.RightsRemain(rights=applied.remaining)
    if not applied.changes:
        console.say("nothing changed: every role has its rights, and no more")


def _show(found: Roles) -> None:
    def of_tables(number: int) -> str:
        return f"{number}/{found.tables}"

    def yes_or_no(answer: bool) -> str:
        return "yes" if answer else "no"

    console.table(
        ["role", "owns", "reads", "writes", "creates", "migrates", "backup", "is"],
        [
            (
                f"{role.name} *" if role.is_current else role.name,
                of_tables(role.owns),
                of_tables(role.reads),
                of_tables(role.writes),
                yes_or_no(role.creates),
                yes_or_no(role.migrates),
                role.backs_up,
                "superuser"
                if role.is_superuser
                else ", ".join([*([] if role.can_login else ["group"]), *role.attributes]),
            )
            for role in found.roles
        ],
    )
    console.answer("\n* the role of the address")
    if found.current.is_superuser:
        console.answer(f"WARNING  {found.current.name} is a superuser: an app needs less, see `tatame-db roles --sql`")
    for sentence in found.beyond:
        console.answer(f"WARNING  beyond its part, {sentence}")
    for sentence in [*found.lacking, *found.unable]:
        console.answer(f"WARNING  {sentence}")
    if found.beyond or found.lacking:
        console.answer(
            "`tatame-db roles --apply` gives the roles their parts; it does not touch what may concern others"
        )
