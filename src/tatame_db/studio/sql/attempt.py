"""Work in write mode that can be undone: a transaction, or a savepoint in the block of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from tatame_db.studio.sql.wire import Wire

_OUTER, _INNER = "tatame_studio", "tatame_studio_inner"


class Attempt:
    """An attempt that has begun."""

    def __init__(self, wire: Wire, *, is_in_block: bool) -> None:
        self.wire, self.is_in_block = wire, is_in_block

    @classmethod
    async def begin(cls, wire: Wire) -> Attempt:
        """Open the transaction, or the savepoint."""
        attempt = cls(wire, is_in_block=wire.status != TransactionStatus.IDLE)
        await wire.driver.execute(f"SAVEPOINT {_OUTER}".encode() if attempt.is_in_block else b"BEGIN")
        return attempt

    async def mark(self) -> None:
        """Mark the place before the statement."""
        await self.wire.driver.execute(f"SAVEPOINT {_INNER}".encode())

    async def return_to_mark(self) -> None:
        """Undo what was done since the mark."""
        await self.wire.driver.execute(f"ROLLBACK TO SAVEPOINT {_INNER}".encode())

    async def undo(self) -> None:
        """Undo everything."""
        if self.wire.driver.closed or self.wire.status == TransactionStatus.ACTIVE:
            return
        if self.is_in_block:
            for command in ("ROLLBACK TO", "RELEASE"):
                await self.wire.driver.execute(f"{command} SAVEPOINT {_OUTER}".encode())
        elif self.wire.status != TransactionStatus.IDLE:
            await self.wire.driver.execute("ROLLBACK")

    async def keep(self) -> None:
        """Commit, or leave it to the block of the user."""
        await self.wire.driver.execute(f"RELEASE SAVEPOINT {_OUTER}".encode() if self.is_in_block else b"COMMIT")
