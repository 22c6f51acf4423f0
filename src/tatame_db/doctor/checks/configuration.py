"""Settings of the server by which data is lost, or tables grow without end."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        bad(f"`{name}` is not {wanted}: {effect}", f"`ALTER SYSTEM SET {name} = {wanted}`, then reload the server")
        for name, (wanted, effect) in _MUST_BE.items()
        if examination.setting(name) != wanted
    ]
    if examination.setting("synchronous_commit") == "off":
        answers.append(
            warn(
                "`synchronous_commit` is off: a crash loses the commits of the last moments",
                "remove it from the settings of the server, the database and the role",
            )
        )
    return worst(answers, good("what is committed survives a power cut"))


@line(_GROUP, warns="the pages have no checksums")
def checksums(examination: Examination) -> Answer:
    """Whether PostgreSQL notices that a disk returns another page than was written to it."""
    if examination.setting("data_checksums") == "on":
        return good("a damaged page is noticed")
    return warn("a page that the disk damages is not noticed", "stop the server, and run `pg_checksums --enable`")


@line(_GROUP, warns="it is off for a table", bad="it is off for the server")
def autovacuum(examination: Examination) -> Answer:
    """Whether dead rows are removed, and old rows frozen, without a person."""
    off = [name for name in ("autovacuum", "track_counts") if examination.setting(name) != "on"]
    if off:
        return bad(f"`{off[0]}` is off: tables grow without end", f"`ALTER SYSTEM SET {off[0]} = on`, then reload")
    tables = examination.names(
        "SELECT format('%I', relname) FROM pg_class WHERE relnamespace = to_regnamespace('public')"
        " AND EXISTS (SELECT FROM pg_options_to_table(reloptions)"
        " WHERE option_name = 'autovacuum_enabled' AND NOT option_value::boolean) ORDER BY 1"
    )
    if not tables:
        return good("on")
    return warn(f"off for {named(tables)}", f"`ALTER TABLE {tables[0]} RESET (autovacuum_enabled)`")
