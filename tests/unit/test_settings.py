from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tatame_db.settings import (
    AppSettings,
    EnvFileUnreadable,
    ProjectFileInvalid,
    Settings,
    SettingsInvalid,
    unusable_data_home,
)


def test_an_env_file_in_another_encoding_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("TATAME_ENV=produção".encode("latin-1"))
    with pytest.raises(EnvFileUnreadable, match="UTF-8"):
        Settings.from_env()


@pytest.mark.skipif(os.geteuid() != 0, reason="the server of an ordinary user runs as this user")
def test_root_uses_a_data_home_that_the_servers_user_can_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv("XDG_DATA_HOME", home)
        Path(home).chmod(0o700)
        assert unusable_data_home() == home
        assert Settings.from_env().data_directory == Path("/var/lib/tatame-db")
        Path(home).chmod(0o755)
        assert unusable_data_home() is None
        assert Settings.from_env().data_directory == Path(home) / "tatame-db"


@pytest.mark.parametrize("variable", ["TATAME_DATA_DIR", "TATAME_BACKUP_DIR"])
def test_a_relative_directory_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    assert Settings.from_env().backup_directory is None
    monkeypatch.setenv(variable, "data")
    with pytest.raises(SettingsInvalid, match=f"{variable} is the relative path"):
        Settings.from_env()
    monkeypatch.setenv(variable, "~/data")
    settings = Settings.from_env()
    assert Path.home() / "data" in {settings.data_directory, settings.backup_directory}


def test_the_nearest_env_file_of_the_parents_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://far.example/x\n")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / ".env").write_text("DATABASE_URL=postgresql://near.example/x\n")
    (tmp_path / "near" / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "near" / "deep")
    address = Settings.from_env().address
    assert address
    assert address.host == "near.example"


def test_option_comes_before_environment_before_file_before_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def host() -> str | None:
        address = Settings.from_env().address
        return address.host if address else None

    assert host() is None
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://file.example/x\n")
    assert host() == "file.example"
    monkeypatch.setenv("DATABASE_URL", "postgresql://environment.example/x")
    assert host() == "environment.example"
    from_option = Settings.from_env(database_url="postgresql://option.example/x").address
    assert from_option
    assert from_option.host == "option.example"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("USE_POSTGRES_USERS", "")
    assert Settings.from_env().address is None


def test_the_flag_of_a_table_overrides_the_general_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Settings.from_env().use_postgres("users")
    monkeypatch.setenv("USE_POSTGRES", "true")
    (tmp_path / ".env").write_text("USE_POSTGRES_GYMS=false\nUSE_POSTGRES_APP_STORES=0\n")
    settings = Settings.from_env()
    flags = [settings.use_postgres(table) for table in ("users", "gyms", "app_stores")]
    assert flags == [True, False, False]
    monkeypatch.setenv("USE_POSTGRES", "false")
    monkeypatch.setenv("USE_POSTGRES_GYMS", "true")
    assert Settings.from_env().use_postgres("gyms")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("USE_POSTGRES", "perhaps"),
        ("USE_POSTGRES_USERS", "perhaps"),
        ("USE_POSTGRES_USRS", "true"),
        ("TATAME_ENV", "prod"),
        ("TATAME_POOL_SIZE", "0"),
        ("TATAME_POOL_SIZE", "many"),
        ("TATAME_POOL_TIMEOUT_SECONDS", "nan"),
        ("TATAME_POOL_TIMEOUT_SECONDS", "-1"),
        ("TATAME_STATEMENT_TIMEOUT_MS", "1.5"),
        ("TATAME_STATEMENT_TIMEOUT_MS", "9999999999"),
        ("TATAME_CONNECT_TIMEOUT_SECONDS", "1"),
        ("TATAME_APPLICATION_NAME", " "),
        ("TATAME_SLOW_STATEMENT_MS", "-1"),
    ],
)
def test_a_variable_with_an_invalid_value_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as caught:
        Settings.from_env()
    assert list(caught.value.problems) == [name]


def test_the_flag_of_an_unknown_table_is_an_error() -> None:
    with pytest.raises(SettingsInvalid, match="stripe_customers"):
        Settings.from_env().use_postgres("stripe_customers")


def test_production_has_no_default_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TATAME_ENV", "production")
    with pytest.raises(SettingsInvalid, match="DATABASE_URL"):
        Settings.from_env()


def test_the_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.setenv(name, "very-secret")
    for name in ("DATABASE_URL", "TEST_DATABASE_URL", "SUPABASE_DB_URL"):
        monkeypatch.setenv(name, "postgresql://u:very-secret@h/d")
    settings = Settings.from_env()
    assert "very-secret" not in f"{settings} {settings!r} {settings.model_dump()} {settings.address!r}"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_env().environment = "test"


def test_the_options_of_a_database_come_from_the_environment_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("TATAME_POOL_SIZE=5\nTATAME_SLOW_STATEMENT_MS=250\n")
    monkeypatch.setenv("TATAME_POOL_SIZE", "7")
    monkeypatch.setenv("TATAME_POOL_TIMEOUT_SECONDS", "2.5")
    monkeypatch.setenv("TATAME_STATEMENT_TIMEOUT_MS", "15000")
    monkeypatch.setenv("TATAME_APPLICATION_NAME", "check-in api")
    assert Settings.from_env().database_options == {
        "pool_size": 7,
        "pool_timeout_seconds": 2.5,
        "statement_timeout_ms": 15_000,
        "connect_timeout_seconds": 2,
        "application_name": "check-in api",
        "slow_statement_ms": 250,
        "log_statements": True,
    }


def project(folder: Path, table: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pyproject.toml"
    file.write_text(table)
    return file


def test_the_app_is_that_of_the_nearest_project_file_with_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.from_env().app is None
    project(tmp_path / "far", '[tool.tatame-db]\nmodels = ["far.models"]\nmigrations = "migrations"\n')
    project(tmp_path / "far" / "near", "[tool.other]\nmodels = []\n")
    project(tmp_path / "far" / "near" / "broken", "[tool.other\n")
    monkeypatch.chdir(tmp_path / "far" / "near" / "broken")
    app = Settings.from_env().app
    assert app == AppSettings(["far.models"], tmp_path / "far" / "migrations", tmp_path / "far")


def test_the_app_of_the_environment_comes_before_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path, '[tool.tatame-db]\nmodels = ["file.models"]\nmigrations = "of_file"\n')
    (tmp_path / ".env").write_text("TATAME_MODELS=dotenv.models\n")
    assert Settings.from_env().app == AppSettings(["dotenv.models"], tmp_path / "of_file", tmp_path)
    monkeypatch.setenv("TATAME_MODELS", "one.models, two.models,")
    monkeypatch.setenv("TATAME_MIGRATIONS", "of_environment")
    app = Settings.from_env().app
    assert app == AppSettings(["one.models", "two.models"], tmp_path / "of_environment", tmp_path)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("models = 'gymapi.models'", "`models`: Input should be a valid list"),
        ("model = ['gymapi.models']", "`models`: Field required; `model`: Extra inputs are not permitted"),
        ("models = []", "`models`: List should have at least 1 item"),
        ("models = [", "it is not valid TOML: "),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path: Path, table: str, problem: str) -> None:
    file = project(tmp_path, f"[tool.tatame-db]\n{table}\n")
    with pytest.raises(ProjectFileInvalid) as found:
        _ = Settings.from_env().app
    assert found.value.what.startswith(f"{file}: {problem}")
