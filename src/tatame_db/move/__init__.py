"""Out of Supabase, with proof."""

from tatame_db.move.catalogue import SourceUnreadable
from tatame_db.move.choices import Choices, Exclusion, Obstacle
from tatame_db.move.connection import ConnectionLost, Connections
from tatame_db.move.copy import NotProven, Report, TargetBusy, TargetFull, copy
from tatame_db.move.copy_table import CopyDiffers, RowsRefused, TableCopy
from tatame_db.move.digest import NoCommonHash
from tatame_db.move.keys import ForeignKeyViolated
from tatame_db.move.mapping import PhaseUnknown, TableUnknown, tables_of_phase
from tatame_db.move.mirror import Mirror
from tatame_db.move.open import (
    SameDatabase,
    SourceNotConfigured,
    SourceTooOld,
    SourceUnreachable,
    open_for_reading,
    open_for_writing,
    open_target,
)
from tatame_db.move.plan import Plan, PlanIncomplete, plan
from tatame_db.move.prepare import ObstaclesUnresolved, OtherRowsInTarget, ParentsNotCopied
from tatame_db.move.proof import (
    MAX_DIFFERENCES,
    CountsDiffer,
    DataDiffers,
    OnlyExclusionsDiffer,
    Proof,
    RowDifference,
    TableCount,
    TableProof,
    ValueDifference,
    counts,
    verify,
)
from tatame_db.move.ready import TrialInsertFailed
from tatame_db.move.record import RunStatus
from tatame_db.move.rehearsal import Rehearsal, RehearsalFailed, RehearsedStep, rehearse
from tatame_db.move.resolve import TooManyExcluded
from tatame_db.move.rest import RestClient, RestReading, rest_address
from tatame_db.move.rest_errors import (
    EmptyOrForbidden,
    KeyInvalid,
    KeyIsRestricted,
    KeyRejected,
    NoRoomForRows,
    PageKeyMissing,
    RestAddressInvalid,
    RestError,
    RestNotReached,
    RowsChanged,
    TableForbidden,
    UnexpectedResponse,
)
from tatame_db.move.status import MoveStatus, MoveUnfinished, TableStatus, Unfinished, status, unfinished

__all__ = [
    "MAX_DIFFERENCES",
    "Choices",
    "ConnectionLost",
    "Connections",
    "CopyDiffers",
    "CountsDiffer",
    "DataDiffers",
    "EmptyOrForbidden",
    "Exclusion",
    "ForeignKeyViolated",
    "KeyInvalid",
    "KeyIsRestricted",
    "KeyRejected",
    "Mirror",
    "MoveStatus",
    "MoveUnfinished",
    "NoCommonHash",
    "NoRoomForRows",
    "NotProven",
    "Obstacle",
    "ObstaclesUnresolved",
    "OnlyExclusionsDiffer",
    "OtherRowsInTarget",
    "PageKeyMissing",
    "ParentsNotCopied",
    "PhaseUnknown",
    "Plan",
    "PlanIncomplete",
    "Proof",
    "Rehearsal",
    "RehearsalFailed",
    "RehearsedStep",
    "Report",
    "RestAddressInvalid",
    "RestClient",
    "RestError",
    "RestNotReached",
    "RestReading",
    "RowDifference",
    "RowsChanged",
    "RowsRefused",
    "RunStatus",
    "SameDatabase",
    "SourceNotConfigured",
    "SourceTooOld",
    "SourceUnreachable",
    "SourceUnreadable",
    "TableCopy",
    "TableCount",
    "TableForbidden",
    "TableProof",
    "TableStatus",
    "TableUnknown",
    "TargetBusy",
    "TargetFull",
    "TooManyExcluded",
    "TrialInsertFailed",
    "UnexpectedResponse",
    "Unfinished",
    "ValueDifference",
    "copy",
    "counts",
    "open_for_reading",
    "open_for_writing",
    "open_target",
    "plan",
    "rehearse",
    "rest_address",
    "status",
    "tables_of_phase",
    "unfinished",
    "verify",
]
