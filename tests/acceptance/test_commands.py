from __future__ import annotations

import inspect
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.acceptance.json_pages import assert_described
from tests.conftest import OLDER_PROGRAMS
from tests.database.conftest import tls_sandbox
from typer.main import get_command

from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.schema import Base
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing.sandbox import Sandbox

__all__ = ["tls_sandbox"]

COMMAND = Path(sys.executable).with_name("tatame-db")
REPOSITORY = Path(__file__).parents[2]
PASSWORD = "p%@:/#[w"
Run = Callable[..., subprocess.CompletedProcess[str]]


def _address(run: Run) -> str:
    return run("url").stdout.strip()


def test_up_starts_the_server_creates_migrates_and_seeds_the_database(run: Run) -> None:
    done = run("up")
    assert done.returncode == 0, done.stderr
    for table in Base.metadata.tables:
        assert f"  {table} " in done.stdout
    for words in ("PostgreSQL 18", "embedded", "no pending migrations", "next:"):
        assert words in done.stdout
    with psycopg.connect(_address(run)) as connection:
        users = connection.execute("SELECT count(*) FROM users").fetchone()
        assert users
        assert users[0] > 100


def test_a_second_up_changes_nothing(run: Run) -> None:
    run("up")
    query = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del), pg_postmaster_start_time() FROM pg_stat_user_tables"
    with psycopg.connect(_address(run)) as connection:
        before = connection.execute(query).fetchone()
    again = run("up")
    assert again.returncode == 0
    with psycopg.connect(_address(run)) as connection:
        assert connection.execute(query).fetchone() == before


def test_up_on_a_server_by_url_starts_nothing(run: Run, bare_address_url: str, environment: dict[str, str]) -> None:
    done = run("up", DATABASE_URL=bare_address_url)
    assert done.returncode == 0, done.stderr
    assert "from DATABASE_URL" in done.stdout
    assert "from --database-url" in run("status", "--database-url", bare_address_url).stdout
    assert not Path(environment["TATAME_DATA_DIR"]).exists()


def test_up_creates_a_missing_database_on_a_server_by_url(run: Run, bare_address_url: str) -> None:
    name = psycopg.conninfo.conninfo_to_dict(bare_address_url)["dbname"]
    missing = bare_address_url.replace(f"/{name}", f"/{name}_new")
    assert run("up", "--database-url", missing).returncode == 0
    with psycopg.connect(missing) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
    with psycopg.connect(bare_address_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name}_new")


def test_up_leaves_the_database_empty_on_request(run: Run, bare_address_url: str) -> None:
    done = run("up", "--no-seed", DATABASE_URL=bare_address_url)
    assert done.returncode == 0, done.stderr
    assert "seeded" not in done.stderr
    with psycopg.connect(bare_address_url) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)


def test_up_does_not_seed_a_production_database(run: Run, bare_address_url: str) -> None:
    done = run("up", DATABASE_URL=bare_address_url, TATAME_ENV="production")
    assert done.returncode == 0
    assert "not seeded" in done.stderr
    with psycopg.connect(bare_address_url) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)


def test_start_and_stop_report_the_state_of_the_server(run: Run) -> None:
    first, again = run("start"), run("start")
    assert (first.returncode, first.stderr) == (0, "started\n")
    assert (again.returncode, again.stderr) == (0, "already running\n")
    assert first.stdout == again.stdout == run("url").stdout
    first, again = run("stop"), run("stop")
    assert (first.returncode, first.stderr) == (0, "stopped\n")
    assert (again.returncode, again.stderr) == (0, "not running\n")


def test_two_starts_at_once_both_succeed(run: Run, environment: dict[str, str]) -> None:
    pair = [subprocess.Popen([COMMAND, "start"], env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[1] for process in pair) == ["already running\n", "started\n"]
    assert [process.returncode for process in pair] == [0, 0]
    assert run("stop").stderr == "stopped\n"


def test_a_directory_with_a_space_has_an_address_that_other_clients_understand(
    run: Run, environment: dict[str, str]
) -> None:
    environment["TATAME_DATA_DIR"] += " of my gym"
    run("up")
    with psycopg.connect(_address(run)) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("tatame",)
    assert run("psql", "-Atc", "SELECT 7").stdout == "7\n"
    run("down", "--yes")


def test_two_ups_at_once_both_succeed(run: Run, environment: dict[str, str]) -> None:
    pair = [subprocess.Popen([COMMAND, "up"], env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate()[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], messages
    assert sum("seeded" in message for message in messages) == 1
    assert run("status", "--check").returncode == 0


def test_url_prints_an_address_for_psql_and_nothing_else(run: Run) -> None:
    run("up")
    address = run("url")
    assert address.stderr == ""
    assert address.stdout.count("\n") == 1
    with psycopg.connect(address.stdout.strip()) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("tatame",)


def test_psql_gets_its_arguments_and_uses_utc(run: Run) -> None:
    run("up")
    done = run("psql", "-At", "-c", "SHOW timezone", "-c", "SELECT count(*) FROM roles")
    assert (done.returncode, done.stdout) == (0, "UTC\n3\n")
    assert run("psql", "-c", "SELECT nonsense").returncode == 1


def test_psql_encrypts_where_the_app_does(run: Run, tls_sandbox: Sandbox) -> None:
    address = readable(tls_sandbox.address.set(database="postgres"))
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    bundled = str(EmbeddedServer(Path("unused")).program("psql").parent)

    encrypted = run("psql", "-Atc", query, DATABASE_URL=address, PATH=f"{OLDER_PROGRAMS}:{bundled}")
    without = run("psql", "-Atc", query, DATABASE_URL=address, PATH=bundled)
    missing = run("psql", "-Atc", query, DATABASE_URL=address, PATH="/nowhere")

    assert (encrypted.returncode, encrypted.stdout) == (0, "t\n")
    for refused in (without, missing):
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "the psql of this package has no TLS" in refused.stderr


def test_psql_gets_the_password_without_showing_it(run: Run, guarded_url: str) -> None:
    done = run("psql", "-At", "-c", r"\conninfo", "-c", "SELECT current_user", DATABASE_URL=guarded_url)
    assert done.returncode == 0, done.stderr
    assert "ana" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version").stdout.startswith("tatame-db 0.")


def test_logs_show_the_log_of_the_server(run: Run) -> None:
    run("start")
    assert "ready to accept connections" in run("logs").stdout


def test_logs_follow_until_interrupted(run: Run, environment: dict[str, str]) -> None:
    run("start")
    following = subprocess.Popen([COMMAND, "logs", "-f"], env=environment, stdout=subprocess.PIPE, text=True)
    assert following.stdout
    assert any("ready to accept" in line for line in iter(following.stdout.readline, ""))
    run("stop")
    assert any("shut down" in line for line in iter(following.stdout.readline, ""))
    following.send_signal(signal.SIGINT)
    following.wait()
    following.stdout.close()


def test_status_as_json_is_one_object_and_nothing_else(run: Run) -> None:
    run("up")
    done = run("status", "--json", "--check")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert_described(report, "Status")
    assert_described(json.loads(run("check", "--json").stdout), "SchemaCheck")
    assert report["embedded"] is True
    assert report["pending"] == []
    assert report["revision"] == report["head"]
    assert report["tables"].keys() == Base.metadata.tables.keys()
    assert report["tables"]["checkins"] > 1000
    assert {
        "name": "checkins.id",
        "largest": 2**31 - 1,
        "last": report["tables"]["checkins"],
        "end": None,
        "behind": None,
    } in (report["ids"])
    assert "\n  table          rows about  ids used  ids end about\n" in run("status").stdout
    newest = "INSERT INTO versions (id, created_at) VALUES (820000000, now() - interval '10 days'), (900000000, now())"
    run("psql", "-qc", f"{newest}; SELECT setval('versions_id_seq', 900000000)")
    ends = {use["name"]: use["end"] for use in json.loads(run("status", "--json").stdout)["ids"]}
    assert datetime.fromisoformat(ends["versions.id"]) > datetime.now(UTC)


def test_status_check_exits_with_3_if_migrations_are_pending(run: Run, bare_address_url: str) -> None:
    done = run("status", "--check", "--json", DATABASE_URL=bare_address_url)
    assert done.returncode == 3
    assert json.loads(done.stdout)["pending"]
    assert "tatame-db migrate" in done.stderr
    assert run("status", DATABASE_URL=bare_address_url).returncode == 0


def test_migrate_and_rollback_report_when_there_is_nothing_to_do(run: Run, bare_address_url: str) -> None:
    script = run("migrate", "--sql", DATABASE_URL=bare_address_url)
    assert "CREATE TABLE public.users" in script.stdout
    assert "20261123120000" in run("migrate", DATABASE_URL=bare_address_url).stderr
    assert run("migrate", DATABASE_URL=bare_address_url).stderr == "nothing to migrate\n"
    assert run("migrate", "--sql", DATABASE_URL=bare_address_url).stdout == ""
    assert run("rollback", "--yes", "--steps", "1", DATABASE_URL=bare_address_url).returncode == 0
    again = run("migrate", "--sql", DATABASE_URL=bare_address_url).stdout
    with psycopg.connect(bare_address_url, autocommit=True) as connection:
        connection.execute(again)
    assert run("status", "--check", DATABASE_URL=bare_address_url).returncode == 0
    assert run("rollback", "--yes", DATABASE_URL=bare_address_url).returncode == 0
    done = run("rollback", "--yes", DATABASE_URL=bare_address_url)
    assert done.returncode == 1
    assert "nothing to roll back" in done.stderr


def test_seed_refuses_a_database_with_rows_unless_they_may_be_replaced(run: Run) -> None:
    run("up")
    refused = run("seed")
    assert refused.returncode == 1
    assert "--replace" in refused.stderr
    assert run("seed", "--replace").returncode == 1
    done = run("seed", "--replace", "--yes", "--gyms=1", "--members=5", "--days=7", "--random-seed=9")
    assert done.returncode == 0, done.stderr
    assert json.loads(run("status", "--json").stdout)["tables"]["gyms"] == 1


def test_seed_before_migrate_advises_to_migrate(run: Run, bare_address_url: str) -> None:
    done = run("seed", DATABASE_URL=bare_address_url)
    assert done.returncode == 1
    assert "tatame-db migrate" in done.stderr
    assert "Traceback" not in done.stderr


def test_seed_refuses_a_database_on_another_machine(run: Run) -> None:
    done = run("seed", DATABASE_URL="postgresql://ana:secret@db.example/tatame")
    assert done.returncode == 1
    assert "another" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("options", [[], ["--replace", "--yes"]])
def test_seed_refuses_production(run: Run, bare_address_url: str, options: list[str]) -> None:
    run("migrate", DATABASE_URL=bare_address_url)
    with psycopg.connect(bare_address_url, autocommit=True) as connection:
        connection.execute("INSERT INTO users (clerk_user_id) VALUES ('real')")
        done = run("seed", *options, DATABASE_URL=bare_address_url, TATAME_ENV="production")
        assert done.returncode == 1
        assert "production" in done.stderr
        assert connection.execute("SELECT clerk_user_id FROM users").fetchall() == [("real",)]


def test_a_table_dropped_without_a_migration_is_reported(run: Run, bare_address_url: str) -> None:
    run("migrate", DATABASE_URL=bare_address_url)
    with psycopg.connect(bare_address_url, autocommit=True) as connection:
        connection.execute("DROP TABLE checkins")
    for command in (["up"], ["seed"]):
        done = run(*command, DATABASE_URL=bare_address_url)
        assert done.returncode == 1
        assert "checkins" in done.stderr
        assert "Traceback" not in done.stderr


def test_ctrl_c_at_a_question_ends_with_130(run: Run, environment: dict[str, str]) -> None:
    run("start")
    terminal, inside = pty.openpty()
    asking = subprocess.Popen([COMMAND, "down"], env=environment, stdin=inside, stderr=subprocess.PIPE, text=True)
    assert asking.stderr
    output = b""
    while b"Continue?" not in output:
        output += (piece := os.read(asking.stderr.fileno(), 4096))
        assert piece, output
    asking.send_signal(signal.SIGINT)
    try:
        _, errors = asking.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        # Python may notice the signal just before it begins to wait for the answer.
        asking.send_signal(signal.SIGINT)
        _, errors = asking.communicate(timeout=20)
    assert "interrupted" in errors
    assert asking.returncode == 130
    os.close(terminal)
    os.close(inside)
    assert Path(environment["TATAME_DATA_DIR"]).exists()


def test_down_asks_first_and_then_deletes(run: Run, environment: dict[str, str]) -> None:
    run("start")
    refused = run("down")
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert Path(environment["TATAME_DATA_DIR"]).exists()
    assert run("down", "--yes").returncode == 0
    assert not Path(environment["TATAME_DATA_DIR"]).exists()
    assert run("down", "--yes").returncode == 0


def test_the_address_that_start_prints_names_the_embedded_server(run: Run) -> None:
    address = run("start").stdout.strip()
    assert run("logs", DATABASE_URL=address).returncode == 0
    assert run("stop", DATABASE_URL=address).stderr == "stopped\n"


@pytest.mark.parametrize("command", [["stop"], ["down", "--yes"], ["logs"]])
def test_commands_for_the_embedded_server_leave_other_servers_alone(
    command: list[str], run: Run, bare_address_url: str
) -> None:
    done = run(*command, DATABASE_URL=bare_address_url)
    assert done.returncode == 1
    assert "embedded" in done.stderr
    psycopg.connect(bare_address_url).close()


def test_the_env_file_of_a_parent_directory_is_read(
    bare_address_url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"DATABASE_URL='{bare_address_url}'\n")
    (tmp_path / "deep").mkdir()
    done = subprocess.run(
        [COMMAND, "status", "--json"],
        cwd=tmp_path / "deep",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["embedded"] is False


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (f"postgresql://ana:{PASSWORD}@127.0.0.1:1/tatame", "does not answer"),
        (f"mysql://ana:{PASSWORD}@127.0.0.1/tatame", "only PostgreSQL"),
        (f"ana:{PASSWORD}@127.0.0.1/tatame", "postgresql://"),
        (f"postgresql://ana:{PASSWORD}@127.0.0.1:port/tatame", "port"),
        (f"postgresql://ana:{PASSWORD}@127.0.0.1:1/tatame?sslmod=require", "sslmod"),
        (f"postgresql://ana:{PASSWORD}@127.0.0.1:1/tatame?sslmode=perhaps", "sslmode"),
        (f"postgresql://127.0.0.1:1/tatame?user=ana&password={PASSWORD.replace('#', '%23')}", "does not answer"),
    ],
)
def test_a_bad_address_gets_one_message_and_no_password(address: str, words: str, run: Run) -> None:
    done = run("up", DATABASE_URL=address)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Nothing was changed." in done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize("command", [["migrate"], ["rollback", "--yes"], ["seed"], ["status", "--json"], ["start"]])
def test_every_command_reports_a_server_that_does_not_answer(command: list[str], run: Run) -> None:
    done = run(*command, DATABASE_URL=f"postgresql://ana:{PASSWORD}@127.0.0.1:1/tatame")
    error = json.loads(done.stdout)["error"]["what"] if "--json" in command else ""
    assert (done.returncode, done.stdout == "", error in done.stderr) == (1, not error, True)
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stderr + done.stdout


def test_a_wrong_password_and_a_missing_database_are_reported(run: Run, guarded_url: str) -> None:
    done = run("status", DATABASE_URL=guarded_url.replace(PASSWORD, "wrong-" + PASSWORD))
    assert done.returncode == 1
    assert "password authentication failed" in done.stderr
    assert PASSWORD not in done.stderr
    done = run("status", DATABASE_URL=guarded_url.replace("/tatame", "/elsewhere"))
    assert done.returncode == 1
    assert "no database 'elsewhere'" in done.stderr


def test_a_stopped_server_is_reported(run: Run) -> None:
    done = run("status")
    assert done.returncode == 1
    assert "tatame-db start" in done.stderr
    assert done.stdout == ""


def test_a_taken_port_is_reported(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = run("start", "--port", str(listener.getsockname()[1]))
    assert done.returncode == 1
    assert "already in use" in done.stderr
    assert run("status").returncode == 1


@pytest.mark.parametrize(
    "mistyped",
    [
        ["stauts"],
        ["status", "--jsn"],
        ["rollback", "--steps", "0"],
        ["seed", "--gyms", "many"],
        ["start", "--port", "0"],
    ],
)
def test_a_mistyped_command_exits_with_2(mistyped: list[str], run: Run) -> None:
    assert run(*mistyped).returncode == 2


def test_missing_docker_is_reported(run: Run, tmp_path: Path) -> None:
    done = run("start", "--docker", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "`docker` is not installed" in done.stderr


def test_ctrl_c_while_waiting_for_another_migration_ends_with_130(
    bare_address_url: str, environment: dict[str, str]
) -> None:
    with psycopg.connect(bare_address_url) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", (0x7461_7461_6D65,))
        waiting = subprocess.Popen(
            [COMMAND, "migrate"],
            env=environment | {"DATABASE_URL": bare_address_url},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr
        assert "waiting" in waiting.stderr.readline()
        time.sleep(0.5)
        waiting.send_signal(signal.SIGINT)
        output = waiting.stderr.read()
        waiting.stderr.close()
        assert waiting.wait(20) == 130
        assert "Traceback" not in output
        assert holder.execute("SELECT to_regclass('users')").fetchone() == (None,)


def test_up_succeeds_after_ctrl_c_during_a_start(run: Run, environment: dict[str, str]) -> None:
    starting = subprocess.Popen([COMMAND, "up"], env=environment, stderr=subprocess.PIPE, text=True, process_group=0)
    assert starting.stderr
    assert "starting" in starting.stderr.readline()
    while not Path(environment["TATAME_DATA_DIR"], "data.new").exists() and starting.poll() is None:
        time.sleep(0.001)
    os.killpg(starting.pid, signal.SIGINT)
    output = starting.stderr.read()
    starting.stderr.close()
    assert starting.wait(30) == 130
    assert "Traceback" not in output
    assert run("up").returncode == 0


def test_help_loads_no_large_library() -> None:
    code = (
        "import sys; from tatame_db.cli.commands import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "typer" in loaded
    assert not loaded & {"sqlalchemy", "alembic", "psycopg", "pydantic", "rich", "starlette"}


def test_an_output_on_a_full_disk_is_an_error_in_words(run: Run, environment: dict[str, str]) -> None:
    run("up")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, "status"], stdout=full, stderr=subprocess.PIPE, env=environment, check=False, text=True
        )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "error: cannot write the output: No space left on device",
    )


def _commands_with_json(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands_with_json(command, (*before, name))
        elif any("--json" in parameter.opts for parameter in command.params):
            yield *before, name


def _commands(command: Any, *before: str) -> Iterator[tuple[str, Any]]:
    for name, found in getattr(command, "commands", {}).items():
        yield from _commands(found, *before, name)
    if command.callback and before:
        yield " ".join(before), command


def test_each_command_that_asks_has_the_option_that_its_hint_names() -> None:
    source = {
        name: (inspect.getsource(inspect.unwrap(command.callback)), {o for each in command.params for o in each.opts})
        for name, command in _commands(get_command(commands.app))
    }
    asking = {name for name, (text, _) in source.items() if re.search(r"(?<!_)confirm\(|NotConfirmed\(", text)}
    assert {"down", "rollback", "seed"} <= asking
    assert [name for name in asking if "--yes" not in source[name][1]] == []


WITH_JSON = list(_commands_with_json(get_command(commands.app)))
ARGUMENTS: dict[tuple[str, ...], list[str]] = {
    ("backup",): ["nowhere"],
    ("backups",): ["nowhere"],
    ("restore",): ["nowhere", "--drill"],
}
WITHOUT_SETTINGS = {("move", "rehearse")}


@pytest.mark.parametrize("command", WITH_JSON, ids=" ".join)
def test_json_states_every_error(invoke: Run, command: tuple[str, ...]) -> None:
    keys = ["type", "what", "means", "fix", "notes"]
    mistyped = invoke(*command, "--nonsense", "--json")
    error = json.loads(mistyped.stdout)["error"]
    assert (mistyped.returncode, list(error), error["type"]) == (2, keys, "Mistyped")
    if command in WITHOUT_SETTINGS:
        return
    failed = invoke(*command, *ARGUMENTS.get(command, []), "--json", TATAME_ENV="nonsense")
    error = json.loads(failed.stdout)["error"]
    assert (failed.returncode, list(error), error["type"]) == (1, keys, "SettingsInvalid")
    assert failed.stderr.startswith(f"error: {error['what']}\n{error['means']}\n\nhint: {error['fix']}\n")


def test_json_states_no_error_beside_an_answer(invoke: Run, bare_address_url: str) -> None:
    done = invoke("status", "--check", "--json", DATABASE_URL=bare_address_url)
    assert done.returncode == 3
    assert "error" not in json.loads(done.stdout)
    assert done.stderr.startswith("error: ")
