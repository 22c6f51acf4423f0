"""The files of saved queries: their names, their versions, and a directory that is not what it seems."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest

from tatame_db.studio import saved
from tatame_db.studio.errors import Refused
from tatame_db.studio.saved import SavedQueries, description, project_directory


@pytest.fixture
def queries(tmp_path: Path) -> SavedQueries:
    return SavedQueries(tmp_path / "queries")


def refusal(error: pytest.ExceptionInfo[Refused]) -> tuple[str, int]:
    assert error.value.fix
    return type(error.value).__name__, error.value.status


def test_a_query_is_saved_listed_changed_renamed_and_deleted(queries: SavedQueries) -> None:
    assert queries.listing().queries == []
    first = queries.save("Who trained most", "-- chart: bar x=a y=b\n-- The most\nSELECT 1", None)
    file = queries.directory / "Who trained most.sql"
    assert file.read_text() == "-- chart: bar x=a y=b\n-- The most\nSELECT 1\n"
    assert [(query.name, query.description) for query in queries.listing().queries] == [
        ("Who trained most", "The most")
    ]
    assert queries.read("Who trained most") == first
    second = queries.save("Who trained most", "SELECT 2\n", first.version)
    renamed = queries.rename("Who trained most", "Mês", second.version)
    assert queries.read("Mês") == renamed
    queries.delete("Mês", renamed.version)
    assert list(queries.directory.iterdir()) == []


def test_of_simultaneous_saves_of_a_file_exactly_one_succeeds(queries: SavedQueries) -> None:
    opened = queries.save("a", "SELECT 0", None)
    together = Barrier(8)

    def save(number: int) -> str:
        # Half of them are another studio on the same directory.
        studio = queries if number % 2 else SavedQueries(queries.directory)
        together.wait()
        try:
            return studio.save("a", f"{opened.text}, {number}", opened.version).text
        except saved.QueryChanged:
            return "changed"

    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            outcomes = list(threads.map(save, range(1, 9)))
            assert outcomes.count("changed") == 7
            opened = queries.read("a")
            assert opened.text in outcomes


def test_a_file_that_changed_on_disk_is_not_overwritten(queries: SavedQueries) -> None:
    opened = queries.save("a", "SELECT 1", None)
    (queries.directory / "a.sql").write_text("SELECT 'theirs'\n")
    for act in (
        lambda: queries.save("a", "SELECT 'mine'", opened.version),
        lambda: queries.rename("a", "b", opened.version),
        lambda: queries.delete("a", opened.version),
    ):
        with pytest.raises(saved.QueryChanged) as error:
            act()
        assert error.value.details["now"]["text"] == "SELECT 'theirs'\n"
    with pytest.raises(saved.QueryExists):
        queries.save("a", "SELECT 'mine'", None)
    now = queries.save("b", "SELECT 'other'", None)
    with pytest.raises(saved.QueryExists):
        queries.rename("b", "a", now.version)
    assert (queries.directory / "a.sql").read_text() == "SELECT 'theirs'\n"
    (queries.directory / "a.sql").unlink()
    with pytest.raises(saved.QueryNotFound):
        queries.save("a", "SELECT 'mine'", opened.version)


def test_a_saved_file_keeps_its_line_ends_and_permissions(queries: SavedQueries) -> None:
    opened = queries.save("a", "SELECT 1", None)
    file = queries.directory / "a.sql"
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask()
    file.write_bytes(b"\xef\xbb\xbfSELECT\r\n1\r\n")
    file.chmod(0o640)
    opened = queries.read("a")
    assert opened.text == "SELECT\n1\n"
    queries.save("a", "SELECT\n2\n", opened.version)
    assert file.read_bytes() == b"SELECT\r\n2\r\n"
    assert file.stat().st_mode & 0o777 == 0o640


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "a.b", ".a", "-rf", " a", "a ", "a\nb", "a\0b", "a\u202eb",
     "a:b", "a" * 201, unicodedata.normalize("NFD", "é"), "\ud800"],
)  # fmt: skip
def test_a_name_cannot_lead_out_of_the_directory(queries: SavedQueries, name: str) -> None:
    for act in (
        lambda: queries.read(name),
        lambda: queries.save(name, "SELECT 1", None),
        lambda: queries.delete(name, ""),
        lambda: queries.rename("a", name, ""),
    ):
        with pytest.raises(saved.QueryNameInvalid):
            act()


@pytest.mark.parametrize("name", ["a", "7", "Check-ins by week", "Mês_2", "東京", "हिन्दी", "عربي"])
def test_a_name_may_have_letters_of_any_language(queries: SavedQueries, name: str) -> None:
    queries.save(name, "SELECT 1", None)
    assert [query.name for query in queries.listing().queries] == [name]


def test_a_name_with_a_separate_accent_on_disk_is_found(queries: SavedQueries) -> None:
    queries.directory.mkdir()
    (queries.directory / f"{unicodedata.normalize('NFD', 'Mês')}.sql").write_text("SELECT 1\n")
    opened = queries.read("Mês")
    queries.save("Mês", "SELECT 2", opened.version)
    assert len(list(queries.directory.iterdir())) == 1


def test_what_is_not_a_query_file_is_not_followed_and_named(queries: SavedQueries, tmp_path: Path) -> None:
    (tmp_path / "secret.sql").write_text("secret")
    queries.directory.mkdir()
    (queries.directory / "link.sql").symlink_to(tmp_path / "secret.sql")
    (queries.directory / "folder.sql").mkdir()
    os.mkfifo(queries.directory / "pipe.sql")
    (queries.directory / "latin.sql").write_bytes("SELECT 'é'".encode("latin-1"))
    (queries.directory / "large.sql").write_bytes(b"-- large\n" + b"x" * saved.MAX_QUERY_BYTES)
    (queries.directory / "a.b.sql").write_text("SELECT 1")
    (queries.directory / "notes.md").write_text("# notes")
    (queries.directory / ".hidden.sql").write_text("SELECT 1")

    listing = queries.listing()
    assert [query.name for query in listing.queries] == ["large", "latin"]
    assert sorted(line.partition(":")[0] for line in listing.skipped) == [
        "a.b.sql", "folder.sql", "link.sql", "pipe.sql"
    ]  # fmt: skip
    assert any("symbolic link" in line for line in listing.skipped)
    for name in ("link", "folder", "pipe", "latin", "large"):
        with pytest.raises(Refused) as error:
            queries.read(name)
        assert refusal(error)[1] == 422
    for name in ("link", "folder", "pipe"):
        with pytest.raises(saved.QueryExists):
            queries.save(name, "SELECT 1", None)
    assert (tmp_path / "secret.sql").read_text() == "secret"


def test_a_directory_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name, reason in {"file": "Not a directory", "link": "symbolic link"}.items():
        for act in (SavedQueries.listing, lambda queries: queries.save("a", "SELECT 1", None)):
            with pytest.raises(saved.QueryFileFailed, match=reason):
                act(SavedQueries(tmp_path / name))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_directory_without_the_right_to_write_is_explained(directory: Path) -> None:
    queries = SavedQueries(directory / "queries")
    queries.directory.mkdir(mode=0o555)
    with ordinary_user(), pytest.raises(saved.QueryFileFailed, match="Permission denied"):
        queries.save("a", "SELECT 1", None)
    assert list(queries.directory.iterdir()) == []


@contextmanager
def ordinary_user() -> Generator[None]:
    """Lose the right of root to write anywhere."""
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


def test_a_failed_write_leaves_the_file_as_it_was(queries: SavedQueries, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = queries.save("a", "SELECT 1", None)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # a full disk
    with pytest.raises(saved.QueryFileFailed, match="No space left"):
        queries.save("a", "SELECT 2", opened.version)
    with pytest.raises(saved.QueryFileFailed, match="No space left"):
        queries.save("b", "SELECT 2", None)
    assert [file.name for file in queries.directory.iterdir()] == ["a.sql"]
    assert queries.read("a") == opened


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("SELECT 1 -- no", ""),
        ("\n  -- The most\n-- second", "The most"),
        ("-- chart: bar x=a y=b\n--- Then", "Then"),
        ("--\n-- x", "x"),
    ],
)
def test_the_description_is_the_first_comment(text: str, words: str) -> None:
    assert description(text) == words


def test_the_directory_is_beside_the_nearest_project_file(tmp_path: Path) -> None:
    inner = tmp_path / "project" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "project" / ".git").mkdir()
    assert project_directory(inner) == tmp_path / "project" / "queries"
    (inner.parent / "pyproject.toml").touch()
    assert project_directory(inner) == inner.parent / "queries"
