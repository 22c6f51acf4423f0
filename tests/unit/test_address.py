from __future__ import annotations

import pytest

from tatame_db.database.address import AddressInvalid, is_local, parse_address, readable

SECRET = "p%@:/#[w"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "POSTGRESQL", "postgresql+psycopg"])
def test_every_scheme_for_postgresql_is_accepted(scheme: str) -> None:
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


def test_several_hosts_are_read() -> None:
    address = parse_address("postgresql://ana:p,w@one.example,[::1]:5433,three.example:5434/x?target_session_attrs=any")
    assert (address.username, address.password, address.database) == ("ana", "p,w", "x")
    assert (address.host, address.port) == (None, None)
    assert address.query == {
        "host": "one.example,::1,three.example",
        "port": "5432,5433,5434",
        "target_session_attrs": "any",
    }
    assert readable(address).startswith("postgresql://ana@/x?host=one.example")
    assert parse_address(readable(address)).query == address.query


def test_an_at_sign_in_the_options_does_not_end_a_password() -> None:
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
        ("postgresql://ana:SECRET@h1,,h2/db", "empty name"),
        ("postgresql://ana:SECRET@h1:1,h2:x/db", "port"),
        ("postgresql://ana:SECRET@h1,h2/db?target_session_attrs=prefer-standby", "`standby`"),
        ("postgresql://ana:SECRET@/db?host=h1,h2&target_session_attrs=prefer-standby", "`standby`"),
        ("postgresql://ana:SECRET@h/db?pgbouncer=true", "pgbouncer"),
        ("postgresql://ana:SECRET@h/db?sslmode", "name=value"),
        ("postgresql://ana:SECRET@h", "no database"),
        ("postgresql://ana@h/db?sslpassword=SECRET", "sslpassword"),
    ],
)
def test_a_malformed_address_is_reported_and_not_repeated(text: str, problem: str) -> None:
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
        ("postgresql://localhost:5432,127.0.0.1:5433/x", True),
        ("postgresql://localhost,db.example/x", False),
    ],
)
def test_a_local_database_is_recognized(text: str, *, local: bool) -> None:
    assert is_local(parse_address(text)) is local


def test_a_host_from_the_environment_counts_as_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert not is_local(parse_address("postgresql:///x"))


def test_a_password_in_the_options_is_never_shown() -> None:
    address = parse_address("postgresql://h?user=ana&password=SECRET&dbname=tatame&sslmode=require")
    assert (address.username, address.password, address.database) == ("ana", "SECRET", "tatame")
    assert address.query == {"sslmode": "require"}
    assert "SECRET" not in f"{address} {address!r}"
