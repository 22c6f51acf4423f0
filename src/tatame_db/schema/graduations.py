"""Belts and degrees."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tatame_db.schema.base import Base

if TYPE_CHECKING:
    from tatame_db.schema.users import User


class Graduation(Base, kw_only=True):
    """A belt or degree that a user received; the newest one of a modality is the current one."""

    __tablename__ = "graduations"
    __table_args__ = (Index(None, "user_id", "created_at"), {"info": {"phase": 3}})

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), default=None)
    belt: Mapped[str | None] = mapped_column(default=None)
    degree: Mapped[int | None] = mapped_column(default=None)
    modality: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    user: Mapped[User] = relationship(back_populates="graduations", default=None, lazy="raise")
