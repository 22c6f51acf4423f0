"""Ctrl-C before a command has begun, which has no traceback either, and where Python would ignore it."""

from __future__ import annotations

import signal
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


COLLECTED = """
import os, signal, sys, threading, time, weakref
from tatame_db.cli import commands

class Thing:
    pass

@commands.app.command("collect")
def collect():
    # Python runs the callback of a weak reference, and what it raises is printed and ignored.
    thing = Thing()
    reference = weakref.ref(thing, lambda _: (os.kill(os.getpid(), {number}), time.sleep(10)))
    del thing
    threading.Event().wait(20)

sys.argv = ["tatame-db", "collect"]
commands.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_an_object_is_collected_is_not_lost(number: signal.Signals) -> None:
    code = COLLECTED.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (
        130,
        "\ninterrupted: unfinished changes to the database were rolled back\n",
    )
