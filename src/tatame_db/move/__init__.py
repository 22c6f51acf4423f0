"""Out of Supabase, with proof."""

from tatame_db.move.mapping import SourceUnreadable, TableUnknown
from tatame_db.move.plan import NotWhole, Obstacle, Plan, plan
from tatame_db.move.proof import (
    MAX_DIFFERENCES,
    CountsDiffer,
    DataDiffers,
    Difference,
    NoCommonHash,
    Proof,
    TableCount,
    TableProof,
    Value,
    counts,
    verify,
)
from tatame_db.move.sides import (
    ConnectionLost,
    SameDatabase,
    Sides,
    SourceNotNamed,
    SourceNotReached,
    SourceTooOld,
    opened,
)

__all__ = [
    "MAX_DIFFERENCES",
    "ConnectionLost",
    "CountsDiffer",
    "DataDiffers",
    "Difference",
    "NoCommonHash",
    "NotWhole",
    "Obstacle",
    "Plan",
    "Proof",
    "SameDatabase",
    "Sides",
    "SourceNotNamed",
    "SourceNotReached",
    "SourceTooOld",
    "SourceUnreadable",
    "TableCount",
    "TableProof",
    "TableUnknown",
    "Value",
    "counts",
    "opened",
    "plan",
    "verify",
]
