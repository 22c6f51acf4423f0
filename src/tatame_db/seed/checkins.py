"""Check-ins as lines for COPY: there may be millions, too many for an object each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING

from tatame_db.seed.chance import Chance
from tatame_db.seed.classes import WEEK, Lesson
from tatame_db.seed.people import Team, is_kid
from tatame_db.seed.plan import SeedPlan, days

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tatame_db.schema import User


_HOLIDAYS = {"01-01", "04-21", "05-01", "09-07", "10-12", "11-02", "11-15", "12-25"}
_EARLY_SECONDS, _LATE_SECONDS = 15 * 60, 10 * 60
# The timetable is in the time of Brasília, which has had no summer time since 2019.
_UTC_AHEAD_SECONDS = 3 * 3600


@dataclass(frozen=True)
class _Attendance:
    """The members who may attend a weekly class; laid out so that a check-in costs a microsecond.

    Days are ordinals. `regulars` holds, for each member, the probability to attend, the first and the last day, and
    the part of the line that names member and class.
    """

    chance: Chance
    first: int
    last: int
    arrivals: Sequence[str]
    regulars: list[tuple[float, int, int, str]]

    def lines(self, day: int, mood: float) -> list[str]:
        """Draw the members who attend on a day; a line begins with the time of arrival. `mood` scales all chances."""
        if not self.first <= day <= self.last:
            return []
        draw, arrivals = self.chance.draw, self.arrivals
        return [
            arrivals[int(draw() * len(arrivals))] + ids
            for probability, first, last, ids in self.regulars
            if first <= day <= last and draw() < probability * mood
        ]


CHECKIN_COLUMNS = ("id", "created_at", "user_id", "class_id", "date")


def checkin_lines(plan: SeedPlan, teams: list[Team], timetables: dict[int, list[Lesson]]) -> Iterator[str]:
    """Write the check-ins as blocks of lines for COPY: one block for each day, in order of time.

    The values of a line are those of `CHECKIN_COLUMNS`. No more than one day is in memory.
    """
    attendances: list[list[_Attendance]] = [[] for _ in WEEK]
    for team in teams:
        for lesson, attendance in _attendances(plan, team, timetables[team.gym.id]):
            attendances[lesson.weekday].append(attendance)
    moods, written = Chance(plan.random_seed, "moods"), 0
    for day in (plan.first_day + days(number) for number in range(plan.days)):
        # Rain keeps people at home.
        mood, iso = 0.8 + 0.4 * moods.draw(), day.isoformat()
        if iso[5:] in _HOLIDAYS:
            continue
        lines = sorted(
            line for attendance in attendances[day.weekday()] for line in attendance.lines(day.toordinal(), mood)
        )
        yield "".join(f"{key}\t{iso} {line}\t{iso}\n" for key, line in enumerate(lines, start=written + 1))
        written += len(lines)


def _attendances(plan: SeedPlan, team: Team, timetable: list[Lesson]) -> Iterator[tuple[Lesson, _Attendance]]:
    chance = Chance(plan.random_seed, "checkins", team.gym.id)
    habits = [_habit(plan, student, student.approved_at, timetable) for student in team.students if student.approved_at]
    for lesson in timetable:
        regulars = [
            (habit.probabilities[lesson.crowd], habit.first, habit.last, f"\t{habit.user_id}\t{lesson.class_.id}")
            for habit in habits
            if habit.probabilities[lesson.crowd]
        ]
        first, last = _span(lesson.class_.created_at, lesson.class_.deleted_at)
        yield lesson, _Attendance(chance, first, last, _arrivals(lesson.start), regulars)


@dataclass(frozen=True)
class _Habit:
    """The probability that a member attends a class of each crowd, between two days."""

    user_id: int
    first: int
    last: int
    probabilities: dict[str, float]


def _habit(plan: SeedPlan, student: User, approved_at: datetime, timetable: list[Lesson]) -> _Habit:
    chance = Chance(plan.random_seed, "habits", student.gym_id, student.clerk_user_id)
    if is_kid(plan, student):
        weights = {"kids": 1}
    else:
        favourite = chance.pick(("morning", "noon", "evening", "evening", "evening"))
        weights = {"morning": 1, "noon": 1, "evening": 1, "saturday": 3} | {favourite: 6}
    visits_a_week = 1.5 + 4 * chance.draw()
    total = sum(weights.get(lesson.crowd, 0) for lesson in timetable)
    probabilities = {
        lesson.crowd: min(0.95, visits_a_week * weights.get(lesson.crowd, 0) / total) for lesson in timetable
    }
    return _Habit(student.id, *_span(approved_at, student.deleted_at), probabilities)


def _span(since: datetime, until: datetime | None) -> tuple[int, int]:
    """Return the first and the last full day between two moments."""
    return since.toordinal() + 1, until.toordinal() - 1 if until else date.max.toordinal()


@cache
def _arrivals(start: int) -> Sequence[str]:
    """Return the times of day, in UTC, at which members may arrive at a class that starts at this minute."""
    begin = start * 60 + _UTC_AHEAD_SECONDS
    return [
        f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        for second in range(begin - _EARLY_SECONDS, begin + _LATE_SECONDS)
    ]
