"""How a schema changes: generate, lint, migrate, roll back, push, check, status."""

from tatame_db.evolve.app import load_app
from tatame_db.evolve.check import CheckFailed, SchemaCheck, check
from tatame_db.evolve.difference import Answers
from tatame_db.evolve.generate import Generated, generate, generate_empty, generate_merge
from tatame_db.evolve.history import DatabaseAhead, MigrationEdited, MigrationUnreadable, RevisionUnknown, TwoHeads
from tatame_db.evolve.lint import Linted, LintFailed, lint
from tatame_db.evolve.lock import DirectAddressNeeded, Retry, Timeouts
from tatame_db.evolve.migrate import MigrationFailed, MigrationStep, migrate, migration_sql, rollback
from tatame_db.evolve.push import DataLoss, Push, push
from tatame_db.evolve.status import SchemaBehind, Status, StatusCheckFailed, TablesMissing, refuse_incomplete, status

__all__ = [
    "Answers",
    "CheckFailed",
    "DataLoss",
    "DatabaseAhead",
    "DirectAddressNeeded",
    "Generated",
    "LintFailed",
    "Linted",
    "MigrationEdited",
    "MigrationFailed",
    "MigrationStep",
    "MigrationUnreadable",
    "Push",
    "Retry",
    "RevisionUnknown",
    "SchemaBehind",
    "SchemaCheck",
    "Status",
    "StatusCheckFailed",
    "TablesMissing",
    "Timeouts",
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
