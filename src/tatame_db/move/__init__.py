"""Out of Supabase, with proof."""

from tatame_db.move.mapping import SourceUnreadable, TableUnknown
from tatame_db.move.plan import NotWhole, Obstacle, Plan, plan
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
    "ConnectionLost",
    "NotWhole",
    "Obstacle",
    "Plan",
    "SameDatabase",
    "Sides",
    "SourceNotNamed",
    "SourceNotReached",
    "SourceTooOld",
    "SourceUnreadable",
    "TableUnknown",
    "opened",
    "plan",
]
