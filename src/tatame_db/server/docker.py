"""PostgreSQL in Docker Compose, for those who prefer it to the embedded server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tatame_db.errors import NOTHING_CHANGED, TatameError

COMPOSE_FILE = Path(__file__).with_name("docker-compose.yml")
DEFAULT_PORT = 5432


class DockerMissing(TatameError):
    """There is no `docker` command."""

    def __init__(self) -> None:
        super().__init__(
            "there is no `docker` on this machine",
            means=NOTHING_CHANGED,
            fix="install Docker with its Compose plugin, or use the embedded server: `tatame-db start`",
        )


class ComposeMissing(TatameError):
    """There is a `docker` command, without its Compose plugin."""

    def __init__(self) -> None:
        super().__init__(
            "this machine's `docker` has no Compose plugin",
            means=NOTHING_CHANGED,
            fix="install the plugin (`docker-compose-plugin`), or use the embedded server: `tatame-db start`",
        )


class DockerFailed(TatameError):
    """Docker is there, and said no; its words are in the message."""

    def __init__(self, words: str) -> None:
        self.words = words
        super().__init__(
            f"Docker Compose failed:\n{words}",
            means="The data volume, if there is one, is untouched.",
            fix="mend what it says, or use the embedded server: `tatame-db start`",
        )


def start(port: int | None = None) -> str:
    """Start the container and wait until it answers; return what belongs into `DATABASE_URL`.

    The password in it is the one that the shipped file gives to every developer's container.
    Raises `DockerMissing`, `ComposeMissing`, `DockerFailed`.
    """
    port = port or DEFAULT_PORT
    _compose("up", "--detach", "--wait", TATAME_PORT=str(port))
    return f"postgresql://postgres:postgres@localhost:{port}/tatame"


def stop() -> None:
    """Stop the container and keep its data. Raises `DockerMissing`, `ComposeMissing`, `DockerFailed`."""
    _compose("stop")


def _compose(*arguments: str, **variables: str) -> None:
    compose = ["docker", "compose"]
    try:
        if subprocess.run([*compose, "version"], check=False, capture_output=True).returncode:
            raise ComposeMissing
    except FileNotFoundError as error:
        raise DockerMissing from error
    command = [*compose, "--file", str(COMPOSE_FILE), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | variables)
    if done.returncode:
        raise DockerFailed(done.stderr.strip() or f"exit code {done.returncode}")
