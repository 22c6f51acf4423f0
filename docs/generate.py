"""The pages that are made from the code: `make docs` writes them, `--check` names those that are stale."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

import typer
from typer.core import TyperCommand, TyperGroup

import tatame_db
from tatame_db import doctor, move
from tatame_db.cli import json_keys, move_json
from tatame_db.cli.commands import app
from tatame_db.database.dialect import DIALECT
from tatame_db.errors import TatameError
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Column, Index, Table
    from sqlalchemy.orm import Mapper, RelationshipProperty

ROOT = Path(__file__).parents[1]
_NOTICE = "<!-- Made by `make docs`; change the code it comes from instead. -->"
_COMMANDS = re.compile(r"(<!-- commands: made by `make docs` -->\n).*?(<!-- end of commands -->)", re.DOTALL)
_LINES = re.compile(r"(<!-- lines: made by `make docs` -->\n).*?(<!-- end of lines -->)", re.DOTALL)
_HELP_WIDTH = 80


def generated() -> dict[Path, str]:
    """Return what each generated file has to hold."""
    readme = ROOT / "README.md"
    return {
        readme: with_commands(readme.read_text(encoding="utf-8")),
        ROOT / "docs" / "doctor.md": with_lines((ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")),
        ROOT / "docs" / "errors.md": errors_page(),
        ROOT / "docs" / "json.md": json_page(),
        ROOT / "docs" / "reference.md": reference_page(),
        ROOT / "docs" / "schema.md": schema_page(),
    }


def stale() -> dict[Path, str]:
    """Return the files that hold something else, or are missing, and what they have to hold."""
    return {
        path: text
        for path, text in generated().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


# --- Commands --------------------------------------------------------------------------------------------------------


def helps() -> dict[str, str]:
    """Return what `--help` says of each command, the whole program first."""
    program = _program()
    context = typer.Context(
        program, info_name="tatame-db", terminal_width=_HELP_WIDTH, **(program.context_settings or {})
    )
    texts = {"tatame-db": program.get_help(context)}
    for name, command in _commands().items():
        child = typer.Context(command, info_name=name, parent=context, terminal_width=_HELP_WIDTH)
        texts[f"tatame-db {name}"] = command.get_help(child)
    return texts


def reference_page() -> str:
    """Write what `--help` says of every command."""
    parts = ["# Commands", _NOTICE, "[Configuration](configuration.md) explains the exit codes and the variables."]
    for name, text in helps().items():
        parts += [f"## {name}", f"```text\n{text.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def with_commands(readme: str) -> str:
    """Put the table of commands between its markers."""
    rows = [[f"`tatame-db {name}`", command.help or ""] for name, command in _commands().items()]
    return _between(_COMMANDS, readme, _table(["Command", "What it does"], rows))


def with_lines(page: str) -> str:
    """Put the table of the doctor's lines between its markers."""
    rows = [
        [line.group, line.name, line.meaning, line.warns_when() or "never", line.bad_when() or "never"]
        for line in doctor.LINES.values()
    ]
    return _between(_LINES, page, _table(["Group", "Line", "What it looks at", "Warns if", "Bad if"], rows))


def _between(markers: re.Pattern[str], page: str, made: str) -> str:
    found = markers.search(page)
    if not found:
        raise SystemExit(f"a page has lost the markers {markers.pattern}")
    return page[: found.end(1)] + "\n" + made + "\n\n" + page[found.start(2) :]


def _program() -> TyperGroup:
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)  # noqa: S101, for the type checker
    return program


def _commands() -> dict[str, TyperCommand]:
    return dict(_commands_of(_program()))


def _commands_of(group: TyperGroup, before: str = "") -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands_of(command, f"{before}{name} ")
        elif isinstance(command, TyperCommand):
            yield f"{before}{name}", command


# --- Schema ----------------------------------------------------------------------------------------------------------


def schema_page() -> str:
    """Write the diagram, and each table with its columns, relations and indexes."""
    models = _models()
    parts = [
        "# Schema",
        _NOTICE,
        f"{len(models)} tables. [Design decisions](design.md) explains them.",
        f"```mermaid\n{_diagram()}\n```",
    ]
    for mapper, table in models:
        parts += [f"## {table.name}", f"`{mapper.class_.__name__}`: {mapper.class_.__doc__ or ''}", _columns(table)]
        relations = [_relation(relation) for relation in mapper.relationships]
        if relations:
            parts.append(_table(["Relation", "Type", "Over"], relations))
        indexes = [_index(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
        if indexes:
            parts.append(_table(["Index", "On", "Kind", "Where"], indexes))
    return "\n\n".join(parts) + "\n"


def _models() -> list[tuple[Mapper[Base], Table]]:
    tables = Base.metadata.tables
    return sorted(
        ((mapper, tables[str(mapper.local_table)]) for mapper in Base.registry.mappers), key=lambda pair: pair[1].name
    )


def _diagram() -> str:
    lines = ["erDiagram"]
    for _, table in _models():
        # Quoted, because `class` is a word of Mermaid's own.
        lines += [f'    "{table.name}" {{', *(f"        {line}" for line in _attributes(table)), "    }"]
    for _, table in _models():
        for key in sorted(table.foreign_keys, key=lambda key: key.parent.name):
            one = "|o" if key.parent.nullable else "||"
            lines.append(f'    "{key.column.table.name}" {one}--o{{ "{table.name}" : "{key.parent.name}"')
    return "\n".join(lines)


def _attributes(table: Table) -> Iterator[str]:
    for column in table.columns:
        marks = {"PK": column.primary_key, "FK": column.foreign_keys, "UK": column.unique}
        keys = ", ".join(mark for mark, is_set in marks.items() if is_set)
        # Mermaid takes a type of one word.
        kind = _type(column).removesuffix(" without time zone")
        yield f"{kind} {column.name} {keys}".rstrip()


def _type(column: Column[object]) -> str:
    if column is column.table.autoincrement_column:
        return "serial"
    return column.type.compile(DIALECT).lower()


def _columns(table: Table) -> str:
    return _table(
        ["Column", "Type", "NULL", "Default", "Key"],
        [
            [f"`{column.name}`", _type(column), "yes" if column.nullable else "no", _default(column), _key(column)]
            for column in table.columns
        ],
    )


def _default(column: Column[object]) -> str:
    if column is column.table.autoincrement_column:
        return "the next number"
    argument = getattr(column.server_default, "arg", None)
    if argument is None:
        return ""
    return f"`{argument if isinstance(argument, str) else argument.compile(dialect=DIALECT)}`"


def _key(column: Column[object]) -> str:
    facts = ["primary key"] if column.primary_key else []
    facts += ["unique"] if column.unique else []
    for key in column.foreign_keys:
        to = key.column
        late = f", deferrable, initially {key.initially.lower()}" if key.deferrable and key.initially else ""
        facts.append(f"refers to [{to.table.name}](#{to.table.name}) `{to.name}`{late}")
    return "; ".join(facts)


def _relation(relation: RelationshipProperty[object]) -> list[str]:
    target = relation.mapper.class_.__name__
    [(local, remote)] = relation.local_remote_pairs or []
    key = local if local.foreign_keys else remote
    one = f"{target} | None" if key.nullable else target
    kind = f"list[{target}]" if relation.uselist else one
    return [f"`{relation.key}`", f"`{kind}`", f"`{key.table.name}.{key.name}`"]


def _index(index: Index) -> list[str]:
    options = index.dialect_options["postgresql"]
    where = f"`{options['where']}`" if options["where"] is not None else ""
    return [f"`{index.name}`", ", ".join(index.columns.keys()), options["using"] or "btree", where]


# --- Errors ----------------------------------------------------------------------------------------------------------

# The parts in the order in which a newcomer meets them.
_AREAS = {
    "settings": "Settings",
    "server": "The embedded server",
    "database": "Connections",
    "queries": "Queries",
    "fastapi": "FastAPI",
    "schema": "Models",
    "roles": "Roles and rights",
    "evolve": "Schema changes",
    "seed": "Seed data",
    "testing": "Tests",
    "move": "The move",
    "backup": "Backups",
    "doctor": "The doctor",
    "studio": "The studio",
    "cli": "The command line",
}


def errors_page() -> str:
    """Write each error with its cause, its message and its hint."""
    parts = [
        "# Errors",
        _NOTICE,
        "Every error of the package is a `TatameError`: it states the problem, its effect on the data, and the fix."
        " Words in italics, and words in angle brackets within code, are attributes of the exception. A failing"
        " statement raises SQLAlchemy's error, such as `sqlalchemy.exc.IntegrityError`. Unless an exit code is listed,"
        " the command exits with 1; [Configuration](configuration.md#exit-codes) explains the codes.",
    ]
    errors = _errors()
    if missing := {error.__module__.split(".")[1] for error in errors} - _AREAS.keys():
        raise SystemExit(f"_AREAS has no title for the errors of {missing}")
    for area, title in _AREAS.items():
        parts.append(f"## {title}")
        for error in errors:
            if error.__module__.split(".")[1] == area:
                parts += [f"### {error.__name__}", _error(error)]
    return "\n\n".join(parts) + "\n"


def _errors() -> list[type[TatameError]]:
    for module in pkgutil.walk_packages(tatame_db.__path__, "tatame_db."):
        if "__main__" not in module.name and ".migrations" not in module.name:
            importlib.import_module(module.name)
    found = {error for error in _subclasses(TatameError) if error.__module__.startswith("tatame_db.")}
    return sorted((error for error in found if not error.__name__.startswith("_")), key=lambda error: error.__name__)


def _subclasses(error: type[TatameError]) -> Iterator[type[TatameError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _error(error: type[TatameError]) -> str:
    lines = [inspect.cleandoc(error.__doc__ or ""), ""]
    for title, name in (("Message", "what"), ("Effect", "means"), ("Fix", "fix")):
        template = getattr(error, name, "")
        # A sentence that is a property's alone depends on the case.
        if template and not re.fullmatch(r"\{\w+\}", template):
            lines.append(f"- {title}: {_with_facts(template)}")
    if error.exit_code != 1:
        lines.append(f"- Exit code: {error.exit_code}")
    return "\n".join(lines)


def _with_facts(template: str) -> str:
    """Write the names of the facts where their values will be; `{rows:row}` counts rows."""
    text, in_code = "", False
    for literal, name, noun, _ in Formatter().parse(template):
        # A line of Markdown: what follows a line break would leave the list.
        text += " ".join(re.split(r"\s*\n\s*", literal))
        in_code ^= literal.count("`") % 2 == 1
        if name:
            fact = name.replace("_", " ")
            text += f"<{fact}>" if in_code else f"*{fact}*"
            text += f" {noun}s" if noun and noun.isalpha() and len(noun) > 1 else ""
    return text.replace("**", "* *")


# --- JSON ------------------------------------------------------------------------------------------------------------


def json_page() -> str:
    """Write the keys of the objects that the commands print, and of the objects in them."""
    if missing := [name for name in _with_json() if not _described(name)]:
        raise SystemExit(f"these commands have --json and no keys in json_keys: {', '.join(missing)}")
    places = {command: place.rpartition(".")[2] for command, place in move_json.ANSWERS.items()} | json_keys.ANSWERS
    order = list(_commands())
    parts = [
        "# JSON",
        _NOTICE,
        "With `--json`, a command prints one object on stdout; `move follow` and `backup --follow`"
        " print one for each batch, on a line of its own. A command that fails before it has begun its answer prints"
        " the [object of an error](configuration.md#json). A time is a text such as"
        " `2026-03-01 10:00:00+00:00`.",
        _table(
            ["Command", "Object"],
            [
                [f"`tatame-db {command}`", f"[{place}](#{place.lower()})"]
                for command, place in sorted(places.items(), key=lambda pair: order.index(pair[0].partition(" --")[0]))
            ],
        ),
    ]
    for name, (sentence, keys) in json_keys.OBJECTS.items():
        rows = [[f"`{key}`", kind, meaning] for key, (kind, meaning) in keys.items()]
        parts += [f"## {name}", sentence, _table(["Key", "Value", "Meaning"], rows)]
    for answer in _objects():
        parts += [f"## {answer.__name__}", inspect.cleandoc(answer.__doc__ or ""), _keys(answer)]
    return "\n\n".join(parts) + "\n"


def _with_json() -> list[str]:
    return [name for name, command in _commands().items() if any("--json" in each.opts for each in command.params)]


def _described(name: str) -> bool:
    known = [*move_json.ANSWERS, *json_keys.ANSWERS]
    return any(one == name or one.startswith(f"{name} --") for one in known)


def _objects() -> list[type]:
    """Return the classes of the answers, each followed by those of the objects in it."""
    found: list[type] = []

    def add(answer: type) -> None:
        if answer not in found:
            found.append(answer)
            for kind in _kinds(answer).values():
                for name in re.findall(r"\w+", kind):
                    if inner := _dataclasses().get(name):
                        add(inner)

    for place in move_json.ANSWERS.values():
        add(_dataclasses()[place.rpartition(".")[2]])
    return found


@cache
def _dataclasses() -> dict[str, type]:
    modules = [importlib.import_module(place.rpartition(".")[0]) for place in move_json.ANSWERS.values()]
    modules += [
        importlib.import_module(module.name)
        for package in (doctor, move)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return {
        name: member
        for module in modules
        for name, member in vars(module).items()
        if isinstance(member, type) and is_dataclass(member) and member.__module__ == module.__name__
    }


def _kinds(answer: type) -> dict[str, str]:
    """Return the annotated type of each key."""
    kinds = {field.name: str(field.type) for field in fields(answer)}
    return kinds | {
        name: str(getattr(answer, name).fget.__annotations__["return"])
        for name in move_json.PROPERTIES.get(answer.__name__, ())
    }


def _keys(answer: type) -> str:
    meanings = {name: text for part in reversed(answer.__mro__[:-1]) for name, text in _meanings(part).items()}
    rows = [[f"`{name}`", _linked(_json_type(kind)), meanings.get(name, "")] for name, kind in _kinds(answer).items()]
    return _table(["Key", "Value", "Meaning"], rows)


def _meanings(answer: type) -> dict[str, str]:
    """Return the text below each field, and the docstring of each property."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(answer))).body
    assert isinstance(node, ast.ClassDef)  # noqa: S101, for the type checker
    found = {part.name: ast.get_docstring(part) or "" for part in node.body if isinstance(part, ast.FunctionDef)}
    for field, text in pairwise(node.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = inspect.cleandoc(str(getattr(text.value, "value", "")))
    return {name: " ".join(text.replace("`None`", "`null`").split()) for name, text in found.items()}


def _json_type(kind: str) -> str:
    """Return a type as a reader of JSON calls it."""
    for pattern, words in (
        (r"(?:list|tuple)\[(.*)\]", r"list of \1"),
        (r"dict\[str, (.*)\]", r"object with values of \1"),
        (r" \| ", " or "),
        (r"Literal\[(.*)\]", r"one of \1"),
        (r"\bstr\b|\bdatetime\b|\bOutcome\b|\bVerdict\b", "text"),
        (r"\bint\b|\bfloat\b", "number"),
        (r"\bbool\b", "true or false"),
        (r"\bNone\b", "null"),
    ):
        kind = re.sub(pattern, words, kind)
    return kind


def _linked(text: str) -> str:
    return re.sub(
        r"\w+", lambda found: f"[{found[0]}](#{found[0].lower()})" if found[0] in _dataclasses() else found[0], text
    )


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write the files, or with `--check` exit with 1 where one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, and name the stale files")
    is_check = parser.parse_args().check
    files = {str(path.relative_to(ROOT)): text for path, text in stale().items()}
    if is_check:
        sys.exit(f"stale: {', '.join(files)}\n\nhint: `make docs`" if files else 0)
    for name, text in files.items():
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
