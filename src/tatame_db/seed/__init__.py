"""A small, lifelike gym to develop with; the same plan writes the same bytes on every machine.

So nothing here reads the clock after the plan is made, depends on the order of a set, or calls what may round
differently elsewhere: of the standard library's random numbers only `random()` is promised to stay as it is.
"""

from __future__ import annotations

import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from operator import attrgetter
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg import Connection as Driver
from psycopg import sql
from sqlalchemy import func, or_, select, text

from tatame_db.errors import TatameError
from tatame_db.schema import (
    AppStore,
    Asset,
    Attachment,
    Base,
    Checkin,
    Class,
    Graduation,
    Gym,
    Notification,
    Role,
    User,
    Version,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from sqlalchemy import Connection, Table

T = TypeVar("T")
Row = TypeVar("Row", bound=Base)

# What lies beyond is a slip of the finger, or leaves the calendar.
_LIMITS: dict[str, tuple[Any, Any]] = {
    "gyms": (1, 1_000),
    "members": (0, 5_000),
    "days": (0, 3_650),
    "until": (date(2000, 1, 1), date(2999, 12, 31)),
}


class SeedPlanInvalid(TatameError):
    """A number in the plan makes no gym."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = problems
        super().__init__(
            "; ".join(f"{name} {problem}" for name, problem in problems.items()),
            means="Nothing was changed.",
            fix="leave the number out to get its default, as in `tatame-db seed`",
        )


class NotEmpty(TatameError):
    """The database holds rows, which seeding would mix with invented ones."""

    def __init__(self, rows: dict[str, int]) -> None:
        self.rows = rows
        super().__init__(
            "the database is not empty: " + ", ".join(f"{table} has {count:,}" for table, count in rows.items()),
            means="Nothing was changed.",
            fix="if these rows may go, replace them with `tatame-db seed --replace`",
        )


@dataclass(frozen=True)
class SeedPlan:
    """What to make; raises `SeedPlanInvalid` for numbers that make no gym."""

    gyms: int = 3
    members: int = 60
    """Students of each gym, in every state of approval."""
    days: int = 120
    """How many days of check-ins there are, the last one being the day before `until`."""
    random_seed: int = 1
    until: date = field(default_factory=lambda: datetime.now(UTC).date())
    """The day on which, at 00:00 UTC, the story ends: no check-in or message comes from the future."""

    def __post_init__(self) -> None:
        problems = {
            name: f"is {getattr(self, name)}, not from {low} to {high}"
            for name, (low, high) in _LIMITS.items()
            if not low <= getattr(self, name) <= high
        }
        if problems:
            raise SeedPlanInvalid(problems)

    @property
    def first_day(self) -> date:
        """The first day that may have check-ins."""
        return self.until - timedelta(days=self.days)

    @property
    def last_day(self) -> date:
        """The last day on which anything happens."""
        return self.until - timedelta(days=1)

    @property
    def launch(self) -> date:
        """The day the app appeared: two years of history before the first check-in."""
        return self.first_day - timedelta(days=730)


def is_empty(connection: Connection) -> bool:
    """Say whether no table of the schema holds a row."""
    return not connection.scalar(select(or_(*(table.select().exists() for table in _tables()))))


def empty(connection: Connection) -> None:
    """Truncate all tables of the schema and restart their ids; the caller commits.

    Fails where a table that is not ours refers to one of ours, rather than emptying that one too.
    """
    _run(connection, f"TRUNCATE {_names(connection)} RESTART IDENTITY")


def seed(connection: Connection, plan: SeedPlan | None = None) -> dict[str, int]:
    """Fill an empty database and return the rows of each table; the caller commits, all or nothing.

    A table without sample rows stays empty.

    Other writers wait until then, and from the check-ins on readers of some tables too. The connection's role must own
    the tables. Raises `NotEmpty`, having changed nothing.
    """
    plan = plan or SeedPlan()
    # Two seeds at once would both find the database empty.
    _run(connection, f"LOCK TABLE {_names(connection)} IN SHARE ROW EXCLUSIVE MODE")
    if not is_empty(connection):
        raise NotEmpty(_rows_by_table(connection))
    written = _write(connection, plan)
    for table in _tables():
        _set_sequence(connection, table)
    _run(connection, f"ANALYZE {_names(connection)}")
    return {table.name: written.get(table.name, 0) for table in _tables()}


# --- Writing ---------------------------------------------------------------------------------------------------------


def _tables() -> list[Table]:
    return list(Base.metadata.tables.values())


def _name(connection: Connection, table: Table) -> str:
    return connection.dialect.identifier_preparer.format_table(table)


def _names(connection: Connection) -> str:
    return ", ".join(_name(connection, table) for table in _tables())


def _rows_by_table(connection: Connection) -> dict[str, int]:
    counts = {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in _tables()}
    return {name: count for name, count in counts.items() if count}


def _write(connection: Connection, plan: SeedPlan) -> dict[str, int]:
    gyms = _gyms(plan)
    teams = [_team(plan, gym) for gym in gyms]
    users = _numbered([user for team in teams for user in team.people] + _newcomers(plan))
    for team in teams:
        team.gym.manager_id = team.manager.id
    timetables = {team.gym.id: _timetable(plan, team) for team in teams}
    classes = _numbered([session.class_ for timetable in timetables.values() for session in timetable])

    written: dict[str, int] = {}

    def copy(model: type[Row], rows: Sequence[Row]) -> None:
        written[model.__tablename__] = _copy(connection, Base.metadata.tables[model.__tablename__], rows)

    # A gym names its manager, who belongs to the gym.
    _run(connection, "SET CONSTRAINTS ALL DEFERRED")
    copy(Role, _roles(plan))
    copy(Version, _versions(plan))
    copy(AppStore, _app_stores(plan))
    copy(Gym, gyms)
    copy(User, users)
    # Checked here, where the cause is, and before tables change that a waiting check would keep in use.
    _run(connection, "SET CONSTRAINTS ALL IMMEDIATE")
    copy(Graduation, _numbered([row for team in teams for row in _graduations(plan, team)]))
    copy(Class, classes)
    copy(Asset, _numbered([row for class_ in classes for row in _assets(plan, class_)]))
    copy(Attachment, _numbered([row for class_ in classes for row in _attachments(plan, class_)]))
    copy(Notification, _numbered([row for team in teams for row in _notifications(plan, team)]))
    written[Checkin.__tablename__] = _copy_checkins(connection, _checkins(plan, teams, timetables))
    return written


def _numbered(rows: list[Row]) -> list[Row]:
    """Give ids in order of time, as the app's own rows have them."""
    rows.sort(key=attrgetter("created_at"))
    for number, row in enumerate(rows, start=1):
        setattr(row, "id", number)  # noqa: B010, a role has no number, so `Base` knows of no `id`
    return rows


def _copy(connection: Connection, table: Table, rows: Sequence[Base]) -> int:
    columns = table.columns.keys()
    values = attrgetter(*columns)
    with _driver(connection).cursor() as cursor:
        with cursor.copy(_copy_into(table, columns)) as copy:
            for row in rows:
                copy.write_row(values(row))
        return cursor.rowcount


def _copy_checkins(connection: Connection, blocks: Iterator[str]) -> int:
    table = Base.metadata.tables[Checkin.__tablename__]
    with _indexed_afterwards(connection, table), _driver(connection).cursor() as cursor:
        with cursor.copy(_copy_into(table, _CHECKIN_COLUMNS)) as copy:
            for block in blocks:
                copy.write(block)
        return cursor.rowcount


def _copy_into(table: Table, columns: Sequence[str]) -> sql.Composed:
    names = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
    return sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), names)


def _driver(connection: Connection) -> Driver[Any]:
    driver: Any = connection.connection.driver_connection
    if not isinstance(driver, Driver):
        raise TypeError("seeding speaks COPY through a synchronous psycopg connection")
    return driver  # pyright: ignore[reportUnknownVariableType], what its rows are does not matter here


_FOREIGN_KEYS = text(
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE conrelid = CAST(:table AS regclass) AND contype = 'f' ORDER BY conname"
)
_INDEXES = text(
    "SELECT CAST(CAST(indexrelid AS regclass) AS text), pg_get_indexdef(indexrelid) FROM pg_index "
    "WHERE indrelid = CAST(:table AS regclass) AND NOT EXISTS "
    "(SELECT FROM pg_constraint WHERE conrelid = indrelid AND conindid = indexrelid) ORDER BY indexrelid"
)


@contextmanager
def _indexed_afterwards(connection: Connection, table: Table) -> Generator[None]:
    """Take the foreign keys and indexes off a table and put the same ones back, for it fills five times as fast.

    What the database has is asked of the database, so one that drifted from the models is left as it was.
    """
    name = _name(connection, table)
    quote = connection.dialect.identifier_preparer.quote
    keys = [(quote(key), rule) for key, rule in connection.execute(_FOREIGN_KEYS, {"table": name})]
    indexes = connection.execute(_INDEXES, {"table": name}).all()
    statements = [f"ALTER TABLE {name} DROP CONSTRAINT {key}" for key, _ in keys]
    statements += [f"DROP INDEX {index}" for index, _ in indexes]
    for statement in statements:
        _run(connection, statement)
    # On an error nothing is put back here: the transaction is lost, and with it all that was dropped.
    yield
    for _, definition in indexes:
        _run(connection, definition)
    for key, rule in keys:
        _run(connection, f"ALTER TABLE {name} ADD CONSTRAINT {key} {rule}")


def _run(connection: Connection, statement: str) -> None:
    # A definition may hold a `%`, which is no place for a parameter.
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _set_sequence(connection: Connection, table: Table) -> None:
    column = table.autoincrement_column
    if column is None:
        return
    sequence = func.pg_get_serial_sequence(_name(connection, table), column.name)
    # A table without rows starts at 1, which "the last id was 0" cannot say: a sequence has no 0.
    last = func.max(column)
    connection.execute(select(func.setval(sequence, func.coalesce(last, 1), last.is_not(None))))


# --- Chance ----------------------------------------------------------------------------------------------------------


class _Chance:
    """Draws of its own for each topic, so that more rows of one table change nothing in another."""

    def __init__(self, *topic: object) -> None:
        self.draw = Random("/".join(str(part) for part in topic)).random  # noqa: S311, nothing here is a secret

    def under(self, share: float) -> bool:
        return self.draw() < share

    def number(self, low: int, high: int) -> int:
        return low + int(self.draw() * (max(low, high) - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.draw() * len(options))]

    def letters(self, count: int) -> str:
        return "".join(self.pick(_ALPHABET) for _ in range(count))

    def moment(self, first: date, last: date) -> datetime:
        """Some second in waking hours of Brazil, 8:00 to 20:00, as naive UTC."""
        day = date.fromordinal(self.number(first.toordinal(), last.toordinal()))
        return datetime.combine(day, time(11)) + timedelta(seconds=self.number(0, 12 * 3600 - 1))


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def _days(count: int) -> timedelta:
    return timedelta(days=count)


# --- What the app needs ----------------------------------------------------------------------------------------------


def _roles(plan: SeedPlan) -> list[Role]:
    return [Role(id=role, created_at=_at_launch(plan)) for role in ("STUDENT", "INSTRUCTOR", "MANAGER")]


def _versions(plan: SeedPlan) -> list[Version]:
    names = ["1.0.0", "1.1.0", "1.2.0", "2.0.0", "2.0.1", "2.1.0"]
    step = _days((plan.until - plan.launch).days // len(names))
    return _numbered(
        [
            Version(
                app_version=name,
                created_at=_at_launch(plan) + number * step,
                # Support ends when the next version but one appears.
                disabled_at=_at_launch(plan) + (number + 2) * step if number + 2 < len(names) else None,
            )
            for number, name in enumerate(names)
        ]
    )


def _app_stores(plan: SeedPlan) -> list[AppStore]:
    opened, moved = _at_launch(plan), _at_launch(plan) + _days(200)
    old = "https://play.tatame.example/old"
    return _numbered(
        [
            AppStore(store="ios", url="https://apps.tatame.example/ios", created_at=opened),
            AppStore(store="android", url=old, created_at=opened, disabled_at=moved),
            AppStore(store="android", url="https://apps.tatame.example/android", created_at=moved),
        ]
    )


def _at_launch(plan: SeedPlan) -> datetime:
    return datetime.combine(plan.launch, time(12))


_GYMS = [
    ("Aurora Jiu-Jitsu", "Rua das Acácias, 120 - Vila Aurora, São Paulo - SP"),
    ("Tatame do Mar", "Avenida da Praia, 87 - Enseada, Florianópolis - SC"),
    ("Academia Três Irmãos", "Rua São João, 455 - Centro, Belo Horizonte - MG"),
    ("Guará Jiu-Jitsu Clube", "Quadra 8, Conjunto B, 14 - Guará, Brasília - DF"),
    ("Escola Pé de Serra", "Rua da Estação, 33 - Alto da Serra, Petrópolis - RJ"),
    ("Sertão Grappling", "Travessa Padre Antônio, 210 - Juazeiro, Petrolina - PE"),
    ("Equipe Pinhão", "Rua das Araucárias, 901 - Água Verde, Curitiba - PR"),
    ("Igarapé Jiu-Jitsu", "Avenida do Açaí, 76 - Nazaré, Belém - PA"),
]


def _gyms(plan: SeedPlan) -> list[Gym]:
    return [_gym(plan, number) for number in range(plan.gyms)]


def _gym(plan: SeedPlan, number: int) -> Gym:
    chance = _Chance(plan.random_seed, "gyms", number)
    name, address = _GYMS[number % len(_GYMS)]
    branch = number // len(_GYMS) + 1
    # One gym a day in the app's first month.
    joined = plan.launch + _days(min(number, 30))
    return Gym(
        id=number + 1,
        name=name if branch == 1 else f"{name} - Unidade {branch}",
        address=address,
        logo=f"https://files.tatame.example/logos/{number + 1}.png" if chance.under(0.7) else None,
        since=(plan.launch - _days(chance.number(200, 25 * 365))).isoformat(),
        created_at=chance.moment(joined, joined),
    )


# --- People ----------------------------------------------------------------------------------------------------------

# One string each: a list of names would take a line a name.
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

# Of twenty students, by their place among them; a gym of eight has every state already, and the rest are approved.
_STATES = {1: "waiting", 3: "denied", 5: "deleted", 7: "migrated", 10: "waiting", 12: "migrated"}
_KIDS, _ADULTS, _INSTRUCTORS, _MANAGERS = (5, 14), (16, 58), (26, 50), (36, 62)


@dataclass(frozen=True)
class _Team:
    """A gym and its people."""

    gym: Gym
    manager: User
    instructors: list[User]
    students: list[User]

    @property
    def people(self) -> list[User]:
        return [self.manager, *self.instructors, *self.students]


def _team(plan: SeedPlan, gym: Gym) -> _Team:
    chance = _Chance(plan.random_seed, "staff", gym.id)
    manager = _person(chance, plan, "MANAGER", gym.id, _MANAGERS)
    manager.created_at = manager.approved_at = gym.created_at
    instructors = [_person(chance, plan, "INSTRUCTOR", gym.id, _INSTRUCTORS) for _ in range(chance.number(2, 4))]
    for instructor in instructors:
        opened = gym.created_at.date()
        instructor.created_at = instructor.approved_at = chance.moment(opened + _days(1), opened + _days(9))
    students = [_student(plan, gym, number) for number in range(plan.members)]
    return _Team(gym, manager, instructors, students)


def _student(plan: SeedPlan, gym: Gym, number: int) -> User:
    chance = _Chance(plan.random_seed, "students", gym.id, number)
    student = _person(chance, plan, "STUDENT", gym.id, _KIDS if chance.under(0.2) else _ADULTS)
    _admit(chance, plan, gym, student, _STATES.get(number % 20, "approved"))
    return student


def _admit(chance: _Chance, plan: SeedPlan, gym: Gym, student: User, state: str) -> None:
    opened, settled = gym.created_at.date() + _days(10), plan.last_day - _days(20)
    # A product of two draws is small: most joined when the gym came to the app.
    joined = opened + _days(int(chance.draw() * chance.draw() * (settled - opened).days))
    student.created_at = chance.moment(joined, joined)
    answered = chance.moment(joined + _days(1), joined + _days(4))
    if state == "waiting":
        student.created_at = chance.moment(settled, plan.last_day)
    elif state == "denied":
        student.denied_at = answered
    elif state == "migrated":
        student.created_at = student.approved_at = student.migrated_at = chance.moment(opened, opened)
    else:
        student.approved_at = answered
    if state == "deleted":
        student.deleted_at = chance.moment(answered.date() + _days(1), plan.last_day)


def _newcomers(plan: SeedPlan) -> list[User]:
    """People who signed in and have said nothing of themselves yet, not even the gym."""
    chance = _Chance(plan.random_seed, "newcomers")
    return [
        User(
            clerk_user_id=f"user_{chance.letters(27)}",
            created_at=chance.moment(plan.last_day - _days(20), plan.last_day),
        )
        for _ in range(plan.gyms)
    ]


def _person(chance: _Chance, plan: SeedPlan, role: str, gym_id: int, ages: tuple[int, int]) -> User:
    clerk_user_id = f"user_{chance.letters(27)}"
    gender = chance.pick(("FEMALE", "MALE", "MALE"))
    first_name = chance.pick(_FIRST_NAMES[gender])
    last_name = " ".join(chance.pick(_LAST_NAMES) for _ in range(chance.number(1, 2)))
    birth = (plan.until - _days(chance.number(ages[0] * 365, ages[1] * 365))).isoformat()
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
        # There is no area 00, and no service knows the names below: what is sent to them reaches no one.
        phone=sometimes(0.85, f"+55 00 9{chance.number(0, 9999):04}-{chance.number(0, 9999):04}"),
        instagram=sometimes(0.4, f"tatame.example.{handle}"),
        expo_push_token=sometimes(0.7, f"ExponentPushToken[example{chance.letters(15)}]"),
        customer_id=f"cus_example{chance.letters(10)}" if pays else None,
        subscription_id=f"sub_example{chance.letters(10)}" if pays else None,
        plan=chance.pick(("MONTHLY", "MONTHLY", "QUARTERLY", "YEARLY")) if pays else None,
    )


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()


def _is_kid(plan: SeedPlan, user: User) -> bool:
    return user.birth is not None and _age(plan, user) < 16


def _age(plan: SeedPlan, user: User) -> int:
    # Who keeps the birthday private is taken for thirty.
    return (plan.until - date.fromisoformat(user.birth)).days // 365 if user.birth else 30


# --- Belts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ladder:
    """The belts of a modality in the order in which they are given, with degrees 0 to 4 each."""

    modality: str
    belts: tuple[str, ...]


_ADULT_BJJ = _Ladder("BJJ", ("WHITE", "BLUE", "PURPLE", "BROWN", "BLACK"))
_KID_BJJ = _Ladder("BJJ", ("WHITE", "GREY", "YELLOW", "ORANGE", "GREEN"))
_NO_GI = _Ladder("NO_GI", _ADULT_BJJ.belts)
_MUAY_THAI = _Ladder("MUAY_THAI", ("WHITE", "YELLOW", "ORANGE", "GREEN", "BLUE"))


def _graduations(plan: SeedPlan, team: _Team) -> Iterator[Graduation]:
    chance = _Chance(plan.random_seed, "graduations", team.gym.id)
    for user in team.people:
        if user.approved_at is None:
            continue
        end = user.deleted_at or datetime.combine(plan.until, time())
        for ladder, first in _ladders(chance, plan, user):
            for graduation in _history(chance, user.id, ladder, first, user.approved_at):
                if graduation.created_at >= end:
                    break
                yield graduation


def _ladders(chance: _Chance, plan: SeedPlan, user: User) -> Iterator[tuple[_Ladder, int]]:
    """What a member trains, and the place of the belt that they brought along."""
    if _is_kid(plan, user):
        yield _KID_BJJ, 0
        return
    yield _ADULT_BJJ, _first_belt(chance, plan, user)
    if chance.under(0.15):
        yield _MUAY_THAI, 0
    if chance.under(0.1):
        yield _NO_GI, 0


def _first_belt(chance: _Chance, plan: SeedPlan, user: User) -> int:
    if user.role != "STUDENT":
        return 4 if user.role == "MANAGER" or chance.under(0.6) else 3
    # Four years of training for each belt.
    allowed = (_age(plan, user) - 16) // 4
    return min(allowed, chance.pick((0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4)))


def _history(chance: _Chance, user_id: int, ladder: _Ladder, first: int, given_at: datetime) -> Iterator[Graduation]:
    """The belt worn at first, then a degree at a time as long as there are any: far into the future."""
    for step in range(first * 5 + chance.number(0, 2), len(ladder.belts) * 5):
        belt, degree = ladder.belts[step // 5], step % 5
        yield Graduation(user_id=user_id, belt=belt, degree=degree, modality=ladder.modality, created_at=given_at)
        # A black belt waits three years for each degree.
        next_day = given_at.date() + _days(3 * 365 if belt == "BLACK" else chance.number(90, 240))
        given_at = chance.moment(next_day, next_day)


# --- Classes ---------------------------------------------------------------------------------------------------------

_WEEK = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")


@dataclass(frozen=True)
class _Slot:
    """A class on some days of the week; `start` and `end` are minutes of the day, `crowd` says who comes."""

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
class _Session:
    """A weekly class with what its row does not say: who comes, and weekday and start as numbers."""

    class_: Class
    weekday: int
    start: int
    crowd: str


def _timetable(plan: SeedPlan, team: _Team) -> list[_Session]:
    chance = _Chance(plan.random_seed, "classes", team.gym.id)
    # Not every gym opens at the same minute.
    later = chance.pick((0, 15, 30))
    slots = [replace(slot, start=slot.start + later, end=slot.end + later) for slot in _TIMETABLE]
    return [
        _Session(_class(chance, plan, team, slot, weekday), weekday, slot.start, slot.crowd)
        for slot in slots
        for weekday in slot.days
    ]


def _class(chance: _Chance, plan: SeedPlan, team: _Team, slot: _Slot, weekday: int) -> Class:
    opened = team.gym.created_at.date() + _days(10)
    instructor = chance.pick(team.instructors)
    recently = plan.last_day - _days(max(plan.days, 60) // 2)
    return Class(
        gym_id=team.gym.id,
        instructor_id=instructor.id if slot.led else None,
        created_by=team.manager.id if chance.under(0.8) else instructor.id,
        day=_WEEK[weekday],
        start=_clock(slot.start),
        end=_clock(slot.end),
        modality=slot.modality,
        description=slot.description,
        created_at=chance.moment(opened, opened + _days(5)),
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


def _assets(plan: SeedPlan, class_: Class) -> Iterator[Asset]:
    chance = _Chance(plan.random_seed, "assets", class_.gym_id, class_.day, class_.start)
    for _ in range(chance.number(0, 2)):
        title, kind = chance.pick(_ASSETS)
        created_at = chance.moment(class_.created_at.date() + _days(1), _end(plan, class_))
        yield Asset(
            class_id=class_.id,
            title=title,
            content=f"https://files.tatame.example/{kind}s/{chance.letters(11)}",
            type=kind,
            valid_until=created_at + _days(chance.number(30, 180)) if chance.under(0.4) else None,
            created_at=created_at,
        )


_FILES = ("horários.pdf", "ficha-de-inscrição.pdf", "exame-de-faixa.pdf", "foto-da-turma.jpg", "campeonato.jpg")


def _attachments(plan: SeedPlan, class_: Class) -> Iterator[Attachment]:
    chance = _Chance(plan.random_seed, "attachments", class_.gym_id, class_.day, class_.start)
    for _ in range(chance.number(0, 2)):
        name = chance.pick(_FILES)
        yield Attachment(
            class_id=class_.id,
            file_name=name,
            file_url=f"https://files.tatame.example/attachments/{chance.letters(16)}",
            file_type="application/pdf" if name.endswith(".pdf") else "image/jpeg",
            file_size=chance.number(18_000, 4_800_000),
            created_at=chance.moment(class_.created_at.date() + _days(1), _end(plan, class_)),
        )


def _end(plan: SeedPlan, class_: Class) -> date:
    return min(plan.last_day, class_.deleted_at.date()) if class_.deleted_at else plan.last_day


# --- Messages --------------------------------------------------------------------------------------------------------

_MESSAGES = (
    ("Treino cancelado", "A turma da manhã não acontece amanhã. Bom descanso!"),
    ("Exame de faixa", "O exame será no próximo sábado, às 9h. Traga o quimono limpo."),
    ("Feliz aniversário!", "A equipe deseja muita saúde e muitos treinos."),
    ("Mensalidade", "Sua mensalidade vence em três dias."),
    ("Seminário", "Inscrições abertas para o seminário de meia-guarda. Vagas limitadas."),
    ("Sentimos sua falta", "Faz duas semanas que você não aparece. Está tudo bem?"),
)
_UNSENT = {1: "failed", 3: "pending"}


def _notifications(plan: SeedPlan, team: _Team) -> Iterator[Notification]:
    chance = _Chance(plan.random_seed, "notifications", team.gym.id)
    period = max(plan.days, 60)
    senders = [team.manager, *team.instructors]
    members = [
        (str(student.id), student.approved_at, student.deleted_at or datetime.max)
        for student in team.students
        if student.approved_at
    ]
    for number in range(period // 5):
        status = _UNSENT.get(number % 10, "sent")
        earliest = plan.last_day - _days(1 if status == "pending" else period)
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


def _recipients(chance: _Chance, number: int, present: list[str]) -> list[str] | None:
    # The app knows both: a message to no one, and one from before there were recipients.
    if number % 12 in (4, 9):
        return [] if number % 12 == 4 else None
    if present and chance.under(0.3):
        return [chance.pick(present)]
    share = chance.pick((0.2, 0.5, 1.0))
    return [key for key in present if chance.under(share)]


def _viewed_by(chance: _Chance, recipients: list[str] | None, sent_at: datetime | None) -> list[str] | None:
    if recipients is None or (sent_at is None and chance.under(0.5)):
        return None
    share = chance.draw() if sent_at else 0
    return [key for key in recipients if chance.under(share)]


# --- Check-ins -------------------------------------------------------------------------------------------------------

_HOLIDAYS = {"01-01", "04-21", "05-01", "09-07", "10-12", "11-02", "11-15", "12-25"}
_EARLY_SECONDS, _LATE_SECONDS = 15 * 60, 10 * 60
# The timetable is in the time of Brasília, which has had no summer time since 2019.
_UTC_AHEAD_SECONDS = 3 * 3600


@dataclass(frozen=True)
class _Roll:
    """A class with those who might come, made so that a check-in costs a microsecond.

    Days are ordinals; `regulars` holds chance, first day, last day and what the line says of member and class.
    """

    chance: _Chance
    first: int
    last: int
    arrivals: Sequence[str]
    regulars: list[tuple[float, int, int, str]]

    def lines(self, day: int, mood: float) -> list[str]:
        if not self.first <= day <= self.last:
            return []
        draw, arrivals = self.chance.draw, self.arrivals
        return [
            arrivals[int(draw() * len(arrivals))] + who
            for chance, first, last, who in self.regulars
            if first <= day <= last and draw() < chance * mood
        ]


# The order of the values in a line of `_checkins`.
_CHECKIN_COLUMNS = ("id", "created_at", "user_id", "class_id", "date")


def _checkins(plan: SeedPlan, teams: list[_Team], timetables: dict[int, list[_Session]]) -> Iterator[str]:
    """Lines for COPY, a day at a time and in order of time: of a million, one day is in memory."""
    rolls: list[list[_Roll]] = [[] for _ in _WEEK]
    for team in teams:
        for session, roll in _rolls(plan, team, timetables[team.gym.id]):
            rolls[session.weekday].append(roll)
    moods, written = _Chance(plan.random_seed, "moods"), 0
    for day in (plan.first_day + _days(number) for number in range(plan.days)):
        # Rain keeps people at home.
        mood, iso = 0.8 + 0.4 * moods.draw(), day.isoformat()
        if iso[5:] in _HOLIDAYS:
            continue
        lines = sorted(line for roll in rolls[day.weekday()] for line in roll.lines(day.toordinal(), mood))
        yield "".join(f"{key}\t{iso} {line}\t{iso}\n" for key, line in enumerate(lines, start=written + 1))
        written += len(lines)


def _rolls(plan: SeedPlan, team: _Team, timetable: list[_Session]) -> Iterator[tuple[_Session, _Roll]]:
    chance = _Chance(plan.random_seed, "checkins", team.gym.id)
    habits = [_habit(plan, student, student.approved_at, timetable) for student in team.students if student.approved_at]
    for session in timetable:
        regulars = [
            (habit.chances[session.crowd], habit.first, habit.last, f"\t{habit.user_id}\t{session.class_.id}")
            for habit in habits
            if habit.chances[session.crowd]
        ]
        first, last = _span(session.class_.created_at, session.class_.deleted_at)
        yield session, _Roll(chance, first, last, _arrivals(session.start), regulars)


@dataclass(frozen=True)
class _Habit:
    """How likely a member comes to a class of each crowd, between two days."""

    user_id: int
    first: int
    last: int
    chances: dict[str, float]


def _habit(plan: SeedPlan, student: User, approved_at: datetime, timetable: list[_Session]) -> _Habit:
    chance = _Chance(plan.random_seed, "habits", student.gym_id, student.clerk_user_id)
    if _is_kid(plan, student):
        weights = {"kids": 1}
    else:
        favourite = chance.pick(("morning", "noon", "evening", "evening", "evening"))
        weights = {"morning": 1, "noon": 1, "evening": 1, "saturday": 3} | {favourite: 6}
    visits_a_week = 1.5 + 4 * chance.draw()
    total = sum(weights.get(session.crowd, 0) for session in timetable)
    chances = {session.crowd: min(0.95, visits_a_week * weights.get(session.crowd, 0) / total) for session in timetable}
    return _Habit(student.id, *_span(approved_at, student.deleted_at), chances)


def _span(since: datetime, until: datetime | None) -> tuple[int, int]:
    """The days between two moments, without the days of the moments themselves."""
    return since.toordinal() + 1, until.toordinal() - 1 if until else date.max.toordinal()


@cache
def _arrivals(start: int) -> Sequence[str]:
    """Every second, as UTC, at which someone may come to a class that starts at this minute."""
    begin = start * 60 + _UTC_AHEAD_SECONDS
    return [
        f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        for second in range(begin - _EARLY_SECONDS, begin + _LATE_SECONDS)
    ]
