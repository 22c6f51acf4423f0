"""The 11 tables of Tatame; `Base.metadata.tables` is the one list of them."""

from tatame_db.schema.assets import Asset, Attachment
from tatame_db.schema.base import Base, RelationNotLoaded
from tatame_db.schema.checkins import Checkin
from tatame_db.schema.graduations import Graduation
from tatame_db.schema.gyms import Class, Gym
from tatame_db.schema.infrastructure import AppStore, Role, Version
from tatame_db.schema.notifications import Notification
from tatame_db.schema.users import User

__all__ = [
    "AppStore",
    "Asset",
    "Attachment",
    "Base",
    "Checkin",
    "Class",
    "Graduation",
    "Gym",
    "Notification",
    "RelationNotLoaded",
    "Role",
    "User",
    "Version",
]
