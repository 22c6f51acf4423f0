"""The types of models and queries, checked by mypy and pyright in strict mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "typing"
SAMPLES = sorted(FOLDER.glob("*.py"))


def marked() -> set[tuple[str, int]]:
    return {
        (sample.name, number)
        for sample in SAMPLES
        for number, line in enumerate(sample.read_text().splitlines(), start=1)
        if line.endswith("  # wrong")
    }


def reported_by(*checker: str) -> str:
    command = [sys.executable, "-m", *checker, *map(str, SAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy_reports_the_wrong_lines_and_no_others(tmp_path: Path) -> None:
    report = reported_by("mypy", "--strict", "--config-file=", "--output=json", f"--cache-dir={tmp_path}")

    errors = [error for error in map(json.loads, report.splitlines()) if error["severity"] == "error"]
    assert {(Path(error["file"]).name, error["line"]) for error in errors} == marked()


def test_pyright_reports_the_wrong_lines_and_no_others() -> None:
    report = reported_by("pyright", "--pythonpath", sys.executable, "--outputjson")

    found = json.loads(report)["generalDiagnostics"]
    errors = {
        (Path(error["file"]).name, error["range"]["start"]["line"] + 1)
        for error in found
        if error["severity"] == "error"
    }
    assert errors == marked()
