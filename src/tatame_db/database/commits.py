"""Whether a COMMIT was sent whose outcome may be unknown: for the words of a command that a signal interrupts.

While the server waits in a COMMIT, as for a synchronous standby, Ctrl-C cancels the wait, and the transaction is
committed all the same. Python raises `KeyboardInterrupt` in either case.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


class _Last(threading.local):
    """What this thread did last; a signal interrupts the main thread."""

    is_commit = False
    was_interrupted = False
    """Whether an interrupt came before the answer to a COMMIT."""


_last = _Last()


@contextmanager
def committing() -> Generator[None]:
    """Note that a COMMIT is sent, and whether it is interrupted."""
    _last.is_commit = True
    try:
        yield
    except BaseException as error:
        # The statements of a cleanup may follow.
        _last.was_interrupted = _last.was_interrupted or not isinstance(error, Exception)
        raise


def began(*, commits_itself: bool) -> None:
    """Note that a statement is sent, and whether the server commits it without a COMMIT."""
    _last.is_commit = commits_itself


def may_be_committed() -> bool:
    """Return whether a COMMIT was interrupted, or was sent and no statement after it."""
    return _last.is_commit or _last.was_interrupted


def forget() -> None:
    """Begin again: a command starts."""
    _last.is_commit = _last.was_interrupted = False
