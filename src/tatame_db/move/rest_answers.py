"""What a PostgREST answers: its description of the tables, the numbers of rows in a header, and its errors."""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tatame_db.move.rest_errors import PageKeyMissing, UnexpectedResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    import httpx

# Python refuses to read a number of thousands of digits.
_CONTENT_RANGE = re.compile(r"(?:([0-9]{1,18})-([0-9]{1,18})|\*)/([0-9]{1,18}|\*)")


@dataclass(frozen=True)
class RestTable:
    """A table as the server describes it: column types by column name, and the columns of the primary key.

    A view looks like a table, too, and rows can be inserted into a simple one.
    """

    name: str
    columns: dict[str, str]
    keys: list[str]
    insertable: bool = True

    @property
    def has_key(self) -> bool:
        """Whether its pages can be ordered."""
        return len(self.keys) == 1

    @property
    def key(self) -> str:
        """The one column by which pages are ordered. Raises `PageKeyMissing`."""
        if not self.has_key:
            raise PageKeyMissing(table=self.name)
        return self.keys[0]


def table_of(name: str, details: dict[str, Any], *, insertable: bool) -> RestTable:
    """Return a table from the server's description of it."""
    columns: dict[str, dict[str, str]] = details.get("properties", {})
    keys = [column for column, described in columns.items() if "<pk/>" in described.get("description", "")]
    types = {column: str(described.get("format", "text")) for column, described in columns.items()}
    return RestTable(name, types, keys, insertable)


def parsed(body: bytes | bytearray | None) -> Any:
    """Return the value of a JSON text. Raises `ValueError`, also for an object that has a key twice."""
    try:
        return json.loads(body or b"", object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Readers disagree about which of the values counts.
        raise ValueError("an object has a key twice")
    return found


def content_range(response: httpx.Response) -> tuple[int | None, int | None, int | None]:
    """Return the first and the last position of the rows in a response, and the total number of rows."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is None:
        url = str(response.url.copy_with(query=None))
        raise UnexpectedResponse(url=url, problem="the Content-Range header is missing or malformed")
    first, last, total = (int(part) if part and part != "*" else None for part in found.groups())
    return first, last, total


def postgrest_error(body: bytearray | None) -> dict[str, str]:
    """Return the texts of PostgREST's error object, `code` and `message` among them; empty for any other body."""
    with contextlib.suppress(ValueError, AttributeError):
        details: Iterable[tuple[str, object]] = parsed(body).items()
        return {name: text for name, text in details if isinstance(text, str)}
    return {}


def retry_after_seconds(response: httpx.Response) -> float | None:
    """Return how long a server that is busy asks to wait; `None` if it does not say."""
    retry_after = response.headers.get("retry-after", "")
    if retry_after.isdecimal():
        return float(retry_after)
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None
