"""Whether FastAPI is installed, and new enough."""

from __future__ import annotations

from tatame_db.errors import TatameError, fact

OLDEST_FASTAPI = "0.121"
"""The first version whose dependencies can end before the response is sent."""


@fact
class FastApiMissing(TatameError, ImportError):
    """FastAPI is not installed, or too old."""

    problem: str
    oldest = OLDEST_FASTAPI
    what = "`tatame_db.fastapi` needs FastAPI {oldest} or newer, and {problem}"
    fix = "install it with `python -m pip install 'fastapi>={oldest}'`"


def require_fastapi() -> None:
    """Raise `FastApiMissing`, which is an `ImportError`, unless FastAPI can be used."""
    try:
        from fastapi import Depends, __version__  # noqa: PLC0415, it may be missing
    except ModuleNotFoundError as error:
        if error.name != "fastapi":
            raise
        raise FastApiMissing(problem="it is not installed") from None
    try:
        Depends(scope="function")
    except TypeError:
        raise FastApiMissing(problem=f"version {__version__} is installed") from None
