"""Scratch databases on the server of the run, for tests that are not about a scratch server's start and end."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Generator
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine

from tatame_db.server.scratch import Scratch
from tatame_db.testing.runs import Run


@dataclass(frozen=True)
class SharedScratch(Scratch):
    """Scratch databases on a server that others use too, dropped at once."""

    @contextlib.contextmanager
    def database(self, name: str, template: str = "template0") -> Generator[Engine]:
        try:
            with super().database(name, template) as engine:
                yield engine
        finally:
            self.drop(name)


def share(patch: pytest.MonkeyPatch, shared: Scratch) -> None:
    """Let the commands for the schema use this server instead of starting one each time, which takes the longest."""

    @contextlib.contextmanager
    def scratch(**_: object) -> Generator[Scratch]:
        yield shared

    for module in ("check", "effects", "generate", "push", "script"):
        patch.setattr(importlib.import_module(f"tatame_db.evolve.{module}"), "scratch", scratch)


@pytest.fixture(scope="module", autouse=True)
def shared_scratch(_tatame_run: Run) -> Generator[SharedScratch]:
    """Import it into a module whose tests shall share the server of the run."""
    scratch = SharedScratch(_tatame_run.server)
    with pytest.MonkeyPatch.context() as patch:
        share(patch, scratch)
        yield scratch
