"""All lines, one after the other: one that fails, hangs or may not look does not stop the others."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.doctor.checks import LINES
from tatame_db.doctor.examination import Examination, Setup
from tatame_db.doctor.failures import not_checked
from tatame_db.doctor.finding import Answer, Finding, Verdict, unknown
from tatame_db.doctor.limits import LIMITS
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.lock import ignore
from tatame_db.roles.missing import refusal
from tatame_db.roles.rights import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy import URL

    from tatame_db.doctor.limits import Limits
    from tatame_db.doctor.lines import Line


@fact
class ProblemsFound(TatameError):
    """Lines are bad: the negative answer of `doctor`."""

    exit_code = 3
    names: list[str]
    what = "{number:line} bad: {names}"
    fix = "do what each of these lines says, then run `tatame-db doctor` again"

    @property
    def number(self) -> int:
        """The number of the lines."""
        return len(self.names)


@fact
class NotExamined(TatameError):
    """There is no connection to the database, so most lines could not be checked."""

    problem: str
    advice: str
    what = "{problem}"
    fix = "{advice}"


@dataclass(frozen=True)
class Examined:
    """What the doctor found."""

    database: str
    """The address, without its password."""
    server_version: str | None
    """`null` without a connection."""
    embedded: bool
    findings: list[Finding]

    @property
    def counts(self) -> dict[str, int]:
        """How many lines have each verdict."""
        found = Counter(finding.verdict for finding in self.findings)
        return {verdict.value: found[verdict] for verdict in Verdict}

    @property
    def error(self) -> TatameError | None:
        """The error that states what is bad; `None` if nothing is."""
        found = [finding for finding in self.findings if finding.verdict is Verdict.BAD]
        if not found:
            return None
        first = found[0]
        if first.name == "reachable":
            return NotExamined(problem=first.text, advice=first.fix or "")
        return ProblemsFound(names=[finding.name for finding in found])


def examine(
    address: URL,
    setup: Setup | None = None,
    *,
    limits: Limits = LIMITS,
    names: Collection[str] | None = None,
    on_line: Callable[[str], None] = ignore,
) -> Examined:
    """Examine a database, and the machine of an embedded server; changes nothing, and raises no failure of the server.

        >>> doctor.examine(database.address).counts["bad"]
        0

    `names` are the lines to look at, all by default; `on_line` is called with the name of each before it. A line that
    has no meaning for the database is left out.
    """
    chosen = [line for line in LINES.values() if names is None or line.name in names]
    with Examination(address, setup or Setup(), limits) as examination:
        answers: dict[str, Answer | None] = {}
        for line in sorted(chosen, key=lambda line: line.slow):
            on_line(line.name)
            answers[line.name] = _answer(line, examination)
        return Examined(
            database=examination.where,
            server_version=examination.facts.version if examination.facts else None,
            embedded=examination.embedded is not None,
            findings=[
                Finding(line.group, line.name, answer.verdict, answer.text, answer.fix)
                for line in chosen
                if (answer := answers[line.name])
            ],
        )


def _answer(line: Line, examination: Examination) -> Answer | None:
    if examination.failure and not line.offline and line.name != "reachable":
        return unknown("there is no connection", "see the line `reachable`")
    try:
        return line.check(examination) if not examination.expired else _out_of_time(examination)
    except (TatameError, DBAPIError, psycopg.Error, OSError) as error:
        return _out_of_time(examination) if examination.expired else _not_checked(line, examination, error)


def _out_of_time(examination: Examination) -> Answer:
    return unknown(
        f"the time of {examination.limits.whole_seconds} s had run out", "run it again when the server is less busy"
    )


def _without_right(line: Line, examination: Examination, reason: str) -> Answer:
    if line.command:
        with examination.engine.connect() as connection:
            refused = refusal(rows_of(connection), line.command)
        if refused:
            return unknown(refused.what, refused.fix)
    role = examination.known.role
    statement = (line.right or "GRANT pg_monitor TO {role}").format(role=role)
    return unknown(reason, f"let a superuser run `{statement}`, so that {role} may look")


def _not_checked(line: Line, examination: Examination, error: Exception) -> Answer:
    if isinstance(error, TatameError):
        return unknown(error.what, error.fix)
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, psycopg.errors.InsufficientPrivilege):
        return _without_right(line, examination, str(cause.diag.message_primary))
    return not_checked(examination, error)
