"""The doctor: one page on the database and the machine."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, Target, app, load_app, server_of
from tatame_db.cli.move_json import as_json as json_of
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tatame_db.doctor import Examined, Finding, Setup

T = TypeVar("T")
_WIDTH = 80
_INDENT = " " * 8
_UNKNOWN = "unknown"
_COLOURS = {"good": typer.colors.GREEN, "warn": typer.colors.YELLOW, "bad": typer.colors.RED}


@app.command()
def doctor(database_url: DatabaseUrl = None, *, as_json: AsJson = False) -> None:
    """Examine the database and the machine, and say what to do; exit with 3 if anything is bad."""
    from tatame_db import doctor as examining

    target = server_of(database_url)
    with console.Progress() as progress:
        examined = examining.examine(
            target.database.address,
            setup_of(target),
            on_line=lambda name: progress.stage(f"examining: {name}"),
        )
    if as_json:
        console.answer_json(json_of(examined))
    else:
        _show(examined)
    if error := examined.error:
        raise error


def setup_of(target: Target) -> Setup:
    """Return what the settings say for the doctor; one that cannot be used is a line of it, and no error."""
    from tatame_db.doctor import Setup

    settings = target.settings
    _, models_problem = _with_problem(lambda: load_app(settings, may_be_new=True))
    source, source_problem = _with_problem(lambda: settings.source_address)
    replica, replica_problem = _with_problem(lambda: settings.replica_address)
    return Setup(
        server=target.server,
        production=settings.environment == "production",
        pool_size=settings.pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
        use_postgres=settings.use_postgres,
        source=source,
        source_problem=source_problem,
        replica=replica,
        replica_problem=replica_problem,
        backup_folder=settings.backup_directory,
        models_problem=models_problem,
    )


def _with_problem(read: Callable[[], T]) -> tuple[T | None, TatameError | None]:
    try:
        return read(), None
    except TatameError as error:
        return None, error


def _show(examined: Examined) -> None:
    server = f"PostgreSQL {examined.server_version}" if examined.server_version else "no connection"
    console.answer(f"database  {examined.database}")
    console.answer(f"server    {server}{', embedded' if examined.embedded else ''}")
    # Without a connection, the reason is the same for most lines, and `reachable` states it.
    shown = [found for found in examined.findings if examined.server_version or found.verdict.value != _UNKNOWN]
    for group, findings in groupby(shown, key=lambda finding: finding.group):
        console.answer(f"\n{group}")
        for name, finding in _joined(list(findings)):
            _show_line(name, finding)
    counts = ", ".join(f"{number} {verdict}" for verdict, number in examined.counts.items() if number)
    console.answer(f"\n{counts}")


def _joined(findings: list[Finding]) -> list[tuple[str, Finding]]:
    """Put the lines of a group that were not checked for the same reason into one."""
    lines: dict[tuple[str, str], tuple[list[str], Finding]] = {}
    for finding in findings:
        key = finding.text, "" if finding.verdict.value == _UNKNOWN else finding.name
        lines.setdefault(key, ([], finding))[0].append(finding.name)
    return [(", ".join(names), finding) for names, finding in lines.values()]


def _show_line(name: str, finding: Finding) -> None:
    verdict, parts = finding.verdict.value, [f"{name}: {finding.text}"]
    if finding.fix:
        parts.append(f"fix: {finding.fix}")
    width = min(_WIDTH, shutil.get_terminal_size().columns) - len(_INDENT)
    lines = [
        line
        for part in parts
        for line in textwrap.wrap(console.printable(part), width, break_on_hyphens=False, break_long_words=False)
    ]
    # Escaped above, except for the colour.
    console.answer_parts([f"  {_coloured(verdict)}  {lines[0]}\n"])
    for line in lines[1:]:
        console.answer(f"{_INDENT}{line}")


def _coloured(verdict: str) -> str:
    text = f"{'?' if verdict == _UNKNOWN else verdict:<4}"
    # `>&-` closes it.
    if not (sys.stdout and sys.stdout.isatty()) or "NO_COLOR" in os.environ:
        return text
    return typer.style(text, fg=_COLOURS.get(verdict), bold=verdict == "bad")
