"""Descriptions of reads: Python that decides in place of SQL, and arguments of the wrong kind, are refused at once."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from enum import Enum
from functools import partial
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import Integer, and_, bindparam, case, func, literal, or_, select, text, tuple_, type_coerce
from sqlalchemy import cast as sql_cast
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import aliased, selectinload, sessionmaker

from tatame_db.queries.errors import (
    ParameterHasNoValue,
    ParameterInvalid,
    ParametersDiffer,
    ReadHasNoMethod,
    ReadInvalid,
    ReadNotRun,
    RowInvalid,
    TargetInvalid,
)
from tatame_db.queries.functions import MAX_NULLABLE
from tatame_db.queries.parameters import Parameter
from tatame_db.queries.read import METHODS, Read, query, read
from tatame_db.queries.write import insert_many
from tatame_db.schema import Checkin, Class, Gym, Notification, User

# ruff: noqa: PLW0108, a list of lambdas is easier to read


class Role(Enum):
    STUDENT = "STUDENT"


USES: dict[str, Callable[[Any], object]] = {
    "f-string": lambda x: f"%{x}%",
    "f-string with a format": lambda x: f"{x:>10}",
    "f-string of a repr": lambda x: f"{x!r}",
    "str": str,
    "repr": repr,
    "%": lambda x: "%s" % x,  # noqa: UP031
    "% of a repr": lambda x: "%r" % x,  # noqa: UP031
    "% of a number": lambda x: "%d" % x,  # noqa: UP031
    "format": lambda x: "{}".format(x),  # noqa: UP032
    "join": lambda x: ",".join([x]),
    "join of it": lambda x: ",".join(x),
    "bytes": bytes,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "round": round,
    "abs": abs,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "range": lambda x: list(range(x)),
    "hex": hex,
    "len": len,
    "item": lambda x: x[0],
    "slice": lambda x: x[5:],
    "longer list": lambda x: x + [1],  # noqa: RUF005, it is what people write
    "longer list reversed": lambda x: [1] + x,  # noqa: RUF005
    "loop": lambda x: [one for one in x],  # noqa: C416
    "list": list,
    "unpack": lambda x: [*x],
    "in it": lambda x: "a" in x,
    "it in a list": lambda x: x in ["a", "b"],
    "it in a set": lambda x: x in {"a", "b"},
    "key": lambda x: {"a": 1}.get(x),
    "set": lambda x: {x},
    "if": lambda x: 1 if x else 2,
    "not": lambda x: not x,
    "and": lambda x: x and User.id == 1,
    "or": lambda x: x or "default",
    "bool": bool,
    "all": lambda x: all([x]),
    "if ==": lambda x: 1 if x == "a" else 2,
    "if == reversed": lambda x: 1 if "a" == x else 2,  # noqa: SIM300
    "if !=": lambda x: 1 if x != "a" else 2,
    "if <": lambda x: 1 if x < 3 else 2,
    "if >= reversed": lambda x: 1 if 3 >= x else 2,  # noqa: SIM300
    "if == None": lambda x: 1 if x == None else 2,  # noqa: E711
    "max": lambda x: max(x, 1),
    "sorted": lambda x: sorted([x, 1]),
    "a column ==": lambda x: User.id == x and User.role == "STUDENT",
    "a column !=": lambda x: 1 if User.id != x else 2,
    "a column >": lambda x: User.id > x and User.role == "STUDENT",
    "isinstance": lambda x: isinstance(x, str),
    "isinstance of several": lambda x: isinstance(x, int | date),
    "startswith": lambda x: 1 if x.startswith("a") else 2,
    "strip": lambda x: x.strip(),
    "lower": lambda x: x.lower(),
    "isoformat": lambda x: x.isoformat(),
    "value": lambda x: x.value,
    "key attribute": lambda x: x.key,
    "type attribute": lambda x: x.type,
    "name": lambda x: x.name,
    "hasattr": lambda x: hasattr(x, "strip"),
    "getattr": lambda x: getattr(x, "value", None),
    "call": lambda x: x(),
    "json": json.dumps,
    "regular expression": lambda x: re.match("a", x),
    "date": lambda x: date(x, 1, 1),
    "uuid": UUID,
    "enum": Role,
    "getattr of a model": lambda x: getattr(User, x),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_a_use_of_a_parameter_in_python_is_refused_where_it_is_defined(use: Callable[[Any], object]) -> None:
    with pytest.raises(ParameterHasNoValue, match="`students` uses its parameter `role`") as raised:

        @query
        def students(role: str) -> Read[User]:
            use(role)
            return read(User).where(User.role == role)

    assert "hint" in str(raised.value)


def match_statement(x: Any) -> int:
    match x:
        case "STUDENT":
            return 1
        case _:
            return 2


def test_a_match_statement_on_a_parameter_is_refused() -> None:
    with pytest.raises(ParameterHasNoValue, match="`role`"):

        @query
        def students(role: str) -> Read[User]:
            return read(User).where(User.gym_id == match_statement(role), User.role == role)


def test_the_error_names_what_works() -> None:
    with pytest.raises(ParameterHasNoValue) as raised:

        @query
        def search(text: str, page: int) -> Read[User]:
            return read(User).where(User.first_name.ilike(f"%{text}%")).limit(page)

    assert (raised.value.function, raised.value.parameters) == ("search", ("text",))
    assert '`"%" + text + "%"`' in raised.value.fix
    assert "icontains(text, autoescape=True)" in raised.value.fix


def test_an_error_that_may_be_of_several_parameters_names_all() -> None:
    with pytest.raises(ParameterHasNoValue, match="one of its parameters `first`, `last`") as raised:

        @query
        def search(first: str, last: str) -> Read[User]:
            return read(User).where(re.match("a", first), User.last_name == last)  # type: ignore[arg-type]

    assert isinstance(raised.value.__cause__, TypeError)


SQL_USES: dict[str, Callable[[Any], Any]] = {
    "==": lambda x: User.id == x,
    "== reversed": lambda x: x == User.id,
    "!=": lambda x: User.id != x,
    "<": lambda x: User.id < x,
    "+": lambda x: User.id == x + 1,
    "+ reversed": lambda x: User.id == 1 + x,
    "-": lambda x: User.id == x - 1,
    "*": lambda x: User.id == x * 2,
    "power": lambda x: User.id == x**2,
    "negative": lambda x: User.id == -x,
    "text": lambda x: User.email.like("%" + x + "%"),
    "ilike": lambda x: User.email.ilike(x),
    "icontains": lambda x: User.email.icontains(x, autoescape=True),
    "startswith escaped": lambda x: User.email.startswith(x, autoescape=True),
    "endswith escaped": lambda x: User.email.endswith(x, escape="!", autoescape=True),
    "startswith": lambda x: User.email.startswith(x),
    "of the parameter": lambda x: x.like("a%"),
    "function": lambda x: func.lower(User.email) == func.lower(x),
    "any": lambda x: User.id == func.any(x),
    "between": lambda x: User.id.between(x, x + 10),
    "cast": lambda x: User.id == sql_cast(x, Integer),
    "type": lambda x: User.id == type_coerce(x, Integer),
    "case": lambda x: case((User.id == x, User.gym_id), else_=x) == 1,
    "in": lambda x: User.id.in_(x),
    "not in": lambda x: User.id.not_in(x),
    "in, negated": lambda x: ~User.id.in_(x),
    "in of an expression": lambda x: func.lower(User.email).in_(x),
    "in within any": lambda x: User.instructed_classes.any(Class.day.in_(x)),
    "in within a relation to the same table": lambda x: User.gym.has(Gym.members.any(User.id.not_in(x))),
    "in within a subquery": lambda x: User.gym_id.in_(select(Gym.id).where(Gym.name.in_(x))),
    "in a list": lambda x: User.id.in_([1, x]),
    "contains": lambda x: Notification.recipients.contains([x]),
    "overlap": lambda x: Notification.recipients.overlap(["1", x]),
    "is distinct from": lambda x: User.role.is_distinct_from(x),
    "or": lambda x: or_(x == "ALL", User.role == x),
    "and": lambda x: and_(User.role == x, ~(User.email == x)),
    "operators": lambda x: (User.role == x) | (User.email == x) & (User.id > 1),
    "relation": lambda x: User.gym.has(Gym.name == x),
    "subquery": lambda x: User.gym_id.in_(select(Gym.id).where(Gym.name == x)),
    "exists": lambda x: select(Gym.id).where(Gym.id == User.gym_id, Gym.name == x).exists(),
    "operator": lambda x: User.email.op("~*")(x),
    "extract": lambda x: func.date_part("year", User.created_at) == x,
}


@pytest.mark.parametrize("use", SQL_USES.values(), ids=list(SQL_USES))
def test_a_use_of_a_parameter_in_sql_becomes_a_parameter_of_the_statement(use: Callable[[Any], Any]) -> None:
    model: Any = Notification if "recipients" in use.__code__.co_names else User

    @query
    def found(wanted: Any) -> Read[Any]:
        return cast("Read[Any]", read(model).where(use(wanted)))

    statement, values = with_a_value_of_its_type(found)
    assert "%(" in statement.sql
    assert "POSTCOMPILE" not in statement.sql
    named = set(re.findall(r"%\((\w+)\)s", statement.sql))
    assert named <= values.keys()
    assert any("7" in str(values[name]) for name in named)


def with_a_value_of_its_type(found: Read[Any]) -> tuple[Any, dict[str, Any]]:
    for value in (7, "7", [7], ["7"], datetime(2026, 7, 7)):
        with suppress(ParameterInvalid):
            return found._prepare("all", (value,), {})
    raise AssertionError("no value is accepted")


def test_the_message_of_sqlalchemy_names_the_parameter() -> None:
    with pytest.raises(ArgumentError, match="Literal Python value expected, got the parameter gym_id"):

        @query
        def members(gym_id: int) -> Read[User]:
            return read(User).where(User.gym_id == literal(gym_id))


# --- Hints -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "form"),
    [
        ("strip", "func.trim(role)"),
        ("item", "make it a parameter of its own"),
        ("slice", "func.left(role, 3)"),
        ("loop", "User.id.in_(role)"),
        ("len", "func.length(role)"),
        ("lower", "func.lower(role)"),
        ("isoformat", "students.all(db, role=role.isoformat(…))"),
        ("value", "students.all(db, role=role.value)"),
        ("key", "write a read for each choice"),
        ("getattr of a model", "write a read for each choice"),
        ("max", "students.all(db, role=min(role, 100))"),
        ("sorted", "compare where you call it"),
        ("if <", "write a read for each case"),
        ("if", "if role is not None:"),
        ("a column >", "and_"),
    ],
)
def test_the_hint_fits_the_use(use: str, form: str) -> None:
    with pytest.raises(ParameterHasNoValue) as raised:

        @query
        def students(role: str) -> Read[User]:
            USES[use](role)
            return read(User).where(User.role == role)

    assert form in raised.value.fix


def test_the_hint_for_an_item_of_a_mapping_is_a_parameter_for_each() -> None:
    with pytest.raises(ParameterHasNoValue, match="each item that the read needs a parameter of its own"):

        @query
        def students(filters: dict[str, str]) -> Read[User]:
            return read(User).where(User.role == filters["role"])


NONE_USES: dict[str, Callable[[Any], Any]] = {
    "icontains": lambda x: User.first_name.icontains(x),
    "startswith": lambda x: User.first_name.startswith(x, autoescape=True),
    "<": lambda x: User.id < x,
    "in": lambda x: User.id.in_(x),
    "text": lambda x: User.first_name.like("%" + x + "%"),
    "operator of the parameter": lambda x: x.like("a%"),
}


@pytest.mark.parametrize("use", NONE_USES.values(), ids=list(NONE_USES))
@pytest.mark.parametrize("default", [True, False])
def test_a_parameter_that_may_be_none_where_sql_needs_a_value_is_named(
    use: Callable[[Any], Any], default: bool
) -> None:
    def search(gym_id: int, name: Any = None) -> Read[User]:
        return read(User).where(use(name), User.gym_id == gym_id)

    if not default:
        search.__defaults__ = None

    with pytest.raises(ReadInvalid, match="`search` fails where `name` is None: ") as raised:
        query(search)._prepare("all", (1, None), {})
    assert "`if name is not None:`" in raised.value.fix
    assert raised.value.__cause__ is not None


def test_a_limit_that_may_be_none_is_named() -> None:
    with pytest.raises(ReadInvalid, match="`newest` fails where `size` is None: `limit` is not a whole number"):

        @query
        def newest(size: int | None = None) -> Read[User]:
            return read(User).limit(cast("int", size))


@pytest.mark.parametrize("method", ["is_", "is_not"])
@pytest.mark.parametrize("bound", [True, False])
def test_a_parameter_after_is_which_takes_null_alone_is_refused(method: str, bound: bool) -> None:
    def users(role: Any) -> Read[User]:
        role = bindparam("role") if bound else role
        return read(User).where(or_(User.id == 1, User.gym.has(getattr(Gym.name, method)(role))))

    with pytest.raises(ReadInvalid, match=r"the parameter `role` is in `\.is_` or `\.is_not`") as raised:
        query(users)
    assert f"User.role {'==' if method == 'is_' else '!='} role" in raised.value.fix


def test_a_parameter_that_is_none_may_follow_is() -> None:
    @query
    def users(role: str | None = None) -> Read[User]:
        return read(User).where(User.role.is_(role) if role is None else User.role == role)

    assert "users.role IS NULL" in users._prepare("all", (), {})[0].sql
    assert "users.role = " in users._prepare("all", ("STUDENT",), {})[0].sql


def test_a_parameter_of_which_only_none_matters_is_refused_with_the_form_of_a_flag() -> None:
    with pytest.raises(ReadInvalid, match="at most whether it is None") as raised:

        @query
        def users(deleted: bool | None = None) -> Read[User]:
            return read(User) if deleted is None else read(User).where(User.deleted_at.is_(None))

    assert "`User.deleted_at.is_(None) | deleted`" in raised.value.fix

    @query
    def all_users(deleted: bool = False) -> Read[User]:
        return read(User).where(User.deleted_at.is_(None) | deleted)

    statement, values = all_users._prepare("all", (), {})
    assert statement.sql.endswith("WHERE public.users.deleted_at IS NULL OR %(deleted)s")
    assert values == {"deleted": False}


@query
def users_before(ids: list[int], name: str, moment: datetime) -> Read[User]:
    return read(User).where(User.id.in_(ids), User.first_name == name, User.created_at < moment)


@pytest.mark.parametrize(
    ("changed", "form"),
    [
        ({"ids": {1}}, "`list(ids)`"),
        ({"ids": {1: 2}.keys()}, "`list(ids)`"),
        ({"name": date(2026, 3, 1)}, "`name.isoformat()`"),
        ({"name": Role.STUDENT}, "`name.value`"),
        ({"name": 5}, "`str(name)`"),
        ({"name": True}, "another value for `name`"),
        ({"moment": "2026-03-01"}, "`datetime.fromisoformat(moment)`"),
        ({"moment": date(2026, 3, 1)}, "`datetime.combine(moment, time())`"),
        ({"moment": datetime(2026, 3, 1, tzinfo=UTC)}, "`moment.astimezone(UTC).replace(tzinfo=None)`"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_conversion(changed: dict[str, Any], form: str) -> None:
    values = {"ids": [1], "name": "Ana", "moment": datetime(2026, 3, 1)} | changed
    with pytest.raises(ParameterInvalid) as raised:
        users_before._prepare("all", (), values)
    assert raised.value.fix == f"pass {form}"


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        ([{"usr_id": 1}], "did you mean `user_id`?"),
        ([{"user": 1}], "it is a relation; name its foreign key, `user_id`"),
        ([{"zzz": 1}], "name columns of Checkin"),
        ([{"user_id": "1"}], "write `int(user_id)`"),
        ([{"created_at": None}], "this column may not be NULL"),
        ([{"created_at": func.now()}], "not expressions of SQL"),
        ([{"created_at": datetime.min}, {"user_id": 1}], "correct this row"),
    ],
)
def test_an_invalid_row_is_refused_with_what_to_write(rows: list[dict[str, object]], advice: str) -> None:
    with pytest.raises(RowInvalid) as raised:
        insert_many(Checkin, rows)
    assert advice in raised.value.fix
    assert (raised.value.position == 1) == ("another row names it" in raised.value.what)


def test_a_new_object_is_no_place_in_the_order() -> None:
    with pytest.raises(ReadInvalid, match=r"`after` received a row whose User\.id is None"):
        read(User).after(User(clerk_user_id="user_ana"))._prepare("all", (), {})


# --- Reads used as something else ------------------------------------------------------------------------------------


@query
def by_role(role: str) -> Read[User]:
    return read(User).where(User.role == role)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: cast("Any", by_role)("STUDENT"), "`by_role` was called like a function"),
        (lambda: list(cast("Any", by_role)), "`by_role` was iterated like its rows"),
        (lambda: [*cast("Any", read(User))], "`read User` was iterated like its rows"),
    ],
)
def test_a_read_that_is_used_like_its_rows_shows_how_it_runs(use: Callable[[], object], words: str) -> None:
    with pytest.raises(ReadNotRun, match=words) as raised:
        use()
    assert ".all(db" in raised.value.fix
    assert isinstance(raised.value, TypeError)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_sqlalchemy_is_refused_with_what_takes_its_place(method: str) -> None:
    with pytest.raises(ReadHasNoMethod, match=f"a read has no `{method}`") as raised:
        getattr(read(User), method)(1)
    assert raised.value.fix == f"write `{METHODS[method]}`"
    assert not hasattr(read(User), method)


def test_another_attribute_of_a_read_is_an_ordinary_error() -> None:
    described: Any = read(User)
    with pytest.raises(AttributeError, match="a read has no attribute 'unknown'") as raised:
        described.unknown(User.id)
    # From these, Python suggests the name that was meant.
    assert (raised.value.name, raised.value.obj) == ("unknown", described)
    assert not hasattr(read(User), "__array__")


@pytest.mark.parametrize(
    "target", ["STUDENT", None, 5, sessionmaker(), async_sessionmaker(), User], ids=lambda target: type(target).__name__
)
@pytest.mark.parametrize("method", ["all", "first", "one", "count", "exists", "stream", "explain"])
def test_a_call_without_a_database_names_the_database(target: Any, method: str) -> None:
    for arguments in ((), ("STUDENT",)):
        if target is None and not arguments:
            continue
        with pytest.raises(TargetInvalid, match="expected a database, a session or a connection, got ") as raised:
            for _ in getattr(by_role, method)(target, *arguments):
                pass
        assert ("with db.session()" in raised.value.fix) == ("sessionmaker" in type(target).__name__)
        assert "STUDENT" not in str(raised.value)


class Repository:
    def users(self, role: str) -> Read[User]:
        return read(User).where(User.role == role)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (Repository.users, "`users` is a method"),
        (partial(by_role.where), "received a value of type `partial`"),
        (read(User), "received a value of type `Read`"),
        (Repository().users, "received a value of type `method`"),
        (User, "received a value of type `"),
        (lambda role: read(User).where(User.role == role).all(cast("Any", None)), "runs a read, before its parameters"),
    ],
)
def test_what_is_no_function_that_describes_a_read_is_refused(function: Any, words: str) -> None:
    with pytest.raises(ReadInvalid, match=words):
        query(function)


def test_a_query_that_extends_another_has_its_defaults() -> None:
    @query
    def users(role: str = "STUDENT", gym_id: int | None = None) -> Read[User]:
        found = read(User).where(User.role == role)
        return found if gym_id is None else found.where(User.gym_id == gym_id)

    @query
    def named(name: str) -> Read[User]:
        return users.where(User.first_name == name)

    @query
    def of_role(role: str) -> Read[User]:  # noqa: ARG001, the other one uses it
        return users.where(User.approved_at.is_not(None))

    assert named._prepare("all", ("Ana",), {})[1] == {"name": "Ana", "role": "STUDENT", "gym_id": None}
    assert "gym_id = " not in named._prepare("all", ("Ana",), {})[0].sql
    assert "gym_id = " in named._prepare("all", ("Ana",), {"gym_id": 1})[0].sql
    with pytest.raises(ParametersDiffer, match="`of_role` has no value for role"):
        of_role._prepare("all", (), {})


def test_a_call_with_other_parameters_shows_the_call_that_works() -> None:
    with pytest.raises(ParametersDiffer) as raised:
        by_role._prepare("all", (), {"rol": "STUDENT"})
    assert "`.all(db, role=…)`" in raised.value.fix
    with pytest.raises(ParametersDiffer) as raised:
        read(User)._prepare("all", (), {"role": "STUDENT"})
    assert raised.value.fix == "pass no parameters: this read has none"


# --- Combinations of parameters that are None ------------------------------------------------------------------------


def test_the_function_runs_once_for_each_combination_of_parameters_that_are_none() -> None:
    calls: list[tuple[bool, bool]] = []

    @query
    def users(role: str | None = None, gym_id: int | None = None) -> Read[User]:
        calls.append((role is None, gym_id is None))
        found = read(User)
        found = found if role is None else found.where(User.role == role)
        return found if gym_id is None else found.where(User.gym_id == gym_id)

    assert sorted(calls) == [(False, False), (False, True), (True, False), (True, True)]
    statements = [users._prepare("all", (role, gym), {})[0] for role in ("a", "b", None) for gym in (1, 2, None)]
    assert len(calls) == 4
    assert len({id(statement) for statement in statements}) == 4
    assert "WHERE" not in users._prepare("all", (), {})[0].sql


def test_a_combination_that_no_default_announces_is_described_at_its_first_call() -> None:
    calls: list[bool] = []

    @query
    def users(role: Any) -> Read[User]:
        calls.append(role is None)
        return read(User).where(User.role == role)

    assert calls == [False]
    for _ in range(3):
        assert "users.role IS NULL" in users._prepare("all", (None,), {})[0].sql
    assert calls == [False, True]


def test_many_parameters_that_may_be_none_are_not_all_combined_at_the_definition() -> None:
    calls: list[int] = []

    @query
    def users(  # noqa: PLR0917
        a: int | None = None,
        b: int | None = None,
        c: int | None = None,
        d: int | None = None,
        e: int | None = None,
        f: int | None = None,
    ) -> Read[User]:
        calls.append(1)
        return read(User).where(*(User.id != one for one in (a, b, c, d, e, f) if one is not None))

    assert len(calls) == 1 + 6 + 1
    assert MAX_NULLABLE < 6
    assert "WHERE public.users.id != %(b)s::INTEGER AND" in users._prepare("all", (None, 1, None, 2), {})[0].sql


def test_a_default_that_is_not_none_is_a_value() -> None:
    @query
    def users(role: str = "STUDENT") -> Read[User]:
        return read(User).where(User.role == role)

    assert users._prepare("all", (), {})[1]["role"] == "STUDENT"
    assert users._prepare("all", ("MANAGER",), {})[1]["role"] == "MANAGER"


def test_an_error_of_the_function_is_its_own() -> None:
    with pytest.raises(ZeroDivisionError):

        @query
        def broken(role: str) -> Read[User]:
            return read(User).where(User.role == role, User.id == 1 // 0)

    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'strip'"):

        @query
        def broken_for_none(role: str | None = None) -> Read[User]:
            return read(User).where(User.role == cast("Any", role if role is not None else cast("Any", role).strip()))


def test_a_function_may_refuse_a_combination_itself() -> None:
    @query
    def find(name: str | None = None, email: str | None = None) -> Read[User]:
        if name is None and email is None:
            raise ValueError("a name or an e-mail")
        return read(User).where(User.first_name == name, User.email == email)

    assert "IS NULL" in find._prepare("all", ("Ana",), {})[0].sql
    with pytest.raises(ValueError, match="a name or an e-mail"):
        find._prepare("all", (), {})


def test_methods_of_a_query_apply_to_each_combination() -> None:
    @query
    def users(role: str | None = None) -> Read[User]:
        return read(User) if role is None else read(User).where(User.role == role)

    newest = users.where(User.gym_id == 1).order_by(User.created_at.desc()).limit(3)
    all_roles, one_role = (newest._prepare("all", args, {})[0].sql for args in ((), ("STUDENT",)))
    assert all_roles.endswith(
        "WHERE public.users.gym_id = %(gym_id_1)s::INTEGER ORDER BY public.users.created_at DESC LIMIT 3"
    )
    assert "users.role = %(role)s" in one_role
    assert one_role.endswith("LIMIT 3")


def test_a_query_may_return_what_another_one_describes() -> None:
    @query
    def users(role: str | None = None) -> Read[User]:
        return read(User) if role is None else read(User).where(User.role == role)

    @query
    def approved(role: str | None = None) -> Read[User]:  # noqa: ARG001, the other one uses it
        return users.where(User.approved_at.is_not(None))

    assert "users.role =" in approved._prepare("all", ("STUDENT",), {})[0].sql
    assert "users.role =" not in approved._prepare("all", (), {})[0].sql


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda role, unused: read(User).where(User.role == role), "does not use its parameter `unused`"),  # noqa: ARG005
        (
            lambda role=None: read(User).where(*([User.id == 1] if role is not None else [])),
            "does not use its parameter",
        ),
        (lambda *roles: read(User), "any number of arguments, as `\\*roles`"),  # noqa: ARG005
        (lambda **roles: read(User), "any number of arguments, as `\\*\\*roles`"),  # noqa: ARG005
        (lambda: None, "returned a value of type `NoneType`"),
        (lambda: select(User), "returned a value of type `Select`"),
        (lambda: read(User.gym), "returned a value of type `RelationRead`"),
    ],
)
def test_a_function_that_is_no_query_is_refused(function: Any, words: str) -> None:
    with pytest.raises(ReadInvalid, match=words):
        query(function)


def test_an_async_function_is_refused() -> None:
    async def users(role: str) -> Read[User]:
        return read(User).where(User.role == role)

    with pytest.raises(ReadInvalid, match="`users` is declared with `async`"):
        query(cast("Any", users))


def test_a_parameter_that_only_some_combinations_use_is_accepted() -> None:
    @query
    def users(role: str | None, gym_id: int) -> Read[User]:
        return read(User).where(User.gym_id == gym_id) if role is None else read(User).where(User.role == role)

    assert "gym_id = " in users._prepare("all", (None, 1), {})[0].sql


# --- Arguments of the wrong kind -------------------------------------------------------------------------------------

untyped: Any = read


@pytest.mark.parametrize(
    ("describe", "words", "form"),
    [
        (lambda: untyped("users"), "`read` received a value of type `str`", "read(User)"),
        (lambda: untyped(User(clerk_user_id="secret")), "`read` received a value of type `User`", "read(User)"),
        (lambda: untyped(select(User)), "`read` received a value of type `Select`", "read(User)"),
        (lambda: untyped(int), "`read` received the class `int`", "read(User)"),
        (lambda: untyped(User).where(gym_id=1), "`where` received `gym_id=…`", "read(User).where(User.gym_id == …)"),
        (lambda: untyped(User).where(True), "`where` received True", ".is_(None)"),  # noqa: FBT003
        (lambda: untyped(User).where(User.id is None), "`where` received False", ".is_(None)"),
        (lambda: untyped(User).where(not cast("Any", User.deleted_at)), "`where` received False", ".is_(None)"),
        (lambda: untyped(User).where(None), "`where` received None", "User.id == …"),
        (lambda: untyped(User).where("role = 'secret'"), "`where` received a value of type `str`", "User.id == …"),
        (lambda: untyped(User).where({"id": 1}), "`where` received a value of type `dict`", "User.id == …"),
        (lambda: untyped(User).where([User.id == 1]), "`where` received a value of type `list`", "User.id == …"),
        (lambda: untyped(User).where(User), "`where` received the class `User`", "User.id == …"),
        (lambda: untyped(User).where(User.email), "`where` received `User.email`", "User.id == …"),
        (lambda: untyped(User).where(User.gym), "`where` received `User.gym`", "User.id == …"),
        (lambda: untyped(User).where(select(User)), "a value of type `Select`", "User.id == …"),
        (lambda: read(User).where(Gym.id == 1), "`where` of User received columns of Gym", "User.….any(Gym.… == …)"),
        (lambda: read(User).where(User.gym_id == Gym.id), "received columns of Gym", ".has(…)"),
        (lambda: read(User).where(aliased(User).id == 1), "received columns of User", ".has(…)"),
        (lambda: read(User).where(Gym.members.any(User.id == 1)), "received columns of Gym", ".any("),
        (lambda: read(User.gym).where(Class.id == 1), "`where` of Gym received columns of Class", "Gym.…"),
        (lambda: untyped(User).order_by("name"), "`order_by` received a value of type `str`", "User.id.desc()"),
        (lambda: untyped(User).order_by(1), "`order_by` received a value of type `int`", "User.id.desc()"),
        (lambda: untyped(User).order_by(None), "`order_by` received a value of type `NoneType`", "User.id.desc()"),
        (lambda: untyped(User).order_by(User), "`order_by` received the class `User`", "User.id.desc()"),
        (lambda: untyped(User).order_by(User.gym), "`order_by` received `User.gym`", "User.id.desc()"),
        (lambda: read(User).order_by(Gym.name), "`order_by` of User received columns of Gym", "User.…"),
        (lambda: untyped(User).columns("id"), "`columns` received a value of type `str`", ".columns(User.id)"),
        (lambda: untyped(User).columns(User), "`columns` received the class `User`", ".columns(User.id)"),
        (lambda: untyped(User).columns(User.id + 1), "`columns` received a value of type", ".columns(User.id)"),
        (lambda: read(User).columns(Gym.name), "Gym.name is not a column of User", ".columns(User.id)"),
        (lambda: read(User).columns(User.gym), "User.gym is not a column of User", ".columns(User.id)"),
        (lambda: untyped(User).load("gym"), "`load` received a value of type `str`", ".load(User."),
        (lambda: untyped(User).load(Gym), "`load` received the class `Gym`", ".load(User."),
        (
            lambda: untyped(User).load(selectinload(User.gym)),
            "`load` received a value of type `Load`",
            ".load(read(User.",
        ),
        (lambda: untyped(User).load(User.email), "User.email is a column", "User.gym"),
        (lambda: untyped(User).limit("20"), "`limit` is not a whole number of 0 or more", "int"),
        (lambda: read(User).limit(-1), "`limit` is not a whole number of 0 or more", "int"),
        (lambda: read(User).limit(True), "`limit` is not a whole number", "int"),  # noqa: FBT003
        (lambda: read(User).limit(2**63), "`limit` is not a whole number", "int"),
        (lambda: untyped(User).limit(None), "`limit` is not a whole number", "int"),
        (lambda: untyped(User).limit(1.5), "`limit` is not a whole number", "int"),
        (lambda: untyped(User).limit(func.count()), "`limit` received an expression", ".page("),
        (lambda: read(User).limit(1, skip=-1), "`skip` is not a whole number", "int"),
        (lambda: read(User).page(0, size=20), "`page` is not a whole number of 1 or more", "int"),
        (lambda: read(User).page(-1, size=20), "`page` is not a whole number of 1 or more", "int"),
        (lambda: read(User).page(True, size=20), "`page` is not a whole number of 1 or more", "int"),  # noqa: FBT003
        (lambda: read(User).page(1, size=-1), "`size` is not a whole number", "int"),
        (lambda: untyped(User).after(1), "`after` received a value of type `int`", "row"),
        (lambda: untyped(User).after(Gym(name="secret", address="", since="")), "a value of type `Gym`", "row"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_with_the_form_that_works(
    describe: Callable[[], object], words: str, form: str
) -> None:
    with pytest.raises(ReadInvalid) as raised:
        describe()

    assert words in raised.value.what
    assert form in raised.value.fix
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "condition",
    [
        lambda: User.gym.has(Gym.manager.has(User.role == "MANAGER")),
        lambda: User.instructed_classes.any(Class.assets.any()),
        lambda: User.gym_id == select(Gym.id).where(Gym.name == "a").scalar_subquery(),
        lambda: select(Gym.id).where(Gym.id == User.gym_id).exists(),
        lambda: text("users.id = 1"),
        lambda: func.isfinite(User.created_at),
        lambda: User.created_at == datetime(2026, 3, 1),
        lambda: ~User.gym.has(),
    ],
)
def test_conditions_about_the_model_are_accepted(condition: Callable[[], Any]) -> None:
    assert "\nFROM public.users \nWHERE " in read(User).where(condition())._prepare("all", (), {})[0].sql


@pytest.mark.parametrize(
    "describe",
    [
        lambda page: read(User).limit(20, skip=(page - 1) * 20),
        lambda page: read(User).limit(page + 1),
        lambda page: read(User).page(page - 1, size=20),
        lambda page: read(User).page(1, size=page * 2),
    ],
)
def test_arithmetic_in_a_limit_is_refused_where_it_is_defined(describe: Callable[[Any], Read[User]]) -> None:
    with pytest.raises(ReadInvalid, match=r"\.page\(page, size=20\)"):
        query(describe)


def test_an_order_that_is_a_parameter_is_refused() -> None:
    with pytest.raises(ReadInvalid, match="`order_by` received the parameter `sort`"):

        @query
        def users(sort: str) -> Read[User]:
            return read(User).order_by(sort)


def test_a_name_that_sqlalchemy_gives_to_a_value_is_refused() -> None:
    @query
    def users(id_1: int) -> Read[User]:
        return read(User).where(User.id != 5, User.id == id_1)

    with pytest.raises(ReadInvalid, match="the parameter `id_1` has a name that SQLAlchemy gives to a value"):
        users._prepare("all", (1,), {})


def test_the_values_of_a_last_row_have_names_of_their_own() -> None:
    @query
    def checkins(last: Checkin | None, last__id: int, last_id: int) -> Read[Checkin]:
        return read(Checkin).where(Checkin.id != last__id, Checkin.user_id != last_id).after(last)

    statement, values = checkins._prepare("all", (Checkin(id=3), 7, 8), {})
    named = set(re.findall(r"%\(([^)]+)\)s", statement.sql))
    assert sorted(values[name] for name in named) == [3, 7, 8]


def test_a_list_that_is_none_is_refused() -> None:
    bound = read(User).where(User.id.in_(bindparam("ids")))
    with pytest.raises(ReadInvalid, match="the list `ids` is None"):
        bound._prepare("all", (), {"ids": None})

    @query
    def users(ids: Any) -> Read[User]:
        return read(User).where(User.id.in_(ids))

    with pytest.raises(ReadInvalid, match="`users` fails where `ids` is None: IN expression list"):
        users._prepare("all", (None,), {})


@pytest.mark.parametrize(
    "describe",
    [
        lambda last: read(User).after(last).page(2, size=20),
        lambda last: read(User).page(2, size=20).after(last),
    ],
)
def test_a_read_starts_at_a_page_or_after_a_row(describe: Callable[[Any], Read[User]]) -> None:
    with pytest.raises(ReadInvalid, match="has `page` and `after`"):
        query(describe)


@pytest.mark.parametrize(
    "describe",
    [lambda size: read(User).limit(size).page(2, size=20), lambda size: read(User).page(2, size=size).limit(5)],
)
def test_a_read_has_a_page_or_a_limit(describe: Callable[[Any], Read[User]]) -> None:
    with pytest.raises(ReadInvalid, match="has `page` and `limit`"):
        query(describe)


def test_a_later_page_limit_or_list_of_columns_replaces_an_earlier_one() -> None:
    assert read(User).limit(3, skip=1).limit(5)._prepare("all", (), {})[0].sql.endswith("LIMIT 5")
    assert read(User).page(2, size=3).page(1, size=5)._prepare("all", (), {})[0].sql.endswith("LIMIT 5")
    assert "email" not in read(User).columns(User.email).columns(User.id)._prepare("all", (), {})[0].sql


def test_a_deadline_that_is_a_parameter_is_refused() -> None:
    with pytest.raises(ReadInvalid, match="`users`: `within` received the parameter `deadline_ms`"):

        @query
        def users(deadline_ms: int) -> Read[User]:
            return read(User).within(deadline_ms=deadline_ms)


def test_a_list_of_tuples_is_refused() -> None:
    with pytest.raises(ReadInvalid, match="the parameter `pairs` is a list that PostgreSQL has no array for"):

        @query
        def users(pairs: list[tuple[int, str]]) -> Read[User]:
            return read(User).where(tuple_(User.id, User.role).in_(pairs))


def test_a_placeholder_that_is_kept_stays_one() -> None:
    kept: list[Any] = []

    @query
    def users(role: str) -> Read[User]:
        kept.append(role)
        return read(User).where(User.role == role)

    assert isinstance(kept[0], Parameter)
    assert read(Checkin).columns(Checkin.id)._prepare("all", (), {})[1] == {}
