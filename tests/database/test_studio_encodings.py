"""Databases whose encoding is not UTF-8: searched, edited, and read as far as their texts can be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import URL, text

from tatame_db.database.pool import Database
from tatame_db.studio.access import Access

Client = Any
Serve = Callable[[str], Client]


@pytest.fixture
def serve_encoded(address: URL, serve_studio: Callable[[Access], Client]) -> Generator[Callable[[str], Client]]:
    """Serve, for writing, a database of an encoding with a table of people."""
    made: list[str] = []
    with Database(address) as database:

        def serve(encoding: str) -> Client:
            name = f"{address.database}_{encoding.lower()}"
            made.append(name)
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                options = "LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
                connection.execute(text(f"CREATE DATABASE {name} ENCODING '{encoding}' {options}"))
            with Database(address.set(database=name)) as encoded, encoded.engine.begin() as connection:
                connection.execute(text("CREATE TABLE people (id int PRIMARY KEY, name text, phone text)"))
                people = "(1, 'João Straße', '11 9000'), (2, 'Ana', ''), (3, 'Łukasz ação', '')"
                people = people if encoding == "SQL_ASCII" else people.replace("Ł", "L")
                connection.execute(text(f"INSERT INTO people VALUES {people}"))
            return serve_studio(Access(address.set(database=name), str(address.username), write=True))

        yield serve
    with Database(address) as database, database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        for name in made:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def found(studio: Client, typed: str) -> list[str]:
    return list(studio.get("/api/rows/people", q=typed)["keys"])


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "SQL_ASCII"])
def test_a_search_uses_the_letters_that_the_database_has(serve_encoded: Serve, encoding: str) -> None:
    studio = serve_encoded(encoding)
    expected = {"joao": ["1"], "JOÃO strasse": ["1"], "straße": ["1"], "acao": ["3"], "lukasz": ["3"], "119000": ["1"]}
    for typed, keys in expected.items():
        assert found(studio, typed) == keys, typed
    assert found(studio, "日本") == []
    assert found(studio, "ж joao") == []
    assert studio.get("/api/find", table="people", q="joão") != []
    if encoding == "SQL_ASCII":
        return
    change = {"op": "update", "table": "people", "key": "2", "values": {"name": "日本"}, "was": {"name": "Ana"}}
    rejected = studio.ask("/api/changes", {"changes": [change]})
    assert (rejected.status, encoding in rejected.text) == (422, True)
    condition = json.dumps({"all": [{"column": "name", "op": "contains", "value": "日本"}]})
    refused = studio.ask(f"/api/rows/people?{urlencode({'filter': condition})}")
    assert (refused.status, refused.json["code"]) == (422, "22P05")
    assert "the encoding of the database lacks" in refused.json["fix"]


def test_a_text_that_is_not_utf8_is_refused_with_its_encoding(serve_encoded: Serve) -> None:
    studio = serve_encoded("SQL_ASCII")
    studio.run("UPDATE people SET name = convert_from('\\x4ae9', 'SQL_ASCII') WHERE id = 2")
    refused = studio.ask("/api/rows/people")
    assert (refused.status, refused.json["code"]) == (422, "22021")
    assert "SQL_ASCII" in refused.json["fix"]
    error = studio.error("TABLE people")
    assert (error["code"], error["fix"]) == ("22021", refused.json["fix"])
    # As the advice says.
    assert studio.get("/api/rows/people", columns="id,phone")["keys"] == ["1", "2", "3"]
    bytes_of = studio.run("SELECT convert_to(name, 'SQL_ASCII') FROM people WHERE id = 2")
    assert bytes_of[1]["rows"] == [["\\x4ae9"]]
