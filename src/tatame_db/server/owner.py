"""The user who owns the embedded server's files and runs its processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import subprocess
import time
from typing import TYPE_CHECKING

from tatame_db.server.errors import ServerUserMissing

if TYPE_CHECKING:
    from collections.abc import Generator

SERVER_USER = "tatame-db"
_USER_DATABASE = "/etc"
_USERADD = ["useradd", "--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", SERVER_USER]
# Another program may be changing the users. It takes moments.
_RETRY_SECONDS = 10


def server_owner() -> pwd.struct_passwd:
    """Return the current user; for root, the system user `tatame-db`, which is created if it does not exist.

    Raises `ServerUserMissing`.
    """
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVER_USER)
    # `useradd` looks for the name before it locks the users, and then replaces an entry that another `useradd` has
    # added meanwhile, under another id. Files of the first id would belong to no user.
    with _locked():
        return _create_user()


@contextlib.contextmanager
def _locked() -> Generator[None]:
    # The directory, because `useradd` replaces its files.
    directory = os.open(_USER_DATABASE, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _create_user() -> pwd.struct_passwd:
    deadline = time.monotonic() + _RETRY_SECONDS
    while True:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(SERVER_USER)
        try:
            done = subprocess.run(_USERADD, check=False, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise ServerUserMissing(user=SERVER_USER, reason="`useradd` is not installed") from error
        if done.returncode and ("cannot lock" not in done.stderr or time.monotonic() > deadline):
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(SERVER_USER)
            raise ServerUserMissing(user=SERVER_USER, reason=done.stderr.strip())
        if done.returncode:
            time.sleep(0.2)
