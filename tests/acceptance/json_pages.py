"""Compares an answer of `--json` with its keys on the page."""

from __future__ import annotations

import re
from typing import Any, cast

from tatame_db.cli import json_keys


def assert_described(answer: Any, name: str) -> None:
    """Compare the keys of an object, and of the objects in it."""
    keys = json_keys.OBJECTS[name][1]
    if name == "BackedUp":
        keys = keys | json_keys.OBJECTS["Manifest"][1]
    assert set(answer) == set(keys), name
    for key, (kind, _) in keys.items():
        _assert_kind(answer[key], kind, f"{name}.{key}")


def _assert_kind(value: Any, kind: str, place: str) -> None:
    if value is None:
        assert kind.endswith("null"), place
        return
    kind = kind.removesuffix(" or null") if not kind.startswith("object") else kind
    inner = kind.partition(" of ")[2]
    if kind.startswith("list of"):
        for item in value:
            _assert_kind(item, inner, place)
    elif kind.startswith("object with"):
        for item in cast("dict[str, Any]", value).values():
            _assert_kind(item, inner, place)
    elif linked := re.match(r"\[(\w+)\]", kind):
        assert_described(value, linked[1])
    else:
        types: dict[str, Any] = {
            "text": str,
            "number": (int, float),
            "true or false": bool,
            "one of 'base', 'logical'": str,
        }
        assert isinstance(value, types[kind]), place
