"""The rows that the app itself needs: roles, versions and links to the stores."""

from __future__ import annotations

from datetime import datetime, time

from tatame_db.schema import AppStore, Role, Version
from tatame_db.seed.plan import SeedPlan, days


def roles(plan: SeedPlan) -> list[Role]:
    """Make the three roles of the app."""
    return [Role(id=role, created_at=_at_launch(plan)) for role in ("STUDENT", "INSTRUCTOR", "MANAGER")]


def versions(plan: SeedPlan) -> list[Version]:
    """Make versions at equal intervals since the launch; the last two are supported."""
    names = ["1.0.0", "1.1.0", "1.2.0", "2.0.0", "2.0.1", "2.1.0"]
    step = days((plan.until - plan.launch).days // len(names))
    return [
        Version(
            app_version=name,
            created_at=_at_launch(plan) + number * step,
            # Support ends when the next version but one appears.
            disabled_at=_at_launch(plan) + (number + 2) * step if number + 2 < len(names) else None,
        )
        for number, name in enumerate(names)
    ]


def app_stores(plan: SeedPlan) -> list[AppStore]:
    """Make the links to both stores, and an old one that was replaced."""
    opened, moved = _at_launch(plan), _at_launch(plan) + days(200)
    old = "https://play.tatame.example/old"
    return [
        AppStore(store="ios", url="https://apps.tatame.example/ios", created_at=opened),
        AppStore(store="android", url=old, created_at=opened, disabled_at=moved),
        AppStore(store="android", url="https://apps.tatame.example/android", created_at=moved),
    ]


def _at_launch(plan: SeedPlan) -> datetime:
    return datetime.combine(plan.launch, time(12))
