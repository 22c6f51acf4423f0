"""The record of a run of migrations: what is committed, and what of a step cannot be rolled back."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text
from sqlalchemy.exc import PendingRollbackError

from tatame_db.database.dialect import VERSION_SCHEMA
from tatame_db.database.driver import driver_connection
from tatame_db.evolve.autocommit import IndexInvalid, invalid_indexes
from tatame_db.evolve.failure import indented
from tatame_db.evolve.history import checksum
from tatame_db.evolve.lock import ignore
from tatame_db.evolve.statements import ends_transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from alembic.script import Script
    from sqlalchemy import Connection


class EndsTransaction(Exception):
    """A statement of a migration ends its transaction."""

    def __init__(self, statement: str) -> None:
        super().__init__(statement)
        self.statement = statement


@dataclass(frozen=True)
class MigrationStep:
    """A migration that was applied or undone, the first line of its docstring, and the time it took."""

    revision: str
    sentence: str
    seconds: float


@dataclass
class Record:
    """Records each step in the step's own transaction: Alembic calls it after the step and before the commit."""

    connection: Connection
    on_step: Callable[[MigrationStep], None] = ignore
    steps: list[MigrationStep] = field(default_factory=list[MigrationStep])
    started: float = field(default_factory=time.perf_counter)
    stayed: list[str] = field(default_factory=list[str])
    """The statements of this step that ran outside a transaction."""
    done: MigrationStep | None = None
    """The step that is recorded and not known to be committed."""
    outside: str = ""
    """The statement of this step that was sent outside a transaction and is not answered."""
    is_in_step: bool = False
    """Whether the code of a migration runs."""
    has_run: bool = False
    """Whether that code ran a statement in its transaction."""
    rolled_back: bool = False
    """Whether it rolled the transaction back."""
    settings: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """The settings of the session before the first step."""

    def begin(self) -> None:
        """Begin a step: Alembic calls it just before the code of the migration."""
        self.is_in_step, self.has_run, self.rolled_back = True, False, False
        self.done, self.outside = None, ""
        self.started = time.perf_counter()

    def __call__(self, *, step: Any, **_: Any) -> None:
        """Record the step. Raises `IndexInvalid`."""
        script = step.up_revision
        self.is_in_step = False
        if self.rolled_back and not self.stayed:
            raise EndsTransaction("ROLLBACK")
        if self.stayed and (invalid := invalid_indexes(self.connection)):
            raise IndexInvalid(revision=script.revision, indexes=invalid)
        for applied in step.up_revisions if step.is_upgrade else (script,):
            self._insert(applied) if step.is_upgrade else self._delete(applied)
        self.done = MigrationStep(script.revision, script.doc, time.perf_counter() - self.started)

    def report(self) -> None:
        """Report the step, which is committed now."""
        self.stayed.clear()
        if self.done:
            self.steps.append(self.done)
            self.on_step(self.done)

    @contextmanager
    def noting_interrupt(self) -> Generator[None]:
        """Add a note to an interrupt if it cannot undo all of the step."""
        try:
            with _ends_of_blocks():
                yield
        except KeyboardInterrupt as stopped:
            if statements := [*self.stayed, *filter(None, [self.outside])]:
                listed = "\n\n".join(map(indented, statements))
                stopped.add_note(f"these steps ran outside a transaction and are not rolled back:\n\n{listed}")
            raise

    def reset_settings(self) -> None:
        """Give the session the settings that it had before the first step, whatever a step has set."""
        self.is_in_step = False
        if self.settings:
            self.connection.execute(text("RESET ALL"))
            self.connection.execute(text("SELECT set_config(:name, :value, false)"), self.settings)
        else:
            query = text("SELECT name, setting AS value FROM pg_settings WHERE source = 'session'")
            self.settings = [dict(row) for row in self.connection.execute(query).mappings()]
        self.connection.commit()

    def watch(self) -> None:
        """Refuse statements that end the transaction of a step, and note those that run outside of one."""

        def before(*arguments: Any) -> None:
            statement: str = arguments[2]
            if ends_transaction(statement):
                raise EndsTransaction(statement)
            self.outside = statement if driver_connection(self.connection).autocommit else ""

        def after(*arguments: Any) -> None:
            if driver_connection(self.connection).autocommit:
                self.stayed.append(arguments[2])
                self.outside = ""
            else:
                self.has_run = True

        def commit(_: Connection) -> None:
            # An `autocommit_block` commits before it begins, and nothing was done by then.
            if self.is_in_step and self.has_run:
                raise EndsTransaction("COMMIT")

        def rollback(_: Connection) -> None:
            self.rolled_back = self.rolled_back or self.is_in_step

        event.listen(self.connection, "before_cursor_execute", before)
        event.listen(self.connection, "after_cursor_execute", after)
        event.listen(self.connection, "commit", commit)
        event.listen(self.connection, "rollback", rollback)

    def _insert(self, script: Script) -> None:
        self.connection.execute(
            text(
                f"INSERT INTO {VERSION_SCHEMA}.applied (revision, checksum) VALUES (:revision, :checksum)"
                " ON CONFLICT (revision) DO UPDATE SET checksum = excluded.checksum, applied_at = excluded.applied_at"
            ),
            {"revision": script.revision, "checksum": checksum(script)},
        )

    def _delete(self, script: Script) -> None:
        self.connection.execute(
            text(f"DELETE FROM {VERSION_SCHEMA}.applied WHERE revision = :revision"), {"revision": script.revision}
        )


@contextmanager
def _ends_of_blocks() -> Generator[None]:
    """Raise what ended the connection in an `autocommit_block`, at whose end Alembic fails for this reason too."""
    try:
        yield
    except PendingRollbackError as error:
        if (cause := error.__context__) is None:
            raise
        raise cause from None
