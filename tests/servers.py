"""Servers that are created quickly: initdb runs once, and what it has made is copied for each server."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.errors import DirectoryUnusable
from tatame_db.server.wheel import installed_programs

# Before they are replaced.
create_data, _run = EmbeddedServer._create_data, EmbeddedServer._run
# The file of the server begins with its identifier, and its checksum is here; see `pg_control.h`.
_CHECKSUM_IN_CONTROL = 292
# A file of WAL has the identifier after the 24 bytes with which each of its pages begins.
_IDENTIFIER_IN_WAL = 24


def quicken(template: Path, replace: Callable[[type, str, object], None], *, small_wal: bool = False) -> None:
    """Let servers copy the data of a template, which the first one creates; on request, with files of WAL of 1 MB."""

    programs = installed_programs()

    def copy(server: EmbeddedServer) -> None:
        if server._programs != programs:
            create_data(server)
            return
        made = EmbeddedServer(template, durable=False)
        with made._locked():
            if not made.data.exists():
                create_data(made)
        shutil.rmtree(server._new_data, ignore_errors=True)
        try:
            copy_data(made.data, server._new_data)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(server._new_data, ignore_errors=True)
            reason = error.stderr.decode().strip().rpartition(": ")[2]
            raise DirectoryUnusable(directory=server.directory, reason=reason) from error
        server.write_password(made.password_file.read_text())
        server._new_data.rename(server.data)

    def run_small(server: EmbeddedServer, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _run(server, name, *arguments, *(["--wal-segsize=1"] if name == "initdb" else []))

    replace(EmbeddedServer, "_create_data", copy)
    if small_wal:
        replace(EmbeddedServer, "_run", run_small)


def copy_data(data: Path, copy: Path) -> None:
    """Copy what initdb has made, and let the copy be another server than the original.

    Raises `CalledProcessError`.
    """
    subprocess.run(["cp", "-Rp", data, copy], check=True, capture_output=True)
    identifier = secrets.randbits(62).to_bytes(8, sys.byteorder)
    with (copy / "global" / "pg_control").open("r+b") as control:
        checked = identifier + control.read(_CHECKSUM_IN_CONTROL)[8:]
        control.seek(0)
        control.write(checked + _checksum(checked))
    for segment in (copy / "pg_wal").glob("0*"):
        with segment.open("r+b") as wal:
            wal.seek(_IDENTIFIER_IN_WAL)
            wal.write(identifier)


def _checksum(data: bytes) -> bytes:
    """CRC-32C."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return (state ^ 0xFFFFFFFF).to_bytes(4, sys.byteorder)
