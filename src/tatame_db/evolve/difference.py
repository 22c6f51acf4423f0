"""The change that leads from a database to the models, as operations; a rename is never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from tatame_db.database.dialect import quoted
from tatame_db.errors import NOTHING_CHANGED, TatameError, fact
from tatame_db.evolve import catalogue
from tatame_db.evolve.ddl import constant
from tatame_db.evolve.plan import Plan, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set

    from sqlalchemy import Connection

    from tatame_db.evolve.catalogue import Catalogue


@fact
class RenameUndecided(TatameError):
    """An object is no longer in the models and others are new, so it may be renamed or dropped."""

    gone: str
    candidates: list[str]
    what = "{gone} is no longer in the models: renamed to {names}, or dropped?"
    means = f"{NOTHING_CHANGED} A rename keeps the data, a drop loses it."
    fix = "answer with {renames} or with `--drop {gone}`"

    @property
    def names(self) -> str:
        """The possible new names."""
        return " or ".join(self.candidates)

    @property
    def renames(self) -> str:
        """The possible renames, as options."""
        return " or ".join(f"`--rename {self.gone}:{name}`" for name in self.candidates)


@fact
class AnswerInvalid(TatameError):
    """A `--rename` or `--drop` does not match the difference between database and models."""

    answer: str
    problem: str
    what = "`{answer}` is not valid: {problem}"
    fix = (
        "write `--rename table.column:new_column`, `--rename table:new_table`, `--rename enum.label:new_label`,"
        " `--rename type.attribute:new_attribute`, or `--drop` with the old name"
    )


@dataclass(frozen=True)
class Answers:
    """What is no longer in the models: each column, table, label or attribute is renamed, or dropped.

    >>> evolve.generate("rename plan", evolve.Answers(renames={"users.plan": "tier"}))
    Generated(path=PosixPath('.../20261124090000_rename_plan.py'), ...)
    """

    renames: dict[str, str] = field(default_factory=dict[str, str])
    """The new name of each renamed `table`, `table.column`, `enum.label` or `type.attribute`."""
    drops: frozenset[str] = frozenset()
    ask: Callable[[str, list[str]], str | None] | None = None
    """Called for anything else with its name and the possible new names; returns one of them, or `None` for a drop."""

    @classmethod
    def parse(
        cls,
        renames: list[str],
        drops: list[str],
        ask: Callable[[str, list[str]], str | None] | None = None,
    ) -> Answers:
        """Parse options such as `users.plan:tier` and `users.plan`. Raises `AnswerInvalid`."""
        pairs: dict[str, str] = {}
        for rename in renames:
            gone, _, name = rename.partition(":")
            if not gone or not name or "." in name:
                raise AnswerInvalid(answer=f"--rename {rename}", problem="it is not `old:new`")
            pairs[gone] = name
        return cls(pairs, frozenset(drops), ask)

    def new_name(self, gone: str, candidates: list[str]) -> str | None:
        """Return the new name, or `None` for a drop. Raises `RenameUndecided`, `AnswerInvalid`."""
        if gone in self.drops:
            return None
        if name := self.renames.get(gone):
            if name not in candidates:
                raise AnswerInvalid(answer=f"--rename {gone}:{name}", problem=f"{name} is not new in the models")
            return name
        if not candidates:
            return None
        if self.ask is None:
            raise RenameUndecided(gone=gone, candidates=candidates)
        return self.ask(gone, candidates)


@dataclass(frozen=True)
class Renaming:
    """A rename as SQL, with the statement that reverses it, and the names of the table that it touches."""

    up: str
    down: str
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """The change that leads from a database to the models: renames first, then a plan."""

    renamings: list[Renaming]
    plan: Plan
    renamed: Catalogue
    """The schema of the database after the renames."""
    target: Catalogue
    """The schema after the plan: that of the models, and what they leave alone."""
    foreign: list[str]
    """The objects that no migration made."""
    undeclared: list[str]
    """The objects that migrations made, of kinds that a model cannot describe."""

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not (self.renamings or self.plan.steps or self.plan.refused)

    @property
    def tables(self) -> set[str]:
        """The names of the tables that are created, changed, renamed or dropped."""
        before, after = self.renamed, self.target
        changed = {difference.name for difference in catalogue.differences(before, after)}
        named = {str(found.table) for found in [*before.values(), *after.values()] if found.key in changed}
        return named | {table for renaming in self.renamings for table in renaming.tables}

    @property
    def statements(self) -> list[str]:
        """The SQL of the change, one statement each, in order and without semicolons."""
        return [renaming.up for renaming in self.renamings] + [step.sql for step in self.plan.steps]


def find_change(
    connection: Connection, wanted: Catalogue, answers: Answers, made: Callable[[], Set[str]] | None = None
) -> Change:
    """Compare a database with the models, and apply the renames to it.

    The renames stay in the connection's open transaction: commit them on a scratch database, roll them back elsewhere.
    `made` returns the keys of all that the migrations ever made, and is called if the answer matters; without it,
    migrations made everything.

    Raises `RenameUndecided`, `AnswerInvalid`.
    """
    renamings: list[Renaming] = []
    decided: set[str] = set()
    made = cache(made) if made else None
    while True:
        found = catalogue.read(connection)
        left = LeftAlone(found, wanted, made, answers.drops)
        renaming = _next_rename(found, wanted, left, answers, decided) or _next_follower(found, wanted, left)
        if renaming is None:
            break
        _refuse_old_names(answers, *renaming.tables)
        catalogue.run_verbatim(connection, renaming.up)
        renamings.append(renaming)
    decided |= {found[key].name for key in left.chosen}
    for answer in answers.renames.keys() | answers.drops:
        if answer not in decided:
            raise AnswerInvalid(answer=answer, problem=_problem(answer, answers, wanted))
    target = wanted | {key: found[key] for key in left.keys}
    return Change(
        renamings,
        plan(connection, found, target, frozenset(left.foreign | left.children)),
        found,
        target,
        left.names(left.foreign),
        left.names(left.undeclared),
    )


def _refuse_old_names(answers: Answers, old: str, new: str | None = None) -> None:
    """Raise `AnswerInvalid` for a column that is named with the old name of its renamed table."""
    for answer in sorted(answers.renames.keys() | answers.drops):
        table, _, column = answer.rpartition(".")
        if new and table == old:
            option = f"--rename {answer}:{answers.renames[answer]}" if answer in answers.renames else f"--drop {answer}"
            raise AnswerInvalid(answer=option, problem=f"the table is renamed to {new}: name its column {new}.{column}")


def _problem(answer: str, answers: Answers, wanted: Catalogue) -> str:
    new_name = answers.renames.get(answer)
    table, _, _ = answer.rpartition(".")
    if new_name and {f"column {answer}", f"column {table}.{new_name}"} <= wanted.keys():
        return (
            f"the models have {answer} and {table}.{new_name}, before and after; to trade their names, write three"
            ' renames in a file of `tatame-db generate "the change" --empty`'
        )
    return "the models still have it, or the database never did"


# Kinds that a model can describe. Others are left alone unless `--drop` names them.
_DECLARABLE = {
    "table",
    "column",
    "constraint",
    "index",
    "sequence",
    "enum",
    "domain",
    "extension",
    "comment",
    "storage parameters",
}


class LeftAlone:
    """The objects of a database that the models do not have and that stay."""

    def __init__(
        self, found: Catalogue, wanted: Catalogue, made: Callable[[], Set[str]] | None, drops: Set[str] = frozenset()
    ) -> None:
        self.found = found
        extra = found.keys() - wanted.keys()
        # A partition that is expected has only what is expected.
        self.children = {key for key in extra if found[key].parent and f"table {found[key].table}" in extra}
        self.chosen = {key for key in extra - self.children if {found[key].name, found[found[key].root].name} & drops}
        """Found, and dropped nevertheless because an answer says so."""
        undecided = extra - self.children - self.chosen
        standing = {key for key in undecided if found[key].root not in wanted}
        known = made() if made and standing else set[str]()
        self.foreign = {key for key in standing if made and found[key].root not in known}
        self.undeclared = {key for key in undecided - self.foreign if found[key].kind not in _DECLARABLE}
        # What belongs to a view goes with the view.
        roots = {found[key].root for key in self.undeclared if found[key].kind not in {"trigger", "rule", "policy"}}
        self.undeclared |= {
            key for key in undecided if found[key].root in roots and not found[key].root.startswith("table ")
        }
        self.undeclared |= {
            key for key in undecided if found[key].kind == "comment" and found[key].requires & self.undeclared
        }

    @property
    def keys(self) -> set[str]:
        """The keys of all of them."""
        return self.children | self.foreign | self.undeclared

    def names(self, keys: set[str]) -> list[str]:
        """Return the objects that belong to no other of them, sorted."""
        return sorted(
            key
            for key in keys
            if self.found[key].kind != "comment" and (self.found[key].root == key or self.found[key].root not in keys)
        )


def _next_rename(
    found: Catalogue, wanted: Catalogue, left: LeftAlone, answers: Answers, decided: set[str]
) -> Renaming | None:
    """Return the first rename that is not decided yet, tables before columns; a drop is only noted in `decided`."""
    for gone, candidates, sql in _renamable(found, wanted, left):
        if gone not in decided:
            name = answers.new_name(gone, candidates)
            decided.add(gone)
            if name:
                return sql(name)
    return None


def _renamable(
    found: Catalogue, wanted: Catalogue, left: LeftAlone
) -> Iterator[tuple[str, list[str], Callable[[str], Renaming]]]:
    """Return the name of all that is gone and may be renamed, its possible new names, and the rename to one of them."""
    gone, new = found.keys() - wanted.keys() - left.keys, wanted.keys() - found.keys()

    def names(keys: Set[str], kind: str, table: str | None = None) -> list[str]:
        catalogue_ = found if keys is gone else wanted
        return sorted(
            str(catalogue_[key].facts["name"]) if kind == "column" else catalogue_[key].name
            for key in keys
            if catalogue_[key].kind == kind and table in {None, catalogue_[key].table}
        )

    for table in names(gone, "table"):
        yield table, names(new, "table"), _rename("ALTER TABLE {} RENAME TO {}", table)
    both = found.keys() & wanted.keys()
    for table in sorted(found[key].name for key in both if found[key].kind == "table"):
        sql = f"ALTER TABLE {quoted(table)} RENAME COLUMN {{}} TO {{}}"
        for column in names(gone, "column", table):
            yield f"{table}.{column}", names(new, "column", table), _rename(sql, column, table)
    for key in sorted(key for key in both if found[key].kind == "enum"):
        before, after = found[key].facts["labels"], wanted[key].facts["labels"]
        added = [label for label in after if label not in before]
        for label in before:
            if label not in after:
                sql = f"ALTER {found[key].handle} RENAME VALUE {{}} TO {{}}"
                yield f"{found[key].name}.{label}", added, _rename(sql, label, found[key].name, write=constant)
    for key in sorted(key for key in both if found[key].kind == "type" and "attributes" in found[key].facts):
        old, wanted_names = (dict(catalogue_[key].facts["attributes"]) for catalogue_ in (found, wanted))
        added = [name for name in wanted_names if name not in old]
        for name in old:
            if name not in wanted_names:
                sql = f"ALTER {found[key].handle} RENAME ATTRIBUTE {{}} TO {{}}"
                yield f"{found[key].name}.{name}", added, _rename(sql, name, found[key].name)


def _rename(sql: str, old: str, *tables: str, write: Callable[[str], str] = quoted) -> Callable[[str], Renaming]:
    """Return the rename of an object to a name, the old and the new one filled into SQL."""
    return lambda name: _renaming(sql, write(old), write(name), *tables or (old, name))


def _renaming(sql: str, old: str, new: str, *tables: str) -> Renaming:
    """Fill the old and the new name into SQL, and in reverse order for the way back."""
    first, second, last = sql.split("{}")
    return Renaming(f"{first}{old}{second}{new}{last}", f"{first}{new}{second}{old}{last}", tables)


# The statements that rename an object without its data; `{table}` is its table.
_FOLLOWERS = {
    "enum": "ALTER TYPE {} RENAME TO {}",
    "domain": "ALTER TYPE {} RENAME TO {}",
    "constraint": "ALTER TABLE {table} RENAME CONSTRAINT {} TO {}",
    "index": "ALTER INDEX {} RENAME TO {}",
    "sequence": "ALTER SEQUENCE {} RENAME TO {}",
}


def _next_follower(found: Catalogue, wanted: Catalogue, left: LeftAlone) -> Renaming | None:
    """Rename an object that is gone to a new one with the same definition: names follow their table and columns."""
    new = {
        (other.kind, other.table, other.definition): other
        for other in (wanted[key] for key in sorted(wanted.keys() - found.keys(), reverse=True))
    }
    for key in sorted(found.keys() - wanted.keys() - left.keys):
        old = found[key]
        renamed = new.get((old.kind, old.table, old.definition))
        if renamed and old.kind in _FOLLOWERS:
            before, after = (quoted(str(other.facts.get("name", other.name))) for other in (old, renamed))
            return _renaming(
                _FOLLOWERS[old.kind].replace("{table}", quoted(str(old.table))), before, after, str(old.table)
            )
    return None
