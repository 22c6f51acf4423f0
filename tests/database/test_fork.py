"""A process that used a database forks, as `gunicorn --preload` does: parent and child share no connection."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import URL

# A child that fails ends with its traceback and without the code of the parent below it.
HEAD = """
import asyncio, os, sys, traceback
from sqlalchemy import text
from tatame_db.database.pool import AsyncDatabase, Database

def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        # As a worker ends: objects are deleted, and connections closed.
        sys.exit(0)
    return os.waitpid(child, 0)[1]

PID = text("SELECT pg_backend_pid()")
"""

SYNC = """
db = Database(sys.argv[1])
with db.session() as session:
    before = session.scalar(PID)
idle = [db.engine.connect() for _ in range(3)]
pids = {connection.scalar(PID) for connection in idle}
for connection in idle[:2]:
    connection.close()

def work():
    for _ in range(3):
        with db.session() as session:
            assert session.scalar(PID) not in pids
    db.close()

assert in_child(work) == 0
assert in_child(lambda: db.close(0.1)) == 0
# What the parent had is as it was: the sessions answer, and no others took their place.
assert idle[2].scalar(PID) in pids
with db.session() as session, db.session() as other:
    assert {session.scalar(PID), other.scalar(PID), idle[2].scalar(PID)} == pids
idle[2].close()
db.close()
"""

IN_USE = """
db = Database(sys.argv[1])
session = db.session()
pid = session.scalar(PID)

def work():
    try:
        session.scalar(PID)
    except Exception as error:
        assert "closed" in str(error), error
    else:
        raise AssertionError("the child used the connection of its parent")
    session.close()
    assert session.scalar(PID) != pid
    session.close()
    db.close()

assert in_child(work) == 0
assert session.scalar(PID) == pid
session.commit()
assert session.scalar(PID) == pid
session.close()
db.close()
"""

CALLS = """
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.run import fetch, stream

db = Database(sys.argv[1])
OWN = Statement("own", "SELECT pg_backend_pid(), %(n)s::INTEGER", tuple, may_repeat=True)
for _ in range(3):
    [(pid, _)] = fetch(db, OWN, {"n": 0})
rows = stream(db, Statement("rows", "SELECT generate_series(1, 5000)", lambda row: row[0]), {})
first = next(rows)

def work():
    for number in range(5):
        [(other, found)] = fetch(db, OWN, {"n": number})
        assert found == number and other != pid, (found, other)
    db.close()

assert in_child(work) == 0
assert first + sum(rows) == 5000 * 5001 // 2
pids = {fetch(db, OWN, {"n": 1})[0][0] for _ in range(3)}
assert len(pids) == 1
db.close()
"""

ASYNC = """
async def use(db):
    async with db.session() as session:
        return await session.scalar(PID)

db = AsyncDatabase(sys.argv[1])
loop = asyncio.new_event_loop()
pid = loop.run_until_complete(use(db))

def work():
    async def main():
        assert await use(db) != pid
        await db.close()
    asyncio.run(main())
    os._exit(0)

assert in_child(work) == 0
assert loop.run_until_complete(use(db)) == pid
loop.run_until_complete(db.close())
loop.close()
"""

THREADS = """
import threading
db = Database(sys.argv[1])
stop = threading.Event()
failures = []

def reads():
    number = 0
    while not stop.is_set():
        number += 1
        with db.session() as session:
            found = session.scalar(text("SELECT CAST(:number AS integer)"), {"number": number})
        if found != number:
            failures.append(found)

threads = [threading.Thread(target=reads) for _ in range(4)]
for thread in threads:
    thread.start()

def work():
    for number in range(-20, 0):
        with db.session() as session:
            assert session.scalar(text("SELECT CAST(:number AS integer)"), {"number": number}) == number
    os._exit(0)

assert [in_child(work) for _ in range(10)] == [0] * 10
stop.set()
for thread in threads:
    thread.join()
db.close()
assert not failures
"""

STARTING = """
import threading
db = Database(sys.argv[1])
db.ping()
# As while another thread starts it.
db._idle._closer = threading.Thread()

def work():
    db.ping()
    if not os.fork():
        os._exit(0)
    assert os.wait()[1] == 0

assert in_child(work) == 0
db.ping()
db.close()
"""


@pytest.mark.parametrize(
    "code",
    [SYNC, IN_USE, CALLS, ASYNC, THREADS, STARTING],
    ids=["idle", "in use", "calls", "asyncio", "threads", "starting"],
)
def test_a_child_leaves_the_connections_of_its_parent_alone(address: URL, code: str) -> None:
    # From 3.12 on, Python warns of threads in a process that forks.
    options = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    command = [sys.executable, *options, "-c", HEAD + code, address.render_as_string(hide_password=False)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
