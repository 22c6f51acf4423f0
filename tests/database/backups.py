"""Servers for the tests of backups that are quick to create and small to copy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tatame_db.server.embedded import EmbeddedServer


def quicken(template: Path, replace: Callable[[type, str, object], None]) -> None:
    """Let servers run initdb once, with small files of WAL, and copy what it has made for each one after the first."""
    create, run = EmbeddedServer._create_data, EmbeddedServer._run

    def run_small(server: EmbeddedServer, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(server, name, *arguments, *(["--wal-segsize=1"] if name == "initdb" else []))

    def copy(server: EmbeddedServer) -> None:
        if not template.exists():
            create(server)
            shutil.copytree(server.data, template / "data")
            shutil.copy(server.password_file, template / "password")
            return
        server.write_password((template / "password").read_text())
        shutil.copytree(template / "data", server.data)
        server._hand_over_all(server.data)

    replace(EmbeddedServer, "_run", run_small)
    replace(EmbeddedServer, "_create_data", copy)
