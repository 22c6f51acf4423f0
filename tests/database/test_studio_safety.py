"""The studio under attack: from other pages, from other hosts, and by SQL that the user pastes."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import pytest
from sqlalchemy import text

from tatame_db.database.pool import Database
from tatame_db.roles.script import TEMP_FILE_LIMIT
from tatame_db.studio.access import READER, WRITER, Access, RoleTooPowerful, open_access

Client = Any
EVERYTHING = ["/", "/t/users", "/sql", "/static/studio.js", "/api/session", "/api/rows/users", "/api/export/users.csv"]
ASK = {"id": "one", "tab": "one", "text": "SELECT 1"}


# --- Signing in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERYTHING)
def test_without_the_cookie_nothing_is_shown(filled_studio: Client, path: str) -> None:
    response = type(filled_studio)(filled_studio.server).ask(path)

    assert response.status == 401
    assert "tatame-db studio" in response.text
    assert "users" not in response.text


@pytest.mark.parametrize("cookie", ["", "{name}=wrong", "{name}={token}", "other={value}", "{name}=\u00e9", '{name}="'])
def test_a_wrong_cookie_is_refused(filled_studio: Client, cookie: str) -> None:
    name, _, value = filled_studio.cookie.partition("=")
    wrong = cookie.format(name=name, value=value, token=filled_studio.server.guard.token)

    assert type(filled_studio)(filled_studio.server, wrong).ask("/api/session").status == 401


def test_the_token_is_exchanged_for_a_cookie_and_removed_from_the_address(filled_studio: Client) -> None:
    token = filled_studio.server.guard.token
    response = type(filled_studio)(filled_studio.server).ask(f"/t/users?sort=-id&token={token}&filter=%7B%22%26%22%7D")

    assert (response.status, response.headers["Location"]) == (303, "/t/users?sort=-id&filter=%7B%22%26%22%7D")
    cookie = response.headers["Set-Cookie"]
    assert token not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))


def test_signing_in_never_redirects_to_another_host(filled_studio: Client) -> None:
    response = filled_studio.ask(f"//evil.example/t?token={filled_studio.server.guard.token}")

    assert response.headers["Location"] == "/evil.example/t"


def test_a_wrong_token_is_refused_even_with_the_cookie(filled_studio: Client) -> None:
    assert filled_studio.ask("/?token=wrong").status == 401
    assert filled_studio.ask("/?token=").status == 401
    assert filled_studio.ask(f"/api/session?token={filled_studio.server.guard.token}", Cookie=None).status == 401


def test_a_one_time_token_signs_in_once(filled_studio: Client) -> None:
    token = filled_studio.server.guard.one_time_token()
    stranger = type(filled_studio)(filled_studio.server)

    assert [stranger.ask(f"/?token={token}").status for _ in range(2)] == [303, 401]


def test_the_studio_listens_on_the_loopback_address_only(filled_studio: Client) -> None:
    [listener] = filled_studio.server.servers
    assert [sock.getsockname()[0] for sock in listener.sockets] == ["127.0.0.1"]


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "[::1]:{port}",
    ],
)
@pytest.mark.parametrize("path", ["/?token={token}", "/api/session"])
def test_a_rebound_host_is_refused(filled_studio: Client, host: str | None, path: str) -> None:
    sent = host and host.format(port=filled_studio.server.port)
    response = filled_studio.ask(path.format(token=filled_studio.server.guard.token), Host=sent)

    assert response.status in {400, 421} if host is None else response.status == 421
    assert "Set-Cookie" not in response.headers


def test_localhost_is_accepted(filled_studio: Client) -> None:
    assert filled_studio.ask("/api/session", Host=f"localhost:{filled_studio.server.port}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": None},
        {"Origin": None, "Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/api/sql", "/api/sql/cancel", "/api/changes"])
def test_another_page_cannot_run_or_change_anything(
    filled_studio: Client, path: str, headers: dict[str, str | None]
) -> None:
    sent = {name: value and value.format(port=filled_studio.server.port) for name, value in headers.items()}

    assert filled_studio.ask(path, ASK, **sent).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_cannot_load_data(filled_studio: Client, site: str) -> None:
    assert filled_studio.ask("/api/rows/users", Sec_Fetch_Site=site).status == 403


def test_a_page_of_the_studio_is_accepted(filled_studio: Client) -> None:
    assert filled_studio.ask("/api/sql", ASK, Sec_Fetch_Site="same-origin").status == 200
    assert filled_studio.ask("/api/sql", ASK, Sec_Fetch_Site="same-origin", Origin=None).status == 200
    assert filled_studio.ask("/api/rows/users", Sec_Fetch_Site="none").status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_the_content_types_of_a_form_are_refused(filled_studio: Client, kind: str | None) -> None:
    assert filled_studio.ask("/api/sql", ASK, Content_Type=kind).status == 400


def test_cors_admits_no_other_origin(filled_studio: Client) -> None:
    headers = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
    for method in ("OPTIONS", "GET"):
        response = filled_studio.ask("/api/sql", method=method, **headers)
        assert response.status in {403, 404, 405}
        assert [name for name in response.headers if name.lower().startswith("access-control")] == []


@pytest.mark.parametrize("path", [*EVERYTHING, "/api/nothing", "/static/nothing", "/api/rows/nothing"])
@pytest.mark.parametrize("signed_in", [True, False])
def test_every_response_forbids_frames_sniffing_foreign_scripts_and_caching(
    filled_studio: Client, path: str, signed_in: bool
) -> None:
    response = (filled_studio if signed_in else type(filled_studio)(filled_studio.server)).ask(path)

    headers = response.headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == ("'none'", "'none'", "'self'")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cache-Control"] == ("no-cache" if path.startswith("/static/") else "no-store")


def test_the_page_has_no_inline_script_and_a_new_nonce_each_time(filled_studio: Client) -> None:
    pages = [filled_studio.ask("/t/users") for _ in range(2)]
    nonces = [re.findall("'nonce-([^']+)'", page.headers["Content-Security-Policy"])[0] for page in pages]

    assert nonces[0] != nonces[1]
    assert [nonce in page.text for nonce, page in zip(nonces, pages, strict=True)] == [True, True]
    assert "{{" not in pages[0].text
    assert re.findall(r"<script(?![^>]* src=)", pages[0].text) == []
    assert re.findall(r"\son\w+=|javascript:", pages[0].text) == []


def test_only_static_files_are_served(filled_studio: Client) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"):
        assert filled_studio.ask(path).status == 404


# --- SQL --------------------------------------------------------------------------------------------------------------

ATTACKS = {
    "UPDATE users SET email = 'x'": "25006",
    "INSERT INTO roles VALUES ('x')": "25006",
    "DELETE FROM users": "25006",
    "TRUNCATE users CASCADE": "25006",
    "WITH gone AS (DELETE FROM users RETURNING id) SELECT * FROM gone": "25006",
    "EXPLAIN ANALYZE DELETE FROM users": "25006",
    "SELECT * FROM users FOR UPDATE": "25006",
    "CREATE TABLE mine (id int)": "25006",
    "CREATE TEMP TABLE mine (id int)": "25006",
    "DROP TABLE users": "25006",
    "SELECT nextval('users_id_seq')": "42501",
    "SELECT setval('users_id_seq', 1)": "42501",
    "SET TRANSACTION READ WRITE": "25001",
    "DO $$ BEGIN SET TRANSACTION READ WRITE; UPDATE users SET email = 'x'; END $$": "25001",
    "DO $$ BEGIN PERFORM set_config('transaction_read_only', 'off', false); DELETE FROM users; END $$": "25001",
    "DO $$ BEGIN COMMIT; UPDATE users SET email = 'x'; END $$": "2D000",
    "COPY users TO PROGRAM 'id'": "42501",
    "COPY users FROM PROGRAM 'id'": "42501",
    "COPY users TO '/tmp/tatame-users'": "42501",
    "COPY users FROM '/etc/passwd'": "42501",
    "SELECT * FROM pg_shadow": "42501",
    "SELECT * FROM pg_authid": "42501",
    "SELECT pg_read_file('/etc/passwd')": "42501",
    "SELECT pg_ls_dir('/')": "42501",
    "SELECT lo_import('/etc/passwd')": "42501",
    "SELECT lo_from_bytea(0, 'x')": "25006",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' AND pid <> 0": "42501",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' AND pid <> 0": "42501",
    "SELECT pg_reload_conf()": "42501",
    "SELECT pg_create_physical_replication_slot('x')": "42501",
    "SET ROLE postgres": "42501",
    "SET SESSION AUTHORIZATION postgres": "42501",
    "SELECT set_config('role', 'postgres', false)": "42501",
    "ALTER ROLE tatame_studio SUPERUSER": "25006",
    "GRANT pg_write_all_data TO tatame_studio": "25006",
    "CREATE EXTENSION dblink": "25006",
    "ALTER SYSTEM SET fsync = off": "25001",
    "LOAD 'plpgsql'": "42501",
    "VACUUM": "25001",
    "PREPARE TRANSACTION 'x'": "25006",
}


def test_sql_in_a_read_only_studio_changes_nothing(filled_studio: Client, filled_database: Database) -> None:
    everything = text("SELECT string_agg(email, ',' ORDER BY id), count(*) FROM users")
    # A session of the superuser, which some of the statements try to end.
    with filled_database.engine.connect() as other:
        before = other.execute(everything).all()
        for statement, code in ATTACKS.items():
            assert filled_studio.error(statement)["code"] == code, statement
            assert other.execute(everything).all() == before, statement
            assert filled_studio.error("UPDATE users SET email = 'x'")["code"] == "25006", statement


@pytest.mark.parametrize("statement", ["COPY users TO STDOUT", "COPY roles FROM STDIN"])
def test_copy_to_the_client_neither_hangs_nor_breaks_the_studio(writing_studio: Client, statement: str) -> None:
    assert "is not supported here" in writing_studio.error(statement)["what"]
    assert writing_studio.run("SELECT 1")[1]["rows"] == [["1"]]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY roles TO PROGRAM 'id'",
        "SELECT setval('users_id_seq', 1)",
        "SELECT pg_read_file('/etc/passwd')",
        "SET ROLE postgres",
        "ALTER ROLE tatame_studio_writer SUPERUSER",
        "DROP TABLE users",
        "CREATE TABLE mine (id int)",
    ],
)
def test_a_writing_studio_changes_rows_and_nothing_else(writing_studio: Client, statement: str) -> None:
    assert writing_studio.error(statement)["code"] == "42501"


# --- Roles ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def role(committed_database: Database) -> Generator[Callable[..., str]]:
    """Create a role that may log in, and grant it rights."""
    name = f"ana_of_{committed_database.address.database}"
    with committed_database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def create(*grants: str) -> str:
            connection.execute(text(f'CREATE ROLE "{name}" LOGIN'))
            for grant in grants:
                connection.execute(text(grant.format(role=f'"{name}"')))
            return name

        yield create
        connection.execute(text(f'DROP OWNED BY "{name}"'))
        connection.execute(text(f'DROP ROLE "{name}"'))


def as_role(database: Database, name: str) -> Database:
    return Database(database.address.set(username=name))


def test_on_another_server_the_transaction_keeps_the_role_from_writing(
    committed_database: Database, role: Callable[..., str], serve_studio: Callable[[Access], Client]
) -> None:
    name = role("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}", "GRANT ALL ON SCHEMA public TO {role}")
    with as_role(committed_database, name) as database:
        studio = serve_studio(open_access(database, embedded=False, write=False))

    assert studio.get("/api/session")["role"] == name
    for statement, code in ATTACKS.items():
        if code in {"25006", "25001", "2D000"} and "EXTENSION" not in statement:
            assert studio.error(statement)["code"] in {code, "42501"}, statement
    assert studio.run("SELECT 1 FROM roles")[-1]["done"]["rows"] == 0


@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        ("ALTER ROLE {role} SUPERUSER", "is a superuser"),
        ("GRANT postgres TO {role}", "is a member of postgres, which is a superuser"),
        ("ALTER ROLE {role} REPLICATION", "replicates"),
        ("GRANT pg_execute_server_program TO {role}", "runs programs"),
        ("GRANT pg_write_server_files TO {role}", "writes files"),
        ("GRANT pg_read_server_files TO {role}", "reads files"),
        ("GRANT pg_signal_backend TO {role}", "ends the sessions of others"),
        ("GRANT pg_read_all_data TO {role}", "reads the password hashes of all roles"),
    ],
)
def test_a_too_powerful_role_is_refused_with_the_reason(
    committed_database: Database, role: Callable[..., str], grant: str, reason: str
) -> None:
    with as_role(committed_database, role(grant)) as database:
        with pytest.raises(RoleTooPowerful, match=reason):
            open_access(database, embedded=False, write=False)
        assert open_access(database, embedded=False, write=True).write


def test_a_read_only_role_logs_in_by_itself(
    committed_database: Database, role: Callable[..., str], serve_studio: Callable[[Access], Client]
) -> None:
    name = role("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    with Database(committed_database.address.set(password="the owner's")) as database:
        access = open_access(database, embedded=False, write=False, read_only_role=name)
    studio = serve_studio(access)

    assert access.address.password is None
    assert studio.run("SELECT session_user")[1]["rows"] == [[name]]
    assert studio.error("SET SESSION AUTHORIZATION postgres")["code"] == "42501"


def test_the_role_of_the_studio_is_refused_after_a_harmful_grant(committed_database: Database) -> None:
    open_access(committed_database, embedded=True, write=False)
    with committed_database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"GRANT pg_read_server_files TO {READER}"))
        try:
            with pytest.raises(RoleTooPowerful, match="reads files"):
                open_access(committed_database, embedded=True, write=False)
        finally:
            connection.execute(text(f"REVOKE pg_read_server_files FROM {READER}"))


def test_an_option_that_the_role_of_the_studio_must_not_have_is_revoked(committed_database: Database) -> None:
    open_access(committed_database, embedded=True, write=False)
    with committed_database.engine.begin() as connection:
        connection.execute(text(f"ALTER ROLE {READER} SUPERUSER"))

    assert open_access(committed_database, embedded=True, write=False).role == READER


def test_a_right_on_a_table_of_the_app_is_named_by_itself(
    committed_database: Database, role: Callable[..., str], serve_studio: Callable[[Access], Client]
) -> None:
    def execute(statements: str) -> None:
        with committed_database.engine.begin() as connection:
            connection.exec_driver_sql(statements)

    execute(
        "CREATE SCHEMA billing;"
        'CREATE TABLE billing."Invoices" (id serial PRIMARY KEY, "to" text, paid bool, who text);'
        "INSERT INTO billing.\"Invoices\" VALUES (1, 'ana'); SELECT setval('billing.\"Invoices_id_seq\"', 1)"
    )
    name = role(
        "GRANT USAGE ON SCHEMA billing TO {role}", 'GRANT SELECT, UPDATE (paid) ON billing."Invoices" TO {role}'
    )
    with as_role(committed_database, name) as database:
        studio = serve_studio(open_access(database, embedded=False, write=True))
    row = {"table": "billing.Invoices", "key": "1"}
    table = f'TABLE billing."Invoices" TO {name}'
    cases = [
        ({"op": "update", **row, "values": {"to": "x"}, "was": {"to": "ana"}}, [f'GRANT UPDATE ("to") ON {table}']),
        ({"op": "delete", **row, "was": {}}, [f"GRANT DELETE ON {table}"]),
        (
            {"op": "insert", "table": row["table"], "values": {"who": "x"}},
            [f"GRANT INSERT ON {table}", f'GRANT USAGE ON SEQUENCE billing."Invoices_id_seq" TO {name}'],
        ),
    ]
    for change, statements in cases:
        refused = studio.ask("/api/changes", {"changes": [change]})
        assert (refused.status, re.findall("(GRANT [^`;]*)", refused.json["fix"])) == (403, statements), refused.text
        assert "public" not in refused.json["what"]
        execute(";".join(statements))
        assert studio.ask("/api/changes", {"changes": [change]}).status == 200, change
        execute("INSERT INTO billing.\"Invoices\" VALUES (1, 'ana') ON CONFLICT DO NOTHING")
    # What no right explains is said with the words of the server.
    execute(
        'ALTER TABLE billing."Invoices" ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON billing."Invoices" USING (true)'
    )
    execute('CREATE POLICY q ON billing."Invoices" AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (paid)')
    change = {"op": "update", **row, "values": {"paid": "false"}, "was": {"paid": None}}
    refused = studio.ask("/api/changes", {"changes": [change]})
    assert (refused.status, "row-level security policy" in refused.json["what"]) == (403, True), refused.text


@pytest.mark.parametrize("write", [False, True])
def test_the_role_of_an_older_version_loses_the_right_to_read_everything(
    committed_database: Database, serve_studio: Callable[[Access], Client], write: bool
) -> None:
    name = WRITER if write else READER
    open_access(committed_database, embedded=True, write=write)
    with committed_database.engine.begin() as connection:
        connection.execute(text(f"GRANT pg_read_all_data, pg_write_all_data TO {name}"))

    studio = serve_studio(open_access(committed_database, embedded=True, write=write))
    assert studio.error("SELECT * FROM pg_shadow")["code"] == "42501"
    assert studio.run("SELECT 1 FROM users")[-1]["done"]["rows"] == 0
    assert studio.run("SHOW temp_file_limit")[1]["rows"] == [[TEMP_FILE_LIMIT]]


def test_a_table_of_a_later_migration_appears_in_a_running_studio(
    committed_database: Database, role: Callable[..., str], serve_studio: Callable[[Access], Client]
) -> None:
    database = committed_database.address.database
    name = role("GRANT CREATE ON SCHEMA public TO {role}", f'GRANT CREATE ON DATABASE "{database}" TO {{role}}')
    with as_role(committed_database, name) as owner, owner.engine.begin() as connection:
        connection.execute(text("CREATE TABLE first (id serial PRIMARY KEY)"))
    studio = serve_studio(open_access(committed_database, embedded=True, write=False))

    for creator in ("postgres", name):
        with as_role(committed_database, creator) as other, other.engine.begin() as connection:
            connection.execute(text("CREATE TABLE later (id serial PRIMARY KEY)"))
        assert studio.run("SELECT count(*) FROM later")[1]["rows"] == [["0"]]
        with committed_database.engine.begin() as connection:
            connection.execute(text("DROP TABLE later"))


def test_a_right_that_a_change_lacks_is_named_with_the_grant(
    committed_database: Database, role: Callable[..., str], serve_studio: Callable[[Access], Client]
) -> None:
    with as_role(committed_database, role("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")) as database:
        studio = serve_studio(open_access(database, embedded=False, write=True))
    insert = {"changes": [{"op": "insert", "table": "versions", "values": {}}]}

    refused = studio.ask("/api/changes", insert)
    assert refused.status == 403
    for lacked in ("DELETE, INSERT, UPDATE on 11 tables of public", "USAGE on 10 sequences of public"):
        assert lacked in refused.json["what"]
    with committed_database.engine.begin() as connection:
        for statement in re.findall("(GRANT [^`;]*)", refused.json["fix"]):
            connection.execute(text(statement))
    assert studio.ask("/api/changes", insert).status == 200


def test_a_right_that_a_page_lacks_is_named_with_the_grant(
    committed_database: Database, role: Callable[..., str], serve_studio: Callable[[Access], Client]
) -> None:
    name = role("GRANT SELECT ON gyms TO {role}")
    with as_role(committed_database, name) as database:
        studio = serve_studio(open_access(database, embedded=False, write=False))

    overview = studio.get("/api/overview")
    assert f"the role {name} has too few rights" in overview["problems"]["schema"]["what"]
    assert len(overview["tables"]) == 11
    for path in ("/api/rows/users", "/api/count/users", "/api/find?table=users&q=a", "/api/row/users/1"):
        refused = studio.ask(path)
        assert refused.status == 403
        assert "SELECT on 10 tables of public" in refused.json["what"]
    with committed_database.engine.begin() as connection:
        for statement in re.findall("(GRANT [^`;]*)", refused.json["fix"]):
            connection.execute(text(statement))
    assert studio.get("/api/overview")["problems"] == {}
    assert studio.get("/api/rows/users")["rows"] == []
    assert studio.get("/api/move")["ever"] is False
