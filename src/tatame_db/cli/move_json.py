"""The objects that the doctor and the commands of the move print with `--json`, of which the page on them is made."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tatame_db.move import Comparison, TableCount, TableProof
    from tatame_db.move.rest import RestReading

# The class of the object that each command prints, by its module.
ANSWERS = {
    "doctor": "tatame_db.doctor.examine.Examined",
    "roles": "tatame_db.roles.listing.Roles",
    "roles --apply": "tatame_db.roles.apply.RolesApplied",
    "move plan": "tatame_db.move.plan.Plan",
    "move copy": "tatame_db.move.copy.Report",
    "move verify": "tatame_db.move.proof.Proof",
    "move counts": "tatame_db.cli.move_json.Counts",
    "move status": "tatame_db.move.status.MoveStatus",
    "move follow": "tatame_db.move.follow.loop.Lag",
    "move switch": "tatame_db.move.switch.steps.SwitchReport",
    "move back": "tatame_db.move.switch.steps.SwitchReport",
    "move finish": "tatame_db.move.switch.finish.Finished",
    "move rejects": "tatame_db.move.restore.KeptRows",
    "move rehearse": "tatame_db.move.rehearsal.run.Rehearsal",
}
# Properties that are keys too, by class.
PROPERTIES: dict[str, tuple[str, ...]] = {
    "Plan": ("complete", "seconds"),
    "Proof": ("equal", "equal_but_for_choices", "by_choice"),
    "TableProof": ("equal",),
    "SwitchedTable": ("is_equal",),
    "TableCount": ("agrees", "by_choice"),
    "Rehearsal": ("passed",),
    "Examined": ("counts",),
}


@dataclass(frozen=True)
class Counts:
    """The numbers of rows."""

    rest: RestReading | None
    """How the source was read, if over REST."""
    tables: list[TableCount]


def as_json(value: object) -> Any:
    """Return what JSON can hold: an object for a dataclass, with its fields and `PROPERTIES`."""
    if is_dataclass(value):
        names = [*(field.name for field in fields(value)), *PROPERTIES.get(type(value).__name__, ())]
        return {name: as_json(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in cast("list[object]", value)]
    return value


class _Stream(list[Any]):
    """A list for the JSON encoder whose items are made one by one; only their number is known before."""

    def __init__(self, items: Iterator[Any], number: int) -> None:
        super().__init__()
        self._items, self._number = items, number

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def __len__(self) -> int:
        return self._number


def comparison_as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the object of a comparison; the values that differ are read while it is encoded."""
    answer: dict[str, Any] = as_json(replace(comparison.proof, tables=[]))
    verdict = {name: getattr(comparison.proof, name) for name in PROPERTIES["Proof"]}
    return answer | verdict | {"tables": [_table_as_json(comparison, table) for table in comparison.proof.tables]}


def _table_as_json(comparison: Comparison, table: TableProof) -> dict[str, Any]:
    answer: dict[str, Any] = as_json(replace(table, differences=[]))
    differences = _Stream(map(as_json, comparison.differences(table)), len(table.differences))
    return answer | {"differences": differences, "equal": table.equal}
