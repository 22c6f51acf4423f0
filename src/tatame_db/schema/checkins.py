"""The presence of members in classes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tatame_db.schema.base import Base
from tatame_db.schema.forms import DATE

if TYPE_CHECKING:
    from tatame_db.schema.gyms import Class
    from tatame_db.schema.users import User


class Checkin(Base, kw_only=True):
    """A member's presence in a class on a `date` like `2026-03-01`."""

    __tablename__ = "checkins"
    __table_args__ = (
        Index(None, "user_id", "date"),
        Index(None, "class_id", "date"),
        {"info": {"phase": 4, "distributed": True}},
    )

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), default=None)
    class_id: Mapped[int | None] = mapped_column(ForeignKey("class.id"), default=None)

    date: Mapped[str | None] = mapped_column(default=None, info=DATE.info)

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    user: Mapped[User | None] = relationship(back_populates="checkins", default=None, lazy="raise")
    class_: Mapped[Class | None] = relationship(back_populates="checkins", default=None, lazy="raise")
