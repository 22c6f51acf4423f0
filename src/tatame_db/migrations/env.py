"""How Alembic runs the migrations: each in its own transaction, on the connection of the caller."""

from typing import Any

from alembic import context

attributes = context.config.attributes
version_schema = attributes["version_schema"]
preparation = {
    f"to_regnamespace('{version_schema}')": f"CREATE SCHEMA IF NOT EXISTS {version_schema}",
    f"to_regclass('{version_schema}.applied')": f"""
    CREATE TABLE IF NOT EXISTS {version_schema}.applied (
        revision text PRIMARY KEY,
        checksum text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
    """,
}

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        # The driver's way to write parameters would double each percent sign.
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        transaction_per_migration=True,
        version_table_schema=version_schema,
    )
    # Migrations name no schema. Online, the connection sets the path.
    context.execute("SET search_path = public")
    context.execute(next(iter(preparation.values())))
else:
    connection = attributes["connection"]
    for existing, statement in preparation.items():
        # Asked first, because it takes rights that a role with an existing schema may lack.
        if connection.exec_driver_sql(f"SELECT {existing}").scalar() is None:
            connection.exec_driver_sql(statement)
            if statement.startswith("CREATE SCHEMA"):
                connection.exec_driver_sql(attributes["shared"])
    connection.commit()
    context.configure(
        connection=connection,
        transaction_per_migration=True,
        version_table_schema=version_schema,
        on_version_apply=attributes["on_version_apply"],
    )

impl = context.get_context().impl
execute = impl.execute


def execute_verbatim(sql: Any, execution_options: dict[str, Any] | None = None) -> None:
    """Hand a text to PostgreSQL as it is written: `%`, `:name` and tabs in it mean nothing to Alembic."""
    if not isinstance(sql, str):
        execute(sql, execution_options)
    elif impl.as_sql:
        impl.static_output(f"{sql.strip().removesuffix(';')};")
    else:
        options = {**(execution_options or {}), "no_parameters": True}
        attributes["connection"].exec_driver_sql(sql, execution_options=options)


impl.execute = execute_verbatim  # type: ignore[method-assign]  # Alembic has no hook for texts

with context.begin_transaction():
    context.run_migrations()
