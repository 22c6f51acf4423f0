"""Objects for tests: what a test does not care for is filled in, what it names is as it says.

Each factory takes the keywords of its model, all of them optional, and gives an object that can be added to a session
and committed as it is. Nothing is written by the factory. What must be unique carries a number that is given once in
a process.
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

    # The constructors as the factories take them: what they fill in is not required any more.

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


def _fills(
    model: type[Row],
    constructor: Callable[Keywords, Row],  # noqa: ARG001, it tells the type checkers the keywords
) -> Callable[[Callable[[int], dict[str, Any]]], Callable[Keywords, Row]]:
    """Make a factory of what it fills in, given a number; a relation is filled in by the factory that is named.

    A relation is left empty where the test gives its key.
    """

    def factory_of(filling: Callable[[int], dict[str, Any]]) -> Callable[Keywords, Row]:
        @functools.wraps(filling)
        def factory(*_: Keywords.args, **given: Keywords.kwargs) -> Row:
            filled = {
                name: value() if callable(value) else value
                for name, value in filling(next(_numbers)).items()
                if not given.keys() & {name, *_keys(model, name)}
            }
            return model(**filled, **given)

        return factory

    return factory_of


def _keys(model: type[Base], name: str) -> set[str]:
    mapper = inspect(model)
    relation = mapper.relationships.get(name)
    return {mapper.get_property_by_column(column).key for column in relation.local_columns} if relation else set()


@_fills(Role, _RoleFilled)
def a_role(number: int) -> dict[str, Any]:
    """Make a role with a name of its own; the app's are `STUDENT`, `INSTRUCTOR` and `MANAGER`."""
    return {"id": f"ROLE_{number}"}


@_fills(Version, Version)
def a_version(number: int) -> dict[str, Any]:
    """Make a version that is still supported."""
    return {"app_version": f"1.0.{number}"}


@_fills(AppStore, AppStore)
def an_app_store(number: int) -> dict[str, Any]:
    """Make a link to Apple's store."""
    return {"store": "ios", "url": f"https://store.tatame.example/{number}"}


@_fills(Gym, _GymFilled)
def a_gym(number: int) -> dict[str, Any]:
    """Make a gym without a manager."""
    return {"name": f"Academia {number}", "address": f"Rua das Palmeiras, {number}", "since": "2015-03-01"}


@_fills(User, _UserFilled)
def a_user(number: int) -> dict[str, Any]:
    """Make a user without gym and role, as after the first sign-in."""
    return {
        "clerk_user_id": f"user_{number}",
        "email": f"ana.{number}@tatame.example",
        "first_name": "Ana",
        "last_name": f"Silva {number}",
    }


@_fills(Graduation, Graduation)
def a_graduation(_: int) -> dict[str, Any]:
    """Make the first belt of a user."""
    return {"user": a_user, "modality": "BJJ", "belt": "WHITE", "degree": 0}


@_fills(Class, Class)
def a_class(_: int) -> dict[str, Any]:
    """Make an evening class of a gym, without an instructor."""
    return {"gym": a_gym, "day": "MONDAY", "start": "18:00", "end": "19:00", "modality": "BJJ"}


@_fills(Checkin, Checkin)
def a_checkin(_: int) -> dict[str, Any]:
    """Make a user's presence in a class."""
    return {"user": a_user, "class_": a_class, "date": "2026-03-02"}


@_fills(Asset, Asset)
def an_asset(number: int) -> dict[str, Any]:
    """Make a video of a class."""
    return {"class_": a_class, "title": f"Raspagem {number}", "type": "video", "content": "https://tatame.example/v"}


@_fills(Attachment, Attachment)
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


@_fills(Notification, Notification)
def a_notification(number: int) -> dict[str, Any]:
    """Make a message that waits to be sent, from and to nobody."""
    return {"title": f"Aviso {number}", "content": "Amanhã não haverá treino.", "channel": "push", "status": "pending"}
