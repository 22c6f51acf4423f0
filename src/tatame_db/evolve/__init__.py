"""How a database gets to today's schema: migrate and rollback, generate, push, check, status."""

from tatame_db.evolve.check import Check, CheckFailed, check
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
from tatame_db.evolve.migrate import (
    MigrationFailed,
    NotADowngrade,
    Patience,
    Step,
    Waiting,
    migrate,
    migration_sql,
    rollback,
)
from tatame_db.evolve.push import DataLoss, Push, PushFailed, push
from tatame_db.evolve.status import CheckedBehind, SchemaBehind, Status, TablesMissing, refuse_incomplete, status

__all__ = [
    "AnswerUseless",
    "Answers",
    "Check",
    "CheckFailed",
    "CheckedBehind",
    "DataLoss",
    "DatabaseAhead",
    "DowngradeDiffers",
    "Generated",
    "LintFailed",
    "MigrationEdited",
    "MigrationFailed",
    "MigrationUnreadable",
    "NotADowngrade",
    "NotAllGenerated",
    "NothingToMerge",
    "Patience",
    "Push",
    "PushFailed",
    "RenameUndecided",
    "RevisionUnknown",
    "SchemaBehind",
    "SentenceUseless",
    "Status",
    "Step",
    "TablesMissing",
    "TwoHeads",
    "Waiting",
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
