"""A step of a rehearsal: it passes, or fails with a problem."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class RehearsedStep:
    """A step of the rehearsal; `summary` is its result, or the problem if it failed."""

    name: str
    summary: str
    seconds: float
    passed: bool


class StepFailedError(Exception):
    """A step did something else than expected."""


def expect(condition: object, problem: str) -> None:
    """Raise `StepFailedError` unless the condition holds."""
    if not condition:
        raise StepFailedError(problem)


def run_step(name: str, step: Callable[[], str]) -> RehearsedStep:
    """Run a step; whatever a database or a command refuses becomes its problem."""
    started = time.perf_counter()
    passed = False
    try:
        summary = step()
        passed = True
    except StepFailedError as error:
        summary = str(error)
    except TatameError as error:
        summary = error.what
    except (psycopg.Error, SQLAlchemyError) as error:
        # A full disk, for instance.
        summary = str(error).splitlines()[0]
    return RehearsedStep(name, summary, time.perf_counter() - started, passed)


def listed(names: Iterable[str]) -> str:
    """Return names in order, as a summary shows them."""
    return ", ".join(sorted(names)) or "none"
