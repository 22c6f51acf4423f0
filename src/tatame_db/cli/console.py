"""How we speak: answers on stdout, talk on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer


def answer(text: str) -> None:
    """Print what was asked for."""
    typer.echo(text)


def answer_json(facts: dict[str, Any]) -> None:
    """Print one JSON object with stable keys."""
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Tell what is going on."""
    typer.echo(text, err=True)


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
