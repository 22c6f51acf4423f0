"""Models whose rows are more than those of one table are refused in words; a session reads and writes them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from sqlalchemy import URL, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

from tatame_db.database.pool import Database
from tatame_db.queries.errors import ReadInvalid, WriteInvalid
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many, update_many, upsert


class Company(DeclarativeBase):
    """Employees in one table, except for the engineers."""


class Employee(Company):
    __tablename__ = "employees"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    gym_id: Mapped[int | None]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}  # noqa: RUF012, SQLAlchemy's form


class Manager(Employee):
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012, SQLAlchemy's form


class Engineer(Employee):
    __tablename__ = "engineers"
    id: Mapped[int] = mapped_column(ForeignKey("employees.id"), primary_key=True)
    language: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012, SQLAlchemy's form


class Desk(Company):
    __tablename__ = "desks"
    id: Mapped[int] = mapped_column(primary_key=True)
    twice: Mapped[int] = column_property(id * 2)  # noqa: A003, the column above
    engineer_id: Mapped[int | None] = mapped_column(ForeignKey("engineers.id"))
    engineer: Mapped[Engineer | None] = relationship()


class Room(Company):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    desk_id: Mapped[int] = mapped_column(ForeignKey("desks.id"))
    desk: Mapped[Desk] = relationship()


# The package's functions take models of its own base, to a type checker.
EMPLOYEE: Any = Employee
MANAGER: Any = Manager
ROOM: Any = Room


@pytest.fixture
def database(address: URL) -> Generator[Database]:
    with Database(address) as database:
        Company.metadata.create_all(database.engine)
        with database.session.begin() as session:
            session.add_all([Employee(id=1, name="Ana"), Manager(id=2, name="Bia")])
            session.add_all([Engineer(id=3, name="Caio", language="Python"), Desk(id=1), Room(id=1, desk_id=1)])
        yield database


WRITES: list[tuple[Any, dict[str, object]]] = [
    (Manager, {"id": 1, "kind": "manager", "name": "changed"}),
    (Engineer, {"id": 3, "kind": "engineer", "name": "changed", "language": "C"}),
    (Desk, {"id": 1}),
]


@pytest.mark.parametrize(("model", "row"), WRITES)
def test_a_row_of_another_class_is_never_written(model: Any, row: dict[str, object], database: Database) -> None:
    writes: list[Callable[[], Any]] = [
        lambda: insert_many(model, [row]).run(database),
        lambda: upsert(model, [row], by=[model.id]).run(database),
        lambda: update_many(model, [row], by=[model.id]).run(database),
    ]
    for write in writes:
        with pytest.raises(WriteInvalid) as caught:
            write()
        assert model.__name__ in caught.value.what
    assert [employee.name for employee in read(EMPLOYEE).order_by(Employee.id).all(database)] == ["Ana", "Bia", "Caio"]


@pytest.mark.parametrize("method", ["all", "first", "one", "stream"])
@pytest.mark.parametrize("model", [Engineer, Desk])
def test_a_read_of_more_than_a_table_is_refused(model: Any, method: str, database: Database) -> None:
    with pytest.raises(ReadInvalid, match=model.__name__):
        _ = list(getattr(read(model), method)(database))
    with pytest.raises(ReadInvalid, match="Desk"):
        _ = list(getattr(read(ROOM).load(Room.desk), method)(database))


def test_a_class_that_shares_a_table_is_read_by_its_own_rows(database: Database) -> None:
    assert [manager.name for manager in read(MANAGER).all(database)] == ["Bia"]
    assert read(MANAGER).count(database) == 1
    assert read(MANAGER).where(Manager.id == 1).exists(database) is False
