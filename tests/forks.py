"""Processes of their own, without the second that Python takes to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# What a forked command finds loaded. A command of a copy of the package loads the copy itself.
LIBRARIES = [
    *("alembic.autogenerate", "alembic.command", "alembic.runtime.environment", "httpx", "msgspec", "psutil"),
    *("psycopg", "pydantic_settings", "rich.progress", "sqlalchemy.dialects.postgresql.psycopg"),
    *("sqlalchemy.ext.asyncio", "sqlalchemy.orm", "typer"),
]
PACKAGE = [
    *LIBRARIES,
    *(
        f"tatame_db.{name}"
        for name in ("cli.commands", "doctor", "evolve", "evolve.app", "move", "roles", "seed", "studio.app")
    ),
]


class Zygote:
    """A process that has loaded some modules, and whose forks run `tatame-db` or Python code."""

    def __init__(self, modules: list[str], directory: Path, *path: Path, template: Path) -> None:
        """Start it; `path` is where it finds modules first, such as those of a copy of the package.

        `template` is what `quicken` copies the data of servers from.
        """
        self._directory = directory
        self._template = str(template)
        self._process = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=directory,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(map(str, [*path, Path(__file__).parents[1]])),
            },
        )
        self._send(modules)

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")

    def run(
        self,
        *arguments: str,
        cwd: Path,
        environment: dict[str, str],
        path: tuple[str, ...] = (),
        scratch: Path | None = None,
        code: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command without input, or code in which warnings are errors.

        `scratch` is the directory of a server for the databases of the commands for the schema, which otherwise start
        one each time. Raises `TimeoutExpired` after two minutes.
        """
        output = [Path(tempfile.mkdtemp(dir=self._directory)) / name for name in ("stdout", "stderr")]
        files = [str(file) for file in output]
        request = {"arguments": arguments, "cwd": str(cwd), "environment": environment, "path": path, "output": files}
        self._send(request | {"code": code, "scratch": scratch and str(scratch), "template": self._template})
        assert self._process.stdout is not None
        process = int(self._process.stdout.readline())
        expired: list[int] = []

        def kill() -> None:
            expired.append(process)
            os.kill(process, signal.SIGKILL)

        timer = threading.Timer(120, kill)
        timer.start()
        exit_code = int(self._process.stdout.readline())
        timer.cancel()
        if expired:
            raise subprocess.TimeoutExpired(arguments, 120)
        return subprocess.CompletedProcess(arguments, exit_code, *(file.read_text() for file in output))

    def end(self) -> None:
        """Stop the process."""
        self._process.communicate()
