"""The server's own limit: pgbench runs the statements that tatame_db sends for a job, prepared, with 20 connections."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from jobs import clerk, gym, one_row, user
from server import DATABASE, Server

CONNECTIONS = 20
NUMBER = 4
"""The call whose parameters are known, so that those of the other calls can be derived from them."""
VARIABLES = r"""\set n random(0, 1000000)
\set member :n * 7919 % 20000 + 1
\set gym :member % 100 + 1
\set class :member % 2000 + 1
"""


class Limit:
    """The script of pgbench for one job, made of the statements that the server logged for one call."""

    def __init__(self, server: Server, statements: list[tuple[str, dict[str, str]]]) -> None:
        self.server = server
        self.constants: dict[str, str] = {}
        lines = [self._line(sql, parameters) for sql, parameters in statements]
        self.script = VARIABLES + "\n".join(lines) + "\n"

    def _line(self, sql: str, parameters: dict[str, str]) -> str:
        types = self.server.parameter_types(sql)
        # Later parameters first: `$1` is the beginning of `$10`.
        for position in range(len(types), 0, -1):
            value = parameters[f"${position}"]
            expression = f"CAST({self._expression(value)} AS {types[position - 1]})"
            sql = sql.replace(f"${position}", expression)
        return " ".join(sql.split()) + ";"

    def _expression(self, value: str) -> str:
        """Write a value with variables where it has the numbers of the call that was logged."""
        numbers = {str(user(NUMBER)): ":member", str(gym(NUMBER)): ":gym", str(one_row(NUMBER)["class_id"]): ":class"}
        if len(value) > 1000 or not re.search("|".join(rf"\b{n}\b|_{n}\b" for n in numbers), value):
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value
            return f":{name}"
        parts = [part for part in re.split(rf"({'|'.join(numbers)})", value) if part]
        return " || ".join(numbers.get(part, "'" + part.replace("'", "''") + "'") for part in parts)

    def measure(self, seconds: float) -> dict[str, float]:
        """Return the transactions per second."""
        with tempfile.TemporaryDirectory() as directory:
            script = Path(directory) / "job.sql"
            script.write_text(self.script)
            connection = ["-h", self.server.socket, "-p", self.server.port, "-U", "postgres"]
            constants = [f"--define={name}={value}" for name, value in self.constants.items()]
            done = subprocess.run(
                # A second of pgbench is the least that it measures.
                [
                    *(self.server.embedded.program("pgbench"), "-n", "-M", "prepared", "-j", "2"),
                    *("-c", str(CONNECTIONS), "-T", str(max(1, round(seconds))), "-f", script),
                    *connection,
                    *constants,
                    DATABASE,
                ],
                check=False,
                capture_output=True,
                text=True,
            )
        assert done.returncode == 0, f"{done.stderr}\n{self.script}"
        match = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
        latency = re.search(r"^latency average = ([\d.]+)", done.stdout, re.MULTILINE)
        assert match, done.stdout
        assert latency, done.stdout
        return {"per_second": float(match[1]), "p50_ms": float(latency[1])}


assert clerk(NUMBER) == f"user_{user(NUMBER)}"
