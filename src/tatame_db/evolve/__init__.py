"""How a database gets to today's schema: migrate and rollback, generate, push, check, status."""

from tatame_db.evolve.check import CheckFailed, SchemaCheck, check
from tatame_db.evolve.difference import Answers, AnswerUseless, RenameUndecided
from tatame_db.evolve.generate import (
    DowngradeDiffers,
    Generated,
    NotAllGenerated,
    NothingToMerge,
    SentenceUseless,
    generate,
    generate_empty,
    generate_merge,
)
from tatame_db.evolve.history import (
    DatabaseAhead,
    MigrationEdited,
    MigrationUnreadable,
    RevisionUnknown,
    TwoHeads,
)
from tatame_db.evolve.lint import LintFailed, lint
from tatame_db.evolve.lock import Retry, Timeouts
from tatame_db.evolve.migrate import (
    MigrationFailed,
    MigrationStep,
    NotADowngrade,
    migrate,
    migration_sql,
    rollback,
)
from tatame_db.evolve.push import DataLoss, Push, PushFailed, push
from tatame_db.evolve.status import CheckedBehind, SchemaBehind, Status, TablesMissing, refuse_incomplete, status

__all__ = [
    "AnswerUseless",
    "Answers",
    "CheckFailed",
    "CheckedBehind",
    "DataLoss",
    "DatabaseAhead",
    "DowngradeDiffers",
    "Generated",
    "LintFailed",
    "MigrationEdited",
    "MigrationFailed",
    "MigrationStep",
    "MigrationUnreadable",
    "NotADowngrade",
    "NotAllGenerated",
    "NothingToMerge",
    "Push",
    "PushFailed",
    "RenameUndecided",
    "Retry",
    "RevisionUnknown",
    "SchemaBehind",
    "SchemaCheck",
    "SentenceUseless",
    "Status",
    "TablesMissing",
    "Timeouts",
    "TwoHeads",
    "check",
    "generate",
    "generate_empty",
    "generate_merge",
    "lint",
    "migrate",
    "migration_sql",
    "push",
    "refuse_incomplete",
    "rollback",
    "status",
]
