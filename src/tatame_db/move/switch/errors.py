"""What keeps homes where they are: each error states that the writers of the old home can go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from tatame_db.move.switch.homes import Home

_AS_BEFORE = "No home was changed: programs that waited write where they did before."


@fact
class NothingToSwitch(TatameError):
    """The home of all these tables is the wanted one already."""

    tables: list[str]
    home: Home
    what = "the home of {tables} is the {home} already"
    fix = "`tatame-db move status` shows the home of each table"


@fact
class SourceWithoutServer(TatameError):
    """The source is read over REST, where no trigger can refuse writers."""

    what = "the home of a table can change only if the source is opened as a PostgreSQL, and it is read over REST"
    means = "No home was changed."
    fix = "set `SUPABASE_DB_URL`"


@fact
class SwitchDiffers(TatameError):
    """While writers waited, the comparison found a difference between the databases."""

    exit_code = 3
    tables: list[str]
    what = "the databases differ in {tables}, although every change was carried over"
    means = _AS_BEFORE
    fix = (
        "`tatame-db move verify {arguments}` names the rows; `tatame-db move plan` names triggers and rules that change"
        " rows as they are written"
    )

    @property
    def arguments(self) -> str:
        """The tables, as they are typed."""
        return " ".join(self.tables)


@fact
class ChangesPending(TatameError):
    """Transactions that committed before the writers were stopped do not become visible."""

    attempts: int
    what = "changes that were committed before the pause did not become visible in {attempts:attempt}"
    means = _AS_BEFORE
    fix = "check whether commits wait for a standby that does not answer, then run the command again"


@fact
class PauseTooLong(TatameError):
    """The switch did not end within the time for which writers may wait."""

    allowed: float
    step: str
    what = "the switch did not end within {allowed:g} seconds: it was {step}"
    means = _AS_BEFORE
    fix = "allow more with `--pause-at-most`, or run it when less is written; `--dry-run` estimates the pause"


@fact
class KeysMissing(TatameError):
    """The target lacks keys or indexes of the models, or some were not validated."""

    names: list[str]
    moved: list[str]
    what = "the target is not complete: {names}"
    means = _AS_BEFORE
    fix = "{advice}; `tatame-db check` shows what else differs from the models"

    @property
    def advice(self) -> str:
        """A copy restores them, except for those of tables that no copy may write to."""
        if not self.moved:
            return "run `tatame-db move copy`, which restores and validates them"
        return (
            "create what is missing as the models have it, and validate keys with `ALTER TABLE … VALIDATE CONSTRAINT …`"
        )


@fact
class OutcomeNotKnown(TatameError):
    """The connection was lost while the old home was being closed, and it cannot be asked whether it is."""

    home: Home
    tables: list[str]
    reason: str
    what = "the connection was lost while the {home} was being closed for {tables}, and it does not answer: {reason}"
    means = (
        "Either the switch is not done, and everything is as before, or the old home refuses writes already and the new"
        " one does not take them yet. No row is lost."
    )
    fix = "as soon as it answers, run the same command again: it ends what it began"


@fact
class NotOpened(TatameError):
    """The old home is closed, and the connection to the new one was lost before it was opened."""

    tables: list[str]
    home: Home
    reason: str
    what = "the old home of {tables} is closed, and the {home} could not be opened: {reason}"
    means = "Neither database takes writes to these tables now. All rows are in both, and were compared."
    fix = "run the same command again: it opens the new home"


@fact
class NothingToFollow(TatameError):
    """No table has its home in the database whose changes are to be carried over."""

    home: Home
    what = "no table has its home in the {home}, so there is nothing to follow"
    means = "No home was changed."
    fix = "{advice}; `tatame-db move status` shows the home of each table"

    @property
    def advice(self) -> str:
        """The command for the other direction."""
        back = "" if self.home == "target" else " --back"
        return f"`tatame-db move follow{back}` follows the tables whose home is the other database"
