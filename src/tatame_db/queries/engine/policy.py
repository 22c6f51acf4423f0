"""Which connection a call goes to. It decides by numbers alone: it sends nothing and reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence, Sized

SHARED_PIPES = 2
"""How many pipes carry the short calls. With 1, 2, 4, 8 and 20, a server of two cores answered 5.8, 8.2, 7.7, 4.4 and
3.4 thousand reads a second: each more wakes another process of the server for fewer calls."""

MIN_DEPTH = 32
"""How many calls a pipe holds at most, near the server. The others wait where they can still be cancelled unsent."""

DEPTH_PER_SECOND = 4_000
"""How many more calls a pipe holds for each second of a round trip: a distant server must not wait for the next."""

PATIENCE_SECONDS = 0.010
"""How long the first call of a pipe may run, beyond two round trips, before others avoid the pipe. A pause of Python's
garbage collector or a checkpoint of the server stays below it, and a person does not notice it."""

ASSUMED_ROUND_TRIP_SECONDS = 0.050
"""The round trip until one is measured: too long costs some patience, too short opens connections for nothing."""

UNREMARKABLE_SECONDS = 0.001
"""A plan that usually takes less is forgotten."""

MAX_GROWTH = 4
"""By how much one run may raise the usual time of a plan: a busy moment of this process does not make it slow."""


MAX_REMEMBERED = 1_000
"""How many plans are remembered at most: an app may describe a new one in each request."""

ROUND_TRIP_GROWTH = 1.02
"""By how much one short call may raise the measured round trip, which otherwise is the shortest one seen."""


class Run(Protocol):
    """What the policy sees of a call."""

    may_repeat: bool
    alone: bool
    sent_on_idle: bool

    @property
    def statements(self) -> Sequence[tuple[Hashable, object]]:
        """The plans that it runs, and their parameters."""
        ...


class Busy(Protocol):
    """What the policy sees of a pipe."""

    accepts: bool
    first_since: float

    @property
    def calls(self) -> Sized:
        """The calls that are in flight."""
        ...

    @property
    def runs_alone(self) -> bool:
        """Whether its only call must not be joined by others."""
        ...


class Policy:
    """Spreads short reads over a few pipes, and lets the other calls run alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """How many pipes there may be."""
        self.shares = True
        """False if all calls run alone."""
        # Were all pipes free for slow calls, short ones would wait for them.
        self._alone_limit = max(1, limit - SHARED_PIPES)
        self._round_trip = ASSUMED_ROUND_TRIP_SECONDS
        self._usual_seconds: dict[Hashable, float] = {}
        self._set_limits()

    def share_nothing(self) -> None:
        """Let all calls run alone: which poolers keep the answers of a pipe apart is not known."""
        self.shares = False
        self._alone_limit = self.limit

    def _set_limits(self) -> None:
        self.patience = PATIENCE_SECONDS + 2 * self._round_trip
        """How many seconds a call may be the first of its pipe before others avoid the pipe."""
        self.depth = MIN_DEPTH + int(DEPTH_PER_SECOND * self._round_trip)

    # What is learnt

    def saw_run(self, call: Run, seconds: float) -> None:
        """Learn from an answered call, which was the first of its pipe for so long."""
        if call.sent_on_idle and not call.alone:
            round_trip = min(seconds, self._round_trip * ROUND_TRIP_GROWTH)
            if round_trip != self._round_trip:
                self._round_trip = round_trip
                self._set_limits()
        if not call.may_repeat or not call.statements:
            return
        plan = call.statements[0][0]
        usual = self._usual_seconds.get(plan)
        if usual is None:
            if seconds < self.patience / MAX_GROWTH:
                return
            if len(self._usual_seconds) >= MAX_REMEMBERED:
                # They are learnt again in a few runs.
                self._usual_seconds.clear()
            usual = 0.0
        usual = min(max(seconds, usual / 2), usual * MAX_GROWTH + UNREMARKABLE_SECONDS)
        if usual < UNREMARKABLE_SECONDS:
            del self._usual_seconds[plan]
        else:
            self._usual_seconds[plan] = usual

    # What is chosen

    def runs_alone(self, call: Run) -> bool:
        """Return whether a call is a write, or usually runs so long that others should not wait behind it."""
        if not (call.may_repeat and self.shares):
            return True
        usual = self._usual_seconds.get(call.statements[0][0]) if self._usual_seconds else None
        return usual is not None and usual > self.patience

    def for_short(self, pipes: Sequence[Busy], now: float, *, leave_one: bool = False) -> tuple[int | None, bool]:
        """Choose the pipe for a short call: the emptiest of the first few that flow.

        `leave_one` keeps a pipe free of short calls if there are several, because another call waits to run alone.

        Returns its position, `None` if each is full or stuck, and whether another pipe would help.
        """
        best, fewest, flowing = None, self.depth, 0
        enough = min(SHARED_PIPES, max(1, len(pipes) - 1)) if leave_one else SHARED_PIPES
        for position, pipe in enumerate(pipes):
            if not pipe.accepts:
                continue
            waiting = len(pipe.calls)
            if not waiting:
                return position, False
            if pipe.runs_alone or now - pipe.first_since > self.patience:
                continue
            if waiting < fewest:
                best, fewest = position, waiting
            flowing += 1
            if flowing >= enough:
                return best, False
        return best, True

    def for_alone(self, pipes: Sequence[Busy]) -> tuple[int | None, bool]:
        """Choose the pipe for a call that runs alone: an idle one, the last first, away from the short calls.

        Returns what `for_short` does.
        """
        idle, running = None, 0
        for position, pipe in enumerate(pipes):
            if pipe.runs_alone:
                running += 1
            elif pipe.accepts and not pipe.calls:
                idle = position
        if running >= self._alone_limit:
            return None, False
        return idle, idle is None
