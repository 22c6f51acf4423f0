"""The people: students, instructors and managers."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tatame_db.schema.base import Base
from tatame_db.schema.forms import TYPED_DATE, TYPED_DAY

if TYPE_CHECKING:
    from tatame_db.schema.checkins import Checkin
    from tatame_db.schema.graduations import Graduation
    from tatame_db.schema.gyms import Class, Gym
    from tatame_db.schema.infrastructure import Role
    from tatame_db.schema.notifications import Notification


class User(Base, kw_only=True):
    """A person who signed in with Clerk; approval is pending until `approved_at` or `denied_at` is set."""

    __tablename__ = "users"
    __table_args__ = (
        Index(None, "role", "gym_id", "approved_at"),
        Index(None, "gym_id", "birth_day"),
        {"info": {"phase": 3}},
    )

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    clerk_user_id: Mapped[str] = mapped_column(unique=True)

    email: Mapped[str | None] = mapped_column(default=None)
    first_name: Mapped[str | None] = mapped_column(default=None)
    last_name: Mapped[str | None] = mapped_column(default=None)
    profile_picture: Mapped[str | None] = mapped_column(default=None)

    birth: Mapped[str | None] = mapped_column(default=None, info=TYPED_DATE.info)
    birth_day: Mapped[str | None] = mapped_column(default=None, info=TYPED_DAY.info)
    gender: Mapped[str | None] = mapped_column(default=None)
    phone: Mapped[str | None] = mapped_column(default=None)
    instagram: Mapped[str | None] = mapped_column(default=None)

    role: Mapped[str | None] = mapped_column(ForeignKey("roles.id"), default=None)
    gym_id: Mapped[int | None] = mapped_column(ForeignKey("gyms.id"), default=None)
    expo_push_token: Mapped[str | None] = mapped_column(default=None)

    customer_id: Mapped[str | None] = mapped_column(default=None)
    subscription_id: Mapped[str | None] = mapped_column(default=None)
    plan: Mapped[str | None] = mapped_column(default=None)

    approved_at: Mapped[datetime | None] = mapped_column(default=None)
    denied_at: Mapped[datetime | None] = mapped_column(default=None)
    migrated_at: Mapped[datetime | None] = mapped_column(default=None)
    deleted_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    # `role` is the column, as in the plan's inserts; `role_` is the row that it refers to.
    role_: Mapped[Role | None] = relationship(back_populates="users", default=None, lazy="raise")
    gym: Mapped[Gym | None] = relationship(
        back_populates="members", foreign_keys="User.gym_id", default=None, lazy="raise"
    )
    managed_gyms: Mapped[list[Gym]] = relationship(
        # Read-only: `gym.manager = user` is the one way to write it, after both rows exist.
        back_populates="manager",
        foreign_keys="Gym.manager_id",
        viewonly=True,
        sync_backref=False,
        init=False,
        lazy="raise",
    )

    graduations: Mapped[list[Graduation]] = relationship(
        back_populates="user", default_factory=list, lazy="raise", passive_deletes="all"
    )
    checkins: Mapped[list[Checkin]] = relationship(
        back_populates="user", default_factory=list, lazy="raise", passive_deletes="all"
    )
    instructed_classes: Mapped[list[Class]] = relationship(
        back_populates="instructor",
        foreign_keys="Class.instructor_id",
        default_factory=list,
        lazy="raise",
        passive_deletes="all",
    )
    created_classes: Mapped[list[Class]] = relationship(
        back_populates="creator",
        foreign_keys="Class.created_by",
        default_factory=list,
        lazy="raise",
        passive_deletes="all",
    )
    sent_notifications: Mapped[list[Notification]] = relationship(
        back_populates="sender", default_factory=list, lazy="raise", passive_deletes="all"
    )
