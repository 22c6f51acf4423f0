"""The resolution of obstacles by choices.

Once a row is excluded it stays excluded, whatever is found later: of two rows with one `clerk_user_id`, the second is
not included again because the first turns out to be an orphan. So there is always one answer, and always the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact
from tatame_db.move import obstacles
from tatame_db.move.choices import (
    KEPT,
    LEFT,
    NULLED,
    REJECTED,
    UNKNOWN_TABLE,
    Choices,
    Exclusion,
    ExclusionQuery,
    Obstacle,
    Resolution,
    choices_for,
    rows_of,
    values_of,
    whole_rows,
)
from tatame_db.move.obstacles import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move.catalogue import SourceTable
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import Mapping, TableMap

EXAMPLES = 3
# The ids of excluded rows are held in memory and written into queries, at about 10 bytes each.
MAX_IDS = 2_000_000
_ACTIONS = {"keep": KEPT, "leave": LEFT}


@fact
class TooManyExcluded(TatameError):
    """The choices exclude too many rows."""

    most: int
    table: str
    reason: str
    what = "the choices exclude more than {most:row}; the last of them are in {table}: {reason}"
    fix = "fix the rows at the source; choices are for exceptions"


def resolve(source: MoveConnection, mapping: Mapping, choices: Choices) -> Resolution:
    """Read all rows of the source; find the obstacles and what the choices exclude. Raises `TooManyExcluded`."""
    return _Resolver(source, mapping, choices).resolve()


@dataclass(frozen=True)
class _Draft:
    """An exclusion of rows, some of which may still be rejected for another reason."""

    table: str
    requirement: Requirement
    action: str
    ids: str
    """In the form of `array_items`; empty for all rows without an id."""


class _Resolver:
    """Goes through the tables, and narrows `tables` down to rows and values that are not excluded."""

    def __init__(self, source: MoveConnection, mapping: Mapping, choices: Choices) -> None:
        self.source, self.mapping, self.choices = source, mapping, choices
        self.tables = {table.name: table for table in mapping.tables}
        self.rows = dict.fromkeys(self.tables, 0)
        self.obstacles: dict[str, dict[str, Obstacle]] = {name: {} for name in self.tables}
        self.drafts: list[_Draft] = []
        self.queries: list[ExclusionQuery] = []
        # Tables, and ids of rejected rows in them to which other rows may refer.
        self.rejected: list[tuple[str, str]] = []
        self.ids = 0

    def resolve(self) -> Resolution:
        names = [name for name, table in self.tables.items() if table.source]
        for name in names:
            self._find_in_rows(name)
        for name in names:
            self._find(name, obstacles.orphans(self.mapping, self.tables[name]))
        self._find_children_of_rejected(names)
        for name in names:
            self._find(name, obstacles.duplicates(self.tables[name].with_all_rows))
        self._find_children_of_rejected(names)
        for draft in self.drafts:
            self._add(self._query_of(draft))
        unknown_tables = [found for table in self.mapping.unknown if (found := self._unknown_table(table))]
        return Resolution(
            replace(self.mapping, tables=list(self.tables.values())),
            self.rows,
            {name: self._obstacles_of(table) for name, table in self.tables.items()},
            unknown_tables,
            self.queries,
        )

    # Finding rows that do not meet a requirement

    def _find_in_rows(self, name: str) -> None:
        table = self.tables[name]
        requirements = list(obstacles.of_a_row(table))
        filters = "".join(f", count(*) FILTER (WHERE {requirement.violation})" for requirement in requirements)
        # One reading of the table answers all that a row by itself can violate.
        self.rows[name], *counts = self.source.row(f"SELECT count(*){filters} FROM {table.source_sql}")
        self._find(name, obstacles.of_the_key(table))
        for requirement, count in zip(requirements, counts, strict=True):
            self._found(table.with_all_rows, requirement, count)

    def _find(self, name: str, requirements: Iterable[Requirement]) -> None:
        for requirement in requirements:
            table = self.tables[name].with_all_rows
            self._found(table, requirement, self._count(table, requirement))

    def _find_children_of_rejected(self, names: list[str]) -> None:
        """Exclude references to rejected rows, until there are none."""
        while self.rejected:
            parent, ids = self.rejected.pop()
            for name in names:
                for requirement in obstacles.orphans_of(self.tables[name], self.tables[parent], ids):
                    table = self.tables[name]
                    self._found(table, requirement, self._count(table, requirement))

    def _count(self, table: TableMap, requirement: Requirement) -> int:
        [count] = self.source.row(f"SELECT count(*) FROM {table.source_sql} WHERE {requirement.violation}")
        return int(count)

    def _found(self, table: TableMap, requirement: Requirement, count: int) -> None:
        """Note the obstacle, and exclude its rows if there is a choice."""
        if not count:
            return
        self._note(table, requirement, count)
        if choice := self.choices.of(requirement.kind):
            self._exclude(table.name, requirement, choice[0])

    def _note(self, table: TableMap, requirement: Requirement, count: int) -> None:
        noted = self.obstacles[table.name]
        if known := noted.get(requirement.reason):
            noted[requirement.reason] = replace(known, rows=known.rows + count)
            return
        # Ids may occur more than once, and be of a type that has no order.
        examples = self.source.rows(
            f"SELECT coalesce(id, 'NULL') FROM (SELECT DISTINCT {table.key.compared} AS value, {table.source_id} AS id"
            f" FROM {table.source_sql} WHERE {requirement.violation}) AS found"
            f' ORDER BY value, id COLLATE "C" LIMIT {EXAMPLES}'
        )
        choice = self.choices.of(requirement.kind)
        noted[requirement.reason] = Obstacle(
            kind=requirement.kind,
            reason=requirement.reason,
            rows=count,
            ids=[row[0] for row in examples],
            choices=choices_for(requirement),
            chosen=choice[1] if choice else None,
        )

    # Excluding them

    def _exclude(self, name: str, requirement: Requirement, choice: str) -> None:
        table, key = self.tables[name], self.tables[name].key.source
        of_the_key = key is not None and requirement.column == key.name
        if requirement.kind == "unknown-column":
            self._add(values_of(table, _exclusion(name, requirement, _ACTIONS[choice])))
        elif requirement.kind == "missing-value" and of_the_key:
            self._reject_without_id(table, requirement)
        elif requirement.kind == "duplicate" and key is not None and not of_the_key:
            self._exclude_rows(table, _duplicate_to_exclude(table, requirement, choice), REJECTED)
        else:
            self._exclude_rows(table, requirement, NULLED if choice == "null" and requirement.nullable else REJECTED)

    def _reject_without_id(self, table: TableMap, requirement: Requirement) -> None:
        rows, _ = self._ids(table, requirement, f"{table.key.source_value} IS NULL")
        if rows:
            self.tables[table.name] = replace(table, excluded=replace(table.excluded, without_id=True))
            self.drafts.append(_Draft(table.name, requirement, REJECTED, ""))

    def _exclude_rows(self, table: TableMap, requirement: Requirement, action: str) -> None:
        rows, ids = self._ids(table, requirement, f"{table.key.source_value} IS NOT NULL")
        if not rows:
            return
        if action == REJECTED:
            excluded = table.excluded.with_rejected(ids)
            self.rejected.append((table.name, ids))
        else:
            excluded = table.excluded.with_nulled(str(requirement.column), ids)
        self.tables[table.name] = replace(table, excluded=excluded)
        self.drafts.append(_Draft(table.name, requirement, action, ids))

    def _ids(self, table: TableMap, requirement: Requirement, condition: str) -> tuple[int, str]:
        """Return the number of rows that are not excluded yet and violate a requirement, and their ids."""
        rows, ids = self.source.row(
            f"SELECT count(*), array_agg(k)::text FROM (SELECT {table.id_value} AS k FROM {table.source_sql}"
            f" WHERE ({requirement.violation}) AND {condition} LIMIT {MAX_IDS + 1}) AS found"
        )
        self.ids += rows
        if self.ids > MAX_IDS:
            raise TooManyExcluded(most=MAX_IDS, table=table.name, reason=requirement.reason)
        # Without the braces of the array.
        return rows, ids[1:-1] if ids else ""

    # Summing up

    def _query_of(self, draft: _Draft) -> ExclusionQuery:
        table = self.tables[draft.table]
        condition = table.among(draft.ids) if draft.ids else f"{table.key.source_value} IS NULL"
        # A row that is rejected in the end loses no value: it is kept once, as a whole.
        with_values = replace(table, excluded=replace(table.excluded, nulled={}))
        seen = with_values if draft.action == NULLED else table.with_all_rows
        exclusion = _exclusion(table.name, draft.requirement, draft.action)
        rows = f"FROM {seen.source_sql} WHERE {condition}"
        assert table.source  # noqa: S101, a table that the source lacks has no rows to exclude
        return whole_rows(table.source, exclusion, table.source_id, rows)

    def _add(self, query: ExclusionQuery) -> None:
        [count] = self.source.row(f"SELECT count(*) {query.rows}")
        if count:
            self.queries.append(replace(query, exclusion=replace(query.exclusion, rows=count)))

    def _obstacles_of(self, table: TableMap) -> list[Obstacle]:
        found = [self._with_outcome(table.name, obstacle) for obstacle in self.obstacles[table.name].values()]
        return found if table.comparable else [_missing_table(table), *found]

    def _with_outcome(self, name: str, obstacle: Obstacle) -> Obstacle:
        outcome: Counter[str] = Counter()
        for query in self.queries:
            if (query.exclusion.table, query.exclusion.reason) == (name, obstacle.reason):
                outcome[query.exclusion.action] += query.exclusion.rows
        return replace(obstacle, outcome=dict(outcome))

    def _unknown_table(self, table: SourceTable) -> Obstacle | None:
        [count] = self.source.row(f"SELECT count(*) FROM {table.sql}")
        if not count:
            return None
        requirement = Requirement(
            UNKNOWN_TABLE,
            f"the table {table.name} has rows, and the target has no such table",
            "true",
            ("add the table to the models with `tatame-db generate`", "move or drop the table at the source"),
        )
        obstacle = Obstacle(UNKNOWN_TABLE, requirement.reason, count, [], choices_for(requirement))
        choice = self.choices.of(UNKNOWN_TABLE)
        if choice is None:
            return obstacle
        # Over REST, the rows of an unknown table are only counted unless they are to be kept and can be read by pages.
        if choice[0] == "keep" and not table.columns:
            fix = "give it a primary key of one column, by which REST can read it page by page"
            without_keep = obstacle.choices[1:]
            return replace(obstacle, choices=[fix, *without_keep])
        action = _ACTIONS[choice[0]]
        self._add(rows_of(table, _exclusion(table.name, requirement, action)))
        return replace(obstacle, chosen=choice[1], outcome={action: count})


def _exclusion(table: str, requirement: Requirement, action: str) -> Exclusion:
    return Exclusion(table, requirement.column, requirement.kind, requirement.reason, action, 0)


def _duplicate_to_exclude(table: TableMap, requirement: Requirement, choice: str) -> Requirement:
    """Return the same requirement among the rows that are not excluded for another reason, without the one to copy."""
    keep = choice if choice in ("first", "last") else None
    [found] = [other for other in obstacles.duplicates(table, keep) if other.reason == requirement.reason]
    return found


def _missing_table(table: TableMap) -> Obstacle:
    choices = [
        "check that `SUPABASE_DB_URL` names the right project",
        'state `"optional_in_source": True` in the `info` of the model, if the table is new',
    ]
    return Obstacle("missing-table", f"the source has no table {table.name}", 0, [], choices)
