"""Backups that prove themselves: made, listed, restored, and drilled."""

from tatame_db.backup.contents import Contents
from tatame_db.backup.drill import Drilled, drill
from tatame_db.backup.dump import make_dump
from tatame_db.backup.errors import (
    BackupDamaged,
    BackupFailed,
    BackupOfNewerFormat,
    BackupOfOtherVersion,
    BackupRefused,
    BackupRunning,
    DrillFailed,
    DrillFoundDamage,
    DumpDiffers,
    DumpRejected,
    FolderUnreadable,
    FolderUnusable,
    LiveDiffers,
    NoBackup,
    NotInBackup,
    PlaceTaken,
    PlaceUnusable,
    SpaceMissing,
    SpaceRanOut,
    TableLocked,
)
from tatame_db.backup.folder import Backup, Listed, list_backups
from tatame_db.backup.make import Made, make
from tatame_db.backup.manifest import Manifest
from tatame_db.backup.record import Drill, read_drills
from tatame_db.backup.restore import Restored, restore

__all__ = [
    "Backup",
    "BackupDamaged",
    "BackupFailed",
    "BackupOfNewerFormat",
    "BackupOfOtherVersion",
    "BackupRefused",
    "BackupRunning",
    "Contents",
    "Drill",
    "DrillFailed",
    "DrillFoundDamage",
    "Drilled",
    "DumpDiffers",
    "DumpRejected",
    "FolderUnreadable",
    "FolderUnusable",
    "Listed",
    "LiveDiffers",
    "Made",
    "Manifest",
    "NoBackup",
    "NotInBackup",
    "PlaceTaken",
    "PlaceUnusable",
    "Restored",
    "SpaceMissing",
    "SpaceRanOut",
    "TableLocked",
    "drill",
    "list_backups",
    "make",
    "make_dump",
    "read_drills",
    "restore",
]
