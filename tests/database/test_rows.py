"""Rows that leave the app: as dictionaries, pickled, copied, compared, and through pydantic."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Generator
from datetime import datetime
from typing import Any

import msgspec
import pydantic
import pydantic_core
import pytest
from fastapi.encoders import jsonable_encoder
from sqlalchemy import URL
from sqlalchemy.orm.exc import UnmappedInstanceError

from tatame_db.database.pool import Database
from tatame_db.queries.errors import NotLoaded, RowInvalid, RowOutdated
from tatame_db.queries.read import read
from tatame_db.queries.row import _restored
from tatame_db.queries.write import Upserted, insert_many, update_many, upsert
from tatame_db.schema import Graduation, Gym, Notification, User, Version

DAY = datetime(2026, 3, 1, 12, 0, 0, 1)


@pytest.fixture
def database(address: URL) -> Generator[Database]:
    with Database(address) as database:
        with database.session.begin() as session:
            gym = Gym(name="Norte", address="Rua A, 1", since="2015-03-01")
            session.add_all(
                [
                    User(
                        clerk_user_id="user_ana",
                        first_name="Ana",
                        gym=gym,
                        approved_at=DAY,
                        graduations=[Graduation(belt="WHITE"), Graduation(belt="BLUE", degree=2)],
                    ),
                    User(clerk_user_id="user_bia", first_name="Ana"),
                ]
            )
            recipients: list[Any] = ["1", None]
            session.add(Notification(recipients=recipients, viewed_by=[]))
        yield database


whole = (
    read(User)
    .columns(User.id, User.first_name, User.approved_at)
    .load(read(User.gym).columns(Gym.id, Gym.name))
    .load(read(User.graduations).columns(Graduation.id, Graduation.belt).order_by(Graduation.id))
    .order_by(User.id)
)
ANA: dict[str, Any] = {
    "id": 1,
    "first_name": "Ana",
    "approved_at": DAY,
    "gym": {"id": 1, "name": "Norte"},
    "graduations": [{"id": 1, "belt": "WHITE"}, {"id": 2, "belt": "BLUE"}],
}
BIA: dict[str, Any] = {"id": 2, "first_name": "Ana", "approved_at": None, "gym": None, "graduations": []}


def as_dict(row: Any) -> dict[str, Any]:
    return row.as_dict()  # type: ignore[no-any-return]


def test_a_row_becomes_a_dictionary_with_its_relations(database: Database) -> None:
    assert [as_dict(row) for row in whole.all(database)] == [ANA, BIA]
    ana = whole.first(database)
    assert json.loads(json.dumps(as_dict(ana), default=str)) == ANA | {"approved_at": str(DAY)}
    assert msgspec.json.decode(msgspec.json.encode(as_dict(ana))) == ANA | {"approved_at": DAY.isoformat()}
    assert as_dict(read(Notification).first(database)) | {"created_at": None} == {
        "id": 1,
        "sent_by": None,
        "title": None,
        "content": None,
        "channel": None,
        "status": None,
        "recipients": ["1", None],
        "viewed_by": [],
        "sent_at": None,
        "created_at": None,
    }


def test_what_was_not_loaded_is_not_there(database: Database) -> None:
    row = read(User).columns(User.id).first(database)
    assert [hasattr(row, name) for name in ("id", "email", "gym", "emial")] == [True, False, False, False]
    assert getattr(row, "gym", "no gym") == "no gym"
    with pytest.raises(NotLoaded, match=r"\.load\(User\.gym\)") as raised:
        assert row.gym  # type: ignore[union-attr]
    assert raised.value.attribute == "gym"
    assert vars(row) == {"id": 1}
    assert {"id", "as_dict"} <= set(dir(row))
    assert "email" not in dir(row)


def test_a_row_is_of_its_model_and_matches_its_patterns(database: Database) -> None:
    row: object = whole.first(database)
    assert isinstance(row, User)
    assert not isinstance(row, Gym)
    match row:
        case Gym():
            found = "a gym"
        case User(email=_):
            found = "an email"
        case User(id=1, gym=Gym(name=name)):
            found = name
    assert found == "Norte"


def test_a_row_is_no_object_of_a_session(database: Database) -> None:
    row = whole.first(database)
    with database.session() as session, pytest.raises(UnmappedInstanceError):
        session.add(row)


# --- Equality --------------------------------------------------------------------------------------------------------


def test_rows_of_two_reads_are_equal_if_their_values_are(database: Database) -> None:
    for one, other in zip(whole.all(database), whole.all(database), strict=True):
        assert one == other
        assert not one != other  # noqa: SIM202, `!=` is a method of its own
        assert hash(one) == hash(other)
        assert len({one, other}) == 1
    ana, bia = whole.all(database)
    assert ana != bia
    assert [bia, ana].index(ana) == 1

    update_many(Graduation, [{"id": 2, "belt": "PURPLE"}], by=[Graduation.id]).run(database)
    assert ana != whole.first(database)
    assert hash(ana) == hash(whole.first(database))


def test_rows_of_other_attributes_models_and_kinds_are_not_equal(database: Database) -> None:
    ids = read(User).columns(User.id)
    row: Any = ids.first(database)
    assert row != read(User).columns(User.id, User.email).first(database)
    assert row != ids.load(User.gym).first(database)
    assert row != read(Gym).columns(Gym.id).first(database)
    assert row != User(id=1, clerk_user_id="user_ana")
    assert row not in (1, (1,), [1], {"id": 1}, None)
    # Without the key, rows are equal by what they have.
    names = read(User).columns(User.first_name).all(database)
    assert names[0] == names[1]
    assert len(set(names)) == 1
    assert len({*read(User).load(User.graduations).all(database), *read(User).all(database)}) == 4
    assert len(set(read(Notification).columns(Notification.recipients).all(database))) == 1


# --- Copies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_row_is_restored(protocol: int, database: Database) -> None:
    rows = whole.all(database)
    again = pickle.loads(pickle.dumps(rows, protocol))  # noqa: S301, our own bytes
    assert again == rows
    assert [as_dict(row) for row in again] == [ANA, BIA]
    assert repr(again[0].gym) == "Gym(id=1)"
    with pytest.raises(NotLoaded, match=r"Graduation\.degree was not loaded"):
        assert again[0].graduations[0].degree


def test_a_process_that_has_run_no_read_restores_a_pickled_row(database: Database) -> None:
    program = "import pickle, sys; row = pickle.load(sys.stdin.buffer); print(row, row.gym.name, row.graduations)"
    pickled = pickle.dumps(whole.first(database))
    done = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True, check=True)
    assert done.stdout.decode() == "User(id=1) Norte [Graduation(id=1), Graduation(id=2)]\n"


def test_a_pickled_row_whose_column_is_gone_says_so() -> None:
    with pytest.raises(RowOutdated, match="attributes that the model no longer has: nickname") as raised:
        _restored(User, {"id": 1, "nickname": "a secret"})
    assert "a secret" not in str(raised.value)


def test_copies_are_equal_and_deep_ones_share_nothing(database: Database) -> None:
    row = whole.all(database)[0]
    shallow, deep = copy.copy(row), copy.deepcopy(row)
    assert shallow == row == deep
    assert type(shallow) is type(row)
    assert shallow.graduations is row.graduations
    assert deep.graduations is not row.graduations
    assert deep.gym is not row.gym


def test_rows_of_a_read_can_be_written(database: Database) -> None:
    rows = read(User).order_by(User.id).all(database)
    assert update_many(User, rows, by=[User.id]).run(database) == 2
    assert upsert(User, rows, by=[User.clerk_user_id]).run(database) == Upserted(inserted=0, updated=2)
    assert read(User).order_by(User.id).all(database) == rows
    version = read(Version).columns(Version.app_version).all(database)
    assert insert_many(Version, [*version, {"app_version": "1"}]).run(database) == 1
    with pytest.raises(RowInvalid, match="row 0 for User: `gym` is a relation"):
        update_many(User, whole.all(database), by=[User.id])
    with pytest.raises(RowInvalid, match="row 0 for Gym: expected Gym or a mapping, got User"):
        insert_many(Gym, rows)  # type: ignore[call-overload]


# --- pydantic --------------------------------------------------------------------------------------------------------


class Out(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(from_attributes=True)


class GymOut(Out):
    name: str


class GraduationOut(Out):
    belt: str | None


class UserOut(Out):
    id: int
    approved_at: datetime | None
    gym: GymOut | None
    graduations: list[GraduationOut]


def test_a_model_of_pydantic_takes_its_fields_from_a_row(database: Database) -> None:
    ana, bia = (UserOut.model_validate(row) for row in whole.all(database))
    assert (ana.gym, bia.gym) == (GymOut(name="Norte"), None)
    assert ana.model_dump() == {
        "id": 1,
        "approved_at": DAY,
        "gym": {"name": "Norte"},
        "graduations": [{"belt": "WHITE"}, {"belt": "BLUE"}],
    }


def test_a_field_without_a_default_reports_a_relation_that_was_not_loaded(database: Database) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        UserOut.model_validate(read(User).load(User.graduations).first(database))
    [error] = raised.value.errors()
    assert (error["type"], error["loc"]) == ("missing", ("gym",))
    assert "Norte" not in str(raised.value)
    assert "user_ana" not in str(raised.value)


def test_a_field_with_a_default_hides_a_relation_that_was_not_loaded(database: Database) -> None:
    """What the page warns of: pydantic asks for attributes as `hasattr` does."""

    class Forgiving(Out):
        gym: GymOut | None = None

    assert Forgiving.model_validate(read(User).first(database)).gym is None


@pytest.mark.parametrize(
    "serialize",
    [
        jsonable_encoder,
        pydantic_core.to_jsonable_python,
        lambda row: json.loads(pydantic_core.to_json(row)),
        lambda row: pydantic.TypeAdapter(Any).dump_python(row, mode="json"),
        lambda row: json.loads(pydantic.TypeAdapter(list[Any]).dump_json([row]))[0],
    ],
    ids=["FastAPI", "python", "json", "type", "list"],
)
def test_a_row_without_a_model_is_serialized_as_its_dictionary(serialize: Any, database: Database) -> None:
    ana, bia = (serialize(row) for row in whole.all(database))
    assert ana == ANA | {"approved_at": DAY.isoformat()}
    assert bia == BIA
