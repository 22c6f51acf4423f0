"""Reads with parameters, pages, counts: each call returns the rows that a session would return for its values."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BindParameter, ForeignKey, Text, UniqueConstraint, bindparam, func, or_, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tatame_db import evolve
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import read as reads
from tatame_db.queries.errors import NotLoaded, ParameterInvalid, ParametersDiffer, ReadInvalid
from tatame_db.queries.read import Read, query, read
from tatame_db.schema import Checkin, Class, Graduation, Gym, Notification, User
from tatame_db.seed import SeedPlan, seed
from tatame_db.server.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def seeded(server: EmbeddedServer) -> Generator[Database]:
    """Yield a seeded database, for tests that only read."""
    address = server.address.set(database=f"parameters_{uuid4().hex}")
    create_missing_database(address)
    with Database(address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed(connection, SeedPlan(gyms=2, members=8, days=14))
            connection.execute(text("UPDATE users SET role = NULL WHERE id % 5 = 0"))
            connection.execute(text("UPDATE users SET first_name = '50%_/\\' WHERE id = 3"))
        yield database


def ids(rows: Any) -> list[Any]:
    return sorted(row.id for row in rows)


def in_session(database: Database, *conditions: Any) -> list[int]:
    with database.session() as session:
        return sorted(session.scalars(select(User.id).where(*conditions)))


# --- None ------------------------------------------------------------------------------------------------------------


@query
def users_of(role: str | None = None, gym_id: int | None = None) -> Read[User]:
    found = read(User)
    if role is not None:
        found = found.where(User.role == role)
    return found if gym_id is None else found.where(User.gym_id == gym_id)


@pytest.mark.parametrize(
    ("role", "gym_id"), list(itertools.product([None, "STUDENT", "MANAGER", "NONE"], [None, 1, 2, 99]))
)
def test_a_filter_that_is_none_does_not_restrict_the_rows(
    role: str | None, gym_id: int | None, seeded: Database
) -> None:
    conditions = [User.role == role] * (role is not None) + [User.gym_id == gym_id] * (gym_id is not None)
    assert ids(users_of.all(seeded, role, gym_id)) == in_session(seeded, *conditions)
    assert ids(users_of.all(seeded, role=role, gym_id=gym_id)) == in_session(seeded, *conditions)


def test_defaults_that_are_none_restrict_nothing(seeded: Database) -> None:
    assert len(users_of.all(seeded)) == users_of.count(seeded) == len(in_session(seeded))


COMPARISONS: dict[str, Callable[[Any], Any]] = {
    "==": lambda role: User.role == role,
    "== reversed": lambda role: role == User.role,
    "!=": lambda role: User.role != role,
    "is distinct from": User.role.is_distinct_from,
    "is not distinct from": User.role.is_not_distinct_from,
    "or": lambda role: or_(User.role == role, User.id == 1),
}


@pytest.mark.parametrize("role", ["STUDENT", None])
@pytest.mark.parametrize("comparison", COMPARISONS.values(), ids=list(COMPARISONS))
def test_a_comparison_with_none_is_that_of_a_session(
    comparison: Callable[[Any], Any], role: str | None, seeded: Database
) -> None:
    @query
    def users(role: Any) -> Read[User]:
        return read(User).where(comparison(role))

    expected = None if role is None else role
    if comparison is COMPARISONS["== reversed"]:
        assert ids(users.all(seeded, role)) == in_session(seeded, User.role == expected)
    else:
        assert ids(users.all(seeded, role)) == in_session(seeded, comparison(expected))


@pytest.mark.parametrize("role", ["STUDENT", None])
@pytest.mark.parametrize("name", ["==", "== reversed", "!=", "is distinct from", "or"])
def test_a_bindparam_that_is_none_is_that_of_a_session_too(name: str, role: str | None, seeded: Database) -> None:
    bind: BindParameter[str] = bindparam("role")
    users = read(User).where(COMPARISONS[name](bind))
    assert ids(users.all(seeded, role=role)) == in_session(
        seeded, COMPARISONS["==" if name == "== reversed" else name](role)
    )


def test_a_parameter_that_is_none_in_a_relation_is_null_there(seeded: Database) -> None:
    @query
    def gyms(role: str | None) -> Read[Gym]:
        return read(Gym).load(read(Gym.members).where(User.role == role))

    for role in ("STUDENT", None):
        found = [user.id for gym in gyms.all(seeded, role) for user in gym.members]
        assert sorted(found) == in_session(seeded, User.role == role, User.gym_id.is_not(None))


def test_a_parameter_that_is_none_in_a_subquery_is_null_there(seeded: Database) -> None:
    bind: BindParameter[str] = bindparam("role")
    gyms = read(Gym).where(~Gym.members.any(User.role != bind))
    for role in ("STUDENT", None):
        with seeded.session() as session:
            expected = sorted(session.scalars(select(Gym.id).where(~Gym.members.any(User.role != role))))
        assert ids(gyms.all(seeded, role=role)) == expected


def test_any_number_of_combinations_caches_few_statements(seeded: Database) -> None:
    names = [f"p{number}" for number in range(8)]
    described = read(User).where(*(User.id != bindparam(name) for name in names))
    for values in itertools.product([None, 1], repeat=8):
        described.count(seeded, **dict(zip(names, values, strict=True)))
    assert len(described._statements) == reads.MAX_COMBINATIONS


# --- Values in SQL ---------------------------------------------------------------------------------------------------


def test_texts_are_built_in_sql(seeded: Database) -> None:
    @query
    def like(text: str) -> Read[User]:
        return read(User).where(User.first_name.ilike("%" + text + "%"))

    @query
    def literally(text: str) -> Read[User]:
        return read(User).where(User.first_name.icontains(text, autoescape=True))

    @query
    def starting(text: str) -> Read[User]:
        return read(User).where(User.first_name.startswith(text, autoescape=True))

    with seeded.session() as session:
        name = session.scalar(select(User.first_name).where(User.id == 1)) or ""
    for part in (name, name[1:4].upper(), "50%", "%", "_", "/", "50%_/\\", "x%"):
        assert ids(like.all(seeded, part)) == in_session(seeded, User.first_name.ilike(f"%{part}%"))
        assert ids(literally.all(seeded, part)) == in_session(seeded, User.first_name.icontains(part, autoescape=True))
        assert ids(starting.all(seeded, part)) == in_session(seeded, User.first_name.startswith(part, autoescape=True))
    assert ids(literally.all(seeded, "50%_/\\")) == [3]


def test_lists_are_compared_as_arrays(seeded: Database) -> None:
    @query
    def among(ids: list[int]) -> Read[User]:
        return read(User).where(User.id.in_(ids))

    @query
    def not_among(roles: list[str]) -> Read[User]:
        return read(User).where(User.role.not_in(roles))

    bound = read(User).where(User.id.in_(bindparam("ids")))
    for wanted in ([1, 2, 3, 99_999], [], [2]):
        assert ids(among.all(seeded, wanted)) == in_session(seeded, User.id.in_(wanted))
        assert ids(bound.all(seeded, ids=wanted)) == in_session(seeded, User.id.in_(wanted))
    for roles in (["STUDENT"], [], ["STUDENT", "MANAGER"]):
        assert ids(not_among.all(seeded, roles)) == in_session(seeded, User.role.not_in(roles))
    assert len(among._statements[frozenset()].cached) == 1


def test_a_list_in_a_condition_of_a_relation_is_an_array_too(seeded: Database) -> None:
    @query
    def gyms(roles: list[str], ids: list[int]) -> Read[Gym]:
        students = read(Gym.members).where(User.role.in_(roles))
        return read(Gym).where(Gym.members.any(User.id.in_(ids))).load(students)

    found = gyms.all(seeded, ["STUDENT"], list(range(100)))
    assert {user.role for gym in found for user in gym.members} == {"STUDENT"}


def test_parameters_may_be_items_of_a_list(seeded: Database) -> None:
    @query
    def for_user(user_id: str, other: str) -> Read[Notification]:
        either = Notification.recipients.contains([user_id]) | Notification.recipients.overlap([user_id, other])
        return read(Notification).where(either)

    @query
    def either(first: int, second: int) -> Read[User]:
        return read(User).where(User.id.in_([first, second, 3]))

    with seeded.session() as session:
        someone, other = (
            session.scalar(select(Notification.recipients[1]).where(Notification.id == n)) for n in (1, 2)
        )
        expected = session.scalars(select(Notification.id).where(Notification.recipients.overlap([someone, other])))
        assert ids(for_user.all(seeded, cast("str", someone), cast("str", other))) == sorted(expected)
    assert ids(either.all(seeded, 1, 2)) == [1, 2, 3]


def test_numbers_are_computed_in_sql(seeded: Database) -> None:
    @query
    def near(number: int) -> Read[User]:
        return read(User).where(User.id.between(number - 1, 1 + number), User.id != number * 1)

    assert ids(near.all(seeded, 5)) == [4, 6]


def test_arguments_are_counted_and_named(seeded: Database) -> None:
    untyped: Any = users_of
    for args, kwargs, words in (
        ((1, 2, 3), {}, "has no parameter number 3"),
        (("a",), {"role": "b"}, "has two values for role"),
        ((), {"rolle": "b"}, "has no parameter rolle"),
    ):
        with pytest.raises(ParametersDiffer, match=f"`users_of` {words}"):
            untyped.all(seeded, *args, **kwargs)
    with pytest.raises(ParametersDiffer, match="has no parameter number 1"):
        cast("Any", read(User)).all(seeded, 1)

    @query
    def keyword_only(*, role: str) -> Read[User]:
        return read(User).where(User.role == role)

    assert keyword_only.count(seeded, role="STUDENT")
    with pytest.raises(ParametersDiffer, match="has no value for role and has no parameter number 1"):
        cast("Any", keyword_only).all(seeded, "STUDENT")

    @query
    def positional_only(role: str, /) -> Read[User]:
        return read(User).where(User.role == role)

    assert positional_only.count(seeded, "STUDENT") == keyword_only.count(seeded, role="STUDENT")


# --- Pages -----------------------------------------------------------------------------------------------------------


@query
def page_of(page: int, size: int = 7) -> Read[User]:
    return read(User).order_by(User.role).page(page, size=size)


def test_pages_by_number_have_each_row_once(seeded: Database) -> None:
    pages = [page_of.all(seeded, number) for number in range(1, 20)]
    found = [row.id for page in pages for row in page]
    assert len(found) == len(set(found)) == len(in_session(seeded))
    assert [row.id for row in page_of.all(seeded, 2, 3)] == found[3:6]
    assert page_of.all(seeded, 1_000) == []
    assert [row.id for row in read(User).page(2, size=5).all(seeded)] == in_session(seeded)[5:10]
    row = page_of.first(seeded, 2)
    assert row
    assert row.id == found[7]


@pytest.mark.parametrize("page", [0, -1, True, 1.0, "1", None, 2**62])
def test_a_page_that_is_no_page_names_the_parameter(page: Any, seeded: Database) -> None:
    with pytest.raises(ReadInvalid, match="`page`"):
        page_of.all(seeded, page)


@pytest.mark.parametrize("size", [-1, True, 1.0, "1", None, 2**63])
def test_a_size_that_is_no_number_names_the_parameter(size: Any, seeded: Database) -> None:
    with pytest.raises(ReadInvalid, match="size"):
        page_of.all(seeded, 1, size)


def test_count_and_exists_see_all_pages_and_load_nothing(seeded: Database) -> None:
    students = read(User).where(User.role == "STUDENT").order_by(User.first_name).load(User.gym, User.checkins)
    expected = len(in_session(seeded, User.role == "STUDENT"))
    assert students.count(seeded) == expected
    assert students.limit(2, skip=1).count(seeded) == expected
    assert students.page(99, size=10).count(seeded) == expected
    assert page_of.count(seeded, 99) == len(in_session(seeded))
    assert students.exists(seeded) is True
    assert students.limit(0).exists(seeded) is True
    assert read(User).where(User.role == "NOBODY").exists(seeded) is False
    assert read(User).where(User.role == "NOBODY").count(seeded) == 0
    sql = students.limit(2)._prepare("count", (), {})[0].sql
    assert not any(word in sql for word in ("ORDER", "LIMIT", "gyms", "checkins"))


def test_count_and_exists_are_awaited_on_an_async_database_and_see_a_session(seeded: Database) -> None:
    async def main() -> None:
        async with AsyncDatabase(seeded.address) as database:
            before = await read(User).count(database)
            async with database.session() as session:
                session.add(User(clerk_user_id="user_new"))
                assert await read(User).count(session) == before + 1
                assert await read(User).where(User.clerk_user_id == "user_new").exists(session)
                assert await read(User).count(database) == before

    asyncio.run(main())


# --- Pages by the last row -------------------------------------------------------------------------------------------


def all_pages(described: Any, database: Database, most: int = 1_000) -> list[list[Any]]:
    pages: list[list[Any]] = []
    last = None
    while page := described.after(last).all(database):
        pages.append(page)
        last = page[-1]
        assert len(pages) <= most
    return pages


class Elsewhere(DeclarativeBase):
    """Tables that the models of the package lack."""


class Place(Elsewhere):
    __tablename__ = "places"
    __table_args__ = (UniqueConstraint("country", "code"),)
    first: Mapped[int] = mapped_column(primary_key=True)
    second: Mapped[str] = mapped_column(primary_key=True)
    country: Mapped[str]
    code: Mapped[int]
    number: Mapped[int | None]
    title: Mapped[str | None]
    seen: Mapped[datetime | None]


NULLABLE = {"number": st.integers(0, 2), "title": st.sampled_from(["", "a", "A", "ç"])}
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "first": st.integers(0, 3),
            "second": st.sampled_from(["a", "b", "Z"]),
            "number": st.none() | st.integers(0, 2),
            "title": st.none() | st.sampled_from(["", "a", "A", "ç"]),
            "seen": st.none() | st.datetimes(datetime(2026, 1, 1), datetime(2026, 1, 1, 0, 0, 1)),
        }
    ),
    max_size=12,
    unique_by=lambda row: (row["first"], row["second"]),
)
TERMS = st.tuples(
    st.sampled_from(["first", "second", "number", "title", "seen", "country", "code"]),
    st.sampled_from(["", "asc", "desc"]),
    st.sampled_from(["", "nulls_first", "nulls_last"]),
)


def ordered_by(terms: list[tuple[str, str, str]]) -> list[Any]:
    order: list[Any] = []
    for name, direction, nulls in terms:
        term = getattr(Place, name)
        term = getattr(term, direction)() if direction else term
        order.append(getattr(term, nulls)() if nulls else term)
    return order


@pytest.fixture(scope="module")
def places(server: EmbeddedServer) -> Generator[Database]:
    address = server.address.set(database=f"places_{uuid4().hex}")
    create_missing_database(address)
    with Database(address) as database:
        Elsewhere.metadata.create_all(database.engine)
        yield database


@given(rows=ROWS, terms=st.lists(TERMS, max_size=3, unique_by=lambda term: term[0]), size=st.integers(1, 4))
def test_all_pages_after_each_other_are_the_rows_in_order(
    rows: list[dict[str, Any]], terms: list[tuple[str, str, str]], size: int, places: Database
) -> None:
    with places.session.begin() as session:
        session.execute(text("TRUNCATE places"))
        session.add_all([Place(**row, country="BR", code=number) for number, row in enumerate(rows)])
    described: Any = read(cast("Any", Place)).order_by(*ordered_by(terms))

    @query
    def page_after(last: Any) -> Read[Any]:
        return cast("Read[Any]", described.after(last).limit(size))

    def keys(found: Any) -> list[Any]:
        return [(row.first, row.second) for row in found]

    everything = described.after(None).all(places)
    with places.session() as session:
        values = [[getattr(row, name) for name, _, _ in terms] for row in everything]
        in_order = session.execute(
            select(*(getattr(Place, name) for name, _, _ in terms), Place.first).order_by(*ordered_by(terms))
        )
        assert values == [list(row[:-1]) for row in in_order]
    pages = all_pages(described.limit(size), places)
    assert keys(itertools.chain(*pages)) == keys(everything)
    by_parameter, last = [], None
    while page := page_after.all(places, last):
        by_parameter += page
        last = page[-1]
    assert keys(by_parameter) == keys(everything)


def test_a_page_may_start_after_an_object_of_a_session_and_a_row_with_few_columns(seeded: Database) -> None:
    newest = read(Checkin).order_by(Checkin.created_at.desc(), Checkin.id.desc())
    rows = newest.limit(10).all(seeded)
    with seeded.session() as session:
        object_ = session.get_one(Checkin, rows[4].id)
    small = newest.columns(Checkin.id, Checkin.created_at).limit(5).all(seeded)
    for last in (object_, small[-1]):
        assert [row.id for row in newest.after(last).limit(5).all(seeded)] == [row.id for row in rows[5:]]


def test_a_page_loads_relations_and_keeps_its_conditions(seeded: Database) -> None:
    students = read(User).where(User.role == "STUDENT").order_by(User.first_name).load(User.gym, User.graduations)
    found = [row for page in all_pages(students.limit(3), seeded) for row in page]
    assert ids(found) == in_session(seeded, User.role == "STUDENT")
    assert all(graduation.user_id == row.id for row in found for graduation in row.graduations)


def test_a_page_after_a_row_uses_the_index_of_its_order(seeded: Database) -> None:
    [row] = read(Graduation).order_by(Graduation.user_id, Graduation.created_at).limit(1).all(seeded)
    described = read(Checkin).order_by(Checkin.id).after(read(Checkin).limit(1).all(seeded)[0])
    assert "Index Cond: (id > " in described.limit(5).explain(seeded) or "Seq Scan" in described.explain(seeded)
    sql = read(Graduation).order_by(Graduation.user_id, Graduation.created_at).after(row)._prepare("all", (), {})[0].sql
    assert "WHERE (public.graduations.user_id, public.graduations.created_at, public.graduations.id) > (" in sql


@pytest.mark.parametrize(
    ("describe", "words"),
    [
        (lambda row: read(User).order_by(func.lower(User.first_name)).after(row), "sorts by an expression"),
        (lambda row: read(User).order_by(User.email).columns(User.id).after(row), "needs User.email of the last row"),
        (lambda row: read(User).columns(User.email).after(row), "needs User.id of the last row"),
    ],
)
def test_an_order_that_rows_do_not_show_cannot_be_continued(
    describe: Callable[[User], Read[User]], words: str, seeded: Database
) -> None:
    row = read(User).where(User.id == 1).one(seeded)
    with pytest.raises(ReadInvalid, match=words):
        describe(row).all(seeded)


def test_a_row_of_another_read_cannot_be_continued_from(seeded: Database) -> None:
    @query
    def users_after(last: User | None) -> Read[User]:
        return read(User).order_by(User.first_name).after(last)

    gym, small = read(Gym).first(seeded), read(User).columns(User.id).first(seeded)
    with pytest.raises(ReadInvalid, match="the parameter `last` of `after` is a value of type `Gym`"):
        users_after.all(seeded, cast("Any", gym))
    with pytest.raises(NotLoaded, match="first_name"):
        users_after.all(seeded, small)


# --- Names that differ from those of the columns ---------------------------------------------------------------------


class Strange(Elsewhere):
    __tablename__ = "strange % things"
    key: Mapped[int] = mapped_column("the id", primary_key=True)
    from_: Mapped[str] = mapped_column("from", Text)
    share: Mapped[int] = mapped_column("100%(s)s")
    quoted: Mapped[str | None] = mapped_column('a "quote"', Text)
    parent_key: Mapped[int | None] = mapped_column("parent %d", ForeignKey("strange % things.the id"))
    parent: Mapped[Strange | None] = relationship(remote_side="Strange.key", back_populates="children", lazy="raise")
    children: Mapped[list[Strange]] = relationship(back_populates="parent", lazy="raise")


def test_attributes_and_columns_may_have_different_and_strange_names(places: Database) -> None:
    strange: Any = read(cast("Any", Strange))
    with places.session.begin() as session:
        session.add(Strange(key=1, from_="50%", share=3, quoted="a"))
        session.flush()
        session.add_all([Strange(key=n, from_="x%s", share=n, quoted=None, parent_key=1) for n in (2, 3)])

    @query
    def found(share: int, quoted: str | None = None) -> Read[Any]:
        wanted = strange.where(Strange.share >= share, Strange.from_ != "%(x)s", Strange.share.in_([2, 3, 100]))
        return cast("Read[Any]", wanted.where(Strange.quoted == quoted).order_by(Strange.from_, Strange.share.desc()))

    rows = found.all(places, 1)
    assert [(row.key, row.from_, row.share, row.quoted, row.parent_key) for row in rows] == [
        (3, "x%s", 3, None, 1),
        (2, "x%s", 2, None, 1),
    ]
    assert [row.key for row in found.after(rows[0]).all(places, 1)] == [2]
    assert found.count(places, 3) == 1
    for limit in (None, 10):
        loaded = strange.load(Strange.parent, read(Strange.children).order_by(Strange.key)).order_by(Strange.key)
        family = (loaded if limit is None else loaded.limit(limit)).all(places)
        assert [(row.key, row.parent and row.parent.from_, [one.from_ for one in row.children]) for row in family] == [
            (1, None, ["x%s", "x%s"]),
            (2, "50%", []),
            (3, "50%", []),
        ]


# --- May a read run twice? -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "may_repeat"),
    [
        (lambda: User.id == 1, True),
        (lambda: func.lower(User.email) == "a", True),
        (lambda: User.gym.has(func.lower(Gym.name) == "a"), True),
        (lambda: User.created_at > func.now() - timedelta(days=1), True),
        (lambda: User.id.in_(select(Class.instructor_id)), True),
        (lambda: Notification.recipients.contains(["1"]), True),
        (lambda: User.email.op("~*")("a"), True),
        (lambda: func.pg_catalog.lower(User.email) == "a", True),
        (lambda: func.pg_sleep(1).is_not(None), False),
        (lambda: func.nextval("users_id_seq") > 0, False),
        (lambda: func.mine.lower(User.email) == "a", False),
        (lambda: func.own_function(User.id) == 1, False),
        (lambda: User.gym.has(func.own_function(Gym.id) == 1), False),
        (lambda: User.email.op("~>")("a"), False),
        (lambda: text("true"), False),
        (lambda: User.id.in_(select(Class.instructor_id).with_for_update()), False),
        (lambda: User.id.in_(select(text("1"))), False),
    ],
)
def test_a_read_may_run_twice_if_it_certainly_changes_nothing(condition: Callable[[], Any], may_repeat: bool) -> None:
    model: Any = Notification if "Notification" in condition.__code__.co_names else User
    assert read(model).where(condition())._prepare("all", (), {})[0].may_repeat is may_repeat
    assert read(model).order_by(condition())._prepare("first", (), {})[0].may_repeat is may_repeat
    parent, relation = (User, User.sent_notifications) if model is Notification else (Gym, Gym.members)
    loaded = read(parent).load(read(relation).where(condition()))
    assert loaded._prepare("all", (), {})[0].may_repeat is may_repeat


@pytest.mark.parametrize("ids", [[[1, 2]], [1, [2]], [(1,)], [[]], [[[1]]]])
def test_a_list_in_place_of_an_item_is_refused(ids: Any, seeded: Database) -> None:
    @query
    def those(ids: list[int]) -> Read[User]:
        return read(User).where(User.id.in_(ids))

    @query
    def others(ids: list[int]) -> Read[User]:
        return read(User).where(User.id.not_in(ids))

    for described in (those, others):
        with pytest.raises(ParameterInvalid, match=r"`ids`.*a list in place of an item"):
            described.all(seeded, ids)
    assert [user.id for user in those.all(seeded, [1])] == [1]
