"""Texts that have a fixed form, such as dates and times: a column states its form, and nothing else lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Column


@dataclass(frozen=True)
class Form:
    """The form of a column of text: `YYYY-MM-DD`, `MM-DD` or `HH:MM`.

    `required` means that the app compares and sorts by it. Otherwise a person may have typed something else.
    """

    pattern: str
    required: bool = True

    @property
    def info(self) -> dict[str, Any]:
        """The `info` of a column that has this form."""
        return {"form": self}


DATE, TIME = Form("YYYY-MM-DD"), Form("HH:MM")
TYPED_DATE, TYPED_DAY = Form("YYYY-MM-DD", required=False), Form("MM-DD", required=False)


def form(column: Column[Any]) -> Form | None:
    """Return the form that a column states; `None` if its texts are free."""
    stated: object = column.info.get("form")
    return stated if isinstance(stated, Form) else None
