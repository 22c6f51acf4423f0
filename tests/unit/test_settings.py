from __future__ import annotations

from pathlib import Path

import pytest

from tatame_db.database.address import AddressInvalid, is_local, parse_address
from tatame_db.settings import EnvFileUnreadable, Settings, SettingsInvalid

SECRET = "p%@:/#[w"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "POSTGRESQL", "postgresql+psycopg"])
def test_every_way_to_say_postgresql_is_understood(scheme: str) -> None:
    address = parse_address(f"{scheme}://ana:pw@db.example:6543/tatame?sslmode=require")
    assert address.drivername == "postgresql+psycopg"
    assert (address.username, address.password, address.host, address.port, address.database) == (
        *("ana", "pw", "db.example", 6543, "tatame"),
    )
    assert address.query == {"sslmode": "require"}


@pytest.mark.parametrize("written", [SECRET, "p%25%40%3A%2F%23%5Bw", "p%25@:/#%5Bw"])
def test_a_password_with_special_characters_is_read_escaped_or_not(written: str) -> None:
    address = parse_address(f"postgres://ana:{written}@db.example/tatame")
    assert address.password == SECRET
    assert (address.username, address.host, address.database) == ("ana", "db.example", "tatame")
    assert SECRET not in f"{address} {address!r}"


def test_addresses_without_user_with_ipv6_and_with_a_socket_are_read() -> None:
    assert parse_address("postgresql://[::1]:5433/x").host == "::1"
    assert parse_address("postgresql://[::1]:5433/x").port == 5433
    assert parse_address("postgresql:///x?host=/run/my%20dir").query["host"] == "/run/my dir"
    assert parse_address("postgresql://%2Frun%2Fpg/x").host == "/run/pg"


def test_an_at_sign_in_the_options_is_not_taken_for_the_end_of_a_password() -> None:
    address = parse_address("postgresql://ana:p?w@db.example/x?application_name=api@gym")
    assert (address.password, address.host, address.query["application_name"]) == ("p?w", "db.example", "api@gym")
    assert parse_address("postgresql://db.example/x?application_name=a@b").host == "db.example"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mysql://ana:SECRET@h/db", "only PostgreSQL"),
        ("SECRET", "does not start with `postgresql://`"),
        ("postgresql://ana:SECRET@h:port/db", "port"),
        ("postgresql://ana:SECRET@h:70000/db", "port"),
        ("postgresql://ana:SECRET@[::1/db", "`]`"),
        ("postgresql://ana:SECRET@h1,h2/db", "several hosts"),
        ("postgresql://ana:SECRET@h/db?pgbouncer=true", "pgbouncer"),
        ("postgresql://ana:SECRET@h/db?sslmode", "name=value"),
        ("postgresql://ana:SECRET@h", "no database"),
        ("postgresql://ana@h/db?sslpassword=SECRET", "sslpassword"),
    ],
)
def test_a_malformed_address_is_explained_without_being_repeated(text: str, problem: str) -> None:
    with pytest.raises(AddressInvalid) as caught:
        parse_address(text)
    assert problem in str(caught.value)
    assert "SECRET" not in f"{caught.value} {caught.value!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("postgresql:///x", True),
        ("postgresql://localhost/x", True),
        ("postgresql://127.0.0.1/x", True),
        ("postgresql://[::1]/x", True),
        ("postgresql://postgres@/x?host=/run/pg", True),
        ("postgresql://db.example/x", False),
        ("postgresql://127.example/x", False),
        ("postgresql://localhost/x?host=db.example", False),
        ("postgresql://localhost/x?hostaddr=10.0.0.1", False),
    ],
)
def test_a_database_on_this_machine_is_told_from_others(text: str, *, local: bool) -> None:
    assert is_local(parse_address(text)) is local


def test_a_host_from_the_environment_counts_as_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert not is_local(parse_address("postgresql:///x"))


def test_a_password_among_the_options_goes_where_it_is_never_shown() -> None:
    address = parse_address("postgresql://h?user=ana&password=SECRET&dbname=tatame&sslmode=require")
    assert (address.username, address.password, address.database) == ("ana", "SECRET", "tatame")
    assert address.query == {"sslmode": "require"}
    assert "SECRET" not in f"{address} {address!r}"


def test_an_env_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("TATAME_ENV=produção".encode("latin-1"))
    with pytest.raises(EnvFileUnreadable, match="UTF-8"):
        Settings.from_env()


def test_a_relative_data_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TATAME_DATA_DIR", "data")
    with pytest.raises(SettingsInvalid, match="TATAME_DATA_DIR is the relative path"):
        Settings.from_env()
    monkeypatch.setenv("TATAME_DATA_DIR", "~/data")
    assert Settings.from_env().data_directory == Path.home() / "data"


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
    given = Settings.from_env(database_url="postgresql://option.example/x").address
    assert given
    assert given.host == "option.example"


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
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
    ],
)
def test_a_variable_that_means_nothing_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as caught:
        Settings.from_env()
    assert list(caught.value.problems) == [name]


def test_asking_after_a_table_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(SettingsInvalid, match="stripe_customers"):
        Settings.from_env().use_postgres("stripe_customers")


def test_production_has_no_default_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TATAME_ENV", "production")
    with pytest.raises(SettingsInvalid, match="DATABASE_URL"):
        Settings.from_env()


def test_no_secret_shows_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.setenv(name, "very-secret")
    for name in ("DATABASE_URL", "TEST_DATABASE_URL", "SUPABASE_DB_URL"):
        monkeypatch.setenv(name, "postgresql://u:very-secret@h/d")
    settings = Settings.from_env()
    assert "very-secret" not in f"{settings} {settings!r} {settings.model_dump()} {settings.address!r}"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_env().environment = "test"
