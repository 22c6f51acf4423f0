"""Why `tatame-db distribute` refuses a database, and what can go wrong while it places the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, counted, fact
from tatame_db.evolve.failure import fix_for

if TYPE_CHECKING:
    from tatame_db.roles import RightsMissing

_ADD_NODES = (
    "on the coordinator run `SELECT citus_set_coordinator_host('<its host>', <its port>)`, then `SELECT"
    " citus_add_node('<host>', <port>)` for each worker"
)


@fact
class CitusMissing(TatameError):
    """The database has no extension `citus`."""

    where: str
    installed: bool
    what = "{where} {state}"
    fix = "{advice}"

    @property
    def state(self) -> str:
        """Whether only the extension is missing, or Citus altogether."""
        return (
            "is on a server with Citus, and this database lacks the extension"
            if self.installed
            else "is on a server without Citus"
        )

    @property
    def advice(self) -> str:
        """The next step to it."""
        create = f"run `CREATE EXTENSION citus` in this database on each node, then {_ADD_NODES}"
        return (
            create
            if self.installed
            else (
                "install Citus on the machine of each node and add it to `shared_preload_libraries`; then"
                f' {create}. Most apps need no Citus: see the page "When one machine is not enough"'
            )
        )


@fact
class WorkersMissing(TatameError):
    """No active worker may have rows, so that there is nothing to distribute to."""

    where: str
    inactive: list[str]
    what = "Citus at {where} has no active worker{ignored}"
    fix = "{advice}"

    @property
    def ignored(self) -> str:
        """The workers that it has, and that are not active."""
        return f"; not active: {', '.join(self.inactive)}" if self.inactive else ""

    @property
    def advice(self) -> str:
        """How workers are added, or activated."""
        activate = "activate each with `SELECT citus_activate_node('<host>', <port>)`"
        return f"{activate if self.inactive else _ADD_NODES}. To try Citus on one machine, pass `--single-node`"


@fact
class PlacedDifferently(TatameError):
    """Tables are placed in another way than the models state."""

    tables: list[str]
    """One sentence for each."""
    undo: list[str]
    what = "tables are placed in another way than the models state: {sentences}"
    fix = (
        "if the models are right, undo the placement of these tables with `{statements}`, which copies their rows back"
        " to the coordinator and locks them meanwhile; then run the command again. If the placement is right, state it"
        " in the models with `distributed`"
    )

    @property
    def sentences(self) -> str:
        """Where the tables are."""
        return "; ".join(self.tables)

    @property
    def statements(self) -> str:
        """The statements that undo the placement."""
        return "; ".join(self.undo)


@fact
class PartitionsNotCopied(TatameError):
    """Partitioned tables belong on every node by their models, and Citus only distributes them."""

    tables: list[str]
    what = "Citus copies no partitioned table to every node: {names}"
    fix = (
        "state `distributed` in the `info` of the model's `__table_args__`: the table is then distributed by its key,"
        ' with all its partitions; see the page "Citus" of the documentation'
    )

    @property
    def names(self) -> str:
        """The tables."""
        return ", ".join(self.tables)


@fact
class MoveUnderWay(TatameError):
    """A move is under way: its triggers and publications are on the tables."""

    tables: list[str]
    what = "a move is under way, with triggers or publications on {tables}"
    fix = "finish it first: `tatame-db move status` shows the next step"


@fact
class PlacementFailed(TatameError):
    """Citus or PostgreSQL refused a step of the placement; the steps before it stay."""

    statement: str
    message: str
    sqlstate: str | None
    done: int
    steps: int
    rights: RightsMissing | None
    on_citus: bool
    what = "step {number} of {steps} failed: `{statement}`; the server reports: {message}"
    means = "The step was rolled back, and no row was lost. {before}"
    fix = "{advice}; run the command again to continue"

    @property
    def number(self) -> int:
        """The number of the failed step."""
        return self.done + 1

    @property
    def before(self) -> str:
        """The steps that stay."""
        return f"Done before it: {counted(self.done, 'step')}." if self.done else "Nothing else was changed."

    @property
    def advice(self) -> str:
        """The fix for the cause."""
        if self.rights:
            return self.rights.fix
        return fix_for(self.sqlstate, "models", on_citus=self.on_citus)


@fact
class RowsDiffer(TatameError):
    """A table has another number of rows after a step than before it."""

    table: str
    before: int
    after: int
    where: str
    stays: bool
    """Whether the step was committed before the copies were counted."""
    what = "{table} had {before:row} before the step, and has {after:row} after it{where}"
    means = "{state}"
    fix = "do not run it again; report this with the log of every node"

    @property
    def state(self) -> str:
        """What is stored now."""
        if self.stays:
            return "The table is placed, and its copies differ. Nothing was removed from the coordinator."
        return "The step was rolled back: the table is as it was."


@fact
class CopyNotCounted(TatameError):
    """A node did not count its copy of a table."""

    table: str
    node: str
    message: str
    what = "{node} did not count its copy of {table}: {message}"
    means = "The table is placed, and its copies are not compared. Nothing was removed from the coordinator."
    fix = "start that node if it does not answer, or look at its log; then run the command again"
