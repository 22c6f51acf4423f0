"""What happens to calls as time passes: reads are sent a second time, statements are cancelled, pipes are returned."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database import idle
from tatame_db.queries.engine.loss import Loss

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from typing import Protocol

    from tatame_db.queries.engine.call import Call
    from tatame_db.queries.engine.pipe import Pipe
    from tatame_db.queries.engine.policy import Policy

    class Watched(Protocol):
        """The calls and pipes of an event loop."""

        loop: asyncio.AbstractEventLoop
        policy: Policy
        pipes: list[Pipe]

        @property
        def has_waiting(self) -> bool:
            """Whether calls wait for a pipe."""
            ...

        @property
        def session_waits(self) -> bool:
            """Whether a session waits for a connection of the pool."""
            ...

        def send_copy(self, call: Call) -> None:
            """Send a call a second time."""
            ...

        def refuse_late(self, now: float) -> None:
            """Give up the calls that have waited for too long."""
            ...

        def send_waiting(self) -> None:
            """Send the calls that wait."""
            ...

        def return_if_wanted(self, pipe: Pipe) -> bool:
            """Return an idle pipe to the pool if something waits for it."""
            ...

        def return_to_pool(self, pipe: Pipe) -> None:
            """Return an idle pipe to the pool."""
            ...


TICK_SECONDS = 0.010
"""How often calls in flight are examined: about as often as one may run out of patience."""

CANCEL_AFTER_SECONDS = 0.050
"""How long a statement may run on after its caller has left. A cancel request opens a connection, which costs the
server more than most statements do."""

CANCEL_TIMEOUT_SECONDS = 5
"""How long the server may take for a cancel request, and then for the end of the statement."""


class Watch:
    """Examines the pipes regularly while calls are in flight or waiting."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._ticker: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._cancellations: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Examine the pipes from now on, until all is quiet."""
        if self._ticker is None:
            self._ticker = self._watched.loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        watched, now = self._watched, perf_counter()
        busy = [pipe for pipe in watched.pipes if pipe.calls]
        for pipe in busy:
            self._examine(pipe, now)
        if watched.session_waits:
            _retire_one(watched.pipes)
        watched.refuse_late(now)
        # The safety net: whatever was missed before, waiting calls are placed now.
        watched.send_waiting()
        if busy or watched.has_waiting or watched.session_waits:
            self.start()
        elif watched.pipes and self._idle_timer is None:
            self._return_later(idle.IDLE_TIMEOUT_SECONDS)

    def _examine(self, pipe: Pipe, now: float) -> None:
        first, seconds = pipe.calls[0], now - pipe.first_since
        if seconds > self._watched.policy.patience:
            for call in list(pipe.calls)[1:]:
                if call.may_repeat and not call.is_copied and not call.ended:
                    call.is_copied = True
                    self._watched.send_copy(call)
        if first.cancelled_at is not None:
            if now - first.cancelled_at > CANCEL_TIMEOUT_SECONDS:
                pipe.drop(Loss("the statement did not end when it was cancelled"))
        elif (first.expired or (first.ended and seconds > CANCEL_AFTER_SECONDS)) and not pipe.is_cancelling:
            first.cancelled_at = now
            task = self._watched.loop.create_task(self._cancel(pipe))
            self._cancellations.add(task)
            task.add_done_callback(self._cancellations.discard)

    async def _cancel(self, pipe: Pipe) -> None:
        """End the statement that runs first in a pipe. The request names the session, not the statement.

        So it may hit the next call. Those in the pipe are known, and are sent again if they are hit; no other follows
        them until the request is done.
        """
        pipe.stop_for_cancel()
        try:
            await pipe.driver.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
        except psycopg.errors.CancellationTimeout:
            # It may still arrive, and end whatever runs in the session by then.
            pipe.drop(Loss("the server did not answer a cancel request"))
        except psycopg.Error:
            # It changes nothing: the statement ends by itself, or the pipe is dropped in the end.
            pass
        finally:
            pipe.cancel_ended()
        if not self._watched.return_if_wanted(pipe):
            self._watched.send_waiting()

    # Idle pipes

    def _return_later(self, seconds: float) -> None:
        self._idle_timer = self._watched.loop.call_later(seconds, self._return_idle)

    def _return_idle(self) -> None:
        """Return the pipes that have been idle for long."""
        self._idle_timer = None
        limit = idle.IDLE_TIMEOUT_SECONDS
        oldest = 0.0
        for pipe in list(self._watched.pipes):
            idle_for = perf_counter() - pipe.first_since if pipe.is_idle else 0.0
            if idle_for >= limit:
                self._watched.return_to_pool(pipe)
            else:
                oldest = max(oldest, idle_for)
        if self._watched.pipes:
            self._return_later(limit - oldest)


def _retire_one(pipes: Sequence[Pipe]) -> None:
    """Let the emptiest pipe take no more calls, so that a session gets its connection even under constant load."""
    if pipes and not any(pipe.is_retiring for pipe in pipes):
        min(pipes, key=lambda pipe: len(pipe.calls)).retire()
