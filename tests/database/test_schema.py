"""The database has the schema of the plan: the catalogue of the server is compared with a list written by hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tatame_db.database.address import readable
from tatame_db.schema import (
    Asset,
    Attachment,
    Base,
    Checkin,
    Class,
    Graduation,
    Gym,
    Notification,
    User,
)

DRIZZLE_AGREES = Path(__file__).parents[3] / "shared/conformance/drizzle-agrees"

COLUMNS = """
app_stores.id integer NOT NULL DEFAULT nextval('app_stores_id_seq'::regclass)
app_stores.store text
app_stores.url text
app_stores.created_at timestamp without time zone NOT NULL DEFAULT now()
app_stores.disabled_at timestamp without time zone
assets.id integer NOT NULL DEFAULT nextval('assets_id_seq'::regclass)
assets.class_id integer
assets.title text
assets.content text
assets.type text
assets.valid_until timestamp without time zone
assets.created_at timestamp without time zone NOT NULL DEFAULT now()
attachments.id integer NOT NULL DEFAULT nextval('attachments_id_seq'::regclass)
attachments.class_id integer
attachments.file_name text
attachments.file_url text
attachments.file_type text
attachments.file_size integer
attachments.created_at timestamp without time zone NOT NULL DEFAULT now()
checkins.id integer NOT NULL DEFAULT nextval('checkins_id_seq'::regclass)
checkins.user_id integer
checkins.class_id integer
checkins.date text
checkins.created_at timestamp without time zone NOT NULL DEFAULT now()
class.id integer NOT NULL DEFAULT nextval('class_id_seq'::regclass)
class.gym_id integer
class.instructor_id integer
class.created_by integer
class.day text
class.start text
class.end text
class.modality text
class.description text
class.created_at timestamp without time zone NOT NULL DEFAULT now()
class.deleted_at timestamp without time zone
graduations.id integer NOT NULL DEFAULT nextval('graduations_id_seq'::regclass)
graduations.user_id integer NOT NULL
graduations.belt text
graduations.degree integer
graduations.modality text
graduations.created_at timestamp without time zone NOT NULL DEFAULT now()
gyms.id integer NOT NULL DEFAULT nextval('gyms_id_seq'::regclass)
gyms.name text NOT NULL
gyms.address text NOT NULL
gyms.logo text
gyms.manager_id integer
gyms.since text NOT NULL
gyms.created_at timestamp without time zone NOT NULL DEFAULT now()
notifications.id integer NOT NULL DEFAULT nextval('notifications_id_seq'::regclass)
notifications.sent_by integer
notifications.title text
notifications.content text
notifications.channel text
notifications.status text
notifications.recipients text[]
notifications.viewed_by text[]
notifications.sent_at timestamp without time zone
notifications.created_at timestamp without time zone NOT NULL DEFAULT now()
roles.id text NOT NULL
roles.created_at timestamp without time zone NOT NULL DEFAULT now()
users.id integer NOT NULL DEFAULT nextval('users_id_seq'::regclass)
users.clerk_user_id text NOT NULL
users.email text
users.first_name text
users.last_name text
users.profile_picture text
users.birth text
users.birth_day text
users.gender text
users.phone text
users.instagram text
users.role text
users.gym_id integer
users.expo_push_token text
users.customer_id text
users.subscription_id text
users.plan text
users.approved_at timestamp without time zone
users.denied_at timestamp without time zone
users.migrated_at timestamp without time zone
users.deleted_at timestamp without time zone
users.created_at timestamp without time zone NOT NULL DEFAULT now()
versions.id integer NOT NULL DEFAULT nextval('versions_id_seq'::regclass)
versions.app_version text
versions.created_at timestamp without time zone NOT NULL DEFAULT now()
versions.disabled_at timestamp without time zone
"""

CONSTRAINTS = """
app_stores_pkey PRIMARY KEY (id)
assets_class_id_class_id_fk FOREIGN KEY (class_id) REFERENCES class(id)
assets_pkey PRIMARY KEY (id)
attachments_class_id_class_id_fk FOREIGN KEY (class_id) REFERENCES class(id)
attachments_pkey PRIMARY KEY (id)
checkins_class_id_class_id_fk FOREIGN KEY (class_id) REFERENCES class(id)
checkins_pkey PRIMARY KEY (id)
checkins_user_id_users_id_fk FOREIGN KEY (user_id) REFERENCES users(id)
class_created_by_users_id_fk FOREIGN KEY (created_by) REFERENCES users(id)
class_gym_id_gyms_id_fk FOREIGN KEY (gym_id) REFERENCES gyms(id)
class_instructor_id_users_id_fk FOREIGN KEY (instructor_id) REFERENCES users(id)
class_pkey PRIMARY KEY (id)
graduations_pkey PRIMARY KEY (id)
graduations_user_id_users_id_fk FOREIGN KEY (user_id) REFERENCES users(id)
gyms_manager_id_users_id_fk FOREIGN KEY (manager_id) REFERENCES users(id) DEFERRABLE
gyms_pkey PRIMARY KEY (id)
notifications_pkey PRIMARY KEY (id)
notifications_sent_by_users_id_fk FOREIGN KEY (sent_by) REFERENCES users(id)
roles_pkey PRIMARY KEY (id)
users_clerk_user_id_unique UNIQUE (clerk_user_id)
users_gym_id_gyms_id_fk FOREIGN KEY (gym_id) REFERENCES gyms(id)
users_pkey PRIMARY KEY (id)
users_role_roles_id_fk FOREIGN KEY (role) REFERENCES roles(id)
versions_pkey PRIMARY KEY (id)
"""

INDEXES = """
CREATE INDEX app_stores_store_index ON public.app_stores USING btree (store) WHERE (disabled_at IS NULL)
CREATE INDEX assets_class_id_index ON public.assets USING btree (class_id)
CREATE INDEX assets_type_created_at_index ON public.assets USING btree (type, created_at)
CREATE INDEX attachments_class_id_index ON public.attachments USING btree (class_id)
CREATE INDEX checkins_class_id_date_index ON public.checkins USING btree (class_id, date)
CREATE INDEX checkins_user_id_date_index ON public.checkins USING btree (user_id, date)
CREATE INDEX class_created_by_index ON public.class USING btree (created_by)
CREATE INDEX class_gym_id_day_start_index ON public.class USING btree (gym_id, day, start)
CREATE INDEX class_instructor_id_index ON public.class USING btree (instructor_id)
CREATE INDEX graduations_user_id_created_at_index ON public.graduations USING btree (user_id, created_at)
CREATE INDEX gyms_manager_id_index ON public.gyms USING btree (manager_id)
CREATE INDEX notifications_recipients_index ON public.notifications USING gin (recipients)
CREATE INDEX notifications_sent_by_created_at_index ON public.notifications USING btree (sent_by, created_at)
CREATE INDEX users_gym_id_birth_day_index ON public.users USING btree (gym_id, birth_day)
CREATE INDEX users_role_gym_id_approved_at_index ON public.users USING btree (role, gym_id, approved_at)
CREATE INDEX versions_created_at_index ON public.versions USING btree (created_at) WHERE (disabled_at IS NULL)
"""

TABLES_OF_THE_CATALOGUE = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'S')
ORDER BY relname COLLATE "C"
"""

COLUMNS_OF_THE_CATALOGUE = """
SELECT concat_ws(' ', relname || '.' || attname, format_type(atttypid, atttypmod),
                 CASE WHEN attnotnull THEN 'NOT NULL' END, 'DEFAULT ' || pg_get_expr(adbin, adrelid),
                 nullif(attidentity, ''), nullif(attgenerated, ''))
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f') AND attnum > 0 AND NOT attisdropped
ORDER BY relname COLLATE "C", attnum
"""

CONSTRAINTS_OF_THE_CATALOGUE = """
SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY conname COLLATE "C"
"""

NOT_NULLS_OF_THE_CATALOGUE = """
SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype = 'n' ORDER BY 1
"""

INDEXES_OF_THE_CATALOGUE = """
SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = 'public'::regnamespace
AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND conrelid = indrelid)
ORDER BY relname COLLATE "C"
"""

SEQUENCES_OF_THE_CATALOGUE = """
SELECT concat_ws(' ', seqrelid::regclass, 'of', refobjid::regclass || '.' || attname, deptype,
                 format_type(seqtypid, NULL), seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle)
FROM pg_sequence
LEFT JOIN pg_depend ON objid = seqrelid AND classid = 'pg_class'::regclass AND refobjsubid > 0
LEFT JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
ORDER BY 1
"""

CATALOGUE = [
    COLUMNS_OF_THE_CATALOGUE,
    CONSTRAINTS_OF_THE_CATALOGUE,
    NOT_NULLS_OF_THE_CATALOGUE,
    INDEXES_OF_THE_CATALOGUE,
    SEQUENCES_OF_THE_CATALOGUE,
]


def lines(written: str) -> list[str]:
    return written.strip().splitlines()


def ask(engine: Engine, query: str) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(text(query)))


@pytest.fixture
def created_engine(bare_engine: Engine) -> Engine:
    """Connect to a database that was created from the models, without a migration."""
    Base.metadata.create_all(bare_engine)
    return bare_engine


@pytest.fixture(params=["engine", "created_engine"], ids=["migrated", "created"])
def built(request: pytest.FixtureRequest) -> Engine:
    """Connect to a database created in one of the two ways."""
    engine: Engine = request.getfixturevalue(request.param)
    return engine


def test_every_column_has_the_type_default_and_nullability_of_the_plan(built: Engine) -> None:
    assert ask(built, COLUMNS_OF_THE_CATALOGUE) == lines(COLUMNS)


def test_every_constraint_has_the_name_and_definition_of_the_plan(built: Engine) -> None:
    assert ask(built, CONSTRAINTS_OF_THE_CATALOGUE) == lines(CONSTRAINTS)


def test_every_index_has_its_name_and_columns(built: Engine) -> None:
    assert ask(built, INDEXES_OF_THE_CATALOGUE) == lines(INDEXES)


def test_only_the_key_to_the_manager_is_deferrable_and_it_is_initially_immediate(built: Engine) -> None:
    deferrable = ask(built, "SELECT conname FROM pg_constraint WHERE condeferrable OR condeferred")
    initially_deferred = ask(built, "SELECT conname FROM pg_constraint WHERE condeferred")

    assert deferrable == ["gyms_manager_id_users_id_fk"]
    assert initially_deferred == []


def test_each_numbered_table_owns_one_sequence_of_integers(built: Engine) -> None:
    numbered = [table for table in sorted(Base.metadata.tables) if table != "roles"]

    assert ask(built, SEQUENCES_OF_THE_CATALOGUE) == [
        f"{table}_id_seq of {table}.id a integer 1 1 1 2147483647 1 f" for table in numbered
    ]


@pytest.mark.parametrize("query", CATALOGUE, ids=["columns", "constraints", "not nulls", "indexes", "sequences"])
def test_a_database_from_migrations_equals_one_from_the_models(
    query: str, engine: Engine, created_engine: Engine
) -> None:
    migrated = ask(engine, query)

    assert migrated
    assert migrated == ask(created_engine, query)


def test_the_tables_are_the_11_of_the_plan_and_drizzle_would_change_none(
    engine: Engine, created_engine: Engine
) -> None:
    for built in (engine, created_engine):
        assert ask(built, TABLES_OF_THE_CATALOGUE) == sorted({line.split(".")[0] for line in lines(COLUMNS)})
        if DRIZZLE_AGREES.exists() and shutil.which("npx"):
            done = subprocess.run([DRIZZLE_AGREES, readable(built.url)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.startswith("agrees")


def violated_constraint(error: IntegrityError) -> str | None:
    assert isinstance(error.orig, psycopg.Error)
    return error.orig.diag.constraint_name


def a_gym(manager_id: int | None) -> Gym:
    return Gym(name="Alliance", address="Rua A, 1", since="2015-03-01", manager_id=manager_id)


@pytest.mark.parametrize(
    ("constraint", "row"),
    [
        ("assets_class_id_class_id_fk", Asset(class_id=404)),
        ("attachments_class_id_class_id_fk", Attachment(class_id=404)),
        ("checkins_class_id_class_id_fk", Checkin(class_id=404)),
        ("checkins_user_id_users_id_fk", Checkin(user_id=404)),
        ("class_created_by_users_id_fk", Class(created_by=404)),
        ("class_gym_id_gyms_id_fk", Class(gym_id=404)),
        ("class_instructor_id_users_id_fk", Class(instructor_id=404)),
        ("graduations_user_id_users_id_fk", Graduation(user_id=404)),
        ("gyms_manager_id_users_id_fk", a_gym(404)),
        ("notifications_sent_by_users_id_fk", Notification(sent_by=404)),
        ("users_gym_id_gyms_id_fk", User(clerk_user_id="ana", gym_id=404)),
        ("users_role_roles_id_fk", User(clerk_user_id="ana", role="JANITOR")),
    ],
)
def test_a_row_that_refers_to_a_missing_row_is_refused(constraint: str, row: Base, built: Engine) -> None:
    with Session(built) as session:
        session.add(row)
        with pytest.raises(IntegrityError) as refused:
            session.flush()

    assert violated_constraint(refused.value) == constraint


INSERT_GYM = "INSERT INTO gyms (id, name, address, since, manager_id) VALUES (7, 'Alliance', 'Rua A, 1', '2015', 3)"
INSERT_MANAGER = "INSERT INTO users (id, clerk_user_id, gym_id) VALUES (3, 'ana', 7)"
CIRCLE = "SELECT gyms.id || ' ' || users.id FROM gyms JOIN users ON users.id = manager_id AND gym_id = gyms.id"


def test_gyms_can_be_written_before_their_managers_in_one_transaction(built: Engine) -> None:
    with built.begin() as connection:
        connection.execute(text("SET CONSTRAINTS gyms_manager_id_users_id_fk DEFERRED"))
        connection.execute(text(INSERT_GYM))
        connection.execute(text(INSERT_MANAGER))

    assert ask(built, CIRCLE) == ["7 3"]


def test_managers_can_be_written_before_their_gyms_in_one_transaction(built: Engine) -> None:
    with built.begin() as connection:
        connection.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        connection.execute(text(INSERT_MANAGER.replace(" 7)", " NULL)")))
        connection.execute(text(INSERT_GYM))
        connection.execute(text("UPDATE users SET gym_id = 7"))

    assert ask(built, CIRCLE) == ["7 3"]


def test_without_deferred_constraints_a_gym_cannot_be_written_before_its_manager(built: Engine) -> None:
    with built.connect() as connection, pytest.raises(IntegrityError) as refused:
        connection.execute(text(INSERT_GYM))

    assert violated_constraint(refused.value) == "gyms_manager_id_users_id_fk"


def test_a_missing_manager_is_an_error_at_the_commit(built: Engine) -> None:
    with built.connect() as connection:
        connection.execute(text("SET CONSTRAINTS gyms_manager_id_users_id_fk DEFERRED"))
        connection.execute(text(INSERT_GYM))
        with pytest.raises(IntegrityError) as refused:
            connection.commit()

    assert violated_constraint(refused.value) == "gyms_manager_id_users_id_fk"
    assert ask(built, "SELECT name FROM gyms") == []
