"""How a server writes values as text, whatever the session, the role or the database prefers."""

from __future__ import annotations

TEXT_OUTPUT = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
}
"""Server settings under which equal values have equal texts, which the server reads back without loss."""
