"""The address of a table: its schema and its name in one text, as it stands in the address of a page."""

from __future__ import annotations

import re
from urllib.parse import unquote

from tatame_db.database.dialect import SCHEMA


def encoded(name: str) -> str:
    """Write a name as a part of an address, without the characters that separate parts: `%`, `.`, `/`, `,`, `-`."""
    return re.sub(r"[%./,\-]", lambda found: f"%{ord(found[0]):02X}", name)


def address(schema: str | None, name: str) -> str:
    """Write the address of a table: `users` in the schema `public`, `billing.invoices` in another one."""
    return encoded(name) if schema in {None, SCHEMA} else f"{encoded(schema or '')}.{encoded(name)}"


def parsed(written: str) -> tuple[str, str]:
    """Return the schema and the name of a table from its address."""
    schema, dot, name = written.rpartition(".")
    return (unquote(schema) if dot else SCHEMA), unquote(name)
