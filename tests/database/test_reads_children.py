"""Relations of many rows: whatever the shape of the statement, the rows are those of the ORM."""

from __future__ import annotations

import threading
from collections.abc import Generator
from decimal import Decimal
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import CHAR, Column, ForeignKey, Numeric, Table, Text, func, insert, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload
from tests.database.citus_forms import as_on_citus

from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.queries.children import ROWS, shared_key
from tatame_db.queries.description import RelationRead
from tatame_db.queries.errors import ReadInvalid, ValueNotReadable
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.write import insert_many
from tatame_db.schema import Graduation, Gym, User
from tatame_db.server.embedded import EmbeddedServer


class Elsewhere(DeclarativeBase):
    """Tables whose relations have keys of several kinds."""


friends = Table(
    "friends",
    Elsewhere.metadata,
    Column("one", ForeignKey("members.id"), primary_key=True),
    Column("other", ForeignKey("members.id"), primary_key=True),
)


class Team(Elsewhere):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column("team id", primary_key=True)
    code: Mapped[str] = mapped_column(Text, unique=True)
    weight: Mapped[Decimal] = mapped_column(Numeric, unique=True)
    sign: Mapped[str] = mapped_column(CHAR(5), unique=True)
    city: Mapped[str | None] = mapped_column(Text)
    members: Mapped[list[Member]] = relationship(back_populates="team", foreign_keys="Member.team_id", lazy="raise")
    ranked: Mapped[list[Member]] = relationship(
        foreign_keys="Member.team_id", order_by="[Member.rank.desc(), Member.id]", lazy="raise", viewonly=True
    )
    coded: Mapped[list[Member]] = relationship(foreign_keys="Member.team_code", lazy="raise", viewonly=True)
    weighed: Mapped[list[Member]] = relationship(foreign_keys="Member.team_weight", lazy="raise", viewonly=True)
    signed: Mapped[list[Member]] = relationship(foreign_keys="Member.team_sign", lazy="raise", viewonly=True)
    captains: Mapped[list[Member]] = relationship(
        primaryjoin="and_(Team.id == foreign(Member.team_id), Member.rank == 0)", lazy="raise", viewonly=True
    )
    townsmen: Mapped[list[Member]] = relationship(
        primaryjoin="foreign(Member.city) == Team.city", lazy="raise", viewonly=True
    )


class Member(Elsewhere):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int | None] = mapped_column(ForeignKey("teams.team id"))
    team_code: Mapped[str | None] = mapped_column(Text, ForeignKey("teams.code"))
    team_weight: Mapped[Decimal | None] = mapped_column(Numeric, ForeignKey("teams.weight"))
    team_sign: Mapped[str | None] = mapped_column(CHAR(5), ForeignKey("teams.sign"))
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("members.id"))
    rank: Mapped[int]
    city: Mapped[str | None] = mapped_column(Text)
    team: Mapped[Team | None] = relationship(back_populates="members", foreign_keys=[team_id], lazy="raise")
    team_of_code: Mapped[Team | None] = relationship(foreign_keys=[team_code], lazy="raise", viewonly=True)
    team_of_weight: Mapped[Team | None] = relationship(foreign_keys=[team_weight], lazy="raise", viewonly=True)
    boss: Mapped[Member | None] = relationship(remote_side="Member.id", back_populates="reports", lazy="raise")
    reports: Mapped[list[Member]] = relationship(back_populates="boss", lazy="raise")
    notes: Mapped[list[Note]] = relationship(back_populates="member", lazy="raise")
    friends: Mapped[list[Member]] = relationship(
        secondary=friends,
        primaryjoin=lambda: Member.id == friends.c.one,
        secondaryjoin=lambda: Member.id == friends.c.other,
        lazy="raise",
        viewonly=True,
    )


class Note(Elsewhere):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey("members.id"))
    text: Mapped[str | None] = mapped_column(Text)
    rank: Mapped[int]
    member: Mapped[Member] = relationship(back_populates="notes", lazy="raise")


# What JSON cannot carry.
LEFT_OUT = {"weight", "team_weight"}
SHARED = {
    "Team.members": True,
    "Team.ranked": True,
    "Team.coded": True,
    "Team.weighed": False,
    "Team.signed": False,
    "Team.captains": False,
    "Team.townsmen": False,
    "Member.team": True,
    "Member.team_of_code": True,
    "Member.team_of_weight": False,
    "Member.boss": True,
    "Member.reports": True,
    "Member.notes": True,
    "Member.friends": False,
    "Note.member": True,
}
MODELS: list[Any] = [Team, Member, Note]


@pytest.fixture(scope="module")
def database(server: EmbeddedServer) -> Generator[Database]:
    address = server.address.set(database=f"children_{uuid4().hex}")
    create_missing_database(address)
    with Database(address) as database:
        Elsewhere.metadata.create_all(database.engine)
        yield database


def columns_of(model: Any) -> list[Any]:
    return [getattr(model, name) for name in inspect(model).columns.keys() if name not in LEFT_OUT]  # noqa: SIM118


def relations_of(model: Any) -> list[Any]:
    return [relation.class_attribute for relation in inspect(model).relationships]


small = st.integers(1, 4)
MEMBERS = st.lists(
    st.fixed_dictionaries(
        {
            "team_id": st.none() | small,
            "team_code": st.none() | st.sampled_from(["1", "2", "3", "4"]),
            "team_weight": st.none() | st.sampled_from([Decimal("1"), Decimal("2.00")]),
            "team_sign": st.none() | st.sampled_from(["1", "2"]),
            "boss_id": st.none() | st.integers(1, 10),
            "rank": st.integers(0, 2),
            "city": st.none() | st.sampled_from(["a", "b"]),
        }
    ),
    max_size=10,
)
NOTES = st.lists(st.tuples(st.integers(1, 10), st.none() | st.sampled_from(["a", ""]), st.integers(0, 1)), max_size=10)
FRIENDS = st.sets(st.tuples(st.integers(1, 10), st.integers(1, 10)), max_size=10)


def fill(database: Database, members: list[dict[str, Any]], notes: Any, pairs: Any) -> None:
    count = len(members)
    cities = [None, "a", "b", "a"]
    rows: dict[Any, list[dict[str, Any]]] = {
        Team: [
            {"id": n, "code": str(n), "weight": Decimal(f"{n}.0"), "sign": str(n), "city": cities[n - 1]}
            for n in range(1, 5)
        ],
        Member: [
            {"team_id": None, "team_code": None, "team_weight": None, "team_sign": None, "city": None, **member}
            | {"id": number, "boss_id": member.get("boss_id") if (member.get("boss_id") or 99) <= number else None}
            for number, member in enumerate(members, start=1)
        ],
        Note: [
            {"id": n, "member_id": m, "text": t, "rank": r} for n, (m, t, r) in enumerate(notes, start=1) if m <= count
        ],
        friends: [{"one": one, "other": other} for one, other in pairs if max(one, other) <= count],
    }
    with database.session.begin() as session:
        session.execute(text("TRUNCATE teams, members, notes, friends"))
        for model, values in rows.items():
            if values:
                session.execute(insert(model), values)


@st.composite
def relation_reads(draw: st.DrawFn, relation: Any, depth: int) -> RelationRead:
    described: RelationRead = described_by(draw, read(relation), depth)
    return (
        described.limit(draw(st.integers(1, 2)), skip=draw(st.sampled_from([None, 1])))
        if draw(st.booleans())
        else described
    )


def described_by(draw: st.DrawFn, described: Any, depth: int) -> Any:
    model = described.model
    chosen = (
        draw(st.lists(st.sampled_from(columns_of(model)), unique_by=str, min_size=1)) if draw(st.booleans()) else None
    )
    described = described.columns(*(chosen or columns_of(model)))
    if model is not Team and draw(st.booleans()):
        described = described.where(model.rank < draw(st.integers(0, 2)))
    if draw(st.booleans()):
        described = described.where(draw(conditions(model, 2)))
    if model is not Team and draw(st.booleans()):
        described = described.order_by(draw(st.sampled_from([model.rank, model.rank.desc(), func.abs(model.rank)])))
    # Without the key, the order of rows that are equal in it is not defined.
    described = described.order_by(draw(st.sampled_from([model.id, model.id.desc()])))
    if depth:
        for relation in draw(st.lists(st.sampled_from(relations_of(model)), max_size=2, unique_by=str)):
            described = described.load(draw(relation_reads(relation, depth - 1)))
    return described


@st.composite
def conditions(draw: st.DrawFn, model: Any, depth: int) -> Any:
    """Conditions about related rows, that of others inside, of their parent too, and some with NULL on a side."""
    relation = draw(st.sampled_from(relations_of(model)))
    target = relation.property.mapper.class_
    inner = [None, target.id > draw(small)]
    if target is not Team:
        inner.append(target.rank == draw(st.integers(0, 1)))
    if target is not model and {target, model} == {Team, Member}:
        inner += [Team.city == Member.city, (Team.city < Member.city) | (Member.rank == 0)]
    if depth:
        inner.append(draw(conditions(target, depth - 1)))
    condition = (relation.any if relation.property.uselist else relation.has)(draw(st.sampled_from(inner)))
    if draw(st.booleans()):
        condition = model.id.in_(select(target.id).where(target.id > draw(small)))
    condition = ~condition if draw(st.booleans()) else condition
    return condition | (model.id == draw(small)) if draw(st.booleans()) else condition


@st.composite
def reads(draw: st.DrawFn) -> Any:
    described = described_by(draw, read(draw(st.sampled_from(MODELS))), 3)
    return described.limit(draw(st.integers(0, 5)), skip=draw(st.integers(0, 2))) if draw(st.booleans()) else described


def plain(rows: list[Any]) -> list[dict[str, Any]]:
    return [row.as_dict() for row in rows]


@given(members=MEMBERS, notes=NOTES, pairs=FRIENDS, described=st.lists(reads(), min_size=20, max_size=20))
def test_all_shapes_of_a_statement_return_the_same_rows(
    members: list[dict[str, Any]], notes: Any, pairs: Any, described: list[Any], database: Database
) -> None:
    fill(database, members, notes, pairs)
    for one in described:
        rows = plain(one.all(database))
        assert rows == plain(list(one.stream(database)))
        with as_on_citus(database):
            assert rows == plain(one.all(database)) == plain(list(one.stream(database)))
            assert len(rows) == one.count(database) or one.size is not None


def sorted_keys(related: Any) -> Any:
    return sorted(row.id for row in related) if isinstance(related, list) else related and related.id


@pytest.mark.parametrize("limit", [None, 100])
@pytest.mark.parametrize("relation", [relation for model in MODELS for relation in relations_of(model)], ids=str)
@given(members=MEMBERS, notes=NOTES, pairs=FRIENDS)
def test_each_relation_is_that_of_the_orm(  # noqa: PLR0917, pytest and hypothesis pass them by name
    relation: Any, limit: int | None, database: Database, members: Any, notes: Any, pairs: Any
) -> None:
    fill(database, members, notes, pairs)
    model = relation.class_
    target = inspect(model).relationships[relation.key].mapper.class_
    related = read(relation).columns(*columns_of(target))
    described: Any = read(model).columns(*columns_of(model)).load(related).order_by(model.id)
    found = (described.limit(limit) if limit else described).all(database)

    with database.session() as session:
        expected = session.scalars(select(model).options(selectinload(relation)).order_by(model.id)).all()
    assert [(row.id, sorted_keys(getattr(row, relation.key))) for row in found] == [
        (row.id, sorted_keys(getattr(row, relation.key))) for row in expected
    ]


@given(members=MEMBERS)
def test_a_relation_has_the_order_of_the_model_unless_the_read_has_one(
    database: Database, members: list[dict[str, Any]]
) -> None:
    fill(database, members, [], set())
    teams: Any = read(cast("Any", Team)).columns(Team.id).order_by(Team.id)
    ranked = read(Team.ranked).columns(Member.id)
    with database.session() as session:
        loaded = session.scalars(select(Team).options(selectinload(Team.ranked)).order_by(Team.id)).all()
    expected = [[member.id for member in team.ranked] for team in loaded]

    def ids(described: Any) -> list[list[int]]:
        return [[member.id for member in team.ranked] for team in described.all(database)]

    assert ids(teams.load(ranked)) == ids(teams.load(ranked).limit(9)) == expected
    assert ids(teams.load(ranked.limit(1))) == [ids[:1] for ids in expected]
    assert ids(teams.load(ranked.order_by(Member.id))) == [sorted(ids) for ids in expected]


class Other(DeclarativeBase):
    """Relations to one row that may match several."""


pairs_of_shops = Table(
    "pairs", Other.metadata, Column("a", ForeignKey("shops.id")), Column("b", ForeignKey("shops.id"))
)


class Shop(Other):
    __tablename__ = "shops"
    id: Mapped[int] = mapped_column(primary_key=True)
    town: Mapped[str]
    newest: Mapped[Sale | None] = relationship(order_by="Sale.id.desc()", uselist=False, viewonly=True)
    license: Mapped[License | None] = relationship(viewonly=True)
    neighbour: Mapped[Shop | None] = relationship(
        primaryjoin="remote(Shop.town) == foreign(Shop.town)", uselist=False, viewonly=True
    )
    twin: Mapped[Shop | None] = relationship(
        secondary=pairs_of_shops,
        primaryjoin=lambda: Shop.id == pairs_of_shops.c.a,
        secondaryjoin=lambda: Shop.id == pairs_of_shops.c.b,
        uselist=False,
        viewonly=True,
    )


class Sale(Other):
    __tablename__ = "sales"
    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(ForeignKey("shops.id"))
    shop: Mapped[Shop] = relationship()


class License(Other):
    __tablename__ = "licenses"
    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(ForeignKey("shops.id"), unique=True)


@pytest.mark.parametrize("relation", [Shop.newest, Shop.neighbour, Shop.twin], ids=str)
def test_a_relation_to_one_row_that_may_match_several_is_refused(relation: Any) -> None:
    # A join would return the parent once for each of them.
    with pytest.raises(ReadInvalid, match=f"{relation} leads to one row, and its columns are no unique key"):
        read(cast("Any", Shop)).load(relation)


def test_a_relation_to_one_row_is_read_by_a_unique_key_or_with_a_limit() -> None:
    read(cast("Any", Shop)).load(cast("Any", Shop.license), read(Shop.newest).limit(1))
    read(cast("Any", Sale)).load(cast("Any", Sale.shop))


def test_the_newest_row_of_a_relation_is_read_with_its_parent(server: EmbeddedServer) -> None:
    address = server.address.set(database=f"newest_{uuid4().hex}")
    create_missing_database(address)
    newest = read(Shop.newest).limit(1)
    with Database(address) as shops:
        Other.metadata.create_all(shops.engine)
        insert_many(cast("Any", Shop), [{"id": 1, "town": "a"}, {"id": 2, "town": "a"}]).run(shops)
        insert_many(cast("Any", Sale), [{"id": n, "shop_id": n % 2 + 1} for n in range(5)]).run(shops)
        found: Any = read(cast("Any", Shop)).order_by(Shop.id).load(newest)
        for rows in (found.all(shops), found.limit(9).all(shops), list(found.stream(shops))):
            assert [(shop.id, shop.newest.id) for shop in rows] == [(1, 4), (2, 3)]


def test_plain_foreign_keys_share_one_value_and_others_do_not() -> None:
    relations = {
        str(relation): shared_key(read(relation)) is not None for model in MODELS for relation in relations_of(model)
    }
    assert relations == SHARED
    assert shared_key(read(Team.members).limit(1)) is None
    assert shared_key(read(Team.members).where(Member.city == Team.city)) is None
    assert shared_key(read(Team.members).where(Member.city == "a")) is not None


def sql_of(described: Read[Any], purpose: Any) -> str:
    return described._prepare(purpose, (), {})[0].sql


def test_only_lists_of_rows_share_values() -> None:
    gyms = read(Gym).load(Gym.members)
    assert ROWS in sql_of(gyms, "all")
    assert all(ROWS not in sql_of(gyms, purpose) for purpose in ("first", "one", "stream"))
    assert "IN (" not in sql_of(gyms, "all")
    # Rows that are not limited are joined to one row each, which costs less than sharing a value.
    assert ROWS not in sql_of(read(User).load(User.gym, User.graduations).order_by(User.id), "all")
    assert ROWS not in sql_of(read(User).load(User.gym).order_by(User.id), "all")
    assert ROWS in sql_of(read(User).load(User.gym).order_by(User.id).limit(20), "all")


def test_columns_of_the_parent_may_be_compared_at_any_depth(database: Database) -> None:
    members = [{"rank": n % 2, "city": "ab"[n % 2], "team_id": n % 4 + 1} for n in range(8)]
    fill(database, members, [], set())
    at_home = read(Team.members).where(Member.city == Team.city).columns(Member.id).order_by(Member.id)
    described: Any = read(cast("Any", Member)).columns(Member.id).order_by(Member.id)
    described = described.load(read(Member.team).columns(Team.id).load(at_home))

    for rows in (described.all(database), described.limit(9).all(database), list(described.stream(database))):
        assert [(row.id, [one.id for one in row.team.members]) for row in rows] == [
            (n + 1, [m + 1 for m in range(8) if m % 4 == n % 4 and members[m]["city"] == [None, "a", "b", "a"][n % 4]])
            for n in range(8)
        ]


def test_parents_share_the_row_that_they_refer_to(database: Database) -> None:
    fill(database, [{"rank": 0, "team_id": 1}] * 3, [], set())
    described: Any = read(cast("Any", Member)).columns(Member.id).load(read(Member.team).columns(Team.id)).limit(3)
    rows = described.order_by(Member.id).all(database)
    assert rows[0].team is rows[1].team is rows[2].team


def test_children_belong_to_their_parents_while_rows_come_and_go(database: Database) -> None:
    fill(database, [{"rank": n, "team_id": n % 4 + 1} for n in range(40)], [], set())
    page: Any = read(cast("Any", Team)).columns(Team.id).order_by(Team.id).limit(2)
    page = page.load(read(Team.members).columns(Member.id))
    stopped = threading.Event()

    def move() -> None:
        with Database(database.address) as other:
            number = 0
            while not stopped.is_set():
                number += 1
                with other.session.begin() as session:
                    session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
                    session.execute(text("INSERT INTO teams VALUES (0, :code, 0, 0)"), {"code": f"x{number}"})
                    session.execute(text("UPDATE members SET team_id = 0 WHERE team_id = 1"))
                with other.session.begin() as session:
                    session.execute(text("UPDATE members SET team_id = 1 WHERE team_id = 0"))
                    session.execute(text('DELETE FROM teams WHERE "team id" = 0'))

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _ in range(300):
            found = {row.id: len(row.members) for row in page.all(database)}
            assert found in ({1: 10, 2: 10}, {0: 10, 1: 0})
    finally:
        stopped.set()
        thread.join()


def test_a_query_with_parameters_in_rows_and_relations(database: Database) -> None:
    fill(database, [{"rank": n % 3, "team_id": n % 4 + 1} for n in range(12)], [], set())

    @query
    def teams(rank: int | None, size: int = 10) -> Read[Any]:
        members = read(Team.members).columns(Member.id, Member.rank)
        members = members if rank is None else members.where(Member.rank == rank)
        described: Any = read(cast("Any", Team)).columns(Team.code)
        return cast("Read[Any]", described.order_by(Team.id).load(members).limit(size))

    assert [len(team.members) for team in teams.all(database, None)] == [3, 3, 3, 3]
    assert {one.rank for team in teams.all(database, 1) for one in team.members} == {1}
    assert len(teams.all(database, 2, size=3)) == 3
    assert teams.all(database, 2, size=0) == []


def test_a_timestamp_that_python_lacks_is_an_error_in_a_relation_of_a_list(address: Any) -> None:
    with Database(address) as database:
        with database.engine.begin() as connection:
            connection.execute(text("INSERT INTO users (id, clerk_user_id) VALUES (1, 'user_ana')"))
            connection.execute(text("INSERT INTO graduations (user_id, created_at) VALUES (1, 'infinity')"))
        with pytest.raises(ValueNotReadable, match="read User"):
            read(User).load(User.graduations).all(database)
        assert [row.graduations for row in read(User).load(read(User.graduations).columns(Graduation.id)).all(database)]


def test_the_plan_of_a_list_looks_up_the_keys_in_an_index() -> None:
    described = read(Gym).load(Gym.classes).order_by(Gym.id).limit(5)
    assert "= ANY (array((SELECT" in sql_of(described, "all")
