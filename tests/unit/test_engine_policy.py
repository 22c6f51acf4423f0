"""The policy of the engine decides by numbers alone, so its clock is a number here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from tatame_db.queries.engine.policy import MIN_DEPTH, PATIENCE_SECONDS, SHARED_PIPES, Policy

NOW = 1000.0
MILLISECOND = 0.001


@dataclass
class Call:
    plan: Hashable = "plan"
    may_repeat: bool = True
    alone: bool = False
    sent_on_idle: bool = False

    @property
    def statements(self) -> list[tuple[Hashable, object]]:
        return [(self.plan, None)]


@dataclass
class Pipe:
    calls: list[Call] = field(default_factory=list[Call])
    first_since: float = NOW
    accepts: bool = True

    @property
    def runs_alone(self) -> bool:
        return bool(self.calls) and self.calls[0].alone


def near(limit: int = 20) -> Policy:
    """A policy that knows that the server is near."""
    policy = Policy(limit)
    policy.saw_run(Call(sent_on_idle=True), MILLISECOND / 10)
    return policy


def busy(calls: int, running_for: float = 0.0) -> Pipe:
    return Pipe([Call()] * calls, NOW - running_for)


def test_a_short_call_goes_to_the_emptiest_of_the_first_pipes() -> None:
    policy = near()
    assert policy.for_short([busy(3), busy(2), busy(1)], NOW) == (1, False)
    assert policy.for_short([busy(3), Pipe(), Pipe()], NOW) == (1, False)
    assert policy.for_short([Pipe(), Pipe()], NOW) == (0, False)


def test_another_pipe_is_wanted_until_there_are_enough() -> None:
    policy = near()
    assert policy.for_short([], NOW) == (None, True)
    assert policy.for_short([busy(1)], NOW) == (0, True)
    assert policy.for_short([busy(1)] * SHARED_PIPES, NOW) == (0, False)


def test_a_pipe_whose_first_call_runs_for_long_is_avoided_and_replaced() -> None:
    policy = near()
    patience = policy.patience
    assert policy.for_short([busy(1, patience * 1.1), busy(5), busy(7)], NOW) == (1, False)
    assert policy.for_short([busy(1, patience * 1.1)] * 5, NOW) == (None, True)
    assert policy.for_short([busy(1, patience * 0.9), busy(5)], NOW) == (0, False)


def test_a_pipe_with_a_call_that_runs_alone_receives_no_other() -> None:
    pipes = [Pipe([Call(alone=True)]), busy(9)]
    assert near().for_short(pipes, NOW) == (1, True)


def test_a_pipe_that_takes_no_more_calls_is_not_chosen_for_any() -> None:
    policy = near()
    stopped = Pipe(accepts=False)
    assert policy.for_short([stopped, busy(1)], NOW) == (1, True)
    assert policy.for_alone([stopped]) == (None, True)


def test_calls_wait_outside_when_the_pipes_are_full() -> None:
    assert near().for_short([busy(MIN_DEPTH + 10)] * SHARED_PIPES, NOW) == (None, False)


def test_a_distant_server_gets_more_patience_and_more_calls() -> None:
    distant = Policy(20)
    for _ in range(3):
        distant.saw_run(Call(sent_on_idle=True), 40 * MILLISECOND)
    assert distant.patience > PATIENCE_SECONDS + 2 * 39 * MILLISECOND
    assert distant.depth > near().depth + 100
    # A call among others says nothing about the distance.
    distant.saw_run(Call(), MILLISECOND / 10)
    assert distant.patience > PATIENCE_SECONDS + 2 * 39 * MILLISECOND


def test_the_distance_may_grow_again() -> None:
    policy = near()
    for _ in range(400):
        policy.saw_run(Call(sent_on_idle=True), 20 * MILLISECOND)
    assert policy.patience > PATIENCE_SECONDS + 2 * 19 * MILLISECOND


def test_a_statement_that_proved_slow_runs_alone_and_is_forgiven_when_it_is_fast_again() -> None:
    policy = near()
    slow = Call("slow")
    for _ in range(5):
        policy.saw_run(slow, 2.0)
    assert policy.runs_alone(slow)
    assert not policy.runs_alone(Call("other"))
    for _ in range(12):
        policy.saw_run(slow, MILLISECOND)
    assert not policy.runs_alone(slow)


def test_one_slow_run_of_a_fast_statement_is_not_held_against_it() -> None:
    policy = near()
    for _ in range(100):
        policy.saw_run(Call(), MILLISECOND)
    policy.saw_run(Call(), 2.0)
    assert not policy.runs_alone(Call())


def test_a_write_runs_alone_however_fast_it_is() -> None:
    policy = near()
    policy.saw_run(Call("write", may_repeat=False), MILLISECOND)
    assert policy.runs_alone(Call("write", may_repeat=False))


def test_calls_that_run_alone_take_the_last_idle_pipe_and_leave_some_for_short_calls() -> None:
    policy = near(limit=5)
    alone = Pipe([Call(alone=True)])
    assert policy.for_alone([Pipe(), Pipe(), busy(1)]) == (1, False)
    assert policy.for_alone([busy(1), alone, alone]) == (None, True)
    assert policy.for_alone([Pipe(), Pipe(), alone, alone, alone]) == (None, False)


def test_short_calls_leave_a_pipe_to_those_that_wait_to_run_alone() -> None:
    policy = near()
    pipes = [busy(5), busy(1)]
    assert policy.for_short(pipes, NOW) == (1, False)
    assert policy.for_short(pipes, NOW, leave_one=True) == (0, False)
    assert policy.for_short([*pipes, busy(2)], NOW, leave_one=True) == (1, False)


def test_one_connection_serves_all_kinds_of_calls() -> None:
    policy = near(limit=1)
    assert policy.for_alone([Pipe()]) == (0, False)
    assert policy.for_short([Pipe()], NOW) == (0, False)
    assert policy.for_alone([Pipe([Call(alone=True)])]) == (None, False)


def test_behind_a_pooler_every_call_runs_alone_on_any_connection() -> None:
    policy = near(limit=3)
    policy.share_nothing()
    assert policy.runs_alone(Call())
    alone = Pipe([Call(alone=True)])
    assert policy.for_alone([alone, alone, Pipe()]) == (2, False)


def test_slow_statements_that_run_once_do_not_fill_the_memory() -> None:
    policy = near()
    for number in range(10_000):
        policy.saw_run(Call(number), 1.0)
    assert len(policy._usual_seconds) <= 1_000
