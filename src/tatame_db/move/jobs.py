"""Several tables at once: each job has connections of its own, and all see the source in one moment."""

from __future__ import annotations

import contextlib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeVar

from tatame_db.move.open import reopen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tatame_db.move.connection import Connections

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def each(
    connections: Connections,
    jobs: int,
    pieces: Sequence[Piece],
    do: Callable[[Connections, Piece], Result],
    on_done: Callable[[Result], None],
) -> list[Result]:
    """Do all pieces, the first ones first, and return what came of them in their order.

    `on_done` hears of one at a time. Where one fails, or we are interrupted, what the other jobs are at is cancelled
    and undone before that is raised.
    """
    if jobs == 1:
        return [_done(do(connections, piece), on_done) for piece in pieces]
    snapshot = str(connections.source.row("SELECT pg_export_snapshot()")[0])
    waiting, results = iter(enumerate(pieces)), dict[int, Result]()
    working: list[Connections] = []
    stopped, alone = Event(), Lock()

    def work() -> None:
        with reopen(connections, snapshot) as own:
            working.append(own)
            while not stopped.is_set():
                with alone:
                    at, piece = next(waiting, (None, None))
                if at is None or piece is None:
                    return
                result = do(own, piece)
                with alone:
                    results[at] = _done(result, on_done)

    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(work) for _ in range(jobs)]
        try:
            finished, _ = wait(running, return_when=FIRST_EXCEPTION)
            for job in finished:
                job.result()
        except BaseException:
            stopped.set()
            # Again and again, for a job may have been between two statements.
            while wait(running, timeout=0.1).not_done:
                for own in working:
                    for connection in (own.source, own.target):
                        with contextlib.suppress(Exception):
                            connection.driver.cancel_safe()
            raise
    return [results[at] for at in range(len(pieces))]


def _done(result: Result, on_done: Callable[[Result], None]) -> Result:
    on_done(result)
    return result
