"""The rights of the role of a read-only studio, which may have changed since the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.studio.access import RoleTooPowerful, harmful_rights
from tatame_db.studio.errors import EXPECTED
from tatame_db.studio.sql.results import Refusal
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from tatame_db.database.pool import AsyncDatabase


async def refuse_harmful(database: AsyncDatabase) -> None:
    """Refuse a statement whose role may do harm from a read-only transaction by now. Raises `Refusal`."""
    try:
        async with read_transaction(database) as connection:
            reasons = await connection.run_sync(harmful_rights)
    except EXPECTED as error:
        what = "the statement did not run, because the rights of its role could not be checked"
        raise Refusal(what, code="08000", fix="run it again when the database answers") from error
    if reasons:
        found = RoleTooPowerful(role=database.address.username or "", reasons=reasons)
        raise Refusal(found.what, code="42501", fix=found.fix)
