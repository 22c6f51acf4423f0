"""The command line: all commands, in the order of the help."""

import os
import signal
import sys
from typing import NoReturn

_INTERRUPTED = 130
_AGAIN_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _end() -> NoReturn:
    """End as an interrupted command does; here none has begun."""
    # The modules that print may not have been imported.
    os.write(2, b"\ninterrupted: nothing was changed\n")
    sys.exit(_INTERRUPTED)


# They take up to a second, in which an impatient user presses Ctrl-C.
try:
    import logging
    import threading

    from tatame_db.cli import backup, day, distribute, doctor, move, roles, schema, server, studio
    from tatame_db.cli.app import app
except KeyboardInterrupt:
    _end()

__all__ = ["app", "main"]

_ORDER = [module.__name__ for module in (server, schema, distribute, doctor, move, day, roles, backup, studio)]
# Whichever of them was imported first.
app.registered_commands.sort(key=lambda command: _ORDER.index(command.callback.__module__ if command.callback else ""))


def _keep_interrupts() -> None:
    """Repeat an interrupt that comes while Python collects an object: Python prints and ignores the exception there."""
    before = sys.unraisablehook

    def interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
        numbers = [number for number in _SIGNALS if signal.getsignal(number) is signal.default_int_handler]
        if issubclass(unraisable.exc_type, KeyboardInterrupt) and numbers and not sys.is_finalizing():
            # To the main thread, so that it also interrupts a wait for the server.
            again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (threading.main_thread().ident, numbers[0]))
            again.daemon = True
            again.start()
        else:
            before(unraisable)

    sys.unraisablehook = interrupt_again


def main() -> None:
    """Run the command line."""
    # Python has no object for a stream that is closed, and the next file would become that stream.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115, as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115, as above
    # What psycopg warns of, such as a stream that breaks off with its connection, is an error of the command.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    # A closed terminal and a shutdown end a command as Ctrl-C does, so that it restores what it has dropped.
    for number in _SIGNALS[1:]:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    _keep_interrupts()
    try:
        app(prog_name="tatame-db")
    except KeyboardInterrupt:
        # A command that had begun has caught it.
        _end()
