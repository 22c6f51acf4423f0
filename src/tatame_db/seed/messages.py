"""Messages to the members of each gym, sent, pending and failed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tatame_db.schema import Notification
from tatame_db.seed.chance import Chance
from tatame_db.seed.plan import SeedPlan, days

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tatame_db.seed.people import Team


_MESSAGES = (
    ("Treino cancelado", "A turma da manhã não acontece amanhã. Bom descanso!"),
    ("Exame de faixa", "O exame será no próximo sábado, às 9h. Traga o quimono limpo."),
    ("Feliz aniversário!", "A equipe deseja muita saúde e muitos treinos."),
    ("Mensalidade", "Sua mensalidade vence em três dias."),
    ("Seminário", "Inscrições abertas para o seminário de meia-guarda. Vagas limitadas."),
    ("Sentimos sua falta", "Faz duas semanas que você não aparece. Está tudo bem?"),
)
_UNSENT = {1: "failed", 3: "pending"}


def notifications(plan: SeedPlan, team: Team) -> Iterator[Notification]:
    """Make a message every five days, in no order of time."""
    chance = Chance(plan.random_seed, "notifications", team.gym.id)
    period = max(plan.days, 60)
    senders = [team.manager, *team.instructors]
    members = [
        (str(student.id), student.approved_at, student.deleted_at or datetime.max)
        for student in team.students
        if student.approved_at
    ]
    for number in range(period // 5):
        status = _UNSENT.get(number % 10, "sent")
        earliest = plan.last_day - days(1 if status == "pending" else period)
        created_at = chance.moment(earliest, plan.last_day)
        sent_at = created_at + timedelta(seconds=chance.number(1, 90)) if status == "sent" else None
        title, content = chance.pick(_MESSAGES)
        present = [key for key, since, until in members if since < created_at < until]
        recipients = _recipients(chance, number, present)
        yield Notification(
            sent_by=chance.pick(senders).id,
            title=title,
            content=content,
            channel=chance.pick(("push", "push", "email")),
            status=status,
            recipients=recipients,
            viewed_by=_viewed_by(chance, recipients, sent_at),
            sent_at=sent_at,
            created_at=created_at,
        )


def _recipients(chance: Chance, number: int, present: list[str]) -> list[str] | None:
    # The app has both: messages without recipients, and old ones from before that column existed.
    if number % 12 in (4, 9):
        return [] if number % 12 == 4 else None
    if present and chance.under(0.3):
        return [chance.pick(present)]
    share = chance.pick((0.2, 0.5, 1.0))
    return [key for key in present if chance.under(share)]


def _viewed_by(chance: Chance, recipients: list[str] | None, sent_at: datetime | None) -> list[str] | None:
    if recipients is None or (sent_at is None and chance.under(0.5)):
        return None
    share = chance.draw() if sent_at else 0
    return [key for key in recipients if chance.under(share)]
