"""Every error of the package, formatted with its facts."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

import tatame_db
from tatame_db.errors import TatameError, fact
from tatame_db.evolve import SchemaCheck
from tatame_db.evolve.catalogue import SchemaDifference
from tatame_db.move.choices import Obstacle
from tatame_db.move.copy_errors import LockHolder
from tatame_db.move.refusals import OtherRows
from tatame_db.move.switch.homes import Home
from tatame_db.roles import RightsMissing

for found in pkgutil.walk_packages(tatame_db.__path__, "tatame_db."):
    if "__main__" not in found.name and ".migrations" not in found.name:
        importlib.import_module(found.name)

# A value of each type that a fact may have, by the words of its annotation.
SAMPLES: dict[str, Any] = {
    "str": "a sample",
    "str | None": "a sample",
    "int": 9_085,
    "int | None": 9_085,
    "float": 1.5,
    "bool": True,
    "Outcome": "committed",
    "list[int]": [9_085],
    "list[object]": [9_085],
    "list[str]": ["users.phone", "gyms.name"],
    "tuple[str, ...]": ("users.phone", "gyms.name"),
    "set[str]": {"users.phone"},
    "dict[str, int]": {"users": 9_085},
    "dict[str, str]": {"users": "a sample"},
    "dict[str, OtherRows]": {"users": OtherRows(1, 9_085)},
    "dict[str, list[Obstacle]]": {"users": [Obstacle("misfit", "a sample", 2, ["1"], ["choose another value"])]},
    "list[Conflict]": [],
    "list[LockHolder]": [LockHolder("users", 9_085, vacuums=True)],
    "list[Rejection]": [],
    "Path": Path("/srv/tatame"),
    "Path | None": Path("/srv/tatame"),
    "Home": Home.TARGET,
    "list[catalogue.SchemaDifference]": [SchemaDifference("column users.plan", "text", None)],
    "SchemaCheck": SchemaCheck(
        ["left.py", "right.py"], ["table extra"], ["column users.plan"], ["first.py"], None, [], [], [], [], [], []
    ),
    "RightsMissing | None": RightsMissing(
        role="ana", rights=["SELECT on users"], grants=["GRANT SELECT ON TABLE users TO ana"], hints=[], able=["bea"]
    ),
    "URL": URL.create("postgresql+psycopg", "ana", "a secret", "db.example", 5432, "gym"),
}


def errors(root: type[TatameError] = TatameError) -> Iterator[type[TatameError]]:
    for error in root.__subclasses__():
        yield error
        yield from errors(error)


ERRORS = sorted({error for error in errors() if error.__module__.startswith("tatame_db.")}, key=lambda e: e.__name__)
FACTS = [error for error in ERRORS if "__dataclass_fields__" in dir(error)]


def test_an_error_is_a_fact_or_the_base_of_several() -> None:
    assert [error.__name__ for error in ERRORS if error not in FACTS and not error.__subclasses__()] == []


def sample(error: type[TatameError]) -> TatameError:
    facts = {}
    for field in fields(error):  # type: ignore[arg-type]  # each is a `@fact`
        kind = str(field.type)
        assert kind in SAMPLES, f"add a sample of `{kind}`, the type of {error.__name__}.{field.name}"
        facts[field.name] = SAMPLES[kind]
    return error(**facts)


@pytest.mark.parametrize("error", FACTS, ids=lambda error: error.__name__)
def test_an_error_states_its_facts_in_three_sentences(error: type[TatameError]) -> None:
    made = sample(error)

    assert str(made) == f"{made.what}\n{made.means}\n\nhint: {made.fix}"
    for part in (made.what, made.means, made.fix):
        assert part
        assert part == part.strip()
        assert not any(braces in part for braces in ("{", "}", "None", "a secret"))
    assert made.means[0].isupper()
    assert made.means.endswith(".")
    assert not made.what.endswith(".")


@pytest.mark.parametrize("error", FACTS, ids=lambda error: error.__name__)
def test_an_error_survives_pickling(error: type[TatameError]) -> None:
    made = sample(error)
    again = pickle.loads(pickle.dumps(made))  # noqa: S301, our own bytes
    assert (type(again), str(again)) == (error, str(made))


def test_an_error_has_a_name_of_its_own() -> None:
    names = [error.__name__ for error in ERRORS]
    assert sorted(names) == sorted(set(names))


@fact
class SeatsTaken(TatameError):
    gym: str
    rows: int
    names: list[str]
    what = "{gym} has {rows:row}: {names}"
    fix = "{advice}"

    @property
    def advice(self) -> str:
        return f"open another class in {self.gym}"


@pytest.mark.parametrize(("rows", "written"), [(1, "1 row"), (9_085, "9,085 rows"), (0, "0 rows")])
def test_a_template_names_attributes_counts_and_lists(rows: int, written: str) -> None:
    error = SeatsTaken(gym="Tatame {Norte}", rows=rows, names=["ana", "bia"])

    assert error.what == str(error.args[0]) == f"Tatame {{Norte}} has {written}: ana, bia"
    assert (error.means, error.fix) == ("Nothing was changed.", "open another class in Tatame {Norte}")
