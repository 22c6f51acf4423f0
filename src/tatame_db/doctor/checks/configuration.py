"""Settings of the server by which data is lost, or tables grow without end."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, named, warn, worst
from tatame_db.doctor.lines import line

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer

_GROUP = "Settings"
_MUST_BE = {
    "fsync": ("on", "a power cut may destroy the database"),
    "full_page_writes": ("on", "a power cut may leave pages half written"),
    "zero_damaged_pages": ("off", "damaged pages are replaced by empty ones"),
    "ignore_checksum_failure": ("off", "damaged pages are used"),
}


@line(
    _GROUP,
    warns="`synchronous_commit` is off",
    bad="`fsync` or `full_page_writes` is off, or damaged pages are accepted",
)
def durability(examination: Examination) -> Answer:
    """Whether what was committed is still there after a power cut."""
    answers: list[Answer | None] = [
        bad(f"`{name}` is not {wanted}: {effect}", advice.setting(examination, name, wanted))
        for name, (wanted, effect) in _MUST_BE.items()
        if examination.setting(name) != wanted
    ]
    if examination.setting("synchronous_commit") == "off":
        answers.append(
            warn(
                "`synchronous_commit` is off: a crash loses the commits of the last moments",
                advice.setting(examination, "synchronous_commit", "on"),
            )
        )
    return worst(answers, good("what is committed survives a power cut"))


@line(_GROUP, warns="the pages have no checksums")
def checksums(examination: Examination) -> Answer:
    """Whether PostgreSQL notices that a disk returns another page than was written to it."""
    if examination.setting("data_checksums") == "on":
        return good("a damaged page is noticed")
    # Only some roles may see it.
    visible = examination.names("SELECT setting FROM pg_settings WHERE name = 'data_directory'")
    directory = shlex.quote(visible[0]) if visible else "…"
    where = "" if visible else "; a superuser sees its data directory with `SHOW data_directory`"
    return warn(
        "a page that the disk damages is not noticed",
        "stop the server, and run, as the user of its files,"
        f" `pg_checksums --enable --progress --pgdata={directory}`{where}",
    )


@line(_GROUP, warns="it is off for a table", bad="it is off for the server")
def autovacuum(examination: Examination) -> Answer:
    """Whether dead rows are removed, and old rows frozen, without a person."""
    off = [name for name in ("autovacuum", "track_counts") if examination.setting(name) != "on"]
    if off:
        fix = "; ".join(advice.setting(examination, name, "on") for name in off)
        return bad(f"`{'` and `'.join(off)}` {'are' if off[1:] else 'is'} off: tables grow without end", fix)
    tables = examination.rows(
        "SELECT format('%I', relname) AS name, quote_ident(pg_get_userbyid(relowner)) AS owner"
        " FROM pg_class WHERE relnamespace = to_regnamespace('public')"
        " AND EXISTS (SELECT FROM pg_options_to_table(reloptions) WHERE option_name = 'autovacuum_enabled'"
        " AND NOT option_value::boolean) ORDER BY 1"
    )
    if not tables:
        return good("on")
    return warn(
        f"off for {named([table.name for table in tables])}",
        advice.sql(
            examination, *((f"ALTER TABLE {table.name} RESET (autovacuum_enabled)", table.owner) for table in tables)
        ),
    )
