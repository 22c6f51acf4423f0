"""What steps drop, empty and rewrite: observed while they run on a scratch server, because a text does not tell.

A table may be renamed before it is dropped, a function may truncate, and `CASCADE` reaches what no statement names. So
the catalogue is compared by the addresses of objects, which stay, and triggers note what is truncated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import StatementError

from tatame_db.errors import TatameError
from tatame_db.evolve import casts, stored
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.evolve.stored import NOTES_SCHEMA, OWN_SCHEMAS, Name, Stored
from tatame_db.evolve.user_code import problem_of
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic.runtime.migration import RevisionStep
    from sqlalchemy import Connection, Engine

# In a schema of its own, where no migration looks. The function runs as its owner, whatever role a step has set.
_WATCH = f"""
    CREATE TABLE {NOTES_SCHEMA}.emptied (id oid);
    CREATE FUNCTION {NOTES_SCHEMA}.note_emptied() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $note$
    BEGIN
        INSERT INTO {NOTES_SCHEMA}.emptied VALUES (TG_RELID);
        RETURN NULL;
    END $note$;
    DO $watch$
    DECLARE
        found regclass;
    BEGIN
        FOR found IN SELECT c.oid FROM pg_class c WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p')
            AND c.relpersistence <> 't' AND c.relnamespace::regnamespace::text NOT IN {OWN_SCHEMAS}
        LOOP
            EXECUTE format('CREATE TRIGGER tatame_note_emptied AFTER TRUNCATE ON %s'
                ' EXECUTE FUNCTION {NOTES_SCHEMA}.note_emptied()', found);
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER tatame_note_emptied', found);
        END LOOP;
    END $watch$
"""


@dataclass(frozen=True)
class Effects:
    """What steps do to values, under the names that objects had before all of them."""

    known: frozenset[Name] = frozenset()
    """All objects that existed before, so whose fate is known."""
    gone: frozenset[Name] = frozenset()
    emptied: frozenset[Name] = frozenset()
    rewritten: dict[Name, str] = field(default_factory=dict[Name, str])
    """Columns whose values are converted with a loss, and their new types."""
    unknown: tuple[str, ...] = ()
    """Sentences about what could not be found out."""
    failed: str | None = None
    """The revision that failed, if one did."""


class Observation:
    """A look at a scratch database before its steps, and after each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with engine.begin() as connection:
            run_verbatim(connection, f"CREATE SCHEMA {NOTES_SCHEMA}")
            run_verbatim(connection, _WATCH)
            self.before = self.last = stored.read(connection)
        self.rewritten: dict[Name, str] = {}

    def look(self) -> None:
        """Find the columns that the last step rewrote. In a session of its own, whose settings no step has changed."""
        with self.engine.connect() as connection:
            now = stored.read(connection)
            for address, old in self.last.objects.items():
                first, new = self.before.objects.get(address), now.objects.get(address)
                if first and new and first.name.kind == "column" and not _keeps_values(old, new):
                    self.rewritten.setdefault(first.name, new.type)
        self.last = now

    def effects(self, unknown: Sequence[str] = (), failed: str | None = None) -> Effects:
        """Return what the steps did until now."""
        with self.engine.connect() as connection:
            oids = set(connection.exec_driver_sql(f"SELECT id FROM {NOTES_SCHEMA}.emptied").scalars())
        before, after = self.before.addresses, self.last.objects
        gone = {name for name, address in before.items() if address not in after}
        emptied = {name for name, address in before.items() if name.kind == "table" and address[1] in oids}
        return Effects(
            frozenset(before),
            frozenset(gone),
            frozenset(emptied - gone),
            {name: new for name, new in self.rewritten.items() if name not in gone},
            tuple(unknown),
            failed,
        )


def effects_of(
    applied: list[RevisionStep], steps: list[RevisionStep], run: Callable[[Connection, list[RevisionStep]], None]
) -> Effects:
    """Run steps in an empty database after the applied ones; `run` runs steps on a connection and commits."""
    try:
        with scratch() as server, server.database("losses") as copy:
            if reason := _failure_of(copy, applied, run):
                sentence = f"the applied migrations fail on an empty database ({reason}), so what is dropped is unknown"
                return Effects(unknown=(sentence,))
            observation = Observation(copy)
            for step in steps:
                if reason := _failure_of(copy, [step], run):
                    verb = "fails" if step.is_upgrade else "cannot be undone"
                    revision = step.revision.revision
                    sentence = (
                        f"migration {revision} {verb} on an empty database ({reason}), so what it drops is unknown"
                    )
                    return observation.effects([sentence], revision)
                observation.look()
            return observation.effects()
    except (TatameError, OSError) as error:
        reason = error.what if isinstance(error, TatameError) else str(error)
        return Effects(unknown=(f"what is dropped is unknown without a temporary server: {reason}",))


def _failure_of(
    engine: Engine, steps: list[RevisionStep], run: Callable[[Connection, list[RevisionStep]], None]
) -> str | None:
    """Run steps in a session of their own; return why they fail, `None` if they do not."""
    try:
        with engine.connect() as connection:
            run(connection, steps)
    except StatementError as error:
        if isinstance(error.orig, psycopg.Error):
            return error.orig.diag.message_primary or type(error.orig).__name__
        return type(error).__name__
    except (Exception, SystemExit) as error:  # noqa: BLE001, a migration may raise anything
        return problem_of(error)
    return None


def _keeps_values(old: Stored, new: Stored) -> bool:
    if old.type_id == new.type_id or old.underlying == new.underlying:
        return True
    if old.underlying.startswith("("):
        # Attributes that are appended are all that a row can get without another value trading places.
        return new.underlying.startswith(f"{old.underlying[:-1]}, ")
    enums = frozenset([old.underlying.removesuffix("[]")] if old.is_enum else ())
    return casts.is_lossless(old.underlying, new.underlying, enums)
