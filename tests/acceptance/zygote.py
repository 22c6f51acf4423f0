"""Run `tatame-db` in forks of this process, which has loaded what a command takes most of its time to load.

The first line of the input names the modules to load. Each other line is a request; its answer is the id of the new
process, then its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys

for module in json.loads(sys.stdin.readline()):
    importlib.import_module(module)

for line in sys.stdin:
    request = json.loads(line)
    if process := os.fork():
        os.write(1, f"{process}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\n".encode())
        continue
    for number, file in enumerate([os.devnull, *request["output"]]):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["tatame-db", *request["arguments"]]
    sys.path[:0] = request["path"]
    runpy.run_module("tatame_db", run_name="__main__", alter_sys=True)
    break
