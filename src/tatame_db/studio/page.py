"""A page of rows with what a person needs beside them: the names of the rows it refers to, and how it was searched."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.studio import rows
from tatame_db.studio.names import page_names
from tatame_db.studio.searched import searched_page

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.studio.names import Names
    from tatame_db.studio.rows import Selection
    from tatame_db.studio.searched import Found


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of a page in its order, as `rows.page` takes it."""

    limit: int = 100
    after: str | None = None
    before: str | None = None
    last: bool = False


@dataclass(frozen=True)
class Page(rows.RowsPage):
    """A page of rows, the names of the rows that it refers to, and how a search was done."""

    names: Names
    search: Found | None


async def read_page(
    connection: AsyncConnection, selection: Selection, place: Place, *, typed: str, is_sorted: bool, is_named: bool
) -> Page:
    """Read a page of a selection and of the rows that a search in it finds. Raises what `rows.page` raises."""
    started = time.perf_counter()
    selection, found = await searched_page(connection, selection, typed, is_sorted=is_sorted)
    if found and found.rows == 0:
        ms = round((time.perf_counter() - started) * 1000, 1)
        columns = [column.name for column in selection.columns]
        return Page(columns, [], [], next=None, previous=None, estimated=0, ms=ms, names={}, search=found)
    page = await rows.page(
        connection, selection, limit=place.limit, after=place.after, before=place.before, last=place.last
    )
    names = await page_names(connection, selection, page.rows) if is_named else {}
    return Page(**vars(page), names=names, search=found)
