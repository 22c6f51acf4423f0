"""The people of each gym: a manager, instructors and students in every state of approval."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import date

from tatame_db.schema import Gym, User
from tatame_db.seed.chance import Chance
from tatame_db.seed.plan import SeedPlan, days

# Split at run time: as lists, the names would take one line each.
_FIRST_NAMES = {
    gender: tuple(names.split())
    for gender, names in {
        "FEMALE": "Ana Beatriz Bruna Camila Carolina Cecília Débora Eloá Fernanda Gabriela Heloísa Inês Isabela Joana "
        "Júlia Larissa Letícia Lívia Luíza Mariana Natália Patrícia Rafaela Sofia Tainá Valéria Vitória Yasmin",
        "MALE": "André Antônio Bruno Caio César Davi Diego Eduardo Fábio Felipe Flávio Gabriel Guilherme Gustavo "
        "Henrique Igor João José Júlio Leonardo Lucas Luís Marcelo Márcio Mateus Otávio Rafael Sérgio Tiago Vinícius",
    }.items()
}
_SURNAMES = (
    "Almeida Alves Araújo Barbosa Brandão Cardoso Carvalho Conceição Corrêa Costa Dias Fernandes Ferreira Fonseca "
    "Freitas Galvão Gomes Gonçalves Guimarães Lima Lopes Magalhães Martins Melo Moraes Moreira Nascimento Oliveira "
    "Pereira Ribeiro Rocha Santos Silva Simões Souza Teixeira Valença Vieira"
)
_LAST_NAMES = tuple(_SURNAMES.split())

# By the number of a student modulo 20; the others are approved. A gym of eight students has every state.
_STATES = {1: "waiting", 3: "denied", 5: "deleted", 7: "migrated", 10: "waiting", 12: "migrated"}
_KIDS, _ADULTS, _INSTRUCTORS, _MANAGERS = (5, 14), (16, 58), (26, 50), (36, 62)


@dataclass(frozen=True)
class Team:
    """A gym and its people."""

    gym: Gym
    manager: User
    instructors: list[User]
    students: list[User]

    @property
    def people(self) -> list[User]:
        """All of them, the manager first."""
        return [self.manager, *self.instructors, *self.students]


def team_of(plan: SeedPlan, gym: Gym) -> Team:
    """Make the people of a gym; their ids are assigned later."""
    chance = Chance(plan.random_seed, "staff", gym.id)
    manager = _person(chance, plan, "MANAGER", gym.id, _MANAGERS)
    manager.created_at = manager.approved_at = gym.created_at
    instructors = [_person(chance, plan, "INSTRUCTOR", gym.id, _INSTRUCTORS) for _ in range(chance.number(2, 4))]
    for instructor in instructors:
        opened = gym.created_at.date()
        instructor.created_at = instructor.approved_at = chance.moment(opened + days(1), opened + days(9))
    students = [_student(plan, gym, number) for number in range(plan.members)]
    return Team(gym, manager, instructors, students)


def _student(plan: SeedPlan, gym: Gym, number: int) -> User:
    chance = Chance(plan.random_seed, "students", gym.id, number)
    student = _person(chance, plan, "STUDENT", gym.id, _KIDS if chance.under(0.2) else _ADULTS)
    _admit(chance, plan, gym, student, _STATES.get(number % 20, "approved"))
    return student


def _admit(chance: Chance, plan: SeedPlan, gym: Gym, student: User, state: str) -> None:
    opened, recently = gym.created_at.date() + days(10), plan.last_day - days(20)
    # A product of two draws is small: most joined when the gym came to the app.
    joined = opened + days(int(chance.draw() * chance.draw() * (recently - opened).days))
    student.created_at = chance.moment(joined, joined)
    answered = chance.moment(joined + days(1), joined + days(4))
    if state == "waiting":
        student.created_at = chance.moment(recently, plan.last_day)
    elif state == "denied":
        student.denied_at = answered
    elif state == "migrated":
        student.created_at = student.approved_at = student.migrated_at = chance.moment(opened, opened)
    else:
        student.approved_at = answered
    if state == "deleted":
        student.deleted_at = chance.moment(answered.date() + days(1), plan.last_day)


def newcomers(plan: SeedPlan) -> list[User]:
    """Make users who have signed in and have neither a gym nor a name yet, one for each gym."""
    chance = Chance(plan.random_seed, "newcomers")
    return [
        User(
            clerk_user_id=f"user_{chance.letters(27)}",
            created_at=chance.moment(plan.last_day - days(20), plan.last_day),
        )
        for _ in range(plan.gyms)
    ]


def _person(chance: Chance, plan: SeedPlan, role: str, gym_id: int, ages: tuple[int, int]) -> User:
    clerk_user_id = f"user_{chance.letters(27)}"
    gender = chance.pick(("FEMALE", "MALE", "MALE"))
    first_name = chance.pick(_FIRST_NAMES[gender])
    last_name = " ".join(chance.pick(_LAST_NAMES) for _ in range(chance.number(1, 2)))
    birth = (plan.until - days(chance.number(ages[0] * 365, ages[1] * 365))).isoformat()
    handle = f"{_plain(first_name)}.{_plain(last_name.split()[-1])}{chance.number(1, 9999)}"
    pays = role == "STUDENT" and chance.under(0.6)

    def sometimes(share: float, value: str) -> str | None:
        return value if chance.under(share) else None

    born = sometimes(0.95, birth)
    return User(
        clerk_user_id=clerk_user_id,
        role=role,
        gym_id=gym_id,
        email=sometimes(0.93, f"{handle}@tatame.example"),
        first_name=first_name,
        last_name=last_name,
        profile_picture=sometimes(0.5, f"https://files.tatame.example/people/{clerk_user_id}.jpg"),
        birth=born,
        birth_day=born and born[5:],
        gender=sometimes(0.95, gender),
        # There is no area code 00, and no service knows the names below: a message to them reaches nobody.
        phone=sometimes(0.85, f"+55 00 9{chance.number(0, 9999):04}-{chance.number(0, 9999):04}"),
        instagram=sometimes(0.4, f"tatame.example.{handle}"),
        expo_push_token=sometimes(0.7, f"ExponentPushToken[example{chance.letters(15)}]"),
        customer_id=f"cus_example{chance.letters(10)}" if pays else None,
        subscription_id=f"sub_example{chance.letters(10)}" if pays else None,
        plan=chance.pick(("MONTHLY", "MONTHLY", "QUARTERLY", "YEARLY")) if pays else None,
    )


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()


def is_kid(plan: SeedPlan, user: User) -> bool:
    """Return whether a user trains with the children."""
    return user.birth is not None and age(plan, user) < 16


def age(plan: SeedPlan, user: User) -> int:
    """Return the age in years; a user without a date of birth counts as thirty."""
    return (plan.until - date.fromisoformat(user.birth)).days // 365 if user.birth else 30
