"""What the commands for backups do with the archive of the write-ahead log, and print of it."""

from __future__ import annotations

import os
import re
import signal
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any

import typer

from tatame_db.cli import console
from tatame_db.cli.app import INTERRUPTED, Interrupted, interrupted_means
from tatame_db.errors import counted

if TYPE_CHECKING:
    from pathlib import Path

    from tatame_db.backup import Moment, Received, ReplayDrilled, Replayed
    from tatame_db.cli.app import Target

_INTERRUPTED = "all that was received is on the disk"


def follow(target: Target, folder: Path, *, after_gap: bool, as_json: bool) -> None:
    """Archive until Ctrl-C, which interrupts the command, or SIGTERM, which ends it; a second one ends it at once."""
    stop, interrupted = Event(), Event()

    def end(number: int, _frame: object) -> None:
        if stop.is_set():
            # As if it were killed: pg_receivewal ends by itself.
            os._exit(INTERRUPTED)
        stop.set()
        # A service is stopped by SIGTERM, and has not failed then.
        if number != signal.SIGTERM:
            interrupted.set()
            raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    # Before the imports, in which Python would report an exception and ignore it.
    before = [signal.signal(number, end) for number in numbers]
    try:
        with interrupted_means(_INTERRUPTED):
            _follow(target, folder, stop, after_gap=after_gap, as_json=as_json)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if interrupted.is_set():
        raise Interrupted(_INTERRUPTED)
    console.say(f"ended: {_INTERRUPTED}")


def _follow(target: Target, folder: Path, stop: Event, *, after_gap: bool, as_json: bool) -> None:
    from tatame_db import backup as backups

    backups.follow_wal(
        target.database,
        folder,
        backups.FollowChoices(after_gap=after_gap),
        stop=stop,
        on_received=_show_json if as_json else _show,
        on_words=console.say,
    )


def _show(received: Received) -> None:
    until = f"complete until {moment(received.until)}" if received.until else "no time is known yet"
    console.say(
        f"{datetime.now():%H:%M:%S}  received {received.lsn}  {until}  {counted(received.lag_bytes, 'byte')} behind"
    )


def _show_json(received: Received) -> None:
    facts: dict[str, Any] = {
        "slot": received.slot,
        "lsn": received.lsn,
        "until": received.until and received.until.isoformat(),
        "lag_bytes": received.lag_bytes,
        "lag_seconds": received.lag_seconds,
    }
    console.answer_json_line(facts)


def stop_following(target: Target, folder: Path, *, as_json: bool) -> None:
    """Drop the slot."""
    from tatame_db import backup as backups

    dropped = backups.stop_following(target.database, folder)
    if as_json:
        console.answer_json({"dropped": dropped})
    else:
        console.answer(f"dropped   {dropped}" if dropped else "nothing to drop: the server has no slot for this folder")


def parse_moment(text: str | datetime) -> Moment:
    """Read the value of `--at`; a time without a zone is one of this machine, which is printed."""
    if not isinstance(text, str) or text == "latest":
        return text  # type: ignore[return-value]  # Typer passes a parsed value again
    try:
        # As this package prints times.
        found = datetime.fromisoformat(re.sub(r" UTC$", "+00:00", text.strip()))
        found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter("a time is like 2026-03-01 10:00:00+01:00, or `latest`") from None
    if found.tzinfo is None:
        found = _local(text, found)
        console.say(f"{text} has no zone, so it is read as {found:%Y-%m-%d %H:%M:%S%z}, the local time")
    return found


def _local(text: str, moment: datetime) -> datetime:
    """Read a time of this machine's clock; when that is changed, there are times that it shows twice or never."""
    first, second = (moment.replace(fold=fold).astimezone() for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    if first.replace(tzinfo=None) != moment:
        raise typer.BadParameter(f"the local clock never shows {text}: it is set forward then; add a zone")
    raise typer.BadParameter(
        f"the local clock shows {text} twice: it is set back then; add a zone, {first:%z} or {second:%z}"
    )


def moment(time: datetime) -> str:
    """Write a time to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def replay_facts(drilled: ReplayDrilled) -> dict[str, Any]:
    """Return the drill of an archive as JSON."""
    last = drilled.replayed.last_transaction
    return {
        "last_transaction": last and last.isoformat(),
        "dropping": list(drilled.replayed.dropping),
        "rows": sum(contents.rows for contents in drilled.contents.values()),
        "schema_problems": drilled.schema_problems,
        "seconds": round(drilled.seconds, 1),
    }


def show_replay(drilled: ReplayDrilled) -> None:
    """Print what was replayed, and that nothing compares it."""
    rows = counted(sum(contents.rows for contents in drilled.contents.values()), "row")
    tables = counted(sum(len(contents.tables) for contents in drilled.contents.values()), "table")
    schema = "no migrations" if drilled.schema_problems is None else "matches its migrations"
    show_replayed(drilled.replayed)
    console.answer(f"read      {rows} in {tables}; no digests of that moment exist to compare with")
    console.answer(f"schema    {'differs' if drilled.schema_problems else schema}")
    console.answer(f"time      a restore with the archive takes about {counted(round(drilled.seconds) or 1, 'second')}")


def show_replayed(replayed: Replayed) -> None:
    """Print the last transaction, and the databases that cannot be used, as they could not be then."""
    last = replayed.last_transaction
    text = f"the last transaction is of {moment(last)}" if last else "no transaction since the backup"
    console.answer(f"replayed  {text}")
    for name in replayed.dropping:
        console.answer(
            f"dropping  a DROP DATABASE of {name} was interrupted, or was running: as on the server then, nothing can"
            " connect to it; a time before the command has its rows"
        )
