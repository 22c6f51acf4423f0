"""Rows for tests: a test names the values that it is about, and a factory fills in the rest.

Each factory takes the keywords of its model, all of them optional, and returns an object that can be added to a session
and committed. It writes nothing. A value that must be unique contains a number that no other row of the process has.

>>> session.add(a_user(first_name="Ana", gym=a_gym()))
>>> session.commit()
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sqlalchemy import inspect

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
    from collections.abc import Callable

    from sqlalchemy.orm import Mapped, mapped_column

    # The keywords of the factories: a column that a factory fills in is optional.

    class _RoleFilled(Role, kw_only=True):
        id: Mapped[str] = mapped_column(primary_key=True, default="")

    class _GymFilled(Gym, kw_only=True):
        name: Mapped[str] = mapped_column(default="")
        address: Mapped[str] = mapped_column(default="")
        since: Mapped[str] = mapped_column(default="")

    class _UserFilled(User, kw_only=True):
        clerk_user_id: Mapped[str] = mapped_column(default="")

else:
    _RoleFilled, _GymFilled, _UserFilled = Role, Gym, User

Keywords = ParamSpec("Keywords")
Row = TypeVar("Row", bound=Base)

_numbers = itertools.count(1)


def _factory(
    model: type[Row],
    constructor: Callable[Keywords, Row],  # noqa: ARG001, type checkers read the keywords from it
) -> Callable[[Callable[[int], dict[str, Any]]], Callable[Keywords, Row]]:
    """Turn a function from a number to default values into a factory.

    The default of a relation is the factory of its rows. It is called unless the test names the relation or its key.
    """

    def decorated(defaults: Callable[[int], dict[str, Any]]) -> Callable[Keywords, Row]:
        @functools.wraps(defaults)
        def factory(*_: Keywords.args, **named: Keywords.kwargs) -> Row:
            filled = {
                name: value() if callable(value) else value
                for name, value in defaults(next(_numbers)).items()
                if not named.keys() & {name, *_keys(model, name)}
            }
            return model(**filled, **named)

        return factory

    return decorated


def _keys(model: type[Base], relation_name: str) -> set[str]:
    """Return the columns of a model that hold the key of a relation; none if the name is that of a column."""
    mapper = inspect(model)
    relation = mapper.relationships.get(relation_name)
    return {mapper.get_property_by_column(column).key for column in relation.local_columns} if relation else set()


@_factory(Role, _RoleFilled)
def a_role(number: int) -> dict[str, Any]:
    """Make a role with a new name; the app's roles are `STUDENT`, `INSTRUCTOR` and `MANAGER`."""
    return {"id": f"ROLE_{number}"}


@_factory(Version, Version)
def a_version(number: int) -> dict[str, Any]:
    """Make a version that is still supported."""
    return {"app_version": f"1.0.{number}"}


@_factory(AppStore, AppStore)
def an_app_store(number: int) -> dict[str, Any]:
    """Make a link to the store for iOS."""
    return {"store": "ios", "url": f"https://store.tatame.example/{number}"}


@_factory(Gym, _GymFilled)
def a_gym(number: int) -> dict[str, Any]:
    """Make a gym without a manager."""
    return {"name": f"Academia {number}", "address": f"Rua das Palmeiras, {number}", "since": "2015-03-01"}


@_factory(User, _UserFilled)
def a_user(number: int) -> dict[str, Any]:
    """Make a user without gym and role, as after the first sign-in."""
    return {
        "clerk_user_id": f"user_{number}",
        "email": f"ana.{number}@tatame.example",
        "first_name": "Ana",
        "last_name": f"Silva {number}",
    }


@_factory(Graduation, Graduation)
def a_graduation(_: int) -> dict[str, Any]:
    """Make the first belt of a user."""
    return {"user": a_user, "modality": "BJJ", "belt": "WHITE", "degree": 0}


@_factory(Class, Class)
def a_class(_: int) -> dict[str, Any]:
    """Make an evening class of a gym, without an instructor."""
    return {"gym": a_gym, "day": "MONDAY", "start": "18:00", "end": "19:00", "modality": "BJJ"}


@_factory(Checkin, Checkin)
def a_checkin(_: int) -> dict[str, Any]:
    """Make a user's presence in a class."""
    return {"user": a_user, "class_": a_class, "date": "2026-03-02"}


@_factory(Asset, Asset)
def an_asset(number: int) -> dict[str, Any]:
    """Make a video of a class."""
    return {"class_": a_class, "title": f"Raspagem {number}", "type": "video", "content": "https://tatame.example/v"}


@_factory(Attachment, Attachment)
def an_attachment(number: int) -> dict[str, Any]:
    """Make a file of a class."""
    name = f"treino-{number}.pdf"
    return {
        "class_": a_class,
        "file_name": name,
        "file_url": f"https://tatame.example/{name}",
        "file_type": "application/pdf",
        "file_size": 48_000,
    }


@_factory(Notification, Notification)
def a_notification(number: int) -> dict[str, Any]:
    """Make a pending message without sender and recipients."""
    return {"title": f"Aviso {number}", "content": "Amanhã não haverá treino.", "channel": "push", "status": "pending"}
