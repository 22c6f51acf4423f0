"""The initial schema."""

import sqlalchemy as sa
from alembic import op

revision = "20261123120000"
down_revision = None


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), nullable=False)


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.TIMESTAMP(), server_default=sa.text("now()"), nullable=False)


def upgrade() -> None:
    """Create the 11 tables, and the indexes for the queries of the app."""
    op.create_table(
        "roles",
        sa.Column("id", sa.Text(), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="roles_pkey"),
    )
    op.create_table(
        "versions",
        _id(),
        sa.Column("app_version", sa.Text()),
        _created_at(),
        sa.Column("disabled_at", sa.TIMESTAMP()),
        sa.PrimaryKeyConstraint("id", name="versions_pkey"),
    )
    op.create_index(
        "versions_created_at_index", "versions", ["created_at"], postgresql_where=sa.text("disabled_at IS NULL")
    )
    op.create_table(
        "app_stores",
        _id(),
        sa.Column("store", sa.Text()),
        sa.Column("url", sa.Text()),
        _created_at(),
        sa.Column("disabled_at", sa.TIMESTAMP()),
        sa.PrimaryKeyConstraint("id", name="app_stores_pkey"),
    )
    op.create_index("app_stores_store_index", "app_stores", ["store"], postgresql_where=sa.text("disabled_at IS NULL"))
    op.create_table(
        "gyms",
        _id(),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("logo", sa.Text()),
        sa.Column("manager_id", sa.Integer()),
        sa.Column("since", sa.Text(), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="gyms_pkey"),
    )
    op.create_index("gyms_manager_id_index", "gyms", ["manager_id"])
    op.create_table(
        "users",
        _id(),
        sa.Column("clerk_user_id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text()),
        sa.Column("first_name", sa.Text()),
        sa.Column("last_name", sa.Text()),
        sa.Column("profile_picture", sa.Text()),
        sa.Column("birth", sa.Text()),
        sa.Column("birth_day", sa.Text()),
        sa.Column("gender", sa.Text()),
        sa.Column("phone", sa.Text()),
        sa.Column("instagram", sa.Text()),
        sa.Column("role", sa.Text()),
        sa.Column("gym_id", sa.Integer()),
        sa.Column("expo_push_token", sa.Text()),
        sa.Column("customer_id", sa.Text()),
        sa.Column("subscription_id", sa.Text()),
        sa.Column("plan", sa.Text()),
        sa.Column("approved_at", sa.TIMESTAMP()),
        sa.Column("denied_at", sa.TIMESTAMP()),
        sa.Column("migrated_at", sa.TIMESTAMP()),
        sa.Column("deleted_at", sa.TIMESTAMP()),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="users_pkey"),
        sa.UniqueConstraint("clerk_user_id", name="users_clerk_user_id_unique"),
        sa.ForeignKeyConstraint(["role"], ["roles.id"], name="users_role_roles_id_fk"),
        sa.ForeignKeyConstraint(["gym_id"], ["gyms.id"], name="users_gym_id_gyms_id_fk"),
    )
    op.create_index("users_role_gym_id_approved_at_index", "users", ["role", "gym_id", "approved_at"])
    op.create_index("users_gym_id_birth_day_index", "users", ["gym_id", "birth_day"])
    # gyms and users refer to each other, so this foreign key is added after both tables.
    op.create_foreign_key(
        "gyms_manager_id_users_id_fk",
        "gyms",
        "users",
        ["manager_id"],
        ["id"],
        deferrable=True,
        initially="IMMEDIATE",
    )
    op.create_table(
        "graduations",
        _id(),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("belt", sa.Text()),
        sa.Column("degree", sa.Integer()),
        sa.Column("modality", sa.Text()),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="graduations_pkey"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="graduations_user_id_users_id_fk"),
    )
    op.create_index("graduations_user_id_created_at_index", "graduations", ["user_id", "created_at"])
    op.create_table(
        "class",
        _id(),
        sa.Column("gym_id", sa.Integer()),
        sa.Column("instructor_id", sa.Integer()),
        sa.Column("created_by", sa.Integer()),
        sa.Column("day", sa.Text()),
        sa.Column("start", sa.Text()),
        sa.Column("end", sa.Text()),
        sa.Column("modality", sa.Text()),
        sa.Column("description", sa.Text()),
        _created_at(),
        sa.Column("deleted_at", sa.TIMESTAMP()),
        sa.PrimaryKeyConstraint("id", name="class_pkey"),
        sa.ForeignKeyConstraint(["gym_id"], ["gyms.id"], name="class_gym_id_gyms_id_fk"),
        sa.ForeignKeyConstraint(["instructor_id"], ["users.id"], name="class_instructor_id_users_id_fk"),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name="class_created_by_users_id_fk"),
    )
    op.create_index("class_gym_id_day_start_index", "class", ["gym_id", "day", "start"])
    op.create_index("class_instructor_id_index", "class", ["instructor_id"])
    op.create_index("class_created_by_index", "class", ["created_by"])
    op.create_table(
        "assets",
        _id(),
        sa.Column("class_id", sa.Integer()),
        sa.Column("title", sa.Text()),
        sa.Column("content", sa.Text()),
        sa.Column("type", sa.Text()),
        sa.Column("valid_until", sa.TIMESTAMP()),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="assets_pkey"),
        sa.ForeignKeyConstraint(["class_id"], ["class.id"], name="assets_class_id_class_id_fk"),
    )
    op.create_index("assets_class_id_index", "assets", ["class_id"])
    op.create_index("assets_type_created_at_index", "assets", ["type", "created_at"])
    op.create_table(
        "attachments",
        _id(),
        sa.Column("class_id", sa.Integer()),
        sa.Column("file_name", sa.Text()),
        sa.Column("file_url", sa.Text()),
        sa.Column("file_type", sa.Text()),
        sa.Column("file_size", sa.Integer()),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="attachments_pkey"),
        sa.ForeignKeyConstraint(["class_id"], ["class.id"], name="attachments_class_id_class_id_fk"),
    )
    op.create_index("attachments_class_id_index", "attachments", ["class_id"])
    op.create_table(
        "checkins",
        _id(),
        sa.Column("user_id", sa.Integer()),
        sa.Column("class_id", sa.Integer()),
        sa.Column("date", sa.Text()),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="checkins_pkey"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="checkins_user_id_users_id_fk"),
        sa.ForeignKeyConstraint(["class_id"], ["class.id"], name="checkins_class_id_class_id_fk"),
    )
    op.create_index("checkins_user_id_date_index", "checkins", ["user_id", "date"])
    op.create_index("checkins_class_id_date_index", "checkins", ["class_id", "date"])
    op.create_table(
        "notifications",
        _id(),
        sa.Column("sent_by", sa.Integer()),
        sa.Column("title", sa.Text()),
        sa.Column("content", sa.Text()),
        sa.Column("channel", sa.Text()),
        sa.Column("status", sa.Text()),
        sa.Column("recipients", sa.ARRAY(sa.Text())),
        sa.Column("viewed_by", sa.ARRAY(sa.Text())),
        sa.Column("sent_at", sa.TIMESTAMP()),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="notifications_pkey"),
        sa.ForeignKeyConstraint(["sent_by"], ["users.id"], name="notifications_sent_by_users_id_fk"),
    )
    op.create_index("notifications_sent_by_created_at_index", "notifications", ["sent_by", "created_at"])
    op.create_index("notifications_recipients_index", "notifications", ["recipients"], postgresql_using="gin")


def downgrade() -> None:
    """Drop all tables, with their data."""
    op.drop_constraint("gyms_manager_id_users_id_fk", "gyms")
    for table in (
        "notifications",
        "checkins",
        "attachments",
        "assets",
        "class",
        "graduations",
        "users",
        "gyms",
        "app_stores",
        "versions",
        "roles",
    ):
        op.drop_table(table)
