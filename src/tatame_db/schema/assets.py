"""The material of a class: assets and attachments."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tatame_db.schema.base import Base

if TYPE_CHECKING:
    from tatame_db.schema.gyms import Class


class Asset(Base, kw_only=True):
    """A video or document for a class; `type` is `video`, `document` or similar."""

    __tablename__ = "assets"
    __table_args__ = (Index(None, "type", "created_at"), {"info": {"phase": 4}})

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    class_id: Mapped[int | None] = mapped_column(ForeignKey("class.id"), index=True, default=None)

    title: Mapped[str | None] = mapped_column(default=None)
    content: Mapped[str | None] = mapped_column(default=None)  # a URL, or the text itself
    type: Mapped[str | None] = mapped_column(default=None)

    valid_until: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    class_: Mapped[Class | None] = relationship(back_populates="assets", default=None, lazy="raise")


class Attachment(Base, kw_only=True):
    """A file of a class; `file_size` is in bytes."""

    __tablename__ = "attachments"
    __table_args__ = ({"info": {"phase": 4, "optional_in_source": True}},)

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    class_id: Mapped[int | None] = mapped_column(ForeignKey("class.id"), index=True, default=None)

    file_name: Mapped[str | None] = mapped_column(default=None)
    file_url: Mapped[str | None] = mapped_column(default=None)
    file_type: Mapped[str | None] = mapped_column(default=None)
    file_size: Mapped[int | None] = mapped_column(default=None)

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    class_: Mapped[Class | None] = relationship(back_populates="attachments", default=None, lazy="raise")
