"""The edits that teams make to models, each on tables that have one of everything, and how they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    DefaultClause,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    Sequence,
    Table,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, DOMAIN, JSONB, TIMESTAMP, UUID, ExcludeConstraint
from sqlalchemy.sql.elements import quoted_name
from sqlalchemy.types import UserDefinedType

from tatame_db.schema import Base


class Named(UserDefinedType[Any]):
    """A type by its name, which exists before the tables."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        return self.name


def sizes(metadata: MetaData, attributes: str) -> None:
    """Change the attributes of the composite type that a column has."""
    metadata.info["size"] = attributes


def _create_size(metadata: MetaData, connection: sa.Connection, **_: object) -> None:
    connection.exec_driver_sql(f"CREATE TYPE size AS ({metadata.info['size']})")


def models() -> MetaData:
    """Return a copy of the models, with two tables that have one of everything."""
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.tables.values():
        table.to_metadata(metadata)
    sizes(metadata, "width integer, height integer, note text")
    sa.event.listen(metadata, "before_create", _create_size)
    plan_kind = sa.Enum("FREE", "GOLD", "BLACK", name="plan_kind")
    Table(
        "plans",
        metadata,
        Column("id", sa.Integer, primary_key=True),
        Column("name", sa.Text, nullable=False, comment="as shown"),
        Column("kind", plan_kind, server_default="FREE"),
        Column("others", ARRAY(plan_kind)),
        Column("price", sa.Numeric(10, 2), server_default="0"),
        Column("code", sa.Text, server_default="d'or"),
        Column("tags", ARRAY(sa.Text)),
        Column("numbers", ARRAY(sa.Text)),
        Column("data", JSONB),
        Column("seats", sa.Integer, server_default="1"),
        Column("doubled", sa.Integer, Computed("seats * 2", persisted=True)),
        Column("label", sa.String(40), server_default="x"),
        Column("amount", sa.Text),
        Column("weight", DOMAIN("weight", sa.Numeric(10, 4), create_type=True)),
        Column("size", Named("size")),
        Column("sizes", ARRAY(Named("size"))),
        Column("month", sa.Integer),
        Column("starts", TIMESTAMP(timezone=False)),
        Column("email", sa.Text),
        Column("active", sa.Boolean, server_default=sa.true()),
        CheckConstraint("seats > 0", name="seats"),
        CheckConstraint("email LIKE '%@%'", name="email"),
        UniqueConstraint("name"),
        Index("plans_free_index", "name", postgresql_where=text("kind = 'FREE'")),
        Index(None, "tags", postgresql_using="gin"),
        Index(None, "code"),
        comment="what a gym sells",
    )
    Table(
        "subscriptions",
        metadata,
        Column("id", sa.Integer, Identity(), primary_key=True),
        Column("plan_id", ForeignKey("plans.id"), nullable=False),
        Column("user_id", ForeignKey("users.id", ondelete="CASCADE")),
        Column("first", sa.Text),
        Column("second", sa.Text),
        Column("third", sa.Integer),
        Column("state", sa.Enum("OPEN", "CLOSED", name="subscription_state"), nullable=False, server_default="OPEN"),
        Index(None, "plan_id"),
    )
    return metadata


ROWS = """
INSERT INTO plans (name, kind, others, price, code, tags, numbers, data, seats, label, amount, month, starts, email,
    weight, size, sizes)
SELECT 'plan ' || n, (ARRAY['FREE', 'GOLD', 'BLACK'])[1 + n % 3]::plan_kind, '{FREE,GOLD}', n * 1.5, 'c' || n,
    ARRAY['a', 'b' || n], ARRAY['1', n::text], jsonb_build_object('n', n), n + 1, 'l' || n, (n * 10)::text, n,
    '2026-01-31 23:30'::timestamp + n * interval '7 hours', 'p' || n || '@gym.example',
    n + 0.1234, (n, n * 2, 'n')::size, ARRAY[(n, n * 2, 'n')]::size[]
FROM generate_series(1, 20) AS n;
INSERT INTO subscriptions (plan_id, user_id, first, second, third, state)
SELECT 1 + n % 20, (SELECT min(id) FROM users), 'f' || n, 's' || n, n, 'OPEN' FROM generate_series(1, 30) AS n;
"""


@dataclass(frozen=True)
class Edit:
    """An edit, the answers that it needs, and what it must lead to."""

    name: str
    change: Callable[[MetaData], object]
    renames: dict[str, str] = field(default_factory=dict[str, str])
    drops: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    """The columns whose values are not the same after migrate and rollback."""
    kept: frozenset[str] = frozenset()
    """The columns whose values are the same after migrate, although their definition is another one."""
    refused: str | None = None
    """The reason why nothing is written; the way by hand is `--empty`."""
    fails: str | None = None
    """PostgreSQL's reason why the rows do not allow it; the migration is written and is undone as a whole."""
    stays: str | None = None
    """PostgreSQL's reason why the rows do not allow the rollback, which is undone as a whole."""


EDITS: list[Edit] = []


def edit(
    *,
    renames: dict[str, str] | None = None,
    drops: tuple[str, ...] = (),
    lost: tuple[str, ...] = (),
    kept: tuple[str, ...] = (),
    refused: str | None = None,
    fails: str | None = None,
    stays: str | None = None,
) -> Callable[[Callable[[MetaData], object]], Callable[[MetaData], object]]:
    """Add an edit, named as its function."""

    def add(change: Callable[[MetaData], object]) -> Callable[[MetaData], object]:
        name = change.__name__.replace("_", " ").strip()
        sets = (frozenset(drops), frozenset(lost), frozenset(kept))
        EDITS.append(Edit(name, change, renames or {}, *sets, refused, fails, stays))
        return change

    return add


def column(metadata: MetaData, name: str) -> Column[Any]:
    table, _, key = name.partition(".")
    return metadata.tables[table].columns[key]


def add(metadata: MetaData, table: str, *items: Column[Any] | sa.Constraint) -> None:
    for item in items:
        if isinstance(item, Column):
            metadata.tables[table].append_column(item)
        else:
            metadata.tables[table].append_constraint(item)


def remove(metadata: MetaData, name: str) -> None:
    """Remove a column, with its keys, checks and indexes."""
    found = column(metadata, name)
    table = found.table
    for constraint in list(table.constraints):
        if any(found is part for part in getattr(constraint, "columns", ())):
            table.constraints.remove(constraint)
    for index in list(table.indexes):
        if any(found is part for part in index.columns):
            table.indexes.remove(index)
    for key in list(found.foreign_keys):
        table.foreign_keys.discard(key)
    table._columns.remove(found)


def discard(metadata: MetaData, table: str, name: str) -> None:
    """Remove a named index or constraint."""
    owner = metadata.tables[table]
    for index in list(owner.indexes):
        if index.name == name:
            owner.indexes.remove(index)
    for constraint in list(owner.constraints):
        if constraint.name == name:
            owner.constraints.remove(constraint)


def foreign_key(metadata: MetaData, name: str, **options: str) -> None:
    """Change the options of the foreign key of a column."""
    [key] = column(metadata, name).foreign_keys
    assert key.constraint is not None
    for option, value in options.items():
        setattr(key.constraint, option, value)


# New columns


@edit()
def a_nullable_column(metadata: MetaData) -> None:
    add(metadata, "users", Column("tier", sa.Text))


@edit()
def a_column_with_a_default(metadata: MetaData) -> None:
    add(metadata, "users", Column("points", sa.Integer, nullable=False, server_default="0"))


@edit(fails="would be NULL in the 20 existing rows")
def a_column_that_must_have_a_value_in_a_filled_table(metadata: MetaData) -> None:
    add(metadata, "plans", Column("must", sa.Integer, nullable=False))


@edit()
def a_column_with_a_hostile_default(metadata: MetaData) -> None:
    default = "d'or; \n\n;\ttab 100 % %% %s :now :a:b \\ \\' $1 $$ \"x\" -- é /* {} {{"
    add(metadata, "plans", Column("hostile", sa.Text, server_default=default))


@edit()
def a_column_with_a_name_that_needs_quotes(metadata: MetaData) -> None:
    add(metadata, "plans", Column('Weird "name" %(x)s :y', sa.Text, comment="it's"), Column("order", sa.Integer))


@edit()
def a_column_with_a_new_enum(metadata: MetaData) -> None:
    add(metadata, "users", Column("level", sa.Enum("LOW", "it's", name="level"), server_default="LOW"))


@edit()
def an_array_column_of_a_new_enum(metadata: MetaData) -> None:
    add(metadata, "users", Column("levels", ARRAY(sa.Enum("LOW", "HIGH", name="level")), server_default="{LOW}"))


@edit()
def a_column_with_an_enum_that_exists(metadata: MetaData) -> None:
    add(metadata, "users", Column("kind", column(metadata, "plans.kind").type))


@edit()
def array_columns(metadata: MetaData) -> None:
    add(metadata, "users", Column("ids", ARRAY(sa.Integer), server_default="{1,2}"), Column("m", ARRAY(sa.String(9))))


@edit()
def a_stored_computed_column(metadata: MetaData) -> None:
    add(metadata, "plans", Column("search", sa.Text, Computed("lower(name || ' %')", persisted=True)))


@edit()
def a_virtual_computed_column(metadata: MetaData) -> None:
    add(metadata, "plans", Column("triple", sa.Integer, Computed("seats * 3", persisted=False)))


@edit()
def a_serial_column(metadata: MetaData) -> None:
    sequence = Sequence("plans_place_seq")
    add(metadata, "plans", Column("place", sa.Integer, sequence, server_default=sequence.next_value(), nullable=False))


@edit()
def an_identity_column_with_options(metadata: MetaData) -> None:
    add(metadata, "plans", Column("place", sa.BigInteger, Identity(always=True, start=100, increment=5)))


@edit()
def a_column_with_a_domain(metadata: MetaData) -> None:
    domain = DOMAIN("address", sa.Text, check=text("VALUE LIKE '%@%'"), constraint_name="address_check")
    add(metadata, "users", Column("other_email", domain))


@edit()
def a_column_with_a_collation(metadata: MetaData) -> None:
    add(metadata, "users", Column("nick", sa.Text(collation="C")))


@edit()
def a_column_with_a_foreign_key(metadata: MetaData) -> None:
    add(metadata, "users", Column("plan_id", ForeignKey("plans.id", ondelete="SET NULL"), index=True))


@edit()
def a_uuid_column_with_a_function_as_default(metadata: MetaData) -> None:
    add(metadata, "subscriptions", Column("key", sa.Boolean, server_default=text("length(version()) > 0")))


# Changed columns


@edit(fails="NULL")
def a_column_that_becomes_not_null_and_has_nulls(metadata: MetaData) -> None:
    column(metadata, "users.subscription_id").nullable = False


@edit()
def a_column_that_becomes_not_null(metadata: MetaData) -> None:
    column(metadata, "plans.code").nullable = False


@edit()
def a_column_that_becomes_nullable(metadata: MetaData) -> None:
    column(metadata, "gyms.address").nullable = True


@edit()
def another_default(metadata: MetaData) -> None:
    column(metadata, "plans.code").server_default = DefaultClause("l'eau %")


@edit()
def no_default(metadata: MetaData) -> None:
    column(metadata, "plans.code").server_default = None


@edit()
def integer_to_bigint(metadata: MetaData) -> None:
    column(metadata, "plans.seats").type = sa.BigInteger()


@edit()
def the_key_of_a_table_to_bigint(metadata: MetaData) -> None:
    column(metadata, "plans.id").type = sa.BigInteger()
    column(metadata, "subscriptions.plan_id").type = sa.BigInteger()


@edit()
def an_identity_to_bigint(metadata: MetaData) -> None:
    column(metadata, "subscriptions.id").type = sa.BigInteger()


@edit()
def text_to_integer(metadata: MetaData) -> None:
    column(metadata, "plans.amount").type = sa.Integer()


@edit(fails="invalid input syntax for type integer")
def text_that_is_no_number_to_integer(metadata: MetaData) -> None:
    column(metadata, "subscriptions.first").type = sa.Integer()


@edit(refused="cannot cast type integer to timestamp")
def integer_to_timestamp(metadata: MetaData) -> None:
    column(metadata, "plans.month").type = TIMESTAMP()


@edit()
def text_array_to_integer_array(metadata: MetaData) -> None:
    column(metadata, "plans.numbers").type = ARRAY(sa.Integer)


@edit()
def timestamp_to_timestamptz(metadata: MetaData) -> None:
    column(metadata, "plans.starts").type = TIMESTAMP(timezone=True)


@edit()
def varchar_to_text_with_a_default(metadata: MetaData) -> None:
    column(metadata, "plans.label").type = sa.Text()


@edit(fails="value too long")
def text_to_a_varchar_that_is_too_short(metadata: MetaData) -> None:
    column(metadata, "plans.name").type = sa.String(5)


@edit()
def text_to_varchar(metadata: MetaData) -> None:
    column(metadata, "plans.name").type = sa.String(50)


@edit(lost=("plans.price",))
def a_precision_that_rounds(metadata: MetaData) -> None:
    column(metadata, "plans.price").type = sa.Numeric(10, 0)


@edit()
def text_to_a_new_enum(metadata: MetaData) -> None:
    labels = sa.Enum(*[f"l{number}" for number in range(1, 21)], "x", name="label")
    metadata.tables["plans"].append_column(Column("label", labels, server_default="x"), replace_existing=True)


@edit()
def an_enum_to_text(metadata: MetaData) -> None:
    column(metadata, "subscriptions.state").type = sa.Text()


@edit()
def boolean_to_integer(metadata: MetaData) -> None:
    column(metadata, "plans.active").type = sa.Integer()
    column(metadata, "plans.active").server_default = DefaultClause("1")


@edit()
def text_to_jsonb(metadata: MetaData) -> None:
    column(metadata, "plans.amount").type = JSONB()


@edit()
def another_collation(metadata: MetaData) -> None:
    column(metadata, "plans.code").type = sa.Text(collation="C")


@edit()
def another_computation(metadata: MetaData) -> None:
    column(metadata, "plans.doubled").computed = None
    metadata.tables["plans"].append_column(
        Column("doubled", sa.Integer, Computed("seats * 2 + 1", persisted=True)), replace_existing=True
    )


@edit()
def stored_to_virtual(metadata: MetaData) -> None:
    metadata.tables["plans"].append_column(
        Column("doubled", sa.Integer, Computed("seats * 2", persisted=False)), replace_existing=True
    )


@edit(kept=("plans.doubled",))
def a_computed_column_to_a_plain_one(metadata: MetaData) -> None:
    metadata.tables["plans"].append_column(Column("doubled", sa.Integer), replace_existing=True)


@edit(kept=("plans.seats", "plans.doubled"))
def a_computed_column_to_a_plain_one_beside_another_type(metadata: MetaData) -> None:
    column(metadata, "plans.seats").type = sa.BigInteger()
    metadata.tables["plans"].append_column(Column("doubled", sa.BigInteger), replace_existing=True)


@edit(drops=("plans.seats",), lost=("plans.seats", "plans.doubled"), kept=("plans.doubled",))
def a_computed_column_that_stays_without_its_base(metadata: MetaData) -> None:
    discard(metadata, "plans", "plans_seats_check")
    metadata.tables["plans"].append_column(Column("doubled", sa.Integer), replace_existing=True)
    remove(metadata, "plans.seats")


@edit(lost=("plans.month",))
def a_plain_column_to_a_computed_one(metadata: MetaData) -> None:
    metadata.tables["plans"].append_column(
        Column("month", sa.Integer, Computed("seats + 1", persisted=True)), replace_existing=True
    )


@edit()
def the_type_of_a_column_that_others_compute_with(metadata: MetaData) -> None:
    column(metadata, "plans.seats").type = sa.Numeric()


@edit()
def serial_to_identity(metadata: MetaData) -> None:
    metadata.tables["plans"].append_column(
        Column("id", sa.Integer, Identity(), primary_key=True), replace_existing=True
    )


@edit()
def identity_to_serial(metadata: MetaData) -> None:
    metadata.tables["subscriptions"].append_column(Column("id", sa.Integer, primary_key=True), replace_existing=True)


@edit()
def identity_always(metadata: MetaData) -> None:
    metadata.tables["subscriptions"].append_column(
        Column("id", sa.Integer, Identity(always=True, increment=2), primary_key=True), replace_existing=True
    )


@edit()
def an_identity_that_counts_down(metadata: MetaData) -> None:
    identity = Identity(start=-1, increment=-1, minvalue=-1000, maxvalue=-1)
    metadata.tables["plans"].append_column(Column("id", sa.Integer, identity, primary_key=True), replace_existing=True)


@edit()
def an_identity_that_turns_round(metadata: MetaData) -> None:
    identity = Identity(start=500, increment=-1, minvalue=-1000, maxvalue=500)
    metadata.tables["subscriptions"].append_column(
        Column("id", sa.Integer, identity, primary_key=True), replace_existing=True
    )


@edit()
def a_sequence_as_default(metadata: MetaData) -> None:
    sequence = Sequence("invoice_numbers", start=1000, metadata=metadata)
    column(metadata, "plans.month").server_default = DefaultClause(sequence.next_value())


@edit()
def a_plain_column_to_serial(metadata: MetaData) -> None:
    sequence = Sequence("plans_month_seq", metadata=metadata, data_type=sa.Integer)
    column(metadata, "plans.month").server_default = DefaultClause(sequence.next_value())
    column(metadata, "plans.month").nullable = False


# Names, drops


@edit(renames={"subscriptions.first": "given"})
def a_renamed_column(metadata: MetaData) -> None:
    remove(metadata, "subscriptions.first")
    add(metadata, "subscriptions", Column("given", sa.Text))


@edit(renames={"plans.code": "slug"})
def a_renamed_column_with_an_index_and_a_default(metadata: MetaData) -> None:
    remove(metadata, "plans.code")
    add(metadata, "plans", Column("slug", sa.Text, server_default="d'or", index=True))


@edit(renames={"plans.amount": "cents"})
def a_renamed_column_with_another_type(metadata: MetaData) -> None:
    remove(metadata, "plans.amount")
    add(metadata, "plans", Column("cents", sa.Integer))


@edit(
    renames={"subscriptions.first": "second", "subscriptions.second": "first"},
    refused="to trade their names, write three renames",
)
def two_columns_that_trade_names(metadata: MetaData) -> None:
    column(metadata, "subscriptions.first").comment = "the second"


@edit(refused="invalid input syntax|cannot be cast|trade", renames={"subscriptions.second": "third"})
def two_columns_of_two_types_that_trade_names(metadata: MetaData) -> None:
    column(metadata, "subscriptions.second").type, column(metadata, "subscriptions.third").type = (
        column(metadata, "subscriptions.third").type,
        column(metadata, "subscriptions.second").type,
    )


@edit(renames={"plans": "offers"})
def a_renamed_table_that_others_refer_to(metadata: MetaData) -> None:
    old = metadata.tables["plans"]
    for index in list(old.indexes):
        if index.name == "plans_free_index":
            old.indexes.remove(index)
            Index("offers_free_index", old.c.name, postgresql_where=text("kind = 'FREE'"))
    remove(metadata, "subscriptions.plan_id")
    old.to_metadata(metadata, name="offers")
    metadata.remove(old)
    for index in list(metadata.tables["offers"].indexes):
        if index.name and not index.name.startswith("offers"):
            index.name = quoted_name(index.name.replace("plans", "offers"), quote=None)
    add(metadata, "subscriptions", Column("plan_id", ForeignKey("offers.id"), nullable=False, index=True))


@edit(drops=("subscriptions.first",), lost=("subscriptions.first",))
def a_dropped_column(metadata: MetaData) -> None:
    remove(metadata, "subscriptions.first")


@edit(drops=("plans.seats",), lost=("plans.seats", "plans.doubled"))
def a_dropped_column_with_a_check_and_a_computation(metadata: MetaData) -> None:
    discard(metadata, "plans", "plans_seats_check")
    remove(metadata, "plans.doubled")
    remove(metadata, "plans.seats")


@edit(drops=("plans",), stays="would be NULL in the 30 existing rows")
def a_dropped_table_that_must_have_a_value_elsewhere(metadata: MetaData) -> None:
    remove(metadata, "subscriptions.plan_id")
    metadata.remove(metadata.tables["plans"])


@edit(drops=("users",), lost=("users.*",), stays="is not present in table|violates foreign key")
def a_dropped_table_with_dependants(metadata: MetaData) -> None:
    for table in list(metadata.tables.values()):
        for key in list(table.foreign_key_constraints):
            if key.referred_table.name == "users":
                table.constraints.remove(key)
                for element in key.elements:
                    element.parent.foreign_keys.discard(element)
                    table.foreign_keys.discard(element)
    metadata.remove(metadata.tables["users"])


@edit(drops=("plans", "subscriptions"), lost=("plans.*", "subscriptions.*"))
def two_dropped_tables(metadata: MetaData) -> None:
    metadata.remove(metadata.tables["subscriptions"])
    metadata.remove(metadata.tables["plans"])


# Enums


def kinds(metadata: MetaData, *labels: str) -> None:
    """Change the labels of the enum that two columns have."""
    column(metadata, "plans.kind").type.enums = list(labels)  # type: ignore[attr-defined]


@edit()
def a_label_added_at_the_end(metadata: MetaData) -> None:
    kinds(metadata, "FREE", "GOLD", "BLACK", "it's")


@edit()
def labels_added_everywhere(metadata: MetaData) -> None:
    kinds(metadata, "A", "B", "FREE", "C", "GOLD", "BLACK")


@edit()
def a_label_added_and_used_as_default(metadata: MetaData) -> None:
    kinds(metadata, "FREE", "GOLD", "BLACK", "SILVER")
    column(metadata, "plans.kind").server_default = DefaultClause("SILVER")


@edit()
def labels_in_another_order(metadata: MetaData) -> None:
    kinds(metadata, "BLACK", "GOLD", "FREE")


@edit(renames={"plan_kind.GOLD": "PREMIUM"})
def a_renamed_label(metadata: MetaData) -> None:
    kinds(metadata, "FREE", "PREMIUM", "BLACK")


@edit(fails="invalid input value for enum plan_kind")
def a_removed_label_that_rows_have(metadata: MetaData) -> None:
    kinds(metadata, "FREE", "GOLD")


@edit()
def a_removed_label(metadata: MetaData) -> None:
    column(metadata, "subscriptions.state").type.enums = ["OPEN"]  # type: ignore[attr-defined]


@edit()
def a_renamed_enum(metadata: MetaData) -> None:
    column(metadata, "subscriptions.state").type.name = "sub_state"  # type: ignore[attr-defined]


# Composite types and domains


@edit()
def attributes_at_the_end(metadata: MetaData) -> None:
    sizes(metadata, 'width integer, height integer, note text, depth numeric(10,2), tag text COLLATE "C"')


@edit(renames={"size.height": "depth"})
def a_renamed_attribute(metadata: MetaData) -> None:
    sizes(metadata, "width integer, depth integer, note text")


@edit(drops=("size.note",), lost=("plans.size", "plans.sizes"))
def a_replaced_attribute(metadata: MetaData) -> None:
    sizes(metadata, "width integer, height integer, cpf text")


@edit(refused="size does not change the order of its attributes: no cast keeps the values of plans.size, plans.sizes")
def attributes_in_another_order(metadata: MetaData) -> None:
    sizes(metadata, "height integer, width integer, note text")


@edit(refused="size does not change the order")
def an_attribute_in_the_middle(metadata: MetaData) -> None:
    sizes(metadata, "width integer, depth integer, height integer, note text")


@edit(refused="size does not change the type of width from integer to numeric")
def an_attribute_with_another_type(metadata: MetaData) -> None:
    sizes(metadata, "width numeric(10,1), height integer, note text")


@edit(lost=("plans.weight",))
def a_domain_that_rounds(metadata: MetaData) -> None:
    column(metadata, "plans.weight").type.data_type = sa.Numeric(10, 1)  # type: ignore[attr-defined]


@edit()
def a_domain_with_more_room_and_a_check(metadata: MetaData) -> None:
    domain: Any = column(metadata, "plans.weight").type
    domain.data_type, domain.check, domain.constraint_name = sa.Numeric(12, 4), text("VALUE > 0"), "positive"


# Keys, checks, indexes, comments


@edit()
def another_check_under_the_same_name(metadata: MetaData) -> None:
    discard(metadata, "plans", "plans_email_check")
    discard(metadata, "plans", "email")
    add(metadata, "plans", CheckConstraint("email LIKE '%@%.%' OR email = ':now'", name="email"))


@edit()
def a_new_check_with_percent_signs(metadata: MetaData) -> None:
    add(metadata, "plans", CheckConstraint("code NOT LIKE '%;%' AND code <> E'\\t'", name="code"))


@edit(fails="is violated by some row")
def a_check_that_rows_violate(metadata: MetaData) -> None:
    add(metadata, "plans", CheckConstraint("seats > 5", name="many"))


@edit()
def another_action_on_delete(metadata: MetaData) -> None:
    foreign_key(metadata, "subscriptions.plan_id", ondelete="CASCADE")


@edit()
def a_deferrable_key(metadata: MetaData) -> None:
    foreign_key(metadata, "subscriptions.plan_id", deferrable="DEFERRABLE", initially="DEFERRED")


@edit()
def a_composite_unique_constraint(metadata: MetaData) -> None:
    add(metadata, "plans", UniqueConstraint("name", "kind", postgresql_nulls_not_distinct=True))


@edit(fails="is duplicated")
def a_unique_constraint_that_rows_violate(metadata: MetaData) -> None:
    add(metadata, "plans", UniqueConstraint("kind"))


@edit()
def a_unique_constraint_with_more_columns(metadata: MetaData) -> None:
    for constraint in list(metadata.tables["plans"].constraints):
        if isinstance(constraint, UniqueConstraint):
            metadata.tables["plans"].constraints.remove(constraint)
    add(metadata, "plans", UniqueConstraint("name", "code"))


@edit()
def a_composite_foreign_key(metadata: MetaData) -> None:
    add(metadata, "plans", UniqueConstraint("id", "name"))
    add(metadata, "subscriptions", Column("plan_name", sa.Text))
    add(metadata, "subscriptions", ForeignKeyConstraint(["plan_id", "plan_name"], ["plans.id", "plans.name"]))


@edit()
def an_exclusion_constraint(metadata: MetaData) -> None:
    add(metadata, "plans", ExcludeConstraint((sa.column("name"), "="), name="plans_name_excl", using="btree"))


@edit()
def an_index_on_an_expression(metadata: MetaData) -> None:
    table = metadata.tables["plans"]
    Index("plans_lower_index", func.lower(table.c.name), table.c.seats.desc().nulls_last(), unique=True)


@edit()
def an_index_with_operator_classes(metadata: MetaData) -> None:
    table = metadata.tables["plans"]
    Index("plans_data_index", table.c.data, postgresql_using="gin", postgresql_ops={"data": "jsonb_path_ops"})
    Index("plans_code_like", table.c.code, postgresql_ops={"code": "text_pattern_ops"}, postgresql_include=["name"])


@edit()
def another_where_of_a_partial_index(metadata: MetaData) -> None:
    discard(metadata, "plans", "plans_free_index")
    where = text("kind = 'GOLD' AND email LIKE '%@%'")
    Index("plans_free_index", metadata.tables["plans"].c.name, postgresql_where=where)


@edit()
def another_method_of_an_index(metadata: MetaData) -> None:
    discard(metadata, "plans", "plans_code_index")
    Index("plans_code_index", metadata.tables["plans"].c.code, postgresql_using="hash")


@edit()
def a_renamed_index(metadata: MetaData) -> None:
    discard(metadata, "plans", "plans_code_index")
    Index("plans_code_quick", metadata.tables["plans"].c.code)


@edit()
def no_index(metadata: MetaData) -> None:
    discard(metadata, "plans", "plans_code_index")


@edit()
def comments(metadata: MetaData) -> None:
    metadata.tables["plans"].comment = "it's 100 % :new\n\ttoo"
    column(metadata, "plans.name").comment = None
    column(metadata, "users.email").comment = "new"


@edit()
def storage_parameters(metadata: MetaData) -> None:
    metadata.tables["plans"].dialect_options["postgresql"]["with"] = {"fillfactor": 70}


# Tables


@edit()
def a_table_with_an_enum(metadata: MetaData) -> None:
    Table(
        "payments",
        metadata,
        Column("id", sa.Integer, primary_key=True),
        Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
        Column("state", sa.Enum("OPEN", "PAID", name="payment_state"), server_default="OPEN", nullable=False),
        Column("key", UUID, server_default=text("gen_random_uuid()")),
        CheckConstraint("id > 0", name="positive"),
        comment="money",
    )


@edit()
def two_tables_that_refer_to_each_other(metadata: MetaData) -> None:
    Table(
        "teams",
        metadata,
        Column("id", sa.Integer, Identity(), primary_key=True),
        Column("captain_id", ForeignKey("players.id")),
        Column("parent_id", ForeignKey("teams.id")),
    )
    Table(
        "players",
        metadata,
        Column("id", sa.BigInteger, primary_key=True),
        Column("team_id", ForeignKey("teams.id"), nullable=False),
    )


@edit()
def a_table_whose_name_needs_quotes(metadata: MetaData) -> None:
    Table('Order % "x"', metadata, Column("Id", sa.Integer, primary_key=True), Column("user", sa.Text, index=True))


@edit()
def a_partitioned_table(metadata: MetaData) -> None:
    Table(
        "events",
        metadata,
        Column("day", sa.Date, primary_key=True),
        Column("id", sa.Integer, primary_key=True, autoincrement=False),
        postgresql_partition_by="RANGE (day)",
    )


@edit()
def an_unlogged_table(metadata: MetaData) -> None:
    Table("cache", metadata, Column("key", sa.Text, primary_key=True), prefixes=["UNLOGGED"])


@edit(refused="could not find table 'public.users'")
def a_foreign_key_with_a_schema(metadata: MetaData) -> None:
    add(metadata, "plans", Column("owner_id", sa.Integer, ForeignKey("public.users.id")))


@edit(refused="does not exist")
def a_check_of_a_column_that_does_not_exist(metadata: MetaData) -> None:
    add(metadata, "plans", CheckConstraint("no_such_column > 0", name="wrong"))
