"""Whether a schema has objects of kinds that most schemas lack: PostgreSQL takes long to plan the queries for them."""

from tatame_db.evolve import kinds
from tatame_db.evolve import settings_of_tables as settings
from tatame_db.evolve.kinds import PUBLIC

_RELATIONS = f"pg_class WHERE relnamespace = {PUBLIC}"
_TABLES = f"{_RELATIONS} AND relkind IN ('r', 'p')"
_TYPES = f"pg_type WHERE typnamespace = {PUBLIC}"
_CREATED = "oid >= 16384"
_VIEWS = f"{_RELATIONS} AND relkind IN ('v', 'm')"

CONDITIONS = {
    kinds.COLLATIONS: f"pg_collation WHERE collnamespace = {PUBLIC}",
    kinds.ENUMS: f"{_TYPES} AND typtype = 'e'",
    kinds.DOMAINS: f"{_TYPES} AND typtype = 'd'",
    kinds.COMPOSITE_TYPES: f"{_RELATIONS} AND relkind = 'c'",
    kinds.VIEWS: _VIEWS,
    kinds.FUNCTIONS: f"pg_proc WHERE pronamespace = {PUBLIC}",
    kinds.TRIGGERS: "pg_trigger WHERE NOT tgisinternal",
    kinds.RULES: f"pg_rewrite WHERE rulename <> '_RETURN' AND {_CREATED}",
    kinds.POLICIES: "pg_policy",
    kinds.STATISTICS: "pg_statistic_ext",
    kinds.EVENT_TRIGGERS: "pg_event_trigger",
    settings.ROW_LEVEL_SECURITY: f"{_TABLES} AND (relrowsecurity OR relforcerowsecurity)",
    settings.REPLICA_IDENTITY: f"{_TABLES} AND relreplident <> 'd'",
    settings.CLUSTER: "pg_index WHERE indisclustered",
    settings.STORAGE_PARAMETERS: f"pg_class WHERE reloptions IS NOT NULL AND {_CREATED}",
    settings.TRIGGERS_OF_CONSTRAINTS: "pg_trigger WHERE tgenabled <> 'O'",
    settings.DEFAULTS_OF_VIEWS: _VIEWS,
}
"""A query, and from what it has rows at all; a condition that holds too often costs time alone."""

FOUND = f"SELECT {', '.join(f'EXISTS (SELECT FROM {condition})' for condition in CONDITIONS.values())}"
