"""The body of a request as a temporary file: the plan in its first line, then the file to import."""

from __future__ import annotations

import contextlib
import tempfile
from typing import IO, TYPE_CHECKING

import msgspec
from starlette.requests import ClientDisconnect

from tatame_db.studio.errors import BadInput, StudioStopped
from tatame_db.studio.imports.plan import FileTooLarge, Plan

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

_MAX_PLAN_BYTES = 1_000_000
_MAX_FILE_BYTES = 1_000_000_000


@contextlib.asynccontextmanager
async def uploaded(request: Request) -> AsyncGenerator[tuple[Plan, IO[bytes]]]:
    """Receive the body into a file without a name, which is gone with the request, also after a crash.

    Raises `BadInput`, `FileTooLarge`, and `StudioStopped` if the client leaves.
    """
    with tempfile.TemporaryFile() as file:
        try:
            plan = await _receive(request, file)
        except ClientDisconnect:
            raise StudioStopped from None
        except OSError as error:
            problem = f"the temporary directory cannot hold the file: {error.strerror}"
            raise FileTooLarge(problem=problem) from None
        file.seek(0)
        yield plan, file


async def _receive(request: Request, file: IO[bytes]) -> Plan:
    first, plan, size = bytearray(), None, 0
    async for piece in request.stream():
        if plan is not None:
            file.write(piece)
            size += len(piece)
        else:
            first += piece
            line, end, rest = first.partition(b"\n")
            if not end and len(first) > _MAX_PLAN_BYTES:
                raise BadInput(problem="the plan of the import is too long")
            if end:
                plan = _decoded(line)
                size = file.write(rest)
        if size > _MAX_FILE_BYTES:
            raise FileTooLarge(problem=f"the file is larger than {_MAX_FILE_BYTES:,} bytes")
    return plan or _decoded(first)


def _decoded(line: bytes | bytearray) -> Plan:
    try:
        return msgspec.json.decode(line, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(problem=f"the plan of the import is malformed: {error}") from None
