"""The weekly classes of each gym, with their assets and attachments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tatame_db.schema import Asset, Attachment, Class
from tatame_db.seed.chance import Chance
from tatame_db.seed.plan import SeedPlan, days

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from tatame_db.seed.people import Team


WEEK = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")


@dataclass(frozen=True)
class _Slot:
    """A class on some days of the week; `start` and `end` are minutes of the day, `crowd` is the group that attends."""

    days: tuple[int, ...]
    start: int
    end: int
    crowd: str
    modality: str
    description: str
    discontinued: bool = False
    led: bool = True


_TIMETABLE = (
    _Slot((0, 1, 2, 3, 4), 390, 450, "morning", "BJJ", "Fundamentos da manhã"),
    _Slot((0, 2, 4), 720, 780, "noon", "BJJ", "Treino do almoço"),
    _Slot((1, 3), 720, 780, "noon", "MUAY_THAI", "Muay Thai para todos os níveis"),
    _Slot((1, 3), 900, 960, "noon", "BJJ", "Turma da tarde", discontinued=True),
    _Slot((0, 1, 2, 3), 1020, 1070, "kids", "BJJ", "Turma infantil"),
    _Slot((0, 1, 2, 3, 4), 1080, 1170, "evening", "BJJ", "Iniciantes"),
    _Slot((0, 1, 2, 3), 1170, 1260, "evening", "BJJ", "Avançados, a partir da faixa azul"),
    _Slot((4,), 1170, 1260, "evening", "NO_GI", "Sem quimono"),
    _Slot((5,), 540, 630, "saturday", "BJJ", "Técnica de sábado"),
    _Slot((5,), 630, 720, "saturday", "NO_GI", "Treino livre", led=False),
)


@dataclass(frozen=True)
class Lesson:
    """A weekly class with facts that its row does not have: the crowd, and weekday and start as numbers."""

    class_: Class
    weekday: int
    start: int
    crowd: str


def timetable_of(plan: SeedPlan, team: Team) -> list[Lesson]:
    """Make the classes of a gym; their ids are assigned later."""
    chance = Chance(plan.random_seed, "classes", team.gym.id)
    # Gyms open at different minutes.
    later = chance.pick((0, 15, 30))
    slots = [replace(slot, start=slot.start + later, end=slot.end + later) for slot in _TIMETABLE]
    return [
        Lesson(_class(chance, plan, team, slot, weekday), weekday, slot.start, slot.crowd)
        for slot in slots
        for weekday in slot.days
    ]


def _class(chance: Chance, plan: SeedPlan, team: Team, slot: _Slot, weekday: int) -> Class:
    opened = team.gym.created_at.date() + days(10)
    instructor = chance.pick(team.instructors)
    recently = plan.last_day - days(max(plan.days, 60) // 2)
    return Class(
        gym_id=team.gym.id,
        instructor_id=instructor.id if slot.led else None,
        created_by=team.manager.id if chance.under(0.8) else instructor.id,
        day=WEEK[weekday],
        start=_clock(slot.start),
        end=_clock(slot.end),
        modality=slot.modality,
        description=slot.description,
        created_at=chance.moment(opened, opened + days(5)),
        deleted_at=chance.moment(recently, plan.last_day) if slot.discontinued else None,
    )


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


_ASSETS = (
    ("Passagem de guarda com controle de joelho", "video"),
    ("Raspagem da meia-guarda", "video"),
    ("Fuga de quadril em três tempos", "video"),
    ("Regulamento da academia", "document"),
    ("Plano de treino do mês", "document"),
    ("Preparação para o campeonato", "document"),
)


def assets(plan: SeedPlan, class_: Class) -> Iterator[Asset]:
    """Make up to two videos or documents of a class."""
    chance = Chance(plan.random_seed, "assets", class_.gym_id, class_.day, class_.start)
    for _ in range(chance.number(0, 2)):
        title, kind = chance.pick(_ASSETS)
        created_at = chance.moment(class_.created_at.date() + days(1), _end(plan, class_))
        yield Asset(
            class_id=class_.id,
            title=title,
            content=f"https://files.tatame.example/{kind}s/{chance.letters(11)}",
            type=kind,
            valid_until=created_at + days(chance.number(30, 180)) if chance.under(0.4) else None,
            created_at=created_at,
        )


_FILES = ("horários.pdf", "ficha-de-inscrição.pdf", "exame-de-faixa.pdf", "foto-da-turma.jpg", "campeonato.jpg")


def attachments(plan: SeedPlan, class_: Class) -> Iterator[Attachment]:
    """Make up to two files of a class."""
    chance = Chance(plan.random_seed, "attachments", class_.gym_id, class_.day, class_.start)
    for _ in range(chance.number(0, 2)):
        name = chance.pick(_FILES)
        yield Attachment(
            class_id=class_.id,
            file_name=name,
            file_url=f"https://files.tatame.example/attachments/{chance.letters(16)}",
            file_type="application/pdf" if name.endswith(".pdf") else "image/jpeg",
            file_size=chance.number(18_000, 4_800_000),
            created_at=chance.moment(class_.created_at.date() + days(1), _end(plan, class_)),
        )


def _end(plan: SeedPlan, class_: Class) -> date:
    return min(plan.last_day, class_.deleted_at.date()) if class_.deleted_at else plan.last_day
