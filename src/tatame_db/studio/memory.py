"""The memory of the studio's process: a budget that its connections share, and the allocator."""

from __future__ import annotations

import ctypes
from contextlib import suppress

ROWS_BYTES = 48_000_000
"""What the connections that run statements of the user may hold together for large rows."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 128 * 1024


class Budget:
    """A number of bytes that several holders share."""

    def __init__(self, total_bytes: int = ROWS_BYTES) -> None:
        self.free_bytes = total_bytes

    def take(self, size_bytes: int) -> bool:
        """Take a part; return whether there was enough."""
        if size_bytes > self.free_bytes:
            return False
        self.free_bytes -= size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """Return a part."""
        self.free_bytes += size_bytes


def return_large_blocks() -> None:
    """Let the allocator return a large block to the system as soon as it is free.

    Otherwise glibc keeps blocks of up to 32 MB for later, in an arena for each thread. Other systems have no such
    setting.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_M_ARENA_MAX, 2)
