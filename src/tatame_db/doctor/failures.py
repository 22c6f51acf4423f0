"""Why a check could not look, from the error of its query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.doctor.finding import unknown

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer


def not_checked(examination: Examination, error: Exception, part: str = "") -> Answer:
    """Return why a line was not checked, or a part of it, such as a table."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    begin = f"{part}: " if part else ""
    if isinstance(cause, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return unknown(
            f"{begin}a query took longer than {examination.limits.line_seconds} s, or waited for a lock",
            "run it again when the server is less busy",
        )
    reason = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    return unknown(
        f"{begin}{reason or str(cause).splitlines()[0]}", "fix the problem that PostgreSQL reports, and run it again"
    )
