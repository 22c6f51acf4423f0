"""SQL as text: its statements without comments and literals, which is all that is left to read in a migration."""

from __future__ import annotations

import re

_NAME = r'(?:"(?:[^"]|"")*"|[^\W\d]\w*)'
QUALIFIED = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
"""The name of a table, with or without its schema."""

# In the order in which they are tried at each place: what cannot contain a statement, and names, which stay.
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?\*/"
    r"|(?P<literal>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag))"
    rf"|(?P<name>{_NAME})|(?P<end>;)",
    re.DOTALL,
)
# No SQL contains it.
_END = "\0"
_ENDS_TRANSACTION = re.compile(
    r"(?:BEGIN(?!\s+ATOMIC)|START\s+TRANSACTION|COMMIT|END|ABORT|PREPARE\s+TRANSACTION"
    r"|ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO))\b",
    re.IGNORECASE,
)
_BODY = re.compile(r"\bBEGIN\s+ATOMIC\b", re.IGNORECASE)


def statements(sql: str) -> list[str]:
    r"""Split SQL into its statements, without comments and with each literal as `''`; names stay as they are.

    >>> statements('SELECT "a;b" -- two; words\n; DROP TABLE "x"')
    ['SELECT "a;b"', 'DROP TABLE "x"']
    """
    plain = _TOKEN.sub(_plain, sql)
    return [statement for part in plain.split(_END) if (statement := part.strip())]


def do_blocks(sql: str) -> list[str]:
    """Return the bodies of DO statements, without comments: what they run may depend on rows.

    >>> do_blocks("SELECT 1; DO $$ BEGIN /* x */ DROP TABLE a; END $$")
    [' BEGIN   DROP TABLE a; END ']
    """
    bodies: list[str] = []
    start = 0
    for found in _TOKEN.finditer(sql):
        if found["end"]:
            start = found.end()
        elif found["literal"] and re.match(r"DO\b", "".join(statements(sql[start : found.start()])), re.IGNORECASE):
            tag = found["tag"] or "'"
            body = found["literal"].removeprefix(tag).removesuffix(tag)
            bodies.append(_TOKEN.sub(lambda part: part[0] if any(part.groups()) else " ", body))
    return bodies


def _plain(found: re.Match[str]) -> str:
    if found["literal"]:
        return "''"
    return found["name"] or (_END if found["end"] else " ")


def ends_transaction(sql: str) -> bool:
    """Return whether SQL begins or ends a transaction, as COMMIT does."""
    # The body of a function in standard SQL has semicolons, and an END of its own.
    return any(_ENDS_TRANSACTION.match(statement) for statement in statements(sql)) and not _BODY.search(sql)
