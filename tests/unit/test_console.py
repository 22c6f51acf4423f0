"""The tables of the command line, as a person and as a script read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from tatame_db.cli import console

LONG = "x" * 300


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_table_aligns_numbers_to_the_right_and_text_to_the_left(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["table", "rows", "seconds"], [["users", 9_085, 0.25], ["app_stores", None, "unknown"]])

    assert printed(capsys) == [
        "  table        rows  seconds",
        "  users       9,085      0.2",
        "  app_stores         unknown",
    ]


def test_a_table_without_rows_shows_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["table", "rows"], [])
    assert printed(capsys) == ["  table  rows"]


def test_a_script_reads_each_row_as_one_line_with_no_cell_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["table", "digest", "reason"], [["users", LONG, f"not {LONG}"], ["gyms", "a\nb\x1b[31m", None]])

    assert printed(capsys)[1:] == [
        f"  users  {LONG}  not {LONG}",
        r"  gyms   a\nb\x1b[31m",
    ]


def test_a_terminal_folds_wide_cells_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")

    console.table(["table", "digest"], [["users", LONG]])

    lines = printed(capsys)
    assert max(map(len, lines)) == 40
    assert "".join(lines).count("x") == 300


def test_a_table_prints_brackets_and_colons_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["name"], [["[bold]gym[/bold]"], [":smile:"], ["São João"]])
    assert printed(capsys)[1:] == ["  [bold]gym[/bold]", "  :smile:", "  São João"]


HOSTILE = "Rio\x1b[2J\x07\r\x9b31m\u202e"
ESCAPED = "Rio\\x1b[2J\\x07\\r\\x9b31m\\u202e"


def test_no_name_reaches_a_terminal_as_an_order(capsys: pytest.CaptureFixture[str]) -> None:
    console.answer(HOSTILE)
    console.say(f"{HOSTILE}\n\tnext")
    console.table(["gym"], [[HOSTILE]])
    console.answer_json({"gym": HOSTILE, "flag": "\U000e0001"})
    shown = capsys.readouterr()
    assert shown.err == f"{ESCAPED}\n\tnext\n"
    named, _, row, *rest = shown.out.splitlines()
    assert (named, row) == (ESCAPED, f"  {ESCAPED}")
    assert json.loads("\n".join(rest)) == {"gym": HOSTILE, "flag": "\U000e0001"}
    assert all(character.isprintable() or character == "\n" for character in shown.out)


VALUES = {
    "moment": (datetime(2031, 8, 1, 10, tzinfo=UTC), "2031-08-01 10:00:00+00:00"),
    "date": (date(2031, 8, 1), "2031-08-01"),
    "time": (timedelta(days=1), "1 day, 0:00:00"),
    "number": (Decimal("1.10"), "1.10"),
    "path": (Path("/srv"), "/srv"),
    "id": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "bytes": (b"\x00\xff", "\\x00ff"),
    "set": ({"b", "a"}, ["a", "b"]),
}


@pytest.mark.parametrize("answer", [console.answer_json, console.answer_json_line])
def test_every_kind_of_value_has_a_form_in_json(
    answer: Callable[[dict[str, object]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answer({name: {"values": [value]} for name, (value, _) in VALUES.items()})
    expected = {name: {"values": [form]} for name, (_, form) in VALUES.items()}
    assert json.loads(capsys.readouterr().out) == expected
