"""Messages to members."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tatame_db.schema.base import Base

if TYPE_CHECKING:
    from tatame_db.schema.users import User


class Notification(Base, kw_only=True):
    """A message; `recipients` and `viewed_by` hold user ids as text, as the app writes them."""

    __tablename__ = "notifications"
    __table_args__ = (
        Index(None, "sent_by", "created_at"),
        Index(None, "recipients", postgresql_using="gin"),
        {"info": {"phase": 5, "distributed": True}},
    )

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    sent_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"), default=None)

    title: Mapped[str | None] = mapped_column(default=None)
    content: Mapped[str | None] = mapped_column(default=None)
    channel: Mapped[str | None] = mapped_column(default=None)  # "push", "email"
    status: Mapped[str | None] = mapped_column(default=None)  # "pending", "sent", "failed"

    recipients: Mapped[list[str] | None] = mapped_column(default=None)
    viewed_by: Mapped[list[str] | None] = mapped_column(default=None)

    sent_at: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    sender: Mapped[User | None] = relationship(back_populates="sent_notifications", default=None, lazy="raise")
