"""How a schema changes: generate, lint, migrate, roll back, push, check, status."""

from tatame_db.evolve.app import load_app
from tatame_db.evolve.autocommit import AutocommitMixed, IndexInvalid
from tatame_db.evolve.check import CheckFailed, SchemaCheck, check
from tatame_db.evolve.difference import Answers
from tatame_db.evolve.generate import generate, generate_empty, generate_merge
from tatame_db.evolve.history import DatabaseAhead, MigrationEdited, MigrationUnreadable, RevisionUnknown, TwoHeads
from tatame_db.evolve.lint import Linted, LintFailed, lint
from tatame_db.evolve.lock import DirectAddressNeeded, Retry, Timeouts
from tatame_db.evolve.losses import DataLoss
from tatame_db.evolve.migrate import MigrationFailed, MigrationStep, NeedsDatabase, TransactionEnded, migrate, rollback
from tatame_db.evolve.migration_file import Generated
from tatame_db.evolve.push import Push, push
from tatame_db.evolve.script import NoScript, migration_sql
from tatame_db.evolve.status import SchemaBehind, Status, StatusCheckFailed, TablesMissing, refuse_incomplete, status

__all__ = [
    "Answers",
    "AutocommitMixed",
    "CheckFailed",
    "DataLoss",
    "DatabaseAhead",
    "DirectAddressNeeded",
    "Generated",
    "IndexInvalid",
    "LintFailed",
    "Linted",
    "MigrationEdited",
    "MigrationFailed",
    "MigrationStep",
    "MigrationUnreadable",
    "NeedsDatabase",
    "NoScript",
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
    "generate",
    "generate_empty",
    "generate_merge",
    "lint",
    "load_app",
    "migrate",
    "migration_sql",
    "push",
    "refuse_incomplete",
    "rollback",
    "status",
]
