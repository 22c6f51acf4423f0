"""Ctrl-C before a command has begun: it has no traceback either."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADING = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
from tatame_db.cli import commands
"""
LOADED = """
import os, signal
from tatame_db.cli import commands
commands.app = lambda prog_name: os.kill(os.getpid(), signal.SIGTERM)
commands.main()
"""


@pytest.mark.parametrize(
    "code", [LOADING.format(module="typer"), LOADING.format(module="tatame_db.cli.studio"), LOADED]
)
def test_an_interrupt_before_a_command_begins_is_one_line(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted: nothing was changed\n")
