"""Which SQL changes settings of a session that outlast its transaction.

A pool lends connections to one caller after another: a role or a setting that one leaves behind would decide which rows
the next one sees. Neither the protocol nor the log of the server tells of most changes, so the SQL itself has to.
"""

from __future__ import annotations

import re
from typing import Any, cast

CHANGED = "session_changed"
"""Marks in `info` a connection that must not be lent again."""

_SPACE = r"(?>\s+|--[^\n]*\n?|/\*.*?\*/)*+"
_SET = r"(?:set\s+(?!(?:local|transaction|constraints)\b)|reset\s|discard\s)"
_COMMAND = re.compile(_SPACE + _SET, re.DOTALL)
_BLOCK = re.compile(_SPACE + r"do\b.*?\b(?:begin|then|else|loop)\s+" + _SET, re.DOTALL)
"""The body of a DO block, whose other statements follow a semicolon."""

_UPDATED_VIEW = re.compile(r"\bupdate\b.{0,200}?\bpg_settings\b.{0,200}?\bset\b", re.DOTALL)
"""A rule of the server turns an UPDATE of this view into SET."""

_READ_ONLY = re.compile(
    _SPACE + r"(?:set|begin|start)\b.*\b(?:read\s+only|(?:default_)?transaction_read_only)\b", re.DOTALL
)
_CALL = re.compile(r'\bset_config"?\s*\(')
_PARENTHESES = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
_LOCAL_CALL = re.compile(
    rf"\bset_config\"?\s*\((?:[^()]|{_PARENTHESES})*?,\s*(?:true|%\((\w+)\)s)(?:\s*::\s*bool(?:ean)?)?\s*\)"
)
"""A call whose last argument is true, or a parameter."""


def changes_session(sql: str, parameters: Any = None) -> bool:
    """Return whether SQL may change a setting for longer than its transaction.

    `SET LOCAL` and `set_config(…, true)` do not. What a function or procedure of the database does is not known.
    """
    lowered = sql.lower()
    # An identifier with escapes may be the name of anything.
    if 'u&"' in lowered:
        return True
    # Most statements end here, after a search that costs less than a microsecond.
    if "set" not in lowered and "discard" not in lowered:
        return False
    if "pg_settings" in lowered and _UPDATED_VIEW.search(lowered):
        return True
    if any(_COMMAND.match(part) for part in lowered.split(";")) or _BLOCK.match(lowered):
        return True
    calls = len(_CALL.findall(lowered)) if "set_config" in lowered else 0
    return calls > 0 and calls > sum(_is_local(call[1], parameters) for call in _LOCAL_CALL.finditer(lowered))


def asks_for_reads_only(sql: str) -> bool:
    """Return whether SQL makes the running transaction read-only."""
    lowered = sql.lower()
    if "read" not in lowered:
        return False
    if "set_config" in lowered and "transaction_read_only" in lowered:
        return True
    return any(_READ_ONLY.match(part) for part in lowered.split(";"))


def _is_local(name: str | None, parameters: Any) -> bool:
    if name is None:
        return True
    if not isinstance(parameters, dict):
        return False
    named = cast("dict[str, object]", parameters)
    return any(key.lower() == name and value is True for key, value in named.items())
