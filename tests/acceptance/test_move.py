from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import run_sql
from tests.database.days import drop_slots

from tatame_db import evolve
from tatame_db.cli import json_keys
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.move.rehearsal.project import HERE
from tatame_db.schema import phases
from tatame_db.server.embedded import EmbeddedServer

COMMAND = Path(sys.executable).with_name("tatame-db")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def variables(supabase: URL, address: URL) -> dict[str, str]:
    return {"SUPABASE_DB_URL": readable(supabase), "DATABASE_URL": readable(address)}


@pytest.fixture
def move(invoke: Run, variables: dict[str, str]) -> Run:
    """Run `tatame-db move` in this process, from the project to a migrated, empty database."""
    return lambda *arguments, **others: invoke("move", *arguments, **{**variables, **others})


def test_the_installed_command_moves_a_project(run: Run, variables: dict[str, str]) -> None:
    planned = run("move", "plan", **variables)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "\nready: all 23 rows can be moved\n\nnot moved, and lost when the project is deleted:\n" in planned.stdout
    copied = run("move", "copy", **variables)
    assert copied.returncode == 0, copied.stderr
    assert "equal     23 rows in 11 tables, proven by digests with hash_record_extended\n" in copied.stdout
    assert re.search(r"^users: 3 rows, 3 written, 0 deleted, ", copied.stderr, flags=re.MULTILINE)
    for command in ("counts", "verify", "status"):
        done = run("move", command, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert "notifications" in done.stdout


def test_the_plan_of_a_living_project_is_complete(move: Run) -> None:
    plan = json.loads(move("plan", "--json").stdout)
    assert plan["complete"] is True
    assert [table["table"] for table in plan["tables"]][:2] == ["roles", "versions"]


def test_the_plan_names_what_the_target_has_beside_the_models(move: Run, address: URL) -> None:
    with psycopg.connect(readable(address)) as connection:
        connection.execute("ALTER TABLE users ADD nickname text; CREATE TABLE notes (user_id int REFERENCES users)")
        connection.execute("CREATE RULE nothing AS ON UPDATE TO users DO INSTEAD NOTHING")
    plan = move("plan")
    assert plan.returncode == 0
    assert (
        "\ncan change rows of the target as they are written, which the proof of a copy would find:\n"
        "  users: rule nothing ON UPDATE DO INSTEAD\n"
        "\non the target and not in the models; a copy leaves them as they are:\n"
        "  users: foreign key notes_user_id_fkey of notes, ON DELETE NO ACTION\n"
        "  users: column nickname text\n"
    ) in plan.stdout
    objects = json.loads(move("plan", "--json").stdout)["target_objects"]
    assert [(found["table"], found["kind"]) for found in objects] == [
        ("users", "rule"),
        ("users", "foreign key"),
        ("users", "column"),
    ]


def test_a_copy_of_some_tables_names_others_that_were_changed_since(move: Run, address: URL) -> None:
    assert move("copy").returncode == 0
    with psycopg.connect(readable(address)) as connection:
        connection.execute("UPDATE assets SET title = 'new'")
    copied = move("copy", "roles")
    assert copied.returncode == 0
    assert "outdated  assets: written to since the last copy, and not part of this one\n" in copied.stdout


def test_the_plan_names_an_obstacle_and_exits_with_3(move: Run, supabase: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
    done = move("plan")
    assert done.returncode == 3
    assert (
        "\nclass: start has seconds, which HH:MM cannot hold: 1 row, for example 1\n  to resolve it:\n" in done.stdout
    )
    assert "error: the move would be incomplete: 1 obstacle without a choice\n" in done.stderr
    assert json.loads(move("plan", "--json").stdout)["complete"] is False


def test_the_plan_ends_with_what_the_move_does_not_bring(move: Run, supabase: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute((HERE / "left_behind.sql").read_bytes())
    done = move("plan", SUPABASE_URL="https://abcdefghijklmnopqrst.supabase.co")
    assert (done.returncode, done.stderr) == (0, "")
    _, _, shown = done.stdout.partition("\nnot moved, and lost when the project is deleted:\n")
    for line in (
        "functions                    3  add_user(), is_manager(bigint), log_schema_change()",
        "policies                     9  everybody of assets, everybody of checkins, everybody of class and 6 more",
        "users of Supabase Auth      12",
        "storage buckets              3  5 objects, at least 1,070,080 bytes, the size of 2 objects is unknown:"
        " documents (2), logos (3), empty (0)",
        "links to the project         5  gyms.logo (1), users.profile_picture (3), private.devices.token (1)",
    ):
        assert f"\n  {line}\n" in shown
    assert "\nlinks     a link is a value that contains abcdefghijklmnopqrst.supabase.co\n" in shown
    assert "NOT READ" not in shown
    found = json.loads(move("plan", "--json").stdout)["left_behind"]
    [policies] = [objects for objects in found["objects"] if objects["kind"] == "policies"]
    assert (policies["number"], len(policies["names"])) == (9, 9)
    assert found["buckets"][0] == {"name": "documents", "objects": 2, "size_bytes": 1_048_576, "without_size": 1}
    assert found["links"][0] == {"column": "gyms.logo", "values": 1}
    assert (found["hosts"], found["not_readable"], found["over_rest"]) == (["*.supabase.co"], [], False)


def test_a_source_without_rows_is_announced(move: Run, supabase: URL) -> None:
    warning = "EMPTY     all tables of the source are empty: this may be the wrong database\n"
    tables = ", ".join(phases())
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute(f"TRUNCATE {tables} CASCADE".encode())
        connection.execute("INSERT INTO roles VALUES ('STUDENT')")
    assert "EMPTY" not in move("plan").stdout + move("copy").stdout
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("DELETE FROM roles")
    refused = move("copy")
    assert refused.returncode == 1
    assert "error: these tables of the source are empty now, and had rows at the last copy: roles with 1 row\n" in (
        refused.stderr
    )
    planned, copied = move("plan"), move("copy", "--emptied")
    assert (planned.returncode, warning in planned.stdout) == (3, True)
    assert "`move copy` would refuse: these tables of the source are empty now" in planned.stderr
    assert (copied.returncode, warning in copied.stdout) == (0, True)


def test_a_move_without_a_source_names_the_setting(move: Run) -> None:
    done = move("plan", SUPABASE_DB_URL="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no source configured: neither `SUPABASE_DB_URL` nor `SUPABASE_URL` is set" in done.stderr


def test_a_proxy_that_cannot_be_used_names_its_variable(move: Run) -> None:
    rest = {"SUPABASE_URL": "https://x.supabase.co", "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x"}
    done = move("plan", SUPABASE_DB_URL="", SUPABASE_PROXY="socks5://ana:hunter2@proxy.example:1", **rest)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the address in `SUPABASE_PROXY` does not start with" in done.stderr
    assert "hunter2" not in done.stderr


def test_a_move_of_a_database_to_itself_is_rejected(move: Run, address: URL) -> None:
    done = move("plan", SUPABASE_DB_URL=readable(address))
    assert (done.returncode, done.stdout) == (1, "")
    assert "the same database" in done.stderr


def test_counts_and_verify_agree_on_a_moved_database(move: Run, expected_target: URL) -> None:
    target = {"DATABASE_URL": readable(expected_target)}
    counts = move("counts", **target)
    assert (counts.returncode, counts.stderr) == (0, "")
    assert re.search(r"^  notifications +3 +3  equal$", counts.stdout, flags=re.MULTILINE)
    verified = move("verify", **target)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert re.search(r"^notifications: equal, 3 rows, digest ", verified.stdout, flags=re.MULTILINE)
    proof = json.loads(move("verify", "--json", **target).stdout)
    assert (proof["equal"], proof["hash"], len(proof["tables"])) == (True, "hash_record_extended", 11)


def test_counts_of_an_empty_target_differ_and_exit_with_3(move: Run) -> None:
    done = move("counts")
    assert done.returncode == 3
    assert re.search(r"^ +users +3 +0 +differs$", done.stdout, flags=re.MULTILINE)
    counts = json.loads(move("counts", "--json").stdout)
    [users] = [count for count in counts["tables"] if count["table"] == "users"]
    assert users == {"table": "users", "source": 3, "target": 0, "rejected": {}, "agrees": False, "by_choice": False}


def test_verify_shows_both_values_and_exits_with_3(move: Run, expected_target: URL) -> None:
    with psycopg.connect(readable(expected_target)) as connection:
        connection.execute("UPDATE users SET email = NULL WHERE id = 1")
    done = move("verify", "users", DATABASE_URL=readable(expected_target))
    assert done.returncode == 3
    assert "    email: 'ana@gym.example' in the source, NULL in the target\n" in done.stdout
    assert "ana@gym.example" not in done.stderr
    hidden = move("verify", "--max-differences", "0", DATABASE_URL=readable(expected_target))
    assert "  and 1 more\n" in hidden.stdout
    assert "ana@gym.example" not in hidden.stdout


def test_excluded_rows_are_listed_and_written_as_sql_on_request(move: Run, supabase: URL) -> None:
    assert move("rejects").stdout == "no rows or values are excluded\n"
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE users SET created_at = 'infinity' WHERE id = -5")
        connection.execute("UPDATE checkins SET date = 'infinity'")
    assert move("copy", "--rejects", "keep", "--misfits", "null").returncode == 0
    listed = move("rejects").stdout
    assert re.search(r"^  checkins  date +2  nulled +date is infinite .*  1, 70000$", listed, re.MULTILINE)
    assert re.search(r"^  users     created_at +1  rejected  created_at is infinite .*  -5$", listed, re.MULTILINE)
    [checkins, users] = json.loads(move("rejects", "--json").stdout)["rejects"]
    assert (checkins["rows"], checkins["ids"], users["action"]) == (2, ["1", "70000"], "rejected")
    script = move("rejects", "users", "--sql").stdout
    assert "\nCOPY tatame_rejects.users (id, created_at, clerk_user_id, " in script
    assert "\n-5\tinfinity\tuser_negative\t" in script
    assert script.endswith("\n\\.\nCOMMIT;\n")
    assert "user_negative" not in listed
    unknown = move("rejects", "roles")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "no excluded rows or values are kept of roles; there are some of: checkins, users" in unknown.stderr


def test_a_script_is_no_json(move: Run) -> None:
    done = move("rejects", "--sql", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["type"] == "Mistyped"
    assert "--sql prints a script, which --json cannot hold" in done.stderr


def test_the_keys_of_every_answer_are_documented(move: Run, supabase: URL, address: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE users SET created_at = 'infinity' WHERE id = -5")
        connection.execute((HERE / "left_behind.sql").read_bytes())
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    types = {name: dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", text, re.MULTILINE)) for name, text in sections.items()}
    seen: set[str] = set()

    def check(value: Any, name: str) -> None:
        seen.add(name)
        assert set(value) == set(types[name]), name
        for key, kind in types[name].items():
            if inner := re.search(r"\[(\w+)\]", kind):
                for item in value[key] if isinstance(value[key], list) else filter(None, [value[key]]):
                    check(item, inner[1])

    options = "--misfits", "null", "--rejects", "keep", "--unknown", "leave"
    slot = f"tatame_move_{address.database}"
    run_sql(address, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    try:
        for command in ("plan", "copy", "verify", "counts", "status", "rejects"):
            answer = json.loads(move(command, "--json", *(options if command in ("plan", "copy") else ())).stdout)
            [name] = re.findall(rf"^\| `tatame-db move {command}` \| \[(\w+)\]", page, re.MULTILINE)
            check(answer, name)
            with psycopg.connect(readable(address)) as connection:
                connection.execute("UPDATE users SET email = 'new@gym.example' WHERE id = 1")
        assert move("copy", "--replace", *options).returncode == 0
        run_sql(supabase, "UPDATE users SET email = 'newer@gym.example' WHERE id = 1")
        for command, *chosen in (
            ("follow", "--once"),
            ("status",),
            ("switch",),
            ("back", "--misfits", "null"),
            ("rejects",),
            ("finish",),
        ):
            if command == "back":
                run_sql(address, "UPDATE checkins SET date = '2024-02-30' WHERE id = 1")
            confirmed = [] if command in {"rejects", "status"} else ["--write-to-source"]
            done = move(command, "--json", *chosen, *confirmed)
            assert done.returncode == 0, done.stderr
            [name] = re.findall(rf"^\| `tatame-db move {command}` \| \[(\w+)\]", page, re.MULTILINE)
            for line in done.stdout.splitlines() if command == "follow" else [done.stdout]:
                check(json.loads(line), name)
    finally:
        for database in (supabase, address):
            drop_slots(database)
    # Those of other commands have tests of their own.
    assert set(types) - seen - set(json_keys.OBJECTS) <= {
        "Examined",
        "Finding",
        "Roles",
        "RoleRights",
        "RolesApplied",
        "Rehearsal",
        "RehearsedStep",
        "RestReading",
        "NotReadable",
        "TargetObject",
    }


def test_an_unknown_table_is_a_usage_error(move: Run) -> None:
    done = move("verify", "usres")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no table usres" in done.stderr


def test_a_second_copy_writes_nothing_and_status_shows_the_proof(move: Run) -> None:
    assert move("copy").returncode == 0
    assert move("verify").returncode == 0
    report = json.loads(move("copy", "--json").stdout)
    assert [table["written"] for table in report["tables"]] == [0] * 11
    status = move("status")
    assert status.returncode == 0
    assert (
        len(
            re.findall(
                r"^  [a-z_]+ +[1-5]  source +[1-3]  20[0-9-]+ [0-9:]+  20[0-9-]+ [0-9:]+$", status.stdout, re.MULTILINE
            )
        )
        == 11
    )
    assert "NOT READY" not in status.stdout
    assert json.loads(move("status", "--json").stdout)["parked"] == []


def test_the_report_of_a_copy_states_the_proof_and_the_next_step(move: Run, supabase: URL) -> None:
    planned = move("plan")
    assert re.search(r"^checkins: phase 4, 2 rows, [0-9,]+ bytes, about 0.0 s$", planned.stdout, flags=re.MULTILINE)
    assert "\na first copy takes about 0.0 s, estimated from the last copy or from the sizes\n" in planned.stdout
    first = move("copy", "--phase", "1")
    assert "next      copy the later phases; not copied yet: gyms, users, " in first.stdout
    assert "once Supabase is closed" not in first.stdout
    second = move("copy", "roles", "--phase", "2")
    assert re.findall("^  (roles|versions|gyms) ", second.stdout, flags=re.MULTILINE) == ["roles", "gyms"]
    assert "next      copy the later phases; not copied yet: users, " in second.stdout
    done = move("copy")
    [digest] = re.findall(r"^users: equal, 3 rows, digest (-?[0-9]+)$", move("verify").stdout, flags=re.MULTILINE)
    assert re.search(rf"^  users +3 +3 +0 +[0-9.]+  {digest}$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^source    .*, as of 20[0-9-]+ [0-9:]+ UTC$", done.stdout, flags=re.MULTILINE)
    assert "keys      12 foreign keys checked over all rows\n" in done.stdout
    assert "inserts   a new row was inserted into 10 tables and rolled back\n" in done.stdout
    assert "excluded  nothing, every row was copied\n" in done.stdout
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE checkins SET date = 'infinity' WHERE id = 1")
    assert "or, once Supabase is closed for writing: `tatame-db move copy` again, then " in done.stdout
    assert "`tatame-db move verify` and `tatame-db check`\n" in done.stdout
    rejected = move("copy", "--rejects", "keep")
    assert "next      review `tatame_move.rejects`" in rejected.stdout
    assert re.match(r"run 4 of [0-9-]+ [0-9:]+: proven\n", move("status").stdout)


def test_a_terminal_shows_progress_and_a_file_does_not(
    environment: dict[str, str], variables: dict[str, str], supabase: URL
) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 300000) AS n")
    terminal, stderr = pty.openpty()
    copying = subprocess.Popen(
        [COMMAND, "move", "copy"],
        env=environment | variables | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    os.close(stderr)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports a closed terminal as an error.
        while data := os.read(terminal, 1 << 16):
            shown += data
    os.close(terminal)
    answer, _ = copying.communicate()
    assert copying.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"checkins +\S+ +[0-9,]+ of 200,003 rows +[0-9,]+ rows/s", plain)
    assert "checkins: 200,003 rows, 200,003 written, 0 deleted, " in plain
    assert b"equal     200,024 rows in 11 tables" in answer
    assert b"\x1b" not in answer


def test_parked_indexes_are_reported_until_a_copy_restores_them(move: Run, invoke: Run, address: URL) -> None:
    assert move("copy").returncode == 0
    with psycopg.connect(readable(address)) as connection:
        connection.execute(
            "INSERT INTO tatame_move.parked (kind, table_name, name, definition)"
            " SELECT 'index', 'gyms', indexname, indexdef FROM pg_indexes WHERE indexname = 'gyms_manager_id_index'"
        )
        connection.execute("DROP INDEX gyms_manager_id_index")
    left = move("status").stdout
    assert "NOT READY  dropped during a copy and not restored: gyms.gyms_manager_id_index\n" in left
    assert "\n           `tatame-db move copy` restores them\n" in left
    status = invoke("status", "--database-url", readable(address))
    assert (
        "NOT READY  a move is unfinished; not restored or not validated: gyms.gyms_manager_id_index\n" in status.stdout
    )
    assert json.loads(invoke("status", "--json", "--database-url", readable(address)).stdout)["move"] == [
        "gyms.gyms_manager_id_index"
    ]
    assert status.returncode == 0
    asked = invoke("status", "--check", "--database-url", readable(address))
    assert (asked.returncode, asked.stdout) == (3, status.stdout)
    assert (
        "error: a move out of Supabase is unfinished; not restored or not validated: gyms.gyms_manager_id_index\n"
        in (asked.stderr)
    )
    checked = invoke("check", "--database-url", readable(address))
    assert checked.returncode == 3
    assert "no   no move is unfinished\n     gyms.gyms_manager_id_index\n" in checked.stdout
    assert (
        "error: a move out of Supabase is unfinished; not restored or not validated: gyms.gyms_manager_id_index\n"
        in (checked.stderr)
    )
    assert "hint: run `tatame-db move copy`, which restores them" in checked.stderr
    assert move("copy").returncode == 0
    assert "NOT READY" not in move("status").stdout
    assert invoke("status", "--check", "--database-url", readable(address)).returncode == 0


def test_the_command_that_finishes_a_copy_repeats_its_choices(
    move: Run, invoke: Run, supabase: URL, address: URL
) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
        connection.execute("ALTER TABLE users ADD nickname text")
        connection.execute("UPDATE users SET nickname = 'Aninha' WHERE id = 1")
    choices = ("--misfits", "null", "--unknown", "keep")
    assert move("copy", *choices, "--jobs", "2").returncode == 0
    key = "class_gym_id_gyms_id_fk"
    with psycopg.connect(readable(address)) as connection:
        connection.execute(f"ALTER TABLE class DROP CONSTRAINT {key}".encode())
        connection.execute(
            f"ALTER TABLE class ADD CONSTRAINT {key} FOREIGN KEY (gym_id) REFERENCES gyms NOT VALID".encode()
        )
    assert move("copy").returncode == 1
    command = "tatame-db move copy --misfits null --unknown keep"
    status = move("status").stdout
    assert f"NOT READY  foreign keys not validated: class.{key}\n           `{command}` validates them\n" in status
    assert json.loads(move("status", "--json").stdout)["finish_command"] == command
    asked = invoke("status", "--check", "--database-url", readable(address))
    assert f"           run `{command}` to restore them\n" in asked.stdout
    assert f"hint: run `{command}`, which restores them" in asked.stderr
    assert f"hint: run `{command}`, which restores them" in invoke("check", "--database-url", readable(address)).stderr
    assert move(*command.split()[2:]).returncode == 0
    assert "NOT READY" not in move("status").stdout
    assert move("copy", "--phase", "1", *choices).returncode == 0
    command = "tatame-db move copy roles versions app_stores --misfits null --unknown keep"
    assert json.loads(move("status", "--json").stdout)["finish_command"] == command


def test_a_copy_of_one_phase_and_over_rows_of_another_origin(move: Run, address: URL) -> None:
    assert move("copy", "--phase", "3").returncode == 1
    assert move("copy", "--phase", "1").returncode == 0
    second = move("copy", "--phase", "2")
    assert "waiting   manager_id of gyms, for rows of a later phase\n" in second.stdout
    with psycopg.connect(readable(address)) as connection:
        connection.execute("INSERT INTO roles VALUES ('GHOST')")
    refused = move("copy")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "roles (1 of 4 rows)" in refused.stderr
    assert move("copy", "--replace").returncode == 0
    assert move("verify").returncode == 0


def test_every_report_shows_what_was_excluded_by_choice(move: Run, supabase: URL, address: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
        connection.execute("UPDATE notifications SET created_at = 'infinity' WHERE id = 2")
        connection.execute("ALTER TABLE users ADD nickname text")
        connection.execute("UPDATE users SET nickname = 'Aninha' WHERE id = 1")
    undecided = move("plan", "--misfits", "null")
    assert undecided.returncode == 3
    assert "class: start has seconds, which HH:MM cannot hold: 1 row, for example 1\n" in undecided.stdout
    assert "for example 1\n  resolved by `--misfits null`: 1 value set to NULL\n" in undecided.stdout
    assert "    `--unknown keep`: the values are kept in `tatame_move.rejects`\n" in undecided.stdout
    assert "error: the move would be incomplete: 1 obstacle without a choice\n" in undecided.stderr
    assert move("copy", "--misfits", "null").returncode == 1
    choices = ("--misfits", "null", "--unknown", "keep")
    planned = move("plan", *choices)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "ready: 22 of 23 rows can be moved\n" in planned.stdout
    assert json.loads(move("plan", *choices, "--json").stdout)["complete"] is True

    copied = move("copy", *choices)
    assert copied.returncode == 0, copied.stderr
    excluded = [
        "excluded  1 row of notifications (rejected): created_at is infinite or outside the years 1 to 9999",
        "excluded  1 value of class.start (set to NULL): start has seconds, which HH:MM cannot hold",
        "excluded  1 value of users.nickname (kept in tatame_move.rejects): "
        "nickname (text) has values, and the target has no such column",
    ]
    assert sorted(re.findall("^excluded .*$", planned.stdout, flags=re.MULTILINE)) == excluded
    assert sorted(re.findall("^excluded .*$", copied.stdout, flags=re.MULTILINE)) == excluded
    report = json.loads(move("copy", *choices, "--json").stdout)
    assert {(exclusion["action"], exclusion["rows"]) for exclusion in report["exclusions"]} == {
        ("nulled", 1),
        ("rejected", 1),
        ("kept", 1),
    }
    status = move("status")
    assert sorted(re.findall("^excluded .*$", status.stdout, flags=re.MULTILINE)) == excluded
    assert re.search(r"^  notifications +5  source +2 .*  1 rejected$", status.stdout, flags=re.MULTILINE)

    counted = move("counts")
    assert counted.returncode == 3
    assert "differs by choice, 1 rejected: misfit\n" in counted.stdout
    verified = move("verify")
    assert verified.returncode == 3
    assert "error: equal except for 2 rows excluded by choice: class, notifications\n" in verified.stderr
    assert "  2  missing by choice: created_at is infinite" in verified.stdout
    assert "  1  differing by choice: start has seconds" in verified.stdout
    proof = json.loads(move("verify", "--json").stdout)
    assert (proof["equal"], proof["equal_but_for_choices"], proof["by_choice"]) == (False, True, 2)
    with psycopg.connect(readable(address)) as connection:
        connection.execute("DELETE FROM checkins WHERE id = 1")
    verified = move("verify")
    assert verified.returncode == 3
    assert "differ: class, checkins, notifications; 2 differences by choice, the others not\n" in verified.stderr


def test_an_unknown_choice_is_a_usage_error(move: Run) -> None:
    done = move("copy", "--orphans", "keep")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_move_over_rest_reports_how_it_read(
    move: Run, postgrest: Callable[..., str], supabase_key: Callable[..., str]
) -> None:
    address, key = postgrest(2), supabase_key("service_role")
    rest = {"SUPABASE_DB_URL": "", "SUPABASE_REST_URL": address, "SUPABASE_SERVICE_ROLE_KEY": key}
    differ = move("counts", **rest)
    assert differ.returncode == 3
    assert re.search(r"^ +users +3 +0 +differs$", differ.stdout, flags=re.MULTILINE)
    done = move("copy", **rest)
    assert done.returncode == 0, done.stderr
    assert f"source    {address}, PostgREST 12.0.2\n" in done.stdout
    assert "rest      read as service_role in 25 pages of at most 2 rows, not as of one moment\n" in done.stdout
    assert done.stderr.count("users: 3 rows read\n") == 2
    proof = json.loads(move("verify", "--json", **rest).stdout)
    assert (proof["equal"], proof["rest"]["cap"]) == (True, 2)
    assert json.loads(move("counts", "--json", **rest).stdout)["rest"]["role"] == "service_role"
    assert "ready: all 23 rows can be moved\n" in move("plan", **rest).stdout
    assert not any(key in output for output in (done.stdout, done.stderr))


@pytest.mark.usefixtures("shared_mirror")
def test_choices_also_apply_over_rest_and_to_the_second_reading(
    move: Run, supabase: URL, postgrest: Callable[..., str], supabase_key: Callable[..., str]
) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
        connection.execute("UPDATE notifications SET created_at = 'infinity' WHERE id = 2")
    rest = {
        "SUPABASE_DB_URL": "",
        "SUPABASE_REST_URL": postgrest(),
        "SUPABASE_SERVICE_ROLE_KEY": supabase_key("service_role"),
    }
    assert move("copy", **rest).returncode == 1
    done = move("copy", "--misfits", "null", **rest)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^excluded ", done.stdout, flags=re.MULTILINE)) == 2
    counted = move("counts", **rest)
    assert "differs by choice, 1 rejected: misfit\n" in counted.stdout
    verified = move("verify", **rest)
    assert verified.returncode == 3
    assert "error: equal except for 2 rows excluded by choice: class, notifications\n" in verified.stderr


@pytest.mark.usefixtures("shared_mirror")
def test_a_public_key_requires_the_option_and_reads_no_empty_table(
    move: Run, postgrest: Callable[..., str], supabase_key: Callable[..., str]
) -> None:
    key = supabase_key("anon")
    rest = {"SUPABASE_DB_URL": "", "SUPABASE_REST_URL": postgrest(), "SUPABASE_ANON_KEY": key}
    for command in ("plan", "copy", "counts", "verify"):
        refused = move(command, **rest)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "the key is for the role anon" in refused.stderr
        trusted = move(command, "--anon-sees-all", **rest)
        assert trusted.returncode == (3 if command == "counts" else 1)
        assert key not in trusted.stderr + trusted.stdout
    assert "no rows of roles, app_stores, attachments" in trusted.stderr


def test_a_copy_that_is_read_back_shows_the_sha256_of_each_table(move: Run) -> None:
    done = move("copy", "--sha256")
    assert done.returncode == 0, done.stderr
    assert "sha256    11 tables read back" in done.stdout
    assert len(re.findall(r"^  [a-z_]+ +[0-9a-f]{64}$", done.stdout, flags=re.MULTILINE)) == 11
    assert "SHA-256" not in move("copy", "--sha256").stdout


def test_an_interrupted_copy_with_several_jobs_is_rolled_back(
    environment: dict[str, str], variables: dict[str, str], move: Run, address: URL
) -> None:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(100); RETURN NEW; END';"
            "CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow()"
        )
        copying = subprocess.Popen(
            [COMMAND, "move", "copy", "--jobs", "2"],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        asleep = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        while not connection.execute(asleep).fetchone():
            assert copying.poll() is None
            time.sleep(0.1)
        copying.send_signal(signal.SIGINT)
        assert (copying.communicate()[0], copying.returncode) == (b"", 130)
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (0,)
        connection.execute("DROP FUNCTION slow CASCADE")
    assert move("copy", "--jobs", "2").returncode == 0
    assert move("verify").returncode == 0


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_one_ctrl_c_ends_a_commit_that_waits_for_a_standby(
    environment: dict[str, str], supabase: URL, fresh_server: EmbeddedServer, move: Run, jobs: str
) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    target = readable(fresh_server.address)
    with Database(fresh_server.address) as database:
        evolve.migrate(database.engine)
    with psycopg.connect(target, autocommit=True) as connection:
        # A copy sets it for its own sessions; no other one waits.
        connection.execute("ALTER ROLE postgres SET synchronous_commit = off")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'elsewhere'")
        connection.execute("SELECT pg_reload_conf()")
        copying = subprocess.Popen(
            [COMMAND, "move", "copy", "--jobs", jobs],
            env=environment | {"SUPABASE_DB_URL": readable(supabase), "DATABASE_URL": target},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            while not connection.execute(waits).fetchone():
                assert copying.poll() is None
                time.sleep(0.05)
            copying.send_signal(signal.SIGINT)
            output, errors = copying.communicate(timeout=60)
        finally:
            copying.kill()
        assert (copying.returncode, output) == (130, "")
        assert "interrupted: either all of the last transaction was committed, or nothing of it;" in errors
        assert "A commit stopped to wait for a standby that does not answer" in errors
        connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        connection.execute("SELECT pg_reload_conf()")
    assert move("copy", DATABASE_URL=target).returncode == 0


@pytest.mark.long
def test_a_copy_that_is_killed_repeatedly_ends_equal(
    environment: dict[str, str], variables: dict[str, str], move: Run, supabase: URL, address: URL
) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 199999) AS n")
        # A row that every copy rejects.
        connection.execute("INSERT INTO checkins (id, date) VALUES (500000, 'infinity')")
    chance = random.Random(1)  # noqa: S311, moments and no secrets
    killed = 0
    for _ in range(10):
        copying = subprocess.Popen(
            [COMMAND, "move", "copy", "--rejects", "keep"],
            env=environment | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            copying.wait(chance.uniform(0.4, 1.8))
        except subprocess.TimeoutExpired:
            copying.kill()
            copying.wait()
            killed += 1
        with psycopg.connect(readable(address)) as connection:
            # At any moment, either all rows of a table were copied or none.
            assert connection.execute("SELECT count(*) FROM checkins").fetchone() in ((0,), (100_002,))
        # Each round has rows to copy.
        with psycopg.connect(readable(supabase)) as connection:
            connection.execute("UPDATE checkins SET date = '2024-01-01'::date + %s WHERE id > 99999", [killed])
            connection.execute("UPDATE checkins SET date = 'infinity' WHERE id = 500000")
    assert killed > 5
    assert move("copy", "--rejects", "keep").returncode == 0
    assert "equal except for 1 row excluded by choice: checkins\n" in move("verify").stderr
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("DELETE FROM checkins WHERE id = 500000")
    assert move("copy").returncode == 0
    assert move("verify").returncode == 0
    with Database(address) as database:
        assert evolve.check(database.engine).failed == []


def test_a_copy_needs_neither_input_nor_a_place_for_messages(
    environment: dict[str, str], variables: dict[str, str]
) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" move copy --json <&- 2>&-', COMMAND],
        stdout=subprocess.PIPE,
        env=environment | variables,
        check=False,
    )
    assert (done.returncode, len(json.loads(done.stdout)["tables"])) == (0, len(phases()))
