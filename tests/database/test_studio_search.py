"""The search over several columns, with an index and without one, and the lists of rows that are shown while typing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import URL, event, select, text
from tests.database.conftest import serving

from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.schema import Base
from tatame_db.studio import search
from tatame_db.studio.access import Access, open_access
from tatame_db.studio.rows import read_selection
from tatame_db.studio.search import outer_function
from tatame_db.studio.transactions import read_transaction
from tatame_db.testing.runs import Run

Client = Any
PAGE = Path(__file__).parents[2] / "docs" / "see-your-data.md"
PEOPLE = [
    # first_name, last_name, email, phone
    ("João", "Gomes", "jg@gym.example", "+55 (11) 91234-5678"),
    ("Joa\u0303o", "Silva", "joaosilva@gym.example", None),
    ("JOÃO", "Da Conceição", None, "11 4002-8922"),
    ("Maria", "João Gomes", None, None),
    ("Jürgen", "Straße", "strasse@gym.example", None),
    ("İpek", "Öztürk", None, None),
    ("Ana", "100%_\\", "o'neil@gym.example", None),
    ("محمد", "علي", None, None),
    ("\u202eevil\u202c", "<b>", None, None),
    ("Łukasz", "Bjørn", None, None),
]
QUERIES: list[tuple[str, list[int]]] = [
    ("joao", [1, 2, 3, 4]),
    ("JOÃO", [1, 2, 3, 4]),
    ("Joa\u0303o", [1, 2, 3, 4]),
    ("joao gomes", [1, 4]),
    ("  gomes\tjoao \u00a0", [1, 4]),
    ("oao ome", [1, 4]),
    ("gomes gym.example", [1]),
    ("gomes silva", []),
    ("conceicao", [3]),
    ("jo da", [3]),
    ("ç", [3]),
    ("strasse", [5]),
    ("Straße", [5]),
    ("ipek ozturk", [6]),
    ("İPEK", [6]),
    ("lukasz bjorn", [10]),
    ("%", [7]),
    ("_", [7]),
    ("\\", [7]),
    ("100%_\\", [7]),
    ("%a%", []),
    ("j.*o", []),
    ("***=x", []),
    ("(?i)joao", []),
    ("[", []),
    ("o'neil", [7]),
    ("' OR true --", []),
    ("'); DROP TABLE users; --", []),
    ("$1 {x} :name %s %(a)s", []),
    ("محمد", [8]),
    ("<b>", [9]),
    ("evil", [9]),
    ("11912345678", [1]),
    ("91234-5678", [1]),
    ("(11)91234", [1]),
    ("40028922", [3]),
    ("7", [1, 7]),
    ("007", [7]),
    ("99999999999999999999", []),
    ("-1", []),
    ("ा \u0301", []),
    ("\U0001f94b", []),
    ("", list(range(1, 11))),
    ("\u0303", list(range(1, 11))),
]


def statements() -> list[str]:
    """Return the statements of the page, which an app declares beside its models."""
    [code] = re.findall(r"^(STATEMENTS = \[.*?^\])", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102, our own page
    return list(found["STATEMENTS"])


def fill(database: Database, *, indexed: bool) -> None:
    insert = "INSERT INTO users (clerk_user_id, first_name, last_name, email, phone, expo_push_token) VALUES "
    rows = [
        {"first": first, "last": last, "email": email, "phone": phone, "key": f"k{'abcdefghij'[place]}"}
        for place, (first, last, email, phone) in enumerate(PEOPLE)
    ]
    with database.engine.begin() as connection:
        connection.execute(text(insert + "(:key, :first, :last, :email, :phone, 'secret-token')"), rows)
        connection.execute(
            text("INSERT INTO gyms (name, address, since) VALUES ('São João', '', '2019'), ('Norte', '', '')")
        )
        connection.execute(text("UPDATE users SET gym_id = 2 WHERE id < 9"))
        for statement in statements() if indexed else []:
            connection.exec_driver_sql(statement)
        connection.execute(text("ANALYZE"))


@pytest.fixture(scope="module", params=["plain", "indexed"])
def people(_tatame_run: Run, request: pytest.FixtureRequest) -> Generator[tuple[Client, Database]]:
    with Database(_tatame_run.clone()) as database:
        fill(database, indexed=request.param == "indexed")
        with serving(open_access(database, embedded=True, write=False)) as client:
            yield client, database
    _tatame_run.sandbox.drop(str(database.address.database))


def test_every_word_is_found_in_any_column_without_case_and_accents(people: tuple[Client, Database]) -> None:
    client, _ = people
    wrong = {}
    for typed, ids in QUERIES:
        keys = client.get("/api/rows/users", q=typed, columns="id")["keys"]
        counted = client.get("/api/count/users", q=typed)["rows"]
        if (keys, counted) != ([str(key) for key in ids], len(ids)):
            wrong[typed] = (keys, counted)
    assert wrong == {}


def test_a_search_combines_with_filter_sort_export_and_paging(people: tuple[Client, Database]) -> None:
    client, _ = people
    above = '{"column":"id","op":">","value":"1"}'
    found = client.get("/api/rows/users", q="joao", filter=above, sort="-last_name", columns="id", limit="2")
    assert found["keys"] == ["2", "4"]
    after = client.get("/api/rows/users", q="joao", filter=above, sort="-last_name", columns="id", after=found["next"])
    assert (after["keys"], after["next"]) == (["3"], None)
    assert client.ask("/api/export/users.csv?columns=id&q=joao%20gomes").text == "id\r\n1\r\n4\r\n"
    assert client.ask("/api/rows/users?q=secret-token").json["rows"] == []


def test_rows_are_found_by_the_names_that_their_references_show(people: tuple[Client, Database]) -> None:
    client, database = people
    with database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO class (modality, gym_id, instructor_id) VALUES ('Kids', 1, 3), ('No-Gi', 2, 1)")
        )
        connection.execute(text("INSERT INTO checkins (user_id, class_id) VALUES (1, 1), (2, 2), (NULL, 2)"))
    found = {
        (table, typed): client.get(f"/api/rows/{table}", q=typed, columns="id")["keys"]
        for table, typed in [
            ("users", "norte"),
            ("users", "NORTE gomes"),
            ("class", "conceicao"),
            ("class", "sao joao"),
            ("class", "gomes"),
            ("checkins", "joao silva"),
            ("checkins", "no-gi"),
            ("checkins", "joao kids"),
            ("checkins", "joaosilva@gym"),
        ]
    }
    assert found == {
        ("users", "norte"): [str(key) for key in range(1, 9)],
        ("users", "NORTE gomes"): [],
        ("class", "conceicao"): ["1"],
        ("class", "sao joao"): ["1"],
        ("class", "gomes"): ["2"],
        ("checkins", "joao silva"): ["2"],
        ("checkins", "no-gi"): ["2", "3"],
        ("checkins", "joao kids"): [],
        # A name is what a reference shows, and nothing else of the row.
        ("checkins", "joaosilva@gym"): [],
    }
    assert client.get("/api/count/checkins", q="silva") == {"rows": 1}
    exported = client.ask("/api/export/class.csv?columns=id,gym_id,instructor_id&names=1").text.splitlines()
    assert exported == [
        "id,gym_id,gym_id (name),instructor_id,instructor_id (name)",
        '1,1,"São João",3,"JOÃO Da Conceição"',
        '2,2,"Norte",1,"João Gomes"',
    ]
    [first, _] = client.ask("/api/export/class.json?columns=gym_id&names=1").json
    assert first == {"gym_id": 1, "gym_id (name)": "São João"}
    assert "user_id (names)" in client.get("/api/rows/checkins", q="silva")["search"]["columns"]
    with database.engine.begin() as connection:
        connection.execute(text("REVOKE SELECT ON gyms FROM tatame_studio"))
    try:
        assert client.get("/api/rows/users", q="norte")["keys"] == []
    finally:
        with database.engine.begin() as connection:
            connection.execute(text("GRANT SELECT ON gyms TO tatame_studio; DELETE FROM checkins; DELETE FROM class"))


@pytest.mark.parametrize(
    "path",
    [
        "/api/rows/users?q=",
        "/api/count/users?q=",
        "/api/export/users.csv?q=",
        "/api/find?table=users&q=",
        "/api/search?q=",
    ],
)
def test_a_search_that_cannot_be_one_is_refused(filled_studio: Client, path: str) -> None:
    for typed, problem in {"a%00b": "NUL", "x" * 10_000: "200 characters", "+".join("abcdefghijk"): "10 words"}.items():
        response = filled_studio.ask(path + typed)
        assert (response.status, problem in response.json["what"]) == (400, True), response.text


def test_the_longest_search_reads_the_longest_text(filled_studio: Client) -> None:
    assert filled_studio.get("/api/rows/users", q="ãs" * 100)["rows"] == []
    assert filled_studio.get("/api/rows/users", q="é" * 200, columns="id")["keys"] == ["1"]


def test_a_search_reads_the_index_of_any_name_and_shows_the_first_thousand_of_many(
    committed_database: Database, serve_studio: Callable[[Access], Client]
) -> None:
    more = (
        "INSERT INTO users (clerk_user_id, first_name, last_name) SELECT 'u' || n, (ARRAY['Ana', 'Bia'])[1 + n % 2],"
        " (ARRAY['Prado', 'Souza'])[1 + n % 2] FROM generate_series(1, 6000) n"
    )
    fill(committed_database, indexed=True)
    with committed_database.engine.begin() as connection:
        connection.execute(text(more))
        connection.exec_driver_sql("""ALTER INDEX users_search_index RENAME TO "Any: 'name' %%s(" """)
        connection.execute(text("ANALYZE"))
    client = serve_studio(open_access(committed_database, embedded=True, write=False))
    # Two frequent names that no row has together: the planner alone would read the table.
    for typed, more_than_shown in {"Ana Souza": False, "Ana Prado": True, "ana": True, "zzz": False}.items():
        plan = asyncio.run(plan_of(committed_database.address, typed))
        assert "Bitmap Index Scan" in plan or typed == "ana", plan
        assert "Seq Scan" not in plan or typed == "ana", plan
        page = client.get("/api/rows/users", q=typed, columns="id", last="1")
        assert (page["search"]["index"], page["search"]["more"]) == ("Any: 'name' %s(", more_than_shown)
        assert page["search"]["reads_all"] is False
    assert client.get("/api/count/users", q="ana prado") == {"rows": 3000}
    statements: list[str] = []
    engine = client.server._studio.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    page = client.get("/api/rows/users", q="nobody")
    assert (page["rows"], page["next"], page["estimated"], page["search"]["rows"]) == ([], None, 0, 0)
    assert len(statements) <= 11, "\n".join(statements)
    in_order = client.get("/api/rows/users", q="ana prado", sort="-id", columns="id", limit="1")
    assert (in_order["keys"], in_order["search"]["more"]) == (["6010"], False)
    assert client.get("/api/search", q="ana prado")[0]["label"] == "Ana Prado"


async def plan_of(address: URL, typed: str) -> str:
    database, selection = AsyncDatabase(address), read_selection(Base.metadata.tables["users"])
    async with read_transaction(database) as connection:
        found = await search.read_search(connection, selection.table, typed)
        assert found
        whole = search.with_condition(selection, found.condition)
        query = whole.filtered(select(selection.table.c.id)).limit(1001).compile(dialect=connection.dialect)
        async with search.by_index(connection, whole, found):
            plan = await connection.exec_driver_sql(f"EXPLAIN {query}", query.params)
            lines = list(plan.scalars())
    await database.engine.dispose()
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("expression", "function"),
    [
        ("folded((a || b))", "folded"),
        ("public.folded(a)", "public.folded"),
        ('"My ""F"" ("(a || \')\'::text)', '"My ""F"" ("'),
        ("lower(a) || lower(b)", None),
        ("(a || b)", None),
        ("lower(')'::text || \"(\")", "lower"),
    ],
)
def test_the_function_around_an_expression_is_read_from_its_text(expression: str, function: str | None) -> None:
    assert outer_function(expression) == function


# --- References and names ---------------------------------------------------------------------------------------------


def test_a_reference_offers_rows_by_name_and_the_typed_key_first(people: tuple[Client, Database]) -> None:
    client, _ = people
    assert client.get("/api/find", table="users", q="joao gomes") == [
        {"key": "1", "label": "João Gomes"},
        {"key": "4", "label": "Maria João Gomes"},
    ]
    assert [row["key"] for row in client.get("/api/find", table="users", q="7")] == ["7", "1"]
    assert client.get("/api/find", table="users", q="999") == []
    assert client.get("/api/find", table="users", q="maria joão gomes")[0]["key"] == "4"
    assert [row["key"] for row in client.get("/api/find", table="users", q="JOÃO DA conceição")] == ["3"]
    assert client.get("/api/find", table="roles", q="") == []
    assert len(client.get("/api/find", table="users")) == 10
    assert client.get("/api/search", q="sao joao") == [{"table": "gyms", "key": "1", "label": "São João"}]
    assert client.get("/api/search") == []


def test_a_page_names_the_rows_that_it_refers_to_unless_they_are_off(people: tuple[Client, Database]) -> None:
    client, database = people
    assert client.get("/api/rows/users", limit="2")["names"] == {"gyms": {"2": "Norte"}}
    assert client.get("/api/rows/users", limit="2", names="0")["names"] == {}
    assert client.get("/api/row/users/3")["label"] == "JOÃO Da Conceição"
    assert client.get("/api/row/users/3")["references"]["gym_id"]["label"] == "Norte"
    assert client.get("/api/names/users", keys='["3","8","99"]') == {"3": "JOÃO Da Conceição", "8": "محمد علي"}
    for keys in ("x", '["a"', "[1]", "[" + ",".join(['"1"'] * 1001) + "]"):
        assert client.ask(f"/api/names/users?keys={quote(keys)}").status == 400
    with database.engine.begin() as connection:
        connection.execute(text("REVOKE SELECT ON gyms FROM tatame_studio"))
    try:
        assert client.get("/api/rows/users", limit="2")["names"] == {}
    finally:
        with database.engine.begin() as connection:
            connection.execute(text("GRANT SELECT ON gyms TO tatame_studio"))


def test_a_search_while_typing_ends_in_words_when_it_takes_too_long(
    studio: Client, committed_database: Database
) -> None:
    with committed_database.engine.begin() as connection:
        # Another session changes the table, so that the search waits.
        connection.execute(text("LOCK TABLE users"))
        response = studio.ask("/api/find?table=users&q=joao")
    assert (response.status, response.json["what"]) == (422, "the search took longer than 2 seconds")
