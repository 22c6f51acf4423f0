"""Gyms and their weekly classes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tatame_db.schema.base import Base
from tatame_db.schema.forms import DATE, TIME

if TYPE_CHECKING:
    from tatame_db.schema.assets import Asset, Attachment
    from tatame_db.schema.checkins import Checkin
    from tatame_db.schema.users import User


class Gym(Base, kw_only=True):
    """A gym; its manager is a user, who in turn belongs to a gym."""

    __tablename__ = "gyms"
    __table_args__ = ({"info": {"phase": 2}},)

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    name: Mapped[str]
    address: Mapped[str]
    logo: Mapped[str | None] = mapped_column(default=None)
    manager_id: Mapped[int | None] = mapped_column(
        # Deferrable, so that a gym can be written before its manager in one transaction.
        ForeignKey("users.id", deferrable=True, initially="IMMEDIATE", use_alter=True),
        index=True,
        default=None,
    )
    since: Mapped[str] = mapped_column(info=DATE.info)  # in the plan, dates are text
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    manager: Mapped[User | None] = relationship(
        # The two tables refer to each other, so the manager is written after both rows exist.
        back_populates="managed_gyms",
        foreign_keys="Gym.manager_id",
        post_update=True,
        default=None,
        lazy="raise",
    )
    members: Mapped[list[User]] = relationship(
        back_populates="gym", foreign_keys="User.gym_id", default_factory=list, lazy="raise", passive_deletes="all"
    )
    classes: Mapped[list[Class]] = relationship(
        back_populates="gym", default_factory=list, lazy="raise", passive_deletes="all"
    )


class Class(Base, kw_only=True):
    """A weekly class: `day` is `MONDAY` to `SUNDAY`, `start` and `end` are like `18:00`."""

    __tablename__ = "class"
    __table_args__ = (Index(None, "gym_id", "day", "start"), {"info": {"phase": 4}})

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    gym_id: Mapped[int | None] = mapped_column(ForeignKey("gyms.id"), default=None)
    instructor_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True, default=None)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True, default=None)

    day: Mapped[str | None] = mapped_column(default=None)
    start: Mapped[str | None] = mapped_column(default=None, info=TIME.info)
    end: Mapped[str | None] = mapped_column(default=None, info=TIME.info)

    modality: Mapped[str | None] = mapped_column(default=None)
    description: Mapped[str | None] = mapped_column(default=None)

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)
    deleted_at: Mapped[datetime | None] = mapped_column(default=None)

    gym: Mapped[Gym | None] = relationship(back_populates="classes", default=None, lazy="raise")
    instructor: Mapped[User | None] = relationship(
        back_populates="instructed_classes", foreign_keys="Class.instructor_id", default=None, lazy="raise"
    )
    creator: Mapped[User | None] = relationship(
        back_populates="created_classes", foreign_keys="Class.created_by", default=None, lazy="raise"
    )

    assets: Mapped[list[Asset]] = relationship(
        back_populates="class_", default_factory=list, lazy="raise", passive_deletes="all"
    )
    attachments: Mapped[list[Attachment]] = relationship(
        back_populates="class_", default_factory=list, lazy="raise", passive_deletes="all"
    )
    checkins: Mapped[list[Checkin]] = relationship(
        back_populates="class_", default_factory=list, lazy="raise", passive_deletes="all"
    )
