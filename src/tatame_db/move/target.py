"""What the target's tables have beside the models, as its catalogue describes it: triggers, rules and policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.schema import phases

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection


@dataclass(frozen=True)
class TargetObject:
    """Something of a target's table that can change rows as they are written: no obstacle, because a proof follows.

    `kind` is `trigger`, `rule` or `row-level security`; the latter has no name. `description` is the rest of its
    definition.
    """

    table: str
    kind: str
    name: str | None
    description: str


def target_objects(target: MoveConnection) -> list[TargetObject]:
    """Return the enabled triggers and rules, and row-level security, of all tables of the models."""
    rows = target.rows(_QUERY, {"tables": list(phases())})
    return [TargetObject(*row) for row in rows]


_QUERY = """
WITH models AS (
    SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity,
        array_position(%(tables)s::text[], c.relname::text) AS place
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
), found (place, relname, kind, name, description) AS (
    SELECT m.place, m.relname, 'trigger', t.tgname, concat_ws(' ',
        CASE WHEN t.tgtype & 2 > 0 THEN 'BEFORE' WHEN t.tgtype & 64 > 0 THEN 'INSTEAD OF' ELSE 'AFTER' END,
        concat_ws(' OR ',
            CASE WHEN t.tgtype & 4 > 0 THEN 'INSERT' END, CASE WHEN t.tgtype & 16 > 0 THEN 'UPDATE' END,
            CASE WHEN t.tgtype & 8 > 0 THEN 'DELETE' END, CASE WHEN t.tgtype & 32 > 0 THEN 'TRUNCATE' END),
        CASE WHEN t.tgtype & 1 > 0 THEN 'FOR EACH ROW' ELSE 'FOR EACH STATEMENT' END,
        CASE WHEN t.tginitdeferred THEN 'INITIALLY DEFERRED' END)
    FROM models m JOIN pg_trigger t ON t.tgrelid = m.oid
    -- A trigger that is disabled, or enabled for replication only, does not run.
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    UNION ALL
    SELECT m.place, m.relname, 'rule', r.rulename, concat('ON ',
        CASE r.ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' WHEN '4' THEN 'DELETE' ELSE 'SELECT' END,
        CASE WHEN r.is_instead THEN ' DO INSTEAD' ELSE ' DO ALSO' END)
    FROM models m JOIN pg_rewrite r ON r.ev_class = m.oid WHERE r.ev_enabled IN ('O', 'A')
    UNION ALL
    SELECT m.place, m.relname, 'row-level security', NULL, concat(
        'ON ', coalesce((
            SELECT string_agg(DISTINCT CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, ' OR ')
            FROM pg_policy p WHERE p.polrelid = m.oid), 'ALL'),
        CASE WHEN m.relforcerowsecurity THEN ', for the owner too' END)
    FROM models m WHERE m.relrowsecurity
)
SELECT relname, kind, name, description FROM found ORDER BY place, kind DESC, name
"""
