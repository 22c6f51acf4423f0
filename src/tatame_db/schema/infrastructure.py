"""The tables that the app itself needs: roles, versions and links to the stores."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Index, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tatame_db.schema.base import Base

if TYPE_CHECKING:
    from tatame_db.schema.users import User


class Role(Base, kw_only=True):
    """The rights of a user: `STUDENT`, `INSTRUCTOR` or `MANAGER`."""

    __tablename__ = "roles"
    __table_args__ = ({"info": {"phase": 1}},)

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)

    users: Mapped[list[User]] = relationship(
        back_populates="role_", default_factory=list, lazy="raise", passive_deletes="all"
    )


class Version(Base, kw_only=True):
    """A released version of the app; support ends at `disabled_at`."""

    __tablename__ = "versions"
    __table_args__ = (Index(None, "created_at", postgresql_where=text("disabled_at IS NULL")), {"info": {"phase": 1}})

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    app_version: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)
    disabled_at: Mapped[datetime | None] = mapped_column(default=None)


class AppStore(Base, kw_only=True):
    """A link to the app in a store; `store` is `ios` or `android`."""

    __tablename__ = "app_stores"
    __table_args__ = (Index(None, "store", postgresql_where=text("disabled_at IS NULL")), {"info": {"phase": 1}})

    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    store: Mapped[str | None] = mapped_column(default=None)
    url: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)
    disabled_at: Mapped[datetime | None] = mapped_column(default=None)
