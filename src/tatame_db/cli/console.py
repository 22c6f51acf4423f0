"""The output of commands: answers on stdout, messages on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import typer

from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.live import Live
    from rich.progress import TaskID

# Rich pads no line to the width of its console, so this one costs nothing.
_UNLIMITED = 1_000_000
_BLOCK_CHARACTERS = 64_000


@fact
class OutputFailed(TatameError):
    """The output could not be written."""

    reason: str
    what = "cannot write the output: {reason}"
    means = "What the command had done before is done; a part of its output is missing."
    fix = "make room, or redirect the output elsewhere"


def answer(text: str) -> None:
    """Print a line of the answer. Raises `OutputFailed` if the disk that it is redirected to is full."""
    _write(printable(text), end="\n")


def printable(text: str, *, keep: str = "\n\t", quoted: Callable[[str], str] = repr) -> str:
    """Escape what a terminal would obey: a name in a database may contain an escape sequence.

    `quoted` writes a character in quotes, with its escape.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else quoted(character)[1:-1] for character in text
    )


def _write(text: str, *, end: str) -> None:
    try:
        typer.echo(text + end, nl=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        # The text is still in the buffer, and Python would fail to write it once more as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputFailed(reason=error.strerror or str(error)) from None


def answer_parts(parts: Iterable[str]) -> None:
    """Print an answer of any length, part by part. Raises `OutputFailed`."""
    pending: list[str] = []
    characters = 0
    for part in parts:
        pending.append(part)
        characters += len(part)
        if characters > _BLOCK_CHARACTERS:
            _write("".join(pending), end="")
            pending, characters = [], 0
    _write("".join(pending), end="")


class JsonAnswer:
    """Whether the command was asked for JSON, and has begun to print it: an answer is a single object."""

    requested: ClassVar[bool] = False
    begun: ClassVar[bool] = False


def answer_error(error: dict[str, object]) -> None:
    """Print an error as the answer, if JSON was asked for and none is printed yet."""
    if JsonAnswer.requested and not JsonAnswer.begun:
        answer_json({"error": error})


def answer_json(facts: dict[str, Any]) -> None:
    """Print one JSON object with stable keys; its parts are made as they are printed."""
    JsonAnswer.begun = True
    parts = json.JSONEncoder(indent=2, ensure_ascii=False, default=_as_text).iterencode(facts)
    answer_parts(printable(part, keep="\n", quoted=json.dumps) for part in parts)
    answer("")


def answer_json_line(facts: dict[str, Any]) -> None:
    """Print one of many JSON objects, on a line of its own."""
    JsonAnswer.begun = True
    answer(json.dumps(facts, ensure_ascii=False, default=_as_text))


def _as_text(value: object) -> object:
    """Return what stands for a value that JSON has no form for: a list for a set, and a text for any other."""
    if isinstance(value, set | frozenset):
        return sorted(cast("frozenset[object]", value), key=str)
    return f"\\x{value.hex()}" if isinstance(value, bytes | bytearray) else str(value)


def say(text: str) -> None:
    """Print a message, above the progress that is shown."""
    if Progress.shown is not None:
        Progress.shown.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
    else:
        typer.echo(printable(text), err=True)


class Progress:
    """What is being done, and a progress bar for each table in work, on a terminal; nothing elsewhere."""

    shown: ClassVar[Live | None] = None

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.spinner import Spinner

        self._lines: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            TextColumn("{task.completed:>11,.0f} of {task.total:,.0f} rows  {task.fields[rate]:>9,.0f} rows/s"),
            TimeRemainingColumn(),
        )
        self._stage = Spinner("dots")
        self._live = Live(Group(self._stage, self._bars), console=Console(stderr=True), transient=True)

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._live.start()
            Progress.shown = self._live
        return self

    def __exit__(self, *_: object) -> None:
        Progress.shown = None
        self._live.stop()

    def stage(self, text: str) -> None:
        """Show what is being done now."""
        self._stage.update(text=text)

    def update(self, name: str, done: int, wanted: int) -> None:
        """Show that `done` of the `wanted` rows of a table are done."""
        if name not in self._lines:
            self._lines[name] = self._bars.add_task(name, total=wanted, rate=0.0)
        line = self._lines[name]
        speed = next((task.speed for task in self._bars.tasks if task.id == line), None)
        self._bars.update(line, completed=done, total=max(done, wanted), rate=speed or 0.0)

    def end(self, name: str) -> None:
        """Remove the line of a table."""
        if name in self._lines:
            self._bars.remove_task(self._lines.pop(name))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their headings; `None` is an empty cell.

        console.table(["table", "rows", "seconds"], [["users", 9085, 0.2], ["gyms", 3, None]])

    Numbers are written as `9,085` and `0.2`, and a column with a number in it is aligned to the right. A terminal
    folds cells for which it is too narrow. Anywhere else a row is one line and no cell is cut, so that scripts can
    read it.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(row) for row in rows]
    laid_out = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for number, heading in enumerate(columns):
        right = any(_is_number(row[number]) for row in rows)
        # The first column names the row: a name in two pieces is none.
        justify: Literal["left", "right"] = "right" if right else "left"
        laid_out.add_column(Text(heading), justify=justify, overflow="fold", no_wrap=number == 0)
    for row in rows:
        laid_out.add_row(*(Text(_cell(value)) for value in row))
    indent = "  "
    width = shutil.get_terminal_size().columns - len(indent) if sys.stdout and sys.stdout.isatty() else _UNLIMITED
    plain = Console(width=width, color_system=None, force_terminal=False)
    with plain.capture() as captured:
        plain.print(laid_out)
    for line in captured.get().splitlines():
        answer(f"{indent}{line}".rstrip())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if _is_number(value):
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    # A line break would tear the row apart.
    return printable(str(value), keep="")


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask a question on the terminal; without one, only `--yes` confirms."""
    return yes or (is_terminal() and typer.confirm(printable(question), err=True))


def ask(question: str) -> str:
    """Ask for a word on the terminal; the answer may be empty."""
    return str(typer.prompt(printable(question), default="", show_default=False, err=True)).strip()


def is_terminal() -> bool:
    """Return whether a person can answer a question."""
    # `<&-` closes it.
    return bool(sys.stdin and sys.stdin.isatty())
