"""How Alembic runs our migrations: each in its own transaction, on the connection that it is handed."""

from alembic import context

from tatame_db.schema import Base

given = context.config.attributes
version_schema = given["version_schema"]
create_version_schema = f"CREATE SCHEMA IF NOT EXISTS {version_schema}"

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        literal_binds=True,
        transaction_per_migration=True,
        version_table_schema=version_schema,
    )
    context.execute(create_version_schema)
else:
    connection = given["connection"]
    connection.exec_driver_sql(create_version_schema)
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        version_table_schema=version_schema,
        on_version_apply=given["on_version_apply"],
    )

with context.begin_transaction():
    context.run_migrations()
