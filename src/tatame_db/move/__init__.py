"""The move of the data out of Supabase, with proof.

    with move.open_for_writing(source, engine, on_wait) as connections:
        report = move.copy(connections)

Here are the functions, their results, and the errors that they raise; the errors that only the command line raises are
in the modules, and those of a source over REST are subclasses of `RestError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tatame_db.move.back.errors import LeftRowsReferenced, RowsNotReturnable, SourceNotWritable
from tatame_db.move.catalogue import SourceUnreadable
from tatame_db.move.choices import Choices, Exclusion, Obstacle
from tatame_db.move.connection import (
    ConnectionLost,
    Connections,
    ResourceExhausted,
    ServerFailed,
    StandbyConflict,
    StatementCanceled,
)
from tatame_db.move.copy import Report, copy
from tatame_db.move.copy_errors import NotProven, NotReplicated, SchemaChanged, TargetBusy, TargetRefused
from tatame_db.move.copy_table import CopyDiffers, RowsRefused, RowTooLarge, TableCopy
from tatame_db.move.digest import NoCommonHash
from tatame_db.move.final_proof import ChangedAfterProof
from tatame_db.move.follow.errors import FollowRuns, SlotBlocked, SlotForeign, SlotInUse, SlotLost, SlotMissing
from tatame_db.move.follow.loop import FollowOptions, Lag, SlotTooLarge
from tatame_db.move.follow.publication import PublicationBlocked, PublicationChanged
from tatame_db.move.follow.run import follow_source, follow_target
from tatame_db.move.keys import ForeignKeyViolated, KeysDisabled
from tatame_db.move.left_behind import LeftBehind
from tatame_db.move.mapping import TableUnknown, tables_of_phase
from tatame_db.move.open import (
    EncodingUnsupported,
    JobNotConnected,
    KeysNotEnforced,
    SameDatabase,
    SourceTooOld,
    SourceUnreachable,
    open_both_for_writing,
    open_for_reading,
    open_for_writing,
    open_target,
)
from tatame_db.move.parked import KeysNotRestored
from tatame_db.move.plan import Plan, plan
from tatame_db.move.prepare import ObstaclesUnresolved, ParentsNotCopied
from tatame_db.move.proof import Comparison, Proof, TableCount, TableProof, compare, counts, verify
from tatame_db.move.reach import ReferencesUnreadable, RowsStillReferenced
from tatame_db.move.ready import TrialInsertFailed
from tatame_db.move.refusals import OtherRowsInTarget, TablesEmptied
from tatame_db.move.rehearsal.run import Rehearsal, rehearse
from tatame_db.move.resolve import TooManyExcluded
from tatame_db.move.rest_errors import RestError
from tatame_db.move.restore import (
    KeptRows,
    NotRejected,
    NotReturned,
    Rejected,
    RowsWithoutText,
    kept_rows,
    restoring_script,
)
from tatame_db.move.sequences import IdsExhausted
from tatame_db.move.snapshot import TablesChanging, TablesLocked
from tatame_db.move.stages import Stage
from tatame_db.move.status import HomesUnknown, MoveStatus, TableStatus, Unfinished, status, unfinished
from tatame_db.move.switch.environment import environment_lines, mismatches
from tatame_db.move.switch.errors import (
    ChangesPending,
    KeysMissing,
    NothingToFollow,
    NothingToSwitch,
    NotOpened,
    OutcomeNotKnown,
    PauseTooLong,
    SourceWithoutServer,
    SwitchDiffers,
)
from tatame_db.move.switch.fence import FenceDamaged, FenceForbidden, TablesNotFenceable, WritersNotStopped
from tatame_db.move.switch.finish import Finished, FinishIncomplete, KeysStillParked, finish
from tatame_db.move.switch.homes import (
    BothHomesOpen,
    Home,
    MovedElsewhere,
    SwitchUnfinished,
    TablesMoved,
    homes,
    known_homes,
)
from tatame_db.move.switch.steps import Step, SwitchedTable, SwitchReport
from tatame_db.move.switch.switch import switch
from tatame_db.move.target_schema import (
    TargetColumnsMissing,
    TargetTablesReplaced,
)
from tatame_db.move.watch import FollowerStatus

if TYPE_CHECKING:
    from tatame_db.move.mirror import Mirror
    from tatame_db.move.rest import RestClient

__all__ = [
    "BothHomesOpen",
    "ChangedAfterProof",
    "ChangesPending",
    "Choices",
    "Comparison",
    "ConnectionLost",
    "Connections",
    "CopyDiffers",
    "EncodingUnsupported",
    "Exclusion",
    "FenceDamaged",
    "FenceForbidden",
    "FinishIncomplete",
    "Finished",
    "FollowOptions",
    "FollowRuns",
    "FollowerStatus",
    "ForeignKeyViolated",
    "Home",
    "HomesUnknown",
    "IdsExhausted",
    "JobNotConnected",
    "KeptRows",
    "KeysDisabled",
    "KeysMissing",
    "KeysNotEnforced",
    "KeysNotRestored",
    "KeysStillParked",
    "Lag",
    "LeftBehind",
    "LeftRowsReferenced",
    "Mirror",
    "MoveStatus",
    "MovedElsewhere",
    "NoCommonHash",
    "NotOpened",
    "NotProven",
    "NotRejected",
    "NotReplicated",
    "NotReturned",
    "NothingToFollow",
    "NothingToSwitch",
    "Obstacle",
    "ObstaclesUnresolved",
    "OtherRowsInTarget",
    "OutcomeNotKnown",
    "ParentsNotCopied",
    "PauseTooLong",
    "Plan",
    "Proof",
    "PublicationBlocked",
    "PublicationChanged",
    "ReferencesUnreadable",
    "Rehearsal",
    "Rejected",
    "Report",
    "ResourceExhausted",
    "RestClient",
    "RestError",
    "RowTooLarge",
    "RowsNotReturnable",
    "RowsRefused",
    "RowsStillReferenced",
    "RowsWithoutText",
    "SameDatabase",
    "SchemaChanged",
    "ServerFailed",
    "SlotBlocked",
    "SlotForeign",
    "SlotInUse",
    "SlotLost",
    "SlotMissing",
    "SlotTooLarge",
    "SourceNotWritable",
    "SourceTooOld",
    "SourceUnreachable",
    "SourceUnreadable",
    "SourceWithoutServer",
    "Stage",
    "StandbyConflict",
    "StatementCanceled",
    "Step",
    "SwitchDiffers",
    "SwitchReport",
    "SwitchUnfinished",
    "SwitchedTable",
    "TableCopy",
    "TableCount",
    "TableProof",
    "TableStatus",
    "TableUnknown",
    "TablesChanging",
    "TablesEmptied",
    "TablesLocked",
    "TablesMoved",
    "TablesNotFenceable",
    "TargetBusy",
    "TargetColumnsMissing",
    "TargetRefused",
    "TargetTablesReplaced",
    "TooManyExcluded",
    "TrialInsertFailed",
    "Unfinished",
    "WritersNotStopped",
    "compare",
    "copy",
    "counts",
    "environment_lines",
    "finish",
    "follow_source",
    "follow_target",
    "homes",
    "kept_rows",
    "known_homes",
    "mismatches",
    "open_both_for_writing",
    "open_for_reading",
    "open_for_writing",
    "open_target",
    "plan",
    "rehearse",
    "restoring_script",
    "status",
    "switch",
    "tables_of_phase",
    "unfinished",
    "verify",
]

# These load an HTTP client, which a move from PostgreSQL itself does not need.
_LOADED_ON_USE = {"Mirror": "mirror", "RestClient": "rest"}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_ON_USE[name]}"), name)
