"""Errors of code that users write, modules of models and migrations: where they arose, and no value in them."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

from sqlalchemy.exc import ArgumentError, InvalidRequestError

_PACKAGE = Path(__file__).parents[1]
# The text of any other error may quote a setting or a row.
_ABOUT_CODE = (
    *(ImportError, NameError, AttributeError, TypeError, ArgumentError, InvalidRequestError),
    *(NotImplementedError, SystemExit, ZeroDivisionError),
)


def problem_of(error: BaseException) -> str:
    """Return the class of an error, and its first line if that is about the code."""
    name = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{name}: {error.msg}"
    lines = str(error).splitlines() if isinstance(error, _ABOUT_CODE) else []
    return f"{name}: {lines[0]}" if lines else name


def place_of(error: BaseException) -> str | None:
    """Return the file and line of the user's code in which an error arose; `None` if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*libraries, str(_PACKAGE), "<")):
            return f"{frame.filename}, line {frame.lineno}"
    return None


def line_in(file: Path, error: BaseException) -> int | None:
    """Return the last line of a file that an error passed through; `None` if it did not arise there."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return frames[-1].lineno if frames else None
