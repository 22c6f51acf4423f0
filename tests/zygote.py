"""Run `tatame-db` or Python code in forks of this process, which has loaded what takes most of their time to load.

The first line of the input names the modules to load. Each other line is a request; its answer is the id of the new
process, then its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
import warnings
from pathlib import Path

for module in json.loads(sys.stdin.readline()):
    importlib.import_module(module)
# Otherwise each fork copies the memory of all these objects as it looks for garbage among them.
gc.collect()
gc.freeze()

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
    sys.path[:0] = request["path"]
    sys.argv = ["tatame-db", *request["arguments"]]
    # Not at the top: the path decides which package they import.
    from tests.servers import quicken

    quicken(Path(request["template"]), setattr)
    if request["code"] is not None:
        warnings.simplefilter("error")
        exec(compile(request["code"], "<example>", "exec"), {"__name__": "__main__"})  # noqa: S102, a test's own code
        break
    if request["scratch"] is not None:
        from tests.sharing import share

        share(request["scratch"], setattr)
    runpy.run_module("tatame_db", run_name="__main__", alter_sys=True)
    break
