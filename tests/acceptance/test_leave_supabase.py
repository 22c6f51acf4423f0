"""The commands on the pages about the move print what the pages show."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL
from tests.database.days import assert_equal, drop_slots

from tatame_db.database.address import readable
from tatame_db.move.rehearsal.project import run_statements
from tatame_db.schema import phases
from tatame_db.server.embedded import EmbeddedServer

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = Path(sys.executable).with_name("tatame-db")
DOCS = Path(__file__).parents[2] / "docs"
PAGES = "".join((DOCS / name).read_text() for name in ("leave-supabase.md", "move-in-detail.md"))
EXAMPLE = re.compile(
    r"^```sh\n(tatame-db [^\n|]+)\n```\n\nIt prints[^\n]*:\n\n```text\n(.*?)^```\n", re.DOTALL | re.MULTILINE
)

# Compared with the output of a rehearsal, which takes long, where one is tested anyway.
[REHEARSAL] = [(command, shown) for command, shown in EXAMPLE.findall(PAGES) if command == "tatame-db move rehearse"]


def pattern(shown: str) -> str:
    """Return a pattern for an output in which `…` stands for any text, and a line of its own for any lines."""
    lines = [
        "(?s:.*)" if line == "…" else re.sub(" *…", lambda _: ".*", re.escape(line).replace("\\ ", " "))
        for line in shown.splitlines()
    ]
    return "\n".join(lines).replace("(?s:.*)\n", "(?s:.*)")


def test_the_commands_of_the_pages_print_what_they_show(
    invoke: Run, bare_address: URL, address: URL, directory: Path
) -> None:
    for file in ("supabase", "rows", "left_behind"):
        run_statements(bare_address, file, 9_085)
    with psycopg.connect(readable(bare_address)) as connection:
        connection.execute("UPDATE checkins SET date = 'infinity' WHERE id = 41")
    variables = {
        "SUPABASE_DB_URL": readable(bare_address),
        "DATABASE_URL": readable(address),
        "TMPDIR": str(directory),
    }
    examples = [example for example in EXAMPLE.findall(PAGES) if example != REHEARSAL]
    assert [shlex.split(command)[1:3] for command, _ in examples] == [
        ["move", "plan"],
        ["move", "plan"],
        ["move", "copy"],
        ["move", "verify"],
        ["check"],
        ["move", "rejects"],
    ]
    for command, shown in examples:
        done = invoke(*shlex.split(command)[1:], **variables)
        output = done.stdout + (done.stderr if "\nerror: " in shown else "")
        assert re.fullmatch(pattern(shown), output.rstrip("\n")), f"{command} printed:\n{output}"


def test_supabase_is_closed_for_writing_and_opened_again(
    invoke: Run, bare_address: URL, address: URL, server: EmbeddedServer
) -> None:
    run_statements(bare_address, "supabase", 1)
    commands = re.findall(r'^psql "\$SUPABASE_DB_URL" (-c .*)$', PAGES, re.MULTILINE)
    close, reopen = [
        [part.replace("DATABASE postgres", f"DATABASE {bare_address.database}") for part in shlex.split(command)]
        for command in commands
    ]
    write = "INSERT INTO roles (id) VALUES ('REFEREE')"

    def psql(arguments: list[str]) -> None:
        program = [str(server.program("psql")), readable(bare_address), "-v", "ON_ERROR_STOP=1", *arguments]
        done = subprocess.run(program, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

    role = f"service_{secrets.token_hex(4)}"
    with psycopg.connect(readable(bare_address), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN BYPASSRLS; GRANT ALL ON roles TO {role}".encode())
    try:
        app = psycopg.connect(readable(bare_address.set(username=role)), autocommit=True)
        psql(close)
        with pytest.raises(psycopg.OperationalError):
            app.execute(write)
        for user in (role, bare_address.username):
            with (
                psycopg.connect(readable(bare_address.set(username=user)), autocommit=True) as connection,
                pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
            ):
                connection.execute(write)
        variables = {"SUPABASE_DB_URL": readable(bare_address), "DATABASE_URL": readable(address)}
        assert invoke("move", "copy", **variables).returncode == 0
        psql(reopen)
        with psycopg.connect(readable(bare_address.set(username=role)), autocommit=True) as connection:
            connection.execute(write)
    finally:
        psql(reopen)
        with psycopg.connect(readable(bare_address), autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_the_commands_of_the_page_about_the_switch_print_what_they_show(
    invoke: Run, bare_address: URL, address: URL, directory: Path
) -> None:
    run_statements(bare_address, "supabase", 300)
    run_statements(bare_address, "rows", 300)
    page = (DOCS / "switch.md").read_text()
    variables = {
        "SUPABASE_DB_URL": readable(bare_address),
        "DATABASE_URL": readable(address),
        "TMPDIR": str(directory),
    }
    try:
        assert invoke("move", "copy", **variables).returncode == 0
        examples = EXAMPLE.findall(page)
        assert [shlex.split(command)[2] for command, _ in examples] == [
            *("follow", "switch", "switch", "status", "follow", "back", "finish"),
        ]
        for command, shown in examples:
            target, source = readable(address), readable(bare_address)
            with psycopg.connect(target if "back" in command else source, autocommit=True) as connection:
                # The other database refuses it.
                if "follow" in command:
                    connection.execute("UPDATE users SET phone = phone || '1'")
                if "follow --back" in command:
                    connection.execute("UPDATE checkins SET date = '2024-02-30' WHERE id = 41")
            done = invoke(*shlex.split(command)[1:], **variables)
            assert done.returncode == 0, done.stderr
            assert re.fullmatch(pattern(shown), done.stdout.rstrip("\n")), f"{command} printed:\n{done.stdout}"
            if "move back" in command:
                listed = invoke("move", "rejects", **variables).stdout
                assert re.match(
                    r"not written back:\n +table +column .*\n +checkins +date +1 +nulled +date has ", listed
                )
                assert listed.endswith(" 41\n\nthe rows themselves, as SQL: `tatame-db move rejects --sql`\n")
                script = invoke("move", "rejects", "--sql", **variables).stdout
                assert "\nCOPY tatame_not_returned.checkins (id, user_id, " in script
                assert "2024-02-30" in script
                assert "not written back: 1 value of checkins.date " in invoke("move", "status", **variables).stdout
            if command.startswith("tatame-db move finish"):
                assert "kept: 1 row in tatame_move.not_returned, of rows and values that" in done.stdout
                assert "nothing to remove: " in invoke(*shlex.split(command)[1:], **variables).stdout
            if "--env" in command:
                # The flags of the app say otherwise until they are set.
                assert "USE_POSTGRES_USERS lets the app use users in the source" in invoke("status", **variables).stdout
                flags = dict(line.split("=") for line in done.stdout.splitlines())
                assert "lets the app use" not in invoke("status", **variables, **flags).stdout
                shown_homes = invoke("move", "status", **variables).stdout
                assert re.search(r"users +\d+ +target +", shown_homes)
                assert "and no process reads it" in shown_homes
    finally:
        for database in (bare_address, address):
            drop_slots(database)


def test_the_commands_of_the_page_about_phases_print_what_they_show(
    invoke: Run, environment: dict[str, str], bare_address: URL, address: URL, directory: Path
) -> None:
    run_statements(bare_address, "supabase", 300)
    run_statements(bare_address, "rows", 300)
    page = (DOCS / "by-phases.md").read_text()
    source, target = readable(bare_address), readable(address)
    variables = {"SUPABASE_DB_URL": source, "DATABASE_URL": target, "TMPDIR": str(directory)}
    rows = re.findall(r"^\| (\d) \| (.*) \|$", page, re.MULTILINE)
    assert {table: int(phase) for phase, names in rows for table in re.findall(r"`(\w+)`", names)} == phases()
    # What the app does on the day before each command.
    new_gym = "INSERT INTO gyms (name, address, manager_id, since) VALUES ('Dojô Novo', 'Rua 1', 1, '2026-03-01')"
    new_user = "INSERT INTO users (clerk_user_id, gym_id) SELECT 'user_new', id FROM gyms WHERE name = 'Dojô Novo'"
    writes = {
        "follow --once": (source, "UPDATE users SET phone = phone || '1'"),
        "follow --back --once": (target, new_gym),
        "switch users graduations": (source, new_user),
        "back --phase 2": (target, "UPDATE gyms SET since = '2026-03-02' WHERE name = 'Dojô Novo'"),
    }
    try:
        assert invoke("move", "copy", **variables).returncode == 0
        for command, shown in EXAMPLE.findall(page):
            arguments = command.removeprefix("tatame-db move ").removesuffix(" --write-to-source")
            if arguments in writes:
                home, statement = writes.pop(arguments)
                with psycopg.connect(home) as connection:
                    assert connection.execute(statement.encode()).rowcount
            if arguments == "switch users graduations":
                assert both_follow(environment | variables) == {("gyms", 1), ("users", 1)}
                refused = invoke("move", "copy", **variables)
                [words] = re.findall(r"^ +(error: .*)$", page, re.MULTILINE)
                assert (refused.returncode, words in refused.stderr) == (1, True)
            done = invoke(*shlex.split(command)[1:], **variables)
            assert done.returncode == 0, done.stderr
            assert re.fullmatch(pattern(shown), done.stdout.rstrip("\n")), f"{command} printed:\n{done.stdout}"
        assert writes == {}
        assert_equal(bare_address, address)
    finally:
        for database in (bare_address, address):
            drop_slots(database)


def both_follow(environment: dict[str, str]) -> set[tuple[str, int]]:
    """Follow in both directions at once, and return what each of them has written when it has written something."""
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as target:
        target.execute("UPDATE gyms SET since = '2026-02-01' WHERE name = 'Dojô Novo'")
    found: set[tuple[str, int]] = set()
    following = [
        subprocess.Popen(
            [COMMAND, "move", "follow", *back, "--json", "--write-to-source"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for back in ([], ["--back"])
    ]
    for process in following:
        assert process.stdout
        for line in process.stdout:
            applied = json.loads(line)["applied"]
            if applied:
                found |= {(table["table"], table["written"]) for table in applied}
                break
    shown = subprocess.run(
        [COMMAND, "move", "status"], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert re.search(
        r"^the target follows the source: \d+ rows? and [\d.]+ s behind, .* of WAL held$", shown, re.MULTILINE
    )
    assert re.search(
        r"^the source follows the target: \d+ rows? and [\d.]+ s behind, .* of WAL held$", shown, re.MULTILINE
    )
    for process in following:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    return found


def test_a_switch_without_an_address_of_the_source_says_which_setting_is_missing(invoke: Run, address: URL) -> None:
    for command in ("switch", "back"):
        done = invoke("move", command, "--dry-run", DATABASE_URL=readable(address))
        assert done.returncode == 1
        assert "no source configured" in done.stderr
        over_rest = {"SUPABASE_URL": "https://project.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": "key"}
        done = invoke("move", command, "--dry-run", DATABASE_URL=readable(address), **over_rest)
        assert done.returncode == 1
        assert "it is read over REST" in done.stderr
