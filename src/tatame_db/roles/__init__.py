"""Who may do what: the four roles of an app, their grants, and the rights that a command lacks."""

from tatame_db.roles.apply import RightsNotGranted, RightsRemain, RolesApplied, RolesBusy, RolesRejected, apply
from tatame_db.roles.listing import RoleRights, Roles, list_roles
from tatame_db.roles.missing import RightsMissing, StatementForbidden, explained
from tatame_db.roles.names import Names, RoleNameInvalid, RoleUnsuitable
from tatame_db.roles.script import ScriptUnprintable, as_text, script

__all__ = [
    "Names",
    "RightsMissing",
    "RightsNotGranted",
    "RightsRemain",
    "RoleNameInvalid",
    "RoleRights",
    "RoleUnsuitable",
    "Roles",
    "RolesApplied",
    "RolesBusy",
    "RolesRejected",
    "ScriptUnprintable",
    "StatementForbidden",
    "apply",
    "as_text",
    "explained",
    "list_roles",
    "script",
]
