"""PostgreSQL in Docker Compose, as an alternative to the embedded server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tatame_db.errors import TatameError, fact

COMPOSE_FILE = Path(__file__).with_name("docker-compose.yml")
DEFAULT_PORT = 5432


@fact
class DockerMissing(TatameError):
    """Docker or its Compose plugin is not installed."""

    program: str
    what = "`{program}` is not installed"
    fix = "install Docker with its Compose plugin, or use the embedded server: `tatame-db start`"


@fact
class DockerFailed(TatameError):
    """Docker Compose reported an error; its output is in the message."""

    output: str
    what = "Docker Compose failed:\n{output}"
    means = "The data volume, if it exists, is untouched."
    fix = "fix the problem that Docker reports above, or use the embedded server: `tatame-db start`"


def start(port: int | None = None) -> str:
    """Start the container, wait until it accepts connections, and return its address for `DATABASE_URL`.

    The address contains the password, which is no secret: it is in the shipped Compose file.

    Raises `DockerMissing`, `DockerFailed`.
    """
    port = port or DEFAULT_PORT
    _compose("up", "--detach", "--wait", TATAME_PORT=str(port))
    return f"postgresql://postgres:postgres@localhost:{port}/tatame"


def stop() -> None:
    """Stop the container and leave its data in place. Raises `DockerMissing`, `DockerFailed`."""
    _compose("stop")


def _compose(*arguments: str, **variables: str) -> None:
    compose = ["docker", "compose"]
    try:
        if subprocess.run([*compose, "version"], check=False, capture_output=True).returncode:
            raise DockerMissing(program="docker compose")
    except FileNotFoundError as error:
        raise DockerMissing(program="docker") from error
    command = [*compose, "--file", str(COMPOSE_FILE), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | variables)
    if done.returncode:
        raise DockerFailed(output=done.stderr.strip() or f"exit code {done.returncode}")
