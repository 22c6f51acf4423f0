"""The routes of the saved queries, and the queries that the project ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

Client = Any


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_read_only_studio_saves_queries_as_files(project: Path, studio: Client) -> None:
    assert studio.get("/api/queries") == {"directory": str(project / "queries"), "queries": [], "skipped": []}
    name = "Check-ins by week"
    saved = studio.ask("/api/queries", {"name": name, "text": "-- By week\nSELECT 1"})
    assert saved.status == 200, saved.text
    assert studio.get("/api/queries")["queries"] == [{"name": name, "description": "By week"}]
    assert studio.get("/api/queries/text", name=name) == saved.json

    (project / "queries" / "Check-ins by week.sql").write_text("SELECT 2")
    opened = {"name": name, "version": saved.json["version"]}
    changed = studio.ask("/api/queries", opened | {"text": "SELECT 3"})
    assert (changed.status, changed.json["now"]["text"]) == (409, "SELECT 2")
    assert studio.ask("/api/queries/delete", opened).status == 409
    now = {"name": name, "version": changed.json["now"]["version"]}
    assert studio.ask("/api/queries/rename", now | {"to": "Mês"}).json["name"] == "Mês"
    assert studio.ask("/api/queries/delete", now | {"name": "Mês"}).json == {"deleted": True}
    assert studio.get("/api/queries")["queries"] == []


def test_only_pages_of_the_studio_reach_the_files(project: Path, studio: Client) -> None:
    query = {"name": "a", "text": "SELECT 1"}
    for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Origin": None}):
        assert studio.ask("/api/queries", query, **headers).status == 403
    assert studio.ask("/api/queries", query, Cookie="").status == 401
    assert studio.ask("/api/queries", json.dumps(query), Content_Type="text/plain").status == 400
    for name in ("../a", "..", "/etc/passwd", "a\0b", "a.b", ""):
        assert studio.ask("/api/queries", query | {"name": name}).status == 400
        assert studio.ask("/api/queries/text?" + urlencode({"name": name})).status == 400
    for change in ({"text": 1}, {"text": "a\0b"}, {"text": "x" * 1_000_001}, {"path": "/etc"}, {"version": "0"}):
        assert studio.ask("/api/queries", query | change).status in {400, 404}
    assert studio.ask("/api/queries/text?name=a").status == 404
    assert not (project / "queries").exists()


def test_the_queries_of_this_project_run(filled_studio: Client) -> None:
    files = sorted((Path(__file__).parents[2] / "queries").glob("*.sql"))
    assert files
    for file in files:
        lines = filled_studio.run(file.read_text())
        names = {column["name"] for column in lines[0]["columns"]}
        chart = next(line for line in file.read_text().splitlines() if line.startswith("-- chart:"))
        assert {word.partition("=")[2] for word in chart.split() if "=" in word} <= names
        assert lines[-1]["done"]["rows"] > 0
