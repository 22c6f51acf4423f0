"""How we speak: answers on stdout, talk on stderr."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID


def answer(text: str) -> None:
    """Print what was asked for."""
    typer.echo(text)


def answer_json(facts: dict[str, Any]) -> None:
    """Print one JSON object with stable keys."""
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Tell what is going on."""
    typer.echo(text, err=True)


class Progress:
    """A line for each table that is being worked on, where a terminal shows them; else nothing."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._lines: dict[str, TaskID] = {}
        self._shown = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            TextColumn("{task.completed:>11,.0f} of {task.total:,.0f} rows  {task.fields[rate]:>9,.0f} rows/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Progress:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def tell(self, name: str, done: int, wanted: int) -> None:
        """Show how far it is."""
        if name not in self._lines:
            self._lines[name] = self._shown.add_task(name, total=wanted, rate=0.0)
        line = self._lines[name]
        speed = next((task.speed for task in self._shown.tasks if task.id == line), None)
        self._shown.update(line, completed=done, total=max(done, wanted), rate=speed or 0.0)

    def end(self, name: str) -> None:
        """Take its line away."""
        if name in self._lines:
            self._shown.remove_task(self._lines.pop(name))


def table(rows: dict[str, int], heading: str) -> str:
    """Lay out names and numbers in two columns."""
    width = max(map(len, [*rows, heading]))
    digits = max(len(f"{number:,}") for number in [*rows.values(), 0])
    lines = [f"{heading:<{width}}  {'rows':>{max(digits, 4)}}"]
    lines += [f"{name:<{width}}  {number:>{max(digits, 4)},}" for name, number in rows.items()]
    return "\n".join(f"  {line}" for line in lines)


def agreed(question: str, *, yes: bool) -> bool:
    """Ask before something is destroyed; without a terminal, only `--yes` is an answer."""
    return yes or (is_terminal() and typer.confirm(question, err=True))


def ask(question: str) -> str:
    """Ask for a word; may be empty."""
    return str(typer.prompt(question, default="", show_default=False, err=True)).strip()


def is_terminal() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()
