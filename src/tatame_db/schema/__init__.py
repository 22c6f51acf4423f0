"""The tables of Tatame; `Base.metadata.tables` is the one list of them."""

import sys

# Not sorted by name: the order in which the models are defined is the order in which their tables are listed. Models in
# other files of this folder follow.
# isort: off
from tatame_db.schema.base import Base, RelationNotLoaded
from tatame_db.schema.infrastructure import AppStore, Role, Version
from tatame_db.schema.gyms import Class, Gym
from tatame_db.schema.users import User
from tatame_db.schema.graduations import Graduation
from tatame_db.schema.checkins import Checkin
from tatame_db.schema.assets import Asset, Attachment
from tatame_db.schema.notifications import Notification
# isort: on

from tatame_db.schema.forms import form
from tatame_db.schema.modules import load_modules
from tatame_db.schema.order import (
    DistributionInvalid,
    distribution_column,
    is_of_package,
    key_of,
    mark_package_tables,
    moved_tables,
    optional_in_source,
    phase,
    phases,
    tables_in_order,
)

load_modules(sys.modules[__name__])
mark_package_tables()

__all__ = [
    "AppStore",
    "Asset",
    "Attachment",
    "Base",
    "Checkin",
    "Class",
    "DistributionInvalid",
    "Graduation",
    "Gym",
    "Notification",
    "RelationNotLoaded",
    "Role",
    "User",
    "Version",
    "distribution_column",
    "form",
    "is_of_package",
    "key_of",
    "load_modules",
    "moved_tables",
    "optional_in_source",
    "phase",
    "phases",
    "tables_in_order",
]
