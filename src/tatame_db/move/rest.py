"""A source that is reached over REST only: its tables, the number of their rows, and the rows page by page.

No response is trusted on its own: a server may cut a page short silently, and an error page may arrive with status 200.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote, unquote

import httpx
from pydantic import SecretStr

from tatame_db.move.http import READ_TIMEOUT_SECONDS, HttpClient
from tatame_db.move.rest_answers import RestTable, content_range, parsed, postgrest_error, retry_after_seconds, table_of
from tatame_db.move.rest_errors import (
    KeyInvalid,
    KeyIsRestricted,
    KeyRejected,
    RestAddressInvalid,
    RestError,
    RestNotReached,
    RowTooLong,
    TableForbidden,
    UnexpectedResponse,
)

# Row-level security hides nothing from this role.
FULL_ACCESS_ROLE = "service_role"
RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
LONGEST_PAUSE_SECONDS = 60
# The part of a page that is held in memory; only a page of a single row may be longer.
MAX_PAGE_BYTES = 1 << 21
# For a row of 100 MB, this process takes 0.4 GB and the temporary server 1.5 GB.
MAX_ROW_BYTES = 1 << 27
_BUSY = {429, 502, 503, 504}
_UNDEFINED_TABLE = {"42P01", "PGRST205"}
_UNDEFINED_COLUMN = "42703"
_INSUFFICIENT_PRIVILEGE = "42501"


@dataclass(frozen=True)
class RestReading:
    """How a source was read over REST. `cap` is the number of rows to which the server cut pages, if it cut any.

    `views` are the views without a model, whose rows were not read, and `read_views` those in place of a table.
    """

    address: str
    version: str
    role: str
    anon_sees_all: bool
    pages: int
    cap: int | None
    views: list[str] = field(default_factory=list[str])
    read_views: list[str] = field(default_factory=list[str])

    @property
    def identity(self) -> tuple[str, str]:
        """What distinguishes this source from every other."""
        return "rest", self.address


@dataclass(frozen=True)
class RestPage:
    """Rows as the server sent them, a JSON array, and their number according to the `Content-Range` header."""

    rows: int
    body: bytearray


# Types whose values are requested as JSON, in which a date has one form, whatever the session prefers, and a text keeps
# its blanks at the end.
_READ_AS_JSON = {
    *("smallint", "integer", "bigint", "numeric", "real", "double precision", "boolean", "uuid", "bytea"),
    *("text", "character varying", "character", "bpchar", "date"),
    *(f"time{stamp} {zone} time zone" for stamp in ("", "stamp") for zone in ("with", "without")),
}


def read_as_text(type_name: str) -> bool:
    """Return whether values of a type are requested as PostgreSQL's text.

    JSON loses the bounds of arrays, cannot tell the JSON value `null` from SQL's NULL, and has forms of its own for
    some types.
    """
    return type_name not in _READ_AS_JSON


class RestClient:
    """A connection to one PostgREST server with one key. Close it after use."""

    def __init__(
        self,
        address: str,
        key: str,
        *,
        anon_sees_all: bool = False,
        proxy: str | None = None,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        """Check the address, the key and its role; sends nothing.

        Requests go through `proxy` if there is one, and never through one that the environment names. Raises
        `RestAddressInvalid`, `KeyInvalid`, `KeyIsRestricted`, `ProxyInvalid`, `CertificatesUnusable`.
        """
        self.address = _valid_address(address)
        self.key = SecretStr(key.strip())
        if not re.fullmatch(r"[!-~]+", self.key.get_secret_value()):
            # httpx would repeat a key that no header can hold in its error message.
            raise KeyInvalid(problem="is empty or contains a character that no key has, such as a space")
        self.role = role_of(self.key.get_secret_value())
        self.anon_sees_all = anon_sees_all and self.role != FULL_ACCESS_ROLE
        if self.role != FULL_ACCESS_ROLE and not anon_sees_all:
            raise KeyIsRestricted(role=self.role)
        self.pages, self.version = 0, ""
        self.cap: int | None = None
        self.views: list[str] = []
        self.read_views: list[str] = []
        self._has_answered = False
        self._client = HttpClient(_headers(self.key.get_secret_value()), proxy, read_timeout_seconds)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def reading(self) -> RestReading:
        """How the source was read so far."""
        facts = self.address, self.version, self.role, self.anon_sees_all, self.pages, self.cap
        return RestReading(*facts, self.views, self.read_views)

    def tables(self) -> dict[str, RestTable]:
        """Return the tables that the server describes, by name. Raises `RestError`."""
        _, body = self._get("/", {}, {"Accept": "application/openapi+json, application/json"}, MAX_PAGE_BYTES * 8)
        try:
            description = parsed(body)
            self.version = str(description["info"]["version"])
            paths = description["paths"]
            return {
                name: table_of(name, details, insertable="post" in paths.get(f"/{name}", {}))
                for name, details in description["definitions"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnexpectedResponse(url=self.address, problem="expected a description of the tables") from error

    def is_view(self, table: RestTable) -> bool:
        """Return whether a table is a view, a materialized view or a foreign table. Raises `RestError`."""
        if not table.insertable:
            return True
        try:
            self._get(_path(table.name), {"select": "ctid", "limit": "0"}, {})
        except _ColumnUndefined:
            # Every row of a table has a place.
            return True
        return False

    def count(self, table: str) -> int | None:
        """Count the rows of a table; `None` if there is no such table. Raises `RestError`."""
        path = _path(table)
        try:
            response, _ = self._get(path, {"limit": "0"}, {"Prefer": "count=exact"})
        except _TableUndefined:
            return None
        [*_, total] = content_range(response)
        if total is None:
            raise UnexpectedResponse(url=self.address + path, problem="expected the number of rows, got none")
        return total

    def page(self, table: RestTable, after: str | None, limit: int) -> RestPage | None:
        """Read up to `limit` rows whose key comes after `after`, in the order of the key.

        Returns `None` if these rows take more than `MAX_PAGE_BYTES`; a single row may take `MAX_ROW_BYTES`. Raises
        `RestError`.
        """
        names = {name: _quoted(name) for name in table.columns}
        key = names[table.key]
        parameters = {
            "select": ",".join(
                f"{names[name]}{'::text' * read_as_text(type_name)}" for name, type_name in table.columns.items()
            ),
            "order": f"{key}.asc",
            "limit": str(limit),
            **({} if after is None else {key: f"gt.{after}"}),
        }
        max_bytes = MAX_ROW_BYTES if limit == 1 else MAX_PAGE_BYTES
        response, body = self._get(_path(table.name), parameters, {}, max_bytes)
        if body is None:
            if limit == 1:
                raise RowTooLong(table=table.name, limit_bytes=max_bytes)
            return None
        first, last, _ = content_range(response)
        self.pages += 1
        return RestPage(0 if first is None or last is None else last - first + 1, body)

    def first_row_place(self, table: RestTable) -> dict[str, str]:
        """Return the `key` of the first row and its system columns `tableoid`, `xmin` and `ctid`, all as text.

        Empty if the table is empty or the server does not reveal them. Raises `RestError`.
        """
        columns = {"key": _quoted(table.key), "tableoid": "tableoid", "xmin": "xmin", "ctid": "ctid"}
        parameters = {
            "select": ",".join(f"{column}::text" for column in columns.values()),
            "order": f"{columns['key']}.asc",
            "limit": "1",
        }
        with contextlib.suppress(UnexpectedResponse, ValueError, LookupError, TypeError, AttributeError):
            _, body = self._get(_path(table.name), parameters, {})
            return dict(zip(columns, map(str, parsed(body)[0].values()), strict=True))
        return {}

    def _get(
        self, path: str, parameters: dict[str, str], headers: dict[str, str], max_bytes: int = MAX_PAGE_BYTES
    ) -> tuple[httpx.Response, bytearray | None]:
        """Send a request, again after a pause if the server is busy; the body is `None` if it exceeds `max_bytes`."""
        headers = {"Accept": "application/json", "Accept-Profile": "public"} | headers
        pauses = iter(RETRY_PAUSES_SECONDS)
        while True:
            try:
                response, body = self._client.get(self.address + path, parameters, headers, max_bytes)
            except httpx.RequestError as error:
                failure: RestError = RestNotReached(address=self.address, reason=self._without_key(_message(error)))
                # A server that has answered may answer again; one that never did is more likely misspelled.
                pause = next(pauses, None) if self._has_answered else None
            else:
                self._has_answered = True
                if response.status_code not in _BUSY:
                    self._check(path, response, body)
                    return response, body
                pause = next(pauses, None)
                problem = f"status {response.status_code} after {len(RETRY_PAUSES_SECONDS) + 1} attempts"
                if pause is not None and (asked := retry_after_seconds(response)) is not None:
                    pause = asked if asked <= LONGEST_PAUSE_SECONDS else None
                    problem = f"status {response.status_code}, with a request to wait {asked:.0f} seconds"
                failure = UnexpectedResponse(url=self.address + path, problem=problem)
            if pause is None:
                raise failure from None
            time.sleep(pause)

    def _check(self, path: str, response: httpx.Response, body: bytearray | None) -> None:
        url = self.address + path
        if response.is_success:
            content_type = response.headers.get("content-type", "no content type").partition(";")[0]
            if not content_type.endswith("json"):
                raise UnexpectedResponse(url=url, problem=f"expected JSON, got {content_type}")
            return
        if response.has_redirect_location:
            raise UnexpectedResponse(url=url, problem="a redirect, which is not followed because it would get the key")
        error = postgrest_error(body)
        code = error.get("code")
        # A message of the database or of a gateway may repeat a value; those of PostgREST itself do not.
        message = error.get("message") if code and code.startswith("PGRST") else None
        reason = self._without_key(" ".join(filter(None, [f"status {response.status_code}", code, message])))
        if code == _INSUFFICIENT_PRIVILEGE:
            raise TableForbidden(table=unquote(path[1:]), role=self.role)
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise KeyRejected(address=self.address, reason=reason)
        if response.status_code == HTTPStatus.NOT_FOUND and code in _UNDEFINED_TABLE:
            raise _TableUndefined(url=url, problem=reason)
        if code == _UNDEFINED_COLUMN:
            raise _ColumnUndefined(url=url, problem=reason)
        raise UnexpectedResponse(url=url, problem=reason)

    def _without_key(self, message: str) -> str:
        # A gateway may repeat the request in its error message.
        return message.replace(self.key.get_secret_value(), "***")[:300]


class _TableUndefined(UnexpectedResponse):
    """There is no such table."""


class _ColumnUndefined(UnexpectedResponse):
    """The table has no such column."""


def role_of(key: str) -> str:
    """Return the role that a key names itself; `unknown` if it names none."""
    if key.startswith("sb_"):
        return {"secret": FULL_ACCESS_ROLE, "publishable": "anon"}.get(key.split("_")[1], "unknown")
    with contextlib.suppress(ValueError, IndexError, AttributeError):
        claims = key.split(".")[1]
        role = parsed(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4))).get("role")
        if isinstance(role, str) and role.isidentifier():
            return role
    return "unknown"


def rest_address(supabase_url: str | None, rest_url: str | None) -> str | None:
    """Return the address of PostgREST: its own if there is one, otherwise that within the Supabase project."""
    if rest_url:
        return rest_url
    return f"{supabase_url.rstrip('/')}/rest/v1" if supabase_url else None


def _valid_address(address: str) -> str:
    try:
        url = httpx.URL(address.strip())
    except httpx.InvalidURL:
        raise RestAddressInvalid(problem="cannot be parsed") from None
    if url.scheme not in ("http", "https"):
        raise RestAddressInvalid(problem="does not start with `https://` or `http://`")
    if not url.host:
        raise RestAddressInvalid(problem="has no host")
    if url.userinfo or url.query or url.fragment:
        raise RestAddressInvalid(problem="has a user, a query or a fragment")
    return str(url).rstrip("/")


def _headers(key: str) -> dict[str, str]:
    # A cache would answer the second reading with the pages of the first.
    headers = {"apikey": key, "Cache-Control": "no-cache"}
    # A key of the new kind (`sb_…`) is not a token, and a server that reads it as one rejects it.
    return headers if key.startswith("sb_") else headers | {"Authorization": f"Bearer {key}"}


def _quoted(column: str) -> str:
    escaped = column.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _path(table: str) -> str:
    return f"/{quote(table, safe='')}"


def _message(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return str(error) or "timed out"
    return str(error) or type(error).__name__
