from __future__ import annotations

import pytest

from tatame_db.move.switch.environment import environment_lines, mismatches
from tatame_db.move.switch.homes import Home
from tatame_db.schema import phases
from tatame_db.settings import Settings

HOMES = dict.fromkeys(phases(), Home.SOURCE) | {"roles": Home.TARGET, "users": Home.NEITHER}


def test_the_lines_for_env_are_the_flags_that_settings_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = environment_lines(HOMES)
    assert "USE_POSTGRES_ROLES=true" in lines
    assert "USE_POSTGRES_GYMS=false" in lines
    assert not [line for line in lines if "USERS" in line]
    for line in lines:
        monkeypatch.setenv(*line.split("="))
    found = mismatches(Settings.from_env().use_postgres, HOMES)
    assert [mismatch.table for mismatch in found] == ["users"]


@pytest.mark.parametrize("default", ["true", "false"])
def test_a_table_that_the_app_uses_elsewhere_is_named(monkeypatch: pytest.MonkeyPatch, default: str) -> None:
    monkeypatch.setenv("USE_POSTGRES", default)
    monkeypatch.setenv("USE_POSTGRES_GYMS", "1")
    monkeypatch.setenv("USE_POSTGRES_ROLES", "no")
    found = {mismatch.table: str(mismatch) for mismatch in mismatches(Settings.from_env().use_postgres, HOMES)}
    assert found["gyms"] == "USE_POSTGRES_GYMS lets the app use gyms in the target, and its home is the source"
    assert found["roles"] == "USE_POSTGRES_ROLES lets the app use roles in the source, and its home is the target"
    assert found["users"].endswith("and its home is neither database")
    assert ("versions" in found) is (default == "true")
