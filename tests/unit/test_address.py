from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tatame_db.database.address import AddressInvalid, is_local, parse_address, readable

SECRET = "p%@:/#[w"


@pytest.mark.parametrize(
    "scheme",
    ["postgres", "postgresql", "POSTGRESQL", "postgresql+psycopg", "postgresql+asyncpg", "postgres+pg8000"],
)
def test_every_scheme_for_postgresql_is_accepted(scheme: str) -> None:
    address = parse_address(f"{scheme}://ana:pw@db.example:6543/tatame?sslmode=require")
    assert address.drivername == "postgresql+psycopg"
    assert (address.username, address.password, address.host, address.port, address.database) == (
        *("ana", "pw", "db.example", 6543, "tatame"),
    )
    assert address.query == {"sslmode": "require"}


@pytest.mark.parametrize("quote", ["'", '"', "`"])
def test_quotes_around_an_address_are_not_part_of_it(quote: str) -> None:
    written = "postgresql://ana:p'w\"@db.example/tatame"
    assert parse_address(f" {quote}{written}{quote}\n") == parse_address(written)


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("pgbouncer=true", "remove pgbouncer from the address; a pooler is detected"),
        ("schema=public", "remove schema from the address; the tables are in the schema `public`"),
        ("connection_limit=1", "remove connection_limit from the address; `TATAME_POOL_SIZE` limits the connections"),
        ("ssl=true", "remove ssl from the address; `sslmode=require` encrypts the connection"),
        ("colour=red", "remove colour from the address"),
    ],
)
def test_an_option_of_another_tool_is_refused_with_what_to_remove(option: str, advice: str) -> None:
    with pytest.raises(AddressInvalid) as caught:
        parse_address(f"postgresql://ana:SECRET@h:6543/db?sslmode=require&{option}")
    assert caught.value.fix == advice
    assert "SECRET" not in str(caught.value)


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
    assert readable(address) == (
        "postgresql://ana@one.example:5432,[::1]:5433,three.example:5434/x?target_session_attrs=any"
    )
    assert parse_address(readable(address)) == address._replace(password=None)
    assert parse_address(readable(address)).query == address.query
    libpq = conninfo_to_dict(readable(address))
    assert (libpq["host"], libpq["port"]) == ("one.example,::1,three.example", "5432,5433,5434")


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


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
def test_a_host_from_the_environment_counts_as_the_address(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "services").write_text("[10.0.0.1]\nhost=db.example\nhostaddr=10.0.0.1\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv(name, "10.0.0.1")
    assert not is_local(parse_address("postgresql:///x"))
    # Otherwise than with psql, an address that names a host leads nowhere else.
    assert is_local(parse_address("postgresql://localhost/x"))
    (tmp_path / ".tatame-db").touch()
    assert is_local(parse_address(f"postgresql:///x?host={tmp_path}"))


def test_the_host_of_a_service_is_not_known() -> None:
    assert not is_local(parse_address("postgresql://localhost/x?service=production"))


def test_a_password_in_the_options_is_never_shown() -> None:
    address = parse_address("postgresql://h?user=ana&password=SECRET&dbname=tatame&sslmode=require")
    assert (address.username, address.password, address.database) == ("ana", "SECRET", "tatame")
    assert address.query == {"sslmode": "require"}
    assert "SECRET" not in f"{address} {address!r}"
