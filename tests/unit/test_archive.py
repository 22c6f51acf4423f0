"""Which segments continue a backup, over gaps and timelines, and which are removed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tatame_db.backup.archive import (
    EARLIER,
    GAP,
    begin_anew,
    read_archive,
    remove_unneeded,
)
from tatame_db.backup.archive_errors import ArchiveDamaged
from tatame_db.backup.manifest import BASE, Manifest
from tatame_db.backup.marks import WAL, Mark, State, add_mark, read_state
from tatame_db.backup.waldump import lsn_of

BEGIN = datetime(2026, 3, 1, 10, tzinfo=UTC)
SIZE = 1 << 20


def filled(folder: Path, *names: str) -> Path:
    (folder / WAL / EARLIER).mkdir(parents=True, exist_ok=True)
    State("7", "tatame_backup_1", SIZE).write(folder)
    for name in names:
        (folder / WAL / name).write_bytes(bytes(SIZE))
    return folder


def segment(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{0:08X}{number:08X}"


def reached(folder: Path, lsn: int = 2 * SIZE + 5) -> tuple[list[str], str | None]:
    archive = read_archive(folder)
    assert archive
    reach = archive.reach(1, lsn)
    return [name for _, name, _ in reach.segments], reach.missing


def test_the_segments_after_a_backup_are_found_up_to_a_gap(tmp_path: Path) -> None:
    names = [segment(number) for number in range(1, 6)]
    folder = filled(tmp_path, *names, f"{segment(6)}.partial", "unknown", f"{segment(3)}.gz")
    assert reached(folder) == ([*names[1:], segment(6)], None)
    (folder / WAL / segment(4)).write_bytes(b"short")
    assert reached(folder) == ([segment(2), segment(3)], segment(4))
    (folder / WAL / segment(4)).unlink()
    (folder / WAL / f"{segment(4)}.partial").write_bytes(bytes(SIZE))
    # As before a gap: what is in it can be restored.
    assert reached(folder) == ([segment(2), segment(3), segment(4)], segment(4))
    assert reached(folder, 0) == ([], segment(0))
    assert reached(folder, 7 * SIZE) == ([], None)
    state = read_state(folder)
    assert state
    state = add_mark(folder, state, Mark(BEGIN, 1, 5 * SIZE))
    state = begin_anew(folder, state, "it was lost")
    archive = read_archive(folder)
    assert archive
    [before] = archive.earlier
    assert (archive.newest, archive.marks, before.marks[-1].time) == (None, [], BEGIN)
    assert (before.newest, before.gap) == ((1, 6), "it was lost")
    assert before.reach(1, 5 * SIZE + 5).gap == "it was lost"
    # A second gap, in which a process was killed before all was moved.
    filled(folder, segment(9))
    begin_anew(folder, state, "again")
    (folder / WAL / EARLIER / "2" / GAP).unlink()
    filled(folder, segment(10))
    begin_anew(folder, state, "again")
    archive = read_archive(folder)
    assert archive
    assert [sorted(era.segments) for era in archive.earlier] == [[(1, 9), (1, 10)], sorted(before.segments)]


def test_a_backup_is_continued_on_the_newest_timeline_that_descends_from_it(tmp_path: Path) -> None:
    surplus = [segment(3), segment(4), f"{segment(5)}.partial"]
    folder = filled(tmp_path, segment(2), *surplus)
    # The server switched within segment 3, and the archive had more of the first timeline.
    (folder / WAL / "00000002.history").write_text(f"1\t0/{3 * SIZE + 9:X}\tno recovery target specified\n")
    (folder / WAL / "00000007.history").write_text("6\t0/1\tof another branch\n")
    assert reached(folder) == ([segment(2), segment(3)], None)
    filled(folder, segment(3, 2), f"{segment(4, 2)}.partial")
    assert reached(folder) == ([segment(2), segment(3, 2), segment(4, 2)], None)

    state = read_state(folder)
    assert state
    for minutes, mark in enumerate([(1, 3 * SIZE + 9), (1, 4 * SIZE), (2, 3 * SIZE + 20), (2, 9 * SIZE)]):
        state = add_mark(folder, state, Mark(BEGIN + timedelta(minutes=minutes), *mark))
    archive = read_archive(folder)
    assert archive
    # Of those after the switch, only the ones of the new timeline count, and only what is there.
    assert [mark.time.minute for mark in archive.reach(1, 2 * SIZE).marks] == [0, 2]
    assert archive.reach(2, 3 * SIZE + 30).until is None


def test_a_clock_that_is_set_back_leaves_a_mark_before_and_after(tmp_path: Path) -> None:
    folder = filled(tmp_path, segment(2))
    state = read_state(folder)
    assert state
    for minute in (0, 1, 2, 60, 3, 4):
        state = add_mark(folder, state, Mark(BEGIN + timedelta(minutes=minute), 1, 2 * SIZE + 9 + minute))
    # So does a timeline that ends.
    for minute in (5, 6):
        state = add_mark(folder, state, Mark(BEGIN + timedelta(minutes=minute), 2, 2 * SIZE + 9 + minute))
    archive = read_archive(folder)
    assert archive
    assert [(mark.time - BEGIN) // timedelta(minutes=1) for mark in archive.marks] == [0, 60, 3, 4, 5, 6]


def test_a_state_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert read_archive(tmp_path) is None
    folder = filled(tmp_path)
    whole = '{"system_identifier": "7", "slot": "s", "segment_bytes": 1048576, "mark": "1 0/1 2026-03-01T10:00Z"}'
    damages = (("1048576", "0"), ("1048576", "1e999"), ("1 0/1 2026", "1 2"), ("Z", ""))
    for text in ("", "[]", "{}", "[" * 100_000, *(whole.replace(*damage) for damage in damages)):
        (folder / WAL / "archive.json").write_text(text)
        with pytest.raises(ArchiveDamaged, match=r"archive\.json cannot be read"):
            read_archive(folder)
    (folder / WAL / "archive.json").write_text(whole)
    assert read_archive(folder)


def manifest(start: int, identifier: str = "7") -> Manifest:
    return Manifest(
        name="",
        method=BASE,
        begun=BEGIN,
        ended=BEGIN,
        made_by="",
        server_version="18.6",
        system_identifier=identifier,
        superuser="postgres",
        database="tatame",
        start_lsn=f"0/{start * SIZE + 3:X}",
        stop_lsn=f"0/{start * SIZE + 9:X}",
        size_bytes=0,
        files_sha256="0" * 64,
        roles=[],
        settings={},
        contents={},
    )


def test_only_segments_that_no_backup_needs_are_removed(tmp_path: Path) -> None:
    old = [segment(1), segment(2), f"{segment(2)}.partial", segment(3, 2)]
    folder = filled(tmp_path, *old, segment(4), segment(5), "00000002.history")
    (folder / WAL / EARLIER / "1").mkdir()
    (folder / WAL / segment(1)).rename(folder / WAL / EARLIER / "1" / segment(1))
    # Without a backup of this server, any of them may be needed.
    assert remove_unneeded(folder) == 0
    for name, made in (("20260301T100000Z", manifest(4)), ("20260302T100000Z", manifest(6)), ("x", manifest(0))):
        (folder / name).mkdir()
        replace(made, name=name).write(folder / name)
    other = folder / "20260303T100000Z"
    other.mkdir()
    assert remove_unneeded(folder) == 0
    manifest(1, "8").write(other)
    assert remove_unneeded(folder) == len(old)
    left = sorted(path.name for path in (folder / WAL).iterdir() if path.is_file())
    assert left == sorted([segment(4), segment(5), "00000002.history", "archive.json"])
    assert list((folder / WAL / EARLIER).iterdir()) == []
    assert lsn_of("1/F0") == (1 << 32) + 0xF0
