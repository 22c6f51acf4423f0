"""The belts and degrees of each member, up to the end of the plan or of the membership."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from typing import TYPE_CHECKING

from tatame_db.schema import Graduation, User
from tatame_db.seed.chance import Chance
from tatame_db.seed.people import Team, age, is_kid
from tatame_db.seed.plan import SeedPlan, days

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class _Ladder:
    """The belts of a modality from the first to the last, with degrees 0 to 4 each."""

    modality: str
    belts: tuple[str, ...]


_ADULT_BJJ = _Ladder("BJJ", ("WHITE", "BLUE", "PURPLE", "BROWN", "BLACK"))
_KID_BJJ = _Ladder("BJJ", ("WHITE", "GREY", "YELLOW", "ORANGE", "GREEN"))
_NO_GI = _Ladder("NO_GI", _ADULT_BJJ.belts)
_MUAY_THAI = _Ladder("MUAY_THAI", ("WHITE", "YELLOW", "ORANGE", "GREEN", "BLUE"))


def graduations(plan: SeedPlan, team: Team) -> Iterator[Graduation]:
    """Make the graduations of a team's members, in no order of time."""
    chance = Chance(plan.random_seed, "graduations", team.gym.id)
    for user in team.people:
        if user.approved_at is None:
            continue
        end = user.deleted_at or datetime.combine(plan.until, time())
        for ladder, first in _ladders(chance, plan, user):
            for graduation in _history(chance, user.id, ladder, first, user.approved_at):
                if graduation.created_at >= end:
                    break
                yield graduation


def _ladders(chance: Chance, plan: SeedPlan, user: User) -> Iterator[tuple[_Ladder, int]]:
    """The modalities that a member trains, each with the index of their first belt in this gym."""
    if is_kid(plan, user):
        yield _KID_BJJ, 0
        return
    yield _ADULT_BJJ, _first_belt(chance, plan, user)
    if chance.under(0.15):
        yield _MUAY_THAI, 0
    if chance.under(0.1):
        yield _NO_GI, 0


def _first_belt(chance: Chance, plan: SeedPlan, user: User) -> int:
    if user.role != "STUDENT":
        return 4 if user.role == "MANAGER" or chance.under(0.6) else 3
    # Four years of training for each belt.
    allowed = (age(plan, user) - 16) // 4
    return min(allowed, chance.pick((0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4)))


def _history(chance: Chance, user_id: int, ladder: _Ladder, first: int, awarded_at: datetime) -> Iterator[Graduation]:
    """The first belt, then one degree at a time up to the last belt, far into the future."""
    for step in range(first * 5 + chance.number(0, 2), len(ladder.belts) * 5):
        belt, degree = ladder.belts[step // 5], step % 5
        yield Graduation(user_id=user_id, belt=belt, degree=degree, modality=ladder.modality, created_at=awarded_at)
        # A black belt waits three years for each degree.
        next_day = awarded_at.date() + days(3 * 365 if belt == "BLACK" else chance.number(90, 240))
        awarded_at = chance.moment(next_day, next_day)
