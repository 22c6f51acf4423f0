"""Saved queries: the files `queries/*.sql` of a project, which a team shares by git."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import threading
import unicodedata
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from tatame_db.errors import NOTHING_CHANGED, fact
from tatame_db.studio.errors import BadInput, Refused

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

MAX_QUERY_BYTES = 1_000_000
MAX_QUERIES = 1000
_SUFFIX = ".sql"
_MAX_NAME_BYTES = 200
_HEAD_BYTES = 4096
_PROJECT_FILES = ("pyproject.toml", ".git")
# The categories of letters, with the marks that belong to them, and of digits.
_NAME_CATEGORIES = {"L", "M", "N"}
_UNCHANGED = "The file is as it was."


class QueryText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that saves a query; without a `version` the query is new."""

    name: str
    text: str
    version: str | None = None


class QueryVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that deletes a query."""

    name: str
    version: str


class QueryName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that renames a query."""

    name: str
    version: str
    to: str


@dataclass(frozen=True)
class SavedQuery:
    """A file: its text with the line ends of the browser, and the version by which a change on disk is noticed."""

    name: str
    text: str
    version: str


@dataclass(frozen=True)
class ListedQuery:
    """A query in the list, with the first line of its comment."""

    name: str
    description: str


@dataclass(frozen=True)
class Listing:
    """The queries of the directory, and the files that are not among them, each with the reason."""

    directory: str
    queries: list[ListedQuery]
    skipped: list[str]


@fact
class QueryNameInvalid(Refused):
    """The name cannot be the name of a file on every system, or could lead out of the directory."""

    name: str
    what = '"{name}" cannot be the name of a query'
    fix = "use letters, digits, spaces, - and _; start and end with a letter or a digit"


@fact
class QueryNotFound(Refused):
    """The directory has no such file."""

    path: str
    status = 404
    what = "{path} does not exist"
    means = "It was renamed or deleted since the list was read, or is not a regular file."
    fix = "choose another query from the list, or save the text under a name"


@fact
class QueryExists(Refused):
    """Another file has the name of a new or renamed query."""

    path: str
    status = 409
    what = "{path} already exists"
    means = NOTHING_CHANGED
    fix = "choose another name"


@fact
class QueryChanged(Refused):
    """The file differs from the one that was read."""

    path: str
    now: dict[str, str]
    """The file as it is."""
    status = 409
    what = "{path} changed on disk since it was opened"
    means = _UNCHANGED
    fix = "open the file again, or overwrite it"

    @property
    def details(self) -> dict[str, Any]:
        """Return the file as it is."""
        return {"now": self.now}


@fact
class QueryFileFailed(Refused):
    """The system refuses an operation on a file or on the directory."""

    operation: str
    path: str
    reason: str
    status = 422
    what = "{path} cannot be {operation}: {reason}"
    means = _UNCHANGED
    fix = "check the permissions and the space of the directory, or choose another with `tatame-db studio --queries`"


@fact
class QueryUnreadable(Refused):
    """The content of a file is not a query."""

    path: str
    reason: str
    status = 422
    what = "{path} cannot be opened: {reason}"
    fix = "correct the file in an editor"


def project_directory(start: Path) -> Path:
    """Return `queries` beside the nearest `pyproject.toml` or `.git` at or above a directory, otherwise in it."""
    start = start.resolve()
    for directory in (start, *start.parents):
        if any((directory / name).exists() for name in _PROJECT_FILES):
            return directory / "queries"
    return start / "queries"


class SavedQueries:
    """The queries of a directory, which may not exist yet. No symbolic link in it is followed.

    Raises `Refused`: the file system reports nothing else.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._writing = threading.Lock()

    def listing(self) -> Listing:
        """Return the queries in the order of their names."""
        queries: list[ListedQuery] = []
        skipped: list[str] = []
        for file in sorted(self._files(), key=lambda path: path.name.casefold())[:MAX_QUERIES]:
            try:
                head = self._read(file, _HEAD_BYTES).decode("utf-8-sig", errors="replace")
            except Refused as error:
                skipped.append(f"{file.name}: {getattr(error, 'reason', error.what)}")
                continue
            name = _name_of(file)
            if _is_name(name):
                queries.append(ListedQuery(name, description(head)))
            else:
                skipped.append(f"{file.name}: the name has other characters than letters, digits, spaces, - and _")
        return Listing(str(self.directory), queries, skipped)

    def read(self, name: str) -> SavedQuery:
        """Read a query."""
        content = self._content(self._path(name))
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise QueryUnreadable(path=self._shown(name), reason="it is not UTF-8") from None
        if "\0" in text:
            raise QueryUnreadable(path=self._shown(name), reason="it contains a NUL character")
        return SavedQuery(name, text.replace("\r\n", "\n"), _version(content))

    def save(self, name: str, text: str, version: str | None) -> SavedQuery:
        """Write a query: a new one without a version, otherwise the one that has this version on disk.

        The file is replaced as a whole or not at all. It keeps its permissions and its line ends.
        """
        if "\0" in text:
            raise BadInput(problem="the query contains a NUL character")
        if len(text.encode(errors="replace")) > MAX_QUERY_BYTES:
            raise BadInput(problem=f"the query is larger than {MAX_QUERY_BYTES:,} bytes")
        path, mode = self._path(name), 0o666
        text = text if text.endswith("\n") else f"{text}\n"
        content = text.encode()
        if version is None:
            with _explained("written", self._shown(name)):
                self.directory.mkdir(parents=True, exist_ok=True)
        with self._one_at_a_time():
            if version is not None:
                before = self._unchanged(name, version)
                mode = stat.S_IMODE(path.stat(follow_symlinks=False).st_mode)
                content = content.replace(b"\n", b"\r\n") if b"\r\n" in before else content
            with _explained("written", self._shown(name)):
                _write(path, content, mode=mode, is_new=version is None)
        return SavedQuery(name, text, _version(content))

    def rename(self, name: str, to: str, version: str) -> SavedQuery:
        """Rename a query that has this version on disk."""
        path, target = self._path(name), self._path(to)
        with self._one_at_a_time(), _explained("renamed", self._shown(to)):
            content = self._unchanged(name, version)
            # Unlike a rename, a link does not replace a file that exists.
            _link(path, target)
            path.unlink()
        return SavedQuery(to, content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n"), version)

    def delete(self, name: str, version: str) -> None:
        """Delete a query that has this version on disk."""
        with self._one_at_a_time(), _explained("deleted", self._shown(name)):
            self._unchanged(name, version)
            self._path(name).unlink()

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Generator[None]:
        """Let no other studio of this machine write between the comparison of a file and its replacement."""
        with self._writing, contextlib.ExitStack() as opened:
            # Some network file systems have no locks, and a directory that does not exist has no files to compare.
            with contextlib.suppress(OSError):
                descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield

    def _unchanged(self, name: str, version: str) -> bytes:
        content = self._content(self._path(name))
        if _version(content) != version:
            raise QueryChanged(path=self._shown(name), now=asdict(self.read(name)))
        return content

    def _files(self) -> list[Path]:
        if self.directory.is_symlink():
            raise QueryFileFailed(operation="read", path=str(self.directory), reason="it is a symbolic link")
        with _explained("read", str(self.directory)):
            try:
                return [
                    file for file in self.directory.iterdir() if file.name.endswith(_SUFFIX) and file.name[0] != "."
                ]
            except FileNotFoundError:
                return []

    def _path(self, name: str) -> Path:
        if not _is_name(name):
            raise QueryNameInvalid(name=name[:_MAX_NAME_BYTES])
        # A file system may store a letter and its accent apart.
        named = next((file for file in self._files() if _name_of(file) == name), None)
        return named or self.directory / f"{name}{_SUFFIX}"

    def _shown(self, name: str) -> str:
        return f"{self.directory.name}/{name}{_SUFFIX}"

    def _content(self, path: Path) -> bytes:
        content = self._read(path, MAX_QUERY_BYTES + 1)
        if len(content) > MAX_QUERY_BYTES:
            raise QueryUnreadable(path=path.name, reason=f"it is larger than {MAX_QUERY_BYTES:,} bytes")
        return content

    def _read(self, path: Path, limit: int) -> bytes:
        with _explained("opened", f"{self.directory.name}/{path.name}"):
            # Without a wait for the other end of a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return file.read(limit)
        raise QueryUnreadable(path=path.name, reason="it is not a regular file")


def description(text: str) -> str:
    """Return the first line of the comment at the start of a query, without `--`."""
    for line in text.splitlines():
        words = line.strip()
        if not words:
            continue
        if not words.startswith("--"):
            return ""
        comment = words.lstrip("-").strip()
        if comment and not comment.startswith("chart:"):
            return comment[:200]
    return ""


def _is_name(name: str) -> bool:
    is_allowed = all(character in " -_" or unicodedata.category(character)[0] in _NAME_CATEGORIES for character in name)
    is_normal = unicodedata.is_normalized("NFC", name) and name == name.strip(" -_")
    return bool(name) and is_allowed and is_normal and len(name.encode()) <= _MAX_NAME_BYTES


def _name_of(file: Path) -> str:
    return unicodedata.normalize("NFC", file.name.removesuffix(_SUFFIX))


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes, *, mode: int, is_new: bool) -> None:
    # Beside the file, because only within a file system a file can be replaced as a whole.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if not is_new:
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if is_new:
            _link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        # A file system without links.
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(source.read_bytes())


@contextlib.contextmanager
def _explained(operation: str, path: str) -> Generator[None]:
    try:
        yield
    except FileExistsError:
        raise QueryExists(path=path) from None
    except FileNotFoundError:
        raise QueryNotFound(path=path) from None
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
        raise QueryFileFailed(operation=operation, path=path, reason=reason) from None
