"""Several tables at a time: each job has connections of its own, and all see the source at one moment."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TYPE_CHECKING, Generic, TypeVar

from tatame_db.move.connection import SIGNAL_CHECK_SECONDS
from tatame_db.move.open import reopen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from tatame_db.move.connection import Connections

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    connections: Connections,
    jobs: int,
    tasks: Sequence[Task],
    work: Callable[[Connections, Task], Result],
    on_done: Callable[[Result], None],
) -> list[Result]:
    """Do all tasks, in their order, and return the results in the same order.

    `on_done` is called with each result, never by two jobs at a time. If a task fails, or Ctrl-C is pressed, the
    work of the other jobs is canceled and rolled back before the error is raised.
    """
    if jobs == 1:
        return [_reported(work(connections, task), on_done) for task in tasks]
    snapshot = str(connections.source.row("SELECT pg_export_snapshot()")[0])
    queue = _Queue[Task, Result](tasks)
    busy: list[Connections] = []

    def job() -> None:
        with reopen(connections, snapshot) as own:
            busy.append(own)
            try:
                for position, task in queue:
                    queue.finish(position, work(own, task), on_done)
            finally:
                busy.remove(own)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            # Ctrl-C may come while the jobs are started: those that have begun are canceled too.
            _raise_first_error([pool.submit(job) for _ in range(jobs)])
        except BaseException:
            queue.stop()
            _cancel(busy)
            raise
    return queue.results()


class _Queue(Generic[Task, Result]):
    """Tasks that several jobs take one by one, and their results."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._waiting, self._results = iter(enumerate(tasks)), dict[int, Result]()
        self._stopped, self._lock = Event(), Lock()

    def __iter__(self) -> Iterator[tuple[int, Task]]:
        while not self._stopped.is_set():
            with self._lock:
                taken = next(self._waiting, None)
            if taken is None:
                return
            yield taken

    def finish(self, position: int, result: Result, on_done: Callable[[Result], None]) -> None:
        with self._lock:
            self._results[position] = _reported(result, on_done)

    def stop(self) -> None:
        self._stopped.set()

    def results(self) -> list[Result]:
        return [self._results[position] for position in range(len(self._tasks))]


def _raise_first_error(running: list[Future[None]]) -> None:
    while True:
        # A signal may reach another thread, and does not end a wait without a time limit then.
        finished, others = wait(running, SIGNAL_CHECK_SECONDS, return_when=FIRST_EXCEPTION)
        for job in finished:
            job.result()
        if not others:
            return


def _cancel(busy: list[Connections]) -> None:
    # Repeatedly, because a job may have been between two statements. A job that is not busy yet will find the queue
    # stopped.
    while busy:
        for own in list(busy):
            for connection in (own.source, own.target):
                with contextlib.suppress(Exception):
                    connection.driver.cancel_safe()
        time.sleep(0.1)


def _reported(result: Result, on_done: Callable[[Result], None]) -> Result:
    on_done(result)
    return result
