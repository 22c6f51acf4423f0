"""The objects that other commands print with `--json`: the page on JSON is made of them, and tests check them."""

from __future__ import annotations

ANSWERS = {
    "status": "Status",
    "check": "SchemaCheck",
    "distribute": "Distribution",
    "backup": "BackedUp",
    "backup --follow": "Received",
    "backup --stop-following": "Dropped",
    "backups": "Backups",
    "restore --to": "Restored",
    "restore --drill": "Drilled",
}
_TIME = "text"
_TIMES = "text or null"

OBJECTS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "Status": (
        "The state of a database.",
        {
            "database": ("text", "The address, without its password."),
            "server_version": ("text", ""),
            "revision": ("text or null", "The migration that the database has reached."),
            "head": ("text", "The newest migration."),
            "pending": ("list of text", "The migrations that are not applied."),
            "tables": (
                "object with values of number or null",
                "The number of rows of each table: the server's estimate, or a count where it has none; `null` if a"
                " count takes too long.",
            ),
            "placement": ("object with values of text or null", "Where Citus stores each table; `null` without Citus."),
            "elsewhere": ("list of text", "Other schemas with tables of the same names, which are not used."),
            "ids": ("list of [IdUse](#iduse)", "The most used first."),
            "embedded": ("true or false", "Whether it is the server that the package starts."),
            "move": ("list of text", "What an unfinished move has not restored or validated."),
            "flags": ("list of text", "The variables `USE_POSTGRES_…` that contradict the database."),
        },
    ),
    "IdUse": (
        "The ids of a column that a sequence fills, or of a sequence.",
        {
            "name": ("text", "`table.column`, or the sequence."),
            "largest": ("number", "The last id that the column and all columns that refer to it can hold."),
            "last": ("number or null", "The last id that is used; `null` if it could not be read."),
            "end": (_TIMES, "When the ids end; `null` if that is unknown, or over 100 years away."),
            "behind": ("text or null", "What happens because rows have ids that the sequence still returns."),
        },
    ),
    "SchemaCheck": (
        "Whether migrations, models and database agree.",
        {
            "heads": ("list of text", "The files of the heads, if there is more than one."),
            "migrations": (
                "list of text or null",
                "The differences between the models and a database that the migrations build; `null` if not compared.",
            ),
            "database": (
                "list of text or null",
                "The differences between the database and its revision; `null` if not compared.",
            ),
            "edited": ("list of text", "The applied migrations whose files were edited since."),
            "revision": ("text or null", "The revision that the database was compared with."),
            "pending": ("list of text", "The migrations that are not applied. No problem."),
            "unrecorded": ("list of text", "The applied migrations without a recorded checksum. No problem."),
            "undeclared": ("list of text", "What migrations made and no model can describe. No problem."),
            "foreign": ("list of text", "What no migration made. No problem."),
            "placement": ("list of text", "The tables that are not on the nodes of Citus as the models state."),
            "not_compared": ("list of text", "What is of a kind whose definition is not read."),
            "move": ("list of text", "What an unfinished move has not restored or validated."),
            "failed": ("list of text", "The keys of this object that list problems; empty if all agree."),
        },
    ),
    "Distribution": (
        "The placement of the tables on the nodes of Citus.",
        {
            "nodes": ("list of text", "The nodes that store rows."),
            "placed": ("object with values of text", "Where the tables are that need no step."),
            "steps": ("list of [PlacementStep](#placementstep)", "What is to do, or was done."),
            "sessions": ("number", "How many other sessions of the database it ends first."),
            "done": ("number", "The number of steps that were done."),
        },
    ),
    "PlacementStep": (
        "A statement of the placement.",
        {
            "sql": ("text", ""),
            "table": ("text or null", "The table that it copies."),
            "place": ("text or null", "Where the rows of the table are afterwards, in words."),
            "rows": ("number or null", "As in `status`."),
            "size_bytes": ("number or null", "Of the table with its indexes, as it is now."),
        },
    ),
    "BackedUp": (
        "A new backup: the keys of its [Manifest](#manifest), and these.",
        {
            "path": ("text", "The folder of the backup."),
            "removed": ("list of text", "The names of the backups that `--keep` deleted."),
        },
    ),
    "Received": (
        "Printed each time a part of the log is on the disk, on a line of its own.",
        {
            "slot": ("text", "The replication slot on the server."),
            "lsn": ("text", "The position up to which the archive is complete."),
            "until": (_TIMES, "The time up to which it is complete; `null` while none is known."),
            "lag_bytes": ("number", "How far the archive is behind the server."),
            "lag_seconds": ("number or null", ""),
        },
    ),
    "Dropped": (
        "The end of an archive.",
        {"dropped": ("text or null", "The slot that was dropped; `null` if the server had none for this folder.")},
    ),
    "Backups": ("The backups of a folder.", {"backups": ("list of [ListedBackup](#listedbackup)", "")}),
    "ListedBackup": (
        "A backup of the list.",
        {
            "path": ("text", ""),
            "problem": ("text or null", "Why it cannot be restored; `null` if nothing is known against it."),
            "manifest": ("[Manifest](#manifest) or null", "`null` if it cannot be read."),
            "last_drill": ("[LastDrill](#lastdrill) or null", ""),
            "restorable_until": (_TIMES, "The last time that the archive restores; `null` without one."),
            "archive_problem": ("text or null", "Why the archive does not continue this backup."),
        },
    ),
    "LastDrill": (
        "A drill that was recorded.",
        {
            "at": (_TIME, ""),
            "equal": ("true or false", "Whether every comparison was equal."),
            "seconds": ("number", "How long the restore took."),
        },
    ),
    "Manifest": (
        "The facts of a backup.",
        {
            "name": ("text", ""),
            "method": ("one of 'base', 'logical'", "A copy of the server's files, or a dump of one database."),
            "standby": ("true or false", "Whether the server was a standby."),
            "begun": (_TIME, ""),
            "ended": (_TIME, "When the copy was complete, by the clock of the server."),
            "complete_until": (_TIME, "Every commit that the server reported before it is in the backup."),
            "server_version": ("text", ""),
            "size_bytes": ("number", ""),
            "stop_lsn": ("text", "The position in the log at which the copy was complete."),
            "databases": ("object with values of [BackedUpDatabase](#backedupdatabase)", "By name."),
        },
    ),
    "BackedUpDatabase": (
        "The contents of a database.",
        {
            "revision": (
                "list of text",
                "The migrations that it had reached: one, or that of each branch; empty if it has none.",
            ),
            "tables": ("object with values of [BackedUpTable](#backeduptable)", "By schema and name."),
        },
    ),
    "BackedUpTable": (
        "The contents of a table.",
        {"rows": ("number", ""), "digest": ("text", "The same for equal rows in any order.")},
    ),
    "Restored": (
        "A restored server, which runs.",
        {
            "backup": ("text", "The folder of the backup."),
            "place": ("text", "The data directory of the server."),
            "replaced": ("text or null", "Where the server is now that was in that place."),
            "at": ("text or null", "As in `--at`; `null` without it."),
            "last_transaction": (_TIMES, "The time of the last one that was replayed."),
            "dropping": ("list of text", "Databases whose DROP had begun and not ended; with `--at`."),
            "seconds": ("number", ""),
            "databases": ("object with values of text", "The address of each database."),
        },
    ),
    "Drilled": (
        "A drill.",
        {
            "backup": ("text", "The folder of the backup."),
            "equal": (
                "true or false",
                "Whether no comparison failed, those of `--live` and `--at` included.",
            ),
            "differences": ("list of text", "Between the restored rows and those that the backup recorded."),
            "schema_problems": ("list of text or null", "As `check` finds them; `null` without migrations."),
            "restore_seconds": ("number", ""),
            "compare_seconds": ("number", ""),
            "live": ("[Compared](#compared) or null", "`null` without `--live`."),
            "recorded": ("true or false", "Whether the result could be noted beside the backups."),
            "replayed": ("[ReplayedArchive](#replayedarchive) or null", "`null` without `--at`."),
            "manifest": ("[Manifest](#manifest)", ""),
        },
    ),
    "Compared": (
        "The restored database beside the live one.",
        {
            "where": ("text", "The address of the live one."),
            "at": (_TIME, "The time at which it was read."),
            "tables": ("number", "How many tables were compared."),
            "differences": ("list of text", ""),
        },
    ),
    "ReplayedArchive": (
        "The archive, replayed onto the backup.",
        {
            "last_transaction": (_TIMES, "The time of the last one; `null` if there is none after the backup."),
            "dropping": ("list of text", "Databases whose DROP had begun and not ended."),
            "rows": ("number", "How many rows were read afterwards."),
            "schema_problems": ("list of text or null", "As `check` finds them; `null` without migrations."),
            "seconds": ("number", ""),
        },
    ),
}
"""The sentence about each object; its keys, with their type and meaning."""
