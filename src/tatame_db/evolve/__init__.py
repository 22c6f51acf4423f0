"""How a schema changes: generate, lint, migrate, roll back, push, check, status, distribute."""

from tatame_db.evolve.app import load_app
from tatame_db.evolve.autocommit import AutocommitMixed, IndexInvalid
from tatame_db.evolve.check import CheckFailed, SchemaCheck, check
from tatame_db.evolve.difference import Answers
from tatame_db.evolve.distribute import Distribution, PlacementStep, distribute
from tatame_db.evolve.generate import generate, generate_empty, generate_merge
from tatame_db.evolve.history import DatabaseAhead, MigrationEdited, MigrationUnreadable, RevisionUnknown, TwoHeads
from tatame_db.evolve.ids import IdUse, id_uses
from tatame_db.evolve.lint import Linted, LintFailed, has_released, lint
from tatame_db.evolve.lock import DirectAddressNeeded, Retry, Timeouts
from tatame_db.evolve.losses import DataLoss
from tatame_db.evolve.migrate import migrate, rollback
from tatame_db.evolve.migration_errors import (
    MigrationFailed,
    MigrationOutcomeUnknown,
    MigrationRaised,
    NeedsDatabase,
    TransactionEnded,
)
from tatame_db.evolve.migration_file import Generated
from tatame_db.evolve.placement import places
from tatame_db.evolve.push import Push, push
from tatame_db.evolve.record import MigrationStep
from tatame_db.evolve.script import NoScript, migration_sql
from tatame_db.evolve.status import (
    ColumnsMissing,
    SchemaBehind,
    Status,
    StatusCheckFailed,
    TablesMissing,
    refuse_incomplete,
    refuse_missing_columns,
    status,
)

__all__ = [
    "Answers",
    "AutocommitMixed",
    "CheckFailed",
    "ColumnsMissing",
    "DataLoss",
    "DatabaseAhead",
    "DirectAddressNeeded",
    "Distribution",
    "Generated",
    "IdUse",
    "IndexInvalid",
    "LintFailed",
    "Linted",
    "MigrationEdited",
    "MigrationFailed",
    "MigrationOutcomeUnknown",
    "MigrationRaised",
    "MigrationStep",
    "MigrationUnreadable",
    "NeedsDatabase",
    "NoScript",
    "PlacementStep",
    "Push",
    "Retry",
    "RevisionUnknown",
    "SchemaBehind",
    "SchemaCheck",
    "Status",
    "StatusCheckFailed",
    "TablesMissing",
    "Timeouts",
    "TransactionEnded",
    "TwoHeads",
    "check",
    "distribute",
    "generate",
    "generate_empty",
    "generate_merge",
    "has_released",
    "id_uses",
    "lint",
    "load_app",
    "migrate",
    "migration_sql",
    "places",
    "push",
    "refuse_incomplete",
    "refuse_missing_columns",
    "rollback",
    "status",
]
