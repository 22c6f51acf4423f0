"""Scratch databases on the server of the run, for tests that are not about a scratch server's start and end."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.sharing import SharedScratch, share

from tatame_db.testing.runs import Run


@pytest.fixture(scope="module", autouse=True)
def shared_scratch(_tatame_run: Run) -> Generator[SharedScratch]:
    """Import it into a module whose tests shall share the server of the run."""
    with pytest.MonkeyPatch.context() as patch:
        shared = share(_tatame_run.server.directory, patch.setattr)
        yield shared
        shared.connection.close()
