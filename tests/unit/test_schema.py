"""The models without a database: their imports, relations and `repr`."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import ARRAY, Text
from sqlalchemy.orm import Mapper, RelationshipProperty

from tatame_db.schema import Base, Role, User, phases, tables_in_order
from tatame_db.schema.order import PhaseInvalid

MAPPERS = sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__)
RELATIONS = sorted((relation for mapper in MAPPERS for relation in mapper.relationships), key=str)

each_relation = pytest.mark.parametrize("relation", RELATIONS, ids=str)
each_model = pytest.mark.parametrize("mapper", MAPPERS, ids=lambda mapper: mapper.class_.__name__)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_models_loads_no_other_part_of_the_package() -> None:
    loaded = run("import sys, tatame_db.schema; print(*sys.modules)").split()

    assert {name.split(".")[0] for name in loaded}.isdisjoint(
        {"alembic", "psycopg", "pydantic", "rich", "starlette", "typer"}
    )
    assert {".".join(name.split(".")[:2]) for name in loaded if name.startswith("tatame_db.")} == {
        "tatame_db.errors",
        "tatame_db.schema",
    }


def test_the_models_are_configured_without_a_warning() -> None:
    run("import tatame_db.schema; from sqlalchemy.orm import configure_mappers; configure_mappers()")


def test_the_relations_are_those_of_the_plan_in_both_directions() -> None:
    assert [str(relation) for relation in RELATIONS] == [
        "Asset.class_",
        "Attachment.class_",
        "Checkin.class_",
        "Checkin.user",
        "Class.assets",
        "Class.attachments",
        "Class.checkins",
        "Class.creator",
        "Class.gym",
        "Class.instructor",
        "Graduation.user",
        "Gym.classes",
        "Gym.manager",
        "Gym.members",
        "Notification.sender",
        "Role.users",
        "User.checkins",
        "User.created_classes",
        "User.graduations",
        "User.gym",
        "User.instructed_classes",
        "User.managed_gyms",
        "User.role_",
        "User.sent_notifications",
    ]


@each_relation
def test_both_directions_of_a_relation_agree(relation: RelationshipProperty[Any]) -> None:
    assert relation.back_populates
    back = relation.mapper.relationships[relation.back_populates]

    assert back.back_populates == relation.key
    assert back.mapper is relation.parent
    assert back.uselist is not relation.uselist
    assert set(back.local_remote_pairs or ()) == {
        (remote, local) for local, remote in relation.local_remote_pairs or ()
    }


@each_relation
def test_no_relation_loads_itself(relation: RelationshipProperty[Any]) -> None:
    assert relation.lazy == "raise"


@each_model
def test_a_repr_shows_only_the_key(mapper: Mapper[Any]) -> None:
    texts = {column.key: "ana@gym.example" for column in mapper.columns if isinstance(column.type, Text)}
    lists = {column.key: ["ana@gym.example"] for column in mapper.columns if isinstance(column.type, ARRAY)}
    [key] = mapper.primary_key

    row = mapper.class_(**{**texts, **lists, key.name: 7})

    assert repr(row) == f"{mapper.class_.__name__}(id=7)"


def test_a_repr_of_a_new_row_shows_no_personal_data() -> None:
    assert repr(User(clerk_user_id="user_ana", email="ana@gym.example")) == "User(id=None)"
    assert repr(Role(id="STUDENT")) == "Role(id='STUDENT')"


def test_reading_settings_does_not_load_the_models() -> None:
    loaded = run("import sys, tatame_db.settings; print(*sys.modules)").split()

    assert "tatame_db.settings" in loaded
    assert "tatame_db.schema" not in loaded


def test_a_table_without_a_phase_is_in_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Base.metadata.tables["roles"].info, "phase")

    assert phases()["roles"] == 5
    assert [table.name for table in tables_in_order()] == list(phases())
    assert list(phases())[-2:] == ["roles", "notifications"]
    assert phases().keys() == Base.metadata.tables.keys()


def test_within_a_phase_parents_come_before_their_children(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in Base.metadata.tables.values():
        monkeypatch.setitem(table.info, "phase", 1)

    order = list(phases())
    for table in Base.metadata.tables.values():
        # The key of a gym's manager closes a circle.
        parents = {key.referred_table.name for key in table.foreign_key_constraints if not key.use_alter}
        assert all(order.index(parent) < order.index(table.name) for parent in parents)


@pytest.mark.parametrize("stated", ["x", "2", 0, -3, True, 2.5])
def test_a_phase_that_is_no_whole_number_names_its_table(monkeypatch: pytest.MonkeyPatch, stated: object) -> None:
    monkeypatch.setitem(Base.metadata.tables["roles"].info, "phase", stated)
    with pytest.raises(PhaseInvalid, match="the table roles states the phase"):
        phases()


def test_a_phase_of_none_is_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Base.metadata.tables["roles"].info, "phase", None)
    assert phases()["roles"] == 5
