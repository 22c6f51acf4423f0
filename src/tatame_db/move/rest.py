"""A source that is reached over REST alone: what it holds, how many rows, and its pages, each an answer of its own.

Nothing of an answer is trusted by itself: a page may be cut short without a word, and an error may come as a success.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import httpx
from pydantic import SecretStr

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.settings import SettingsInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

SEES_ALL = "service_role"
CONNECT_TIMEOUT_SECONDS = 15
# A count of a large table may take the server that long before it says a word.
SILENCE_SECONDS = 120
ANSWER_SECONDS = 900
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
LONGEST_PAUSE_SECONDS = 60
# What is held in memory of one page; only a single row may be longer.
PAGE_BYTES = 1 << 21
_BUSY = {429, 502, 503, 504}
_ABSENT = {"42P01", "PGRST205"}
_FORBIDDEN = "42501"
_RANGE = re.compile(r"(?:(\d+)-(\d+)|\*)/(\d+|\*)")


class RestError(TatameError):
    """The source cannot be read over REST."""


class RestNotReached(RestError):
    """No answer came, or only a part of one."""

    def __init__(self, address: str, words: str) -> None:
        self.address = address
        super().__init__(
            f"the source does not answer at {address}: {words}",
            means=NOTHING_CHANGED,
            fix="check `SUPABASE_URL` (or `SUPABASE_REST_URL`) and the network, then run the command again",
        )


class RestAnswer(RestError):
    """An answer came that is none to what was asked."""

    def __init__(self, where: str, words: str) -> None:
        self.where, self.words = where, words
        super().__init__(
            f"the source does not give what was asked for at {where}: {words}",
            means=NOTHING_CHANGED,
            fix="check `SUPABASE_URL` (or `SUPABASE_REST_URL`), which is to lead to PostgREST; if it does, try later",
        )


class KeyRefused(RestError):
    """The server does not take the key."""

    def __init__(self, address: str, words: str) -> None:
        super().__init__(
            f"{address} does not take the key: {words}",
            means=NOTHING_CHANGED,
            fix="set `SUPABASE_SERVICE_ROLE_KEY` to a key of this project that has not expired",
        )


class TableForbidden(RestError):
    """The key's role may not read a table, or a column of it."""

    def __init__(self, table: str, role: str) -> None:
        self.table = table
        super().__init__(
            f"the role {role} may not read {table}, or not all its columns",
            means=NOTHING_CHANGED,
            fix="set `SUPABASE_SERVICE_ROLE_KEY`, or grant the role SELECT",
        )


class KeySeesPart(RestError):
    """Row-level security applies to the key, and nobody said that it may see everything."""

    def __init__(self, role: str) -> None:
        self.role = role
        super().__init__(
            f"the key is for the role {role}: it may see less than there is, and nobody would notice",
            means=NOTHING_CHANGED,
            fix="set `SUPABASE_SERVICE_ROLE_KEY`; only if the policies let this role see every row, say"
            " `--anon-sees-all`",
        )


class NoKeyToFollow(RestError):
    """A table has no primary key of one column, so its pages cannot be told apart."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(
            f"{table} has no primary key of one column, so its pages could overlap or leave rows out",
            means=NOTHING_CHANGED,
            fix="give the table a primary key at the source, or set `SUPABASE_DB_URL`",
        )


@dataclass(frozen=True)
class Reading:
    """How a source was read over REST: not in one moment. `cap` is what the server allows a page, where it cut any."""

    address: str
    version: str
    role: str
    anon_sees_all: bool
    pages: int
    cap: int | None
    one_moment: bool = False

    @property
    def identity(self) -> tuple[str, str]:
        """What tells this source from every other one."""
        return "rest", self.address


@dataclass(frozen=True)
class RestTable:
    """A table as the server describes it: the types of its columns by name, and the columns of its primary key."""

    name: str
    columns: dict[str, str]
    keys: list[str]

    @property
    def key(self) -> str:
        """The one column that pages follow. Raises `NoKeyToFollow`."""
        if len(self.keys) != 1:
            raise NoKeyToFollow(self.name)
        return self.keys[0]


@dataclass(frozen=True)
class Page:
    """Rows as the server wrote them, a JSON array, and how many it says they are."""

    rows: int
    body: bytes


def as_text(kind: str) -> bool:
    """Say whether values of a type come as PostgreSQL's own text: JSON has no bounds of arrays, and one `null`."""
    return kind.endswith("[]") or kind in {"json", "jsonb"}


class Rest:
    """One server and one key. Close it after use."""

    def __init__(
        self, address: str, key: str, *, anon_sees_all: bool = False, silence_seconds: float = SILENCE_SECONDS
    ) -> None:
        """Check address and key, and that the key may see all. Raises `SettingsInvalid`, `KeySeesPart`."""
        self.address = _checked(address)
        self.key = SecretStr(key.strip())
        if not re.fullmatch(r"[!-~]+", self.key.get_secret_value()):
            # A header cannot hold it, and the library would show it in its complaint.
            raise SettingsInvalid({"the key of Supabase": "has spaces or other characters that no key has"})
        self.role = role_of(self.key.get_secret_value())
        self.anon_sees_all = anon_sees_all and self.role != SEES_ALL
        if self.role != SEES_ALL and not anon_sees_all:
            raise KeySeesPart(self.role)
        self.pages, self.version = 0, ""
        self.cap: int | None = None
        self._answered = False
        self._client = httpx.Client(
            headers=_headers(self.key.get_secret_value()),
            timeout=httpx.Timeout(silence_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            # A redirect would take the key to where nobody sent it.
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def reading(self) -> Reading:
        """What was read so far."""
        return Reading(self.address, self.version, self.role, self.anon_sees_all, self.pages, self.cap)

    def tables(self) -> dict[str, RestTable]:
        """Ask which tables there are. Raises `RestError`."""
        _, body = self._answer("/", {}, {"Accept": "application/openapi+json, application/json"}, PAGE_BYTES * 8)
        try:
            described = json.loads(body or b"")
            self.version = str(described["info"]["version"])
            return {name: _table(name, facts) for name, facts in described["definitions"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RestAnswer(self.address, "it is no description of the tables") from error

    def count(self, table: str) -> int | None:
        """Count all rows; `None` where there is no such table. Raises `RestError`."""
        path = _path(table)
        try:
            response, _ = self._answer(path, {"limit": "0"}, {"Prefer": "count=exact"})
        except _Absent:
            return None
        [*_, total] = self._range(response)
        if total is None:
            raise RestAnswer(self.address + path, "the number of rows was asked for, and is not in the answer")
        return total

    def page(self, table: RestTable, after: str | None, rows: int) -> Page | None:
        """Read the rows after a key, at most so many; `None` where they are too long to be held. Raises `RestError`."""
        names = {name: _name(name) for name in table.columns}
        key = names[table.key]
        parameters = {
            "select": ",".join(f"{names[name]}{'::text' * as_text(kind)}" for name, kind in table.columns.items()),
            "order": f"{key}.asc",
            "limit": str(rows),
            **({} if after is None else {key: f"gt.{after}"}),
        }
        # One row may be as long as it likes, for there is no shorter page.
        response, body = self._answer(_path(table.name), parameters, {}, None if rows == 1 else PAGE_BYTES)
        if body is None:
            return None
        first, last, _ = self._range(response)
        self.pages += 1
        return Page(0 if first is None or last is None else last - first + 1, body)

    def places(self, table: RestTable) -> list[str]:
        """Say where the server keeps the first row: its key, and the system columns that tell its place.

        Empty where that cannot be told. Raises `RestError`.
        """
        names = [_name(table.key), "tableoid", "xmin", "ctid"]
        with contextlib.suppress(RestAnswer, ValueError, IndexError):
            asked = {"select": ",".join(f"{name}::text" for name in names), "order": f"{names[0]}.asc", "limit": "1"}
            _, body = self._answer(_path(table.name), asked, {})
            return [str(value) for value in json.loads(body or b"")[0].values()]
        return []

    def _answer(
        self, path: str, parameters: dict[str, str], headers: dict[str, str], longest: int | None = PAGE_BYTES
    ) -> tuple[httpx.Response, bytes | None]:
        """Ask until there is an answer that may be read; without a body where it is longer than `longest`."""
        headers = {"Accept": "application/json", "Accept-Profile": "public"} | headers
        pauses = iter(PAUSES_SECONDS)
        while True:
            try:
                with self._client.stream("GET", self.address + path, params=parameters, headers=headers) as response:
                    body = _body(response, longest)
            except httpx.RequestError as error:
                failure: RestError = RestNotReached(self.address, self._safe(_in_words(error)))
                # What answered before may answer again; what never did is more likely named wrong.
                pause = next(pauses, None) if self._answered else None
            else:
                self._answered = True
                if response.status_code not in _BUSY:
                    return self._checked(path, response, body)
                pause = next(pauses, None)
                words = f"{_status(response)}, also after {len(PAUSES_SECONDS)} pauses"
                if pause is not None and (wanted := _retry_after(response)) is not None:
                    pause = wanted if wanted <= LONGEST_PAUSE_SECONDS else None
                    words = f"{_status(response)}, and it wants {wanted:.0f} seconds of pause"
                failure = RestAnswer(self.address + path, words)
            if pause is None:
                raise failure from None
            time.sleep(pause)

    def _checked(self, path: str, response: httpx.Response, body: bytes | None) -> tuple[httpx.Response, bytes | None]:
        where = self.address + path
        kind = response.headers.get("content-type", "nothing that is named").partition(";")[0]
        if response.is_success:
            if not kind.endswith("json"):
                raise RestAnswer(where, f"it is {kind}, and no JSON")
            return response, body
        if response.has_redirect_location:
            raise RestAnswer(where, "it sends us elsewhere, where the key was not sent")
        told = _told(body)
        words = self._safe(" ".join(filter(None, [_status(response), told.get("code"), told.get("message")])))
        if told.get("code") == _FORBIDDEN:
            raise TableForbidden(unquote(path[1:]), self.role)
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise KeyRefused(self.address, words)
        if response.status_code == HTTPStatus.NOT_FOUND and told.get("code") in _ABSENT:
            raise _Absent(where, words)
        raise RestAnswer(where, words)

    def _range(self, response: httpx.Response) -> tuple[int | None, int | None, int | None]:
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None:
            raise RestAnswer(str(response.url.copy_with(query=None)), "it does not say which rows these are")
        first, last, total = (int(part) if part and part != "*" else None for part in found.groups())
        return first, last, total

    def _safe(self, words: str) -> str:
        # A gateway may repeat what it was sent.
        return words.replace(self.key.get_secret_value(), "***")[:300]


class _Absent(RestAnswer):
    """There is no such table."""


def role_of(key: str) -> str:
    """Say whose key this is, as it says itself; `unknown` where it does not."""
    if key.startswith("sb_"):
        return {"secret": SEES_ALL, "publishable": "anon"}.get(key.split("_")[1], "unknown")
    with contextlib.suppress(ValueError, IndexError, AttributeError):
        claims = key.split(".")[1]
        told = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))).get("role")
        if isinstance(told, str) and told.isidentifier():
            return told
    return "unknown"


def rest_address(supabase_url: str | None, rest_url: str | None) -> str | None:
    """Return where PostgREST is: in a Supabase project, or where somebody says it is."""
    if rest_url:
        return rest_url
    return f"{supabase_url.rstrip('/')}/rest/v1" if supabase_url else None


def _checked(address: str) -> str:
    try:
        url = httpx.URL(address.strip())
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise SettingsInvalid({"SUPABASE_URL": "(or SUPABASE_REST_URL) is to be written as `https://host`"})
    return str(url).rstrip("/")


def _headers(key: str) -> dict[str, str]:
    # A key of the new kind is no token, and a server that takes it for one refuses it.
    return {"apikey": key} | ({} if key.startswith("sb_") else {"Authorization": f"Bearer {key}"})


def _table(name: str, facts: dict[str, Any]) -> RestTable:
    columns: dict[str, dict[str, str]] = facts.get("properties", {})
    keys = [column for column, its in columns.items() if "<pk/>" in its.get("description", "")]
    return RestTable(name, {column: str(its.get("format", "text")) for column, its in columns.items()}, keys)


def _name(column: str) -> str:
    escaped = column.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _path(table: str) -> str:
    return f"/{quote(table, safe='')}"


def _body(response: httpx.Response, longest: int | None) -> bytes | None:
    deadline = time.monotonic() + ANSWER_SECONDS
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if longest is not None and len(body) > longest:
            return None
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout(f"the answer took more than {ANSWER_SECONDS} seconds")
    return bytes(body)


def _told(body: bytes | None) -> dict[str, str]:
    with contextlib.suppress(ValueError, AttributeError):
        told: Iterable[tuple[str, object]] = json.loads(body or b"").items()
        return {name: value for name, value in told if isinstance(value, str)}
    return {}


def _status(response: httpx.Response) -> str:
    return f"status {response.status_code}"


def _retry_after(response: httpx.Response) -> float | None:
    told = response.headers.get("retry-after", "")
    if told.isdecimal():
        return float(told)
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    return None


def _in_words(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return str(error) or "it is silent"
    return str(error) or type(error).__name__
