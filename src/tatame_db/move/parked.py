"""The keys and indexes that a copy drops for a while: created again one by one, however the copy ends.

Each is committed by itself, so that one that fails keeps no other away. It stays in the record until a later copy, or a
person, has created it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import TransactionStatus

from tatame_db.errors import TatameError, counted, fact
from tatame_db.move.catalogue import partitioned_tables
from tatame_db.move.connection import reason_without_values
from tatame_db.move.keys import unvalidated_keys
from tatame_db.move.missing import missing_keys_and_indexes
from tatame_db.move.record import Record

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.database.keys import KeyOrIndex
    from tatame_db.move.connection import MoveConnection

# Locks and limits of the server, which say nothing about a key or an index, and have words of their own.
_NOT_ITS_FAULT = (psycopg.OperationalError, TatameError)


@fact
class KeysNotRestored(TatameError):
    """Foreign keys or indexes that a copy had dropped could not be created again."""

    problems: list[str]
    what = "dropped during a copy and not restored: {problems}"
    means = "Tables that were proven before stay committed. `tatame-db move status` names what is missing."
    fix = "fix these problems on the target, then run `tatame-db move copy` again, which restores what is missing"


@contextlib.contextmanager
def restoring(target: MoveConnection) -> Generator[None]:
    """Restore parked keys and indexes also after a failure or a refusal; after a kill, the next run does.

    Without the keys, the target would accept rows that violate them.
    """
    try:
        yield
    except KeysNotRestored:
        raise
    except BaseException as error:
        if target.driver.info.transaction_status == TransactionStatus.ACTIVE:
            # Ctrl-C arrived while a stream began, and nothing can end that stream: the server rolls it back.
            target.driver.close()
        # The failure matters more than what it left parked, which the record has.
        with contextlib.suppress(psycopg.Error, TatameError):
            if not target.driver.closed:
                clean_up(target)
                restore(target)
                if keys := unvalidated_keys(target):
                    error.add_note(
                        f"{counted(len(keys), 'foreign key')} of the target apply to new rows only, until the next"
                        " `tatame-db move copy` validates them."
                    )
        if target.not_replicated:
            error.add_note(
                "A commit stopped to wait for a standby that does not answer: it is on the disk of the target's server,"
                " and is lost if the standby replaces it. `tatame-db move status` shows what is committed."
            )
        raise


def clean_up(target: MoveConnection) -> None:
    """Roll back, and let later commits of this session not wait for a standby, which may never answer."""
    target.driver.rollback()
    target.execute("SET synchronous_commit = local")
    target.commit()


def restore(target: MoveConnection) -> None:
    """Create the parked keys and indexes again; the keys are left unvalidated if possible. Ends the transaction.

    Raises `KeysNotRestored`.
    """
    record = Record(target)
    parked = record.parked_keys_and_indexes()
    partitioned = partitioned_tables(target)
    target.commit()
    problems: list[str] = []
    failures: dict[str, Exception] = {}
    for found in parked:
        if found.table in failures:
            # It would wait for the same lock.
            continue
        try:
            _restore(record, found, validate=found.table in partitioned and not _can_leave_unvalidated(target))
        except _NOT_ITS_FAULT as error:
            if target.driver.closed:
                raise
            target.driver.rollback()
            failures[found.table] = error
        except psycopg.DatabaseError as error:
            target.driver.rollback()
            problems.append(f"{found.table}.{found.name}: {reason_without_values(error)}")
    if problems:
        raise KeysNotRestored(problems=problems)
    for failure in failures.values():
        raise failure


def restore_with_missing(target: MoveConnection) -> None:
    """Create the parked keys and indexes again, and those of the models that are missing although none is parked.

    Whoever deletes the record of an unfinished copy deletes what it parked. Raises `KeysNotRestored`.
    """
    restore(target)
    missing = missing_keys_and_indexes(target)
    if not missing:
        return
    record = Record(target)
    for found in missing:
        record.mark_parked(found)
    target.commit()
    restore(target)
    # What could not be created because something else has its name, such as an invalid index.
    if missing := missing_keys_and_indexes(target):
        problems = [f"{found.table}.{found.name}: another one of this name is in its place" for found in missing]
        raise KeysNotRestored(problems=problems)


def _can_leave_unvalidated(target: MoveConnection) -> bool:
    """Return whether the keys of a partitioned table can be created without reading its rows."""
    return target.driver.info.server_version >= 180_000


def _restore(record: Record, found: KeyOrIndex, *, validate: bool) -> None:
    target = record.target
    with (
        contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.DuplicateTable),
        target.driver.transaction(),
    ):
        # A person, or `tatame-db push`, may have created it already.
        for statement in found.create_statements if validate else found.create_unvalidated_statements:
            target.execute(statement)
    record.forget_parked(found)
    target.commit()
