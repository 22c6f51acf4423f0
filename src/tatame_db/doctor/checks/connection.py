"""The way to the server, and what it is: round trip, version, encryption, time zone, encoding, collation."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from tatame_db.database.address import is_local
from tatame_db.database.driver import driver_connection
from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, named, warn
from tatame_db.doctor.lines import line
from tatame_db.evolve.placement import is_worker

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer

_GROUP = "Connection"
_ROUND_TRIPS = 5


@dataclass(frozen=True)
class Release:
    """A major version: the newest minor version that is known here, and the day of the last one."""

    minor: int
    end: date


# https://www.postgresql.org/support/versioning/, as of the minor releases of 14 May 2026.
RELEASES = {
    14: Release(23, date(2026, 11, 12)),
    15: Release(18, date(2027, 11, 11)),
    16: Release(14, date(2028, 11, 9)),
    17: Release(10, date(2029, 11, 8)),
    18: Release(4, date(2030, 11, 14)),
}
_UTC = re.compile(r"(Etc/)?(UTC|UCT|GMT|GMT[+-]?0|Zulu|Universal|Greenwich)", re.IGNORECASE)


@line(
    _GROUP,
    warns="the fastest round trip takes {round_trip_warn_ms:g} ms or more",
    bad="no server answers, or it is a worker of Citus",
)
def reachable(examination: Examination) -> Answer:
    """Whether the server answers, and how fast."""
    if examination.failure:
        return bad(examination.failure.what, examination.failure.fix)
    fastest = float("inf")
    with examination.engine.connect() as connection, driver_connection(connection).cursor() as cursor:
        for _ in range(_ROUND_TRIPS):
            started = time.perf_counter()
            cursor.execute("SELECT 1")
            fastest = min(fastest, (time.perf_counter() - started) * 1000)
    text = f"answers in {fastest:.2f} ms" + (", through a pooler" if examination.known.pooled else "")
    if is_worker(examination.rows):
        return bad(
            f"{text}, and is a worker of Citus: these lines describe this server alone",
            "set `DATABASE_URL` to the address of the coordinator, for the app too",
        )
    if fastest < examination.limits.round_trip_warn_ms:
        return good(text)
    return warn(text, "run the app near the server, in the same region and network")


@line(
    _GROUP,
    warns="a newer minor version is known, the support ends within {support_warn_days} days, or the version is unknown",
    bad="the support has ended",
)
def version(examination: Examination) -> Answer:
    """The version of PostgreSQL, and until when it gets fixes."""
    known, limits = examination.known, examination.limits
    release = RELEASES.get(known.major)
    if release is None:
        newest = max(RELEASES)
        return warn(
            f"PostgreSQL {known.version} is newer than {newest}, the newest version that this package knows",
            "update tatame-db",
        )
    days = (release.end - datetime.now(UTC).date()).days
    until = f"{release.end:%-d %B %Y}"
    upgrade = f"upgrade to PostgreSQL {max(RELEASES)} with `pg_upgrade`, or with the provider's own tool"
    if days < limits.support_bad_days:
        return bad(f"PostgreSQL {known.version} gets no fixes after {until}", upgrade)
    if days < limits.support_warn_days:
        return warn(f"PostgreSQL {known.version} gets fixes until {until} only", upgrade)
    if known.version_number % 10_000 < release.minor:
        newest_minor = f"{known.major}.{release.minor}"
        return warn(
            f"PostgreSQL {known.version} lacks the fixes up to {newest_minor}",
            f"install {newest_minor} or newer, and restart the server; the data stays as it is",
        )
    return good(f"PostgreSQL {known.version}, which gets fixes until {until}")


@line(_GROUP, warns="it is encrypted, and the certificate is not verified", bad="it leaves this machine unencrypted")
def encryption(examination: Examination) -> Answer:
    """Whether others on the network can read or answer what the app sends."""
    known = examination.known
    if known.encrypted and known.sslmode in {"verify-ca", "verify-full"}:
        return good("encrypted, and the certificate is verified")
    if is_local(examination.address):
        return good("the connection does not leave this machine")
    if known.encrypted:
        return warn(
            "encrypted, but whoever answers at the address is believed",
            "add `sslmode=verify-full` to the address, and `sslrootcert` with the provider's certificate or `system`",
        )
    return bad(
        "all that the app sends and reads crosses the network unencrypted",
        "add `sslmode=verify-full` to the address; if the server has no certificate, set `ssl = on` there",
    )


@line(_GROUP, warns="a session begins with another time zone than UTC")
def time_zone(examination: Examination) -> Answer:
    """The time zone of sessions: timestamps have no zone and mean UTC, also those that psql writes."""
    zone = examination.setting("TimeZone")
    if _UTC.fullmatch(zone):
        return good(f"sessions begin with {zone}")
    return warn(
        f"sessions begin with {zone}, so psql and other programs store `now()` in this zone",
        advice.setting(examination, "TimeZone", "'UTC'", otherwise=f"ALTER DATABASE {_database(examination)}"),
    )


def _database(examination: Examination) -> str:
    return str(examination.value("SELECT quote_ident(current_database())"))


@line(_GROUP, warns="it is not UTF8", bad="it is SQL_ASCII, which checks nothing")
def encoding(examination: Examination) -> Answer:
    """The encoding of the database."""
    found = str(
        examination.value("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()")
    )
    fix = "dump the database, and restore it into one that was created with `ENCODING 'UTF8' TEMPLATE template0`"
    if found == "UTF8":
        return good(found)
    if found == "SQL_ASCII":
        return bad("SQL_ASCII stores any bytes, so that names may become unreadable", fix)
    return warn(f"{found} lacks most characters: a name with one of them is an error", fix)


@line(_GROUP, bad="a version differs from the one with which the indexes were built")
def collation(examination: Examination) -> Answer:
    """Whether text still sorts as it did when the indexes were built, or an update of the system has changed that."""
    has_version = examination.known.major >= 15
    found = examination.rows(_COLLATIONS_15 if has_version else _COLLATIONS)
    if not found:
        return good("text sorts as it did when the indexes were built")
    database = _database(examination)
    refreshed = [row.statement or f"ALTER DATABASE {database} REFRESH COLLATION VERSION" for row in found]
    return bad(
        f"the order of text has changed since the indexes were built ({named([row.name for row in found])}), so they"
        " may miss rows",
        advice.sql(examination, (f"REINDEX DATABASE CONCURRENTLY {database}", advice.SUPERUSER))
        + "; then "
        + advice.sql(examination, *((statement, advice.SUPERUSER) for statement in refreshed)),
    )


# Those that an index or a column of the schema uses; a server has hundreds.
_COLLATIONS = """
SELECT DISTINCT c.collname::text AS name, format('ALTER COLLATION %s REFRESH VERSION', c.oid::regcollation) AS statement
FROM pg_collation c JOIN pg_attribute a ON a.attcollation = c.oid
JOIN pg_class r ON r.oid = a.attrelid AND r.relnamespace = to_regnamespace('public')
WHERE c.collversion <> pg_collation_actual_version(c.oid)
"""
_COLLATIONS_15 = f"""
SELECT 'the database' AS name, NULL AS statement FROM pg_database
WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)
UNION ALL {_COLLATIONS}
"""
