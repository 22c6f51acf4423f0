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

import psycopg
import pytest
from sqlalchemy import URL

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.schema import phases

COMMAND = Path(sys.executable).with_name("tatame-db")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def move(run: Run, supabase: URL, address: URL) -> Run:
    def move(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        named = {"SUPABASE_DB_URL": readable(supabase), "DATABASE_URL": readable(address)}
        return run("move", *arguments, **{**named, **variables})

    return move


def test_the_plan_of_a_living_project_is_whole(move: Run) -> None:
    done = move("plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing stands in the way of 23 rows" in done.stdout
    told = json.loads(move("plan", "--json").stdout)
    assert told["whole"] is True
    assert [table["table"] for table in told["tables"]][:2] == ["roles", "versions"]


def test_the_plan_names_an_obstacle_and_exits_with_3(move: Run, supabase: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
    done = move("plan")
    assert done.returncode == 3
    assert "class: start has seconds, which HH:MM cannot hold: 1 row, for example 1\n" in done.stdout
    assert "error: the move would not be whole: 1 obstacle" in done.stderr
    told = json.loads(move("plan", "--json").stdout)
    assert told["whole"] is False


def test_a_source_without_any_row_is_said_loudly(move: Run, supabase: URL) -> None:
    loud = "EMPTY   the source has no rows at all in any of our tables: this may be the wrong database\n"
    tables = ", ".join(phases())
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute(f"TRUNCATE {tables} CASCADE".encode())
        connection.execute("INSERT INTO roles VALUES ('STUDENT')")
    assert "EMPTY" not in move("plan").stdout + move("copy").stdout
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("DELETE FROM roles")
    for command in ("plan", "copy"):
        done = move(command)
        assert (done.returncode, loud in done.stdout) == (0, True)


def test_a_move_without_a_source_says_what_to_set(move: Run) -> None:
    done = move("plan", SUPABASE_DB_URL="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "`SUPABASE_DB_URL` is not set" in done.stderr


def test_a_move_to_itself_is_refused(move: Run, address: URL) -> None:
    done = move("plan", SUPABASE_DB_URL=readable(address))
    assert (done.returncode, done.stdout) == (1, "")
    assert "the same database" in done.stderr


def test_counts_and_verify_agree_on_what_arrived(move: Run, arrived: URL) -> None:
    for command in ("counts", "verify"):
        done = move(command, DATABASE_URL=readable(arrived))
        assert (done.returncode, done.stderr) == (0, "")
        assert "notifications" in done.stdout
    told = json.loads(move("verify", "--json", DATABASE_URL=readable(arrived)).stdout)
    assert (told["equal"], told["hash"], len(told["tables"])) == (True, "hashtextextended", 11)


def test_counts_of_an_empty_target_differ_and_exit_with_3(move: Run) -> None:
    done = move("counts")
    assert done.returncode == 3
    assert re.search(r"^ +users +3 +0 +differ$", done.stdout, flags=re.MULTILINE)
    told = json.loads(move("counts", "--json").stdout)
    [users] = [count for count in told["tables"] if count["table"] == "users"]
    assert users == {"table": "users", "source": 3, "target": 0, "rejected": {}, "agrees": False, "by_choice": False}


def test_verify_shows_both_values_and_exits_with_3(move: Run, arrived: URL) -> None:
    with psycopg.connect(readable(arrived)) as connection:
        connection.execute("UPDATE users SET email = NULL WHERE id = 1")
    done = move("verify", "users", DATABASE_URL=readable(arrived))
    assert done.returncode == 3
    assert "    email: 'ana@gym.example' in the source, NULL here\n" in done.stdout
    assert "ana@gym.example" not in done.stderr
    hidden = move("verify", "--max-differences", "0", DATABASE_URL=readable(arrived))
    assert "  and 1 more\n" in hidden.stdout
    assert "ana@gym.example" not in hidden.stdout


def test_a_table_that_is_not_ours_is_a_mistyped_one(move: Run) -> None:
    done = move("verify", "usres")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no table usres" in done.stderr


def test_copy_brings_everything_and_status_tells_of_it(move: Run) -> None:
    done = move("copy")
    assert done.returncode == 0, done.stderr
    assert "equal   23 rows in 11 tables, proven by digests with hashtextextended\n" in done.stdout
    assert re.search(r"^users: 3 rows, 3 written, 0 deleted, ", done.stderr, flags=re.MULTILINE)
    assert move("verify").returncode == 0
    told = json.loads(move("copy", "--json").stdout)
    assert [table["written"] for table in told["tables"]] == [0] * 11
    status = move("status")
    assert status.returncode == 0
    assert len(re.findall("rows?, copied .* proven ", status.stdout)) == 11
    assert "away" not in status.stdout
    assert json.loads(move("status", "--json").stdout)["parked"] == []


def test_the_report_of_a_copy_says_what_was_proven_and_what_is_next(move: Run, supabase: URL) -> None:
    planned = move("plan")
    assert re.search(r"^checkins  phase 4, 2 rows, [0-9,]+ bytes, about 0.0 s$", planned.stdout, flags=re.MULTILINE)
    assert "a first copy takes about 0.0 s, by the last one on record or by the sizes\n" in planned.stdout
    first = move("copy", "--phase", "1")
    assert "next    copy the later phases; not copied yet: gyms, users, " in first.stdout
    assert "once nobody writes" not in first.stdout
    second = move("copy", "roles", "--phase", "2")
    assert re.findall("^  (roles|versions|gyms) ", second.stdout, flags=re.MULTILINE) == ["roles", "gyms"]
    assert "next    copy the later phases; not copied yet: users, " in second.stdout
    done = move("copy")
    [digest] = re.findall(r"^users: equal, 3 rows, digest (-?[0-9]+)$", move("verify").stdout, flags=re.MULTILINE)
    assert re.search(rf"^  users +3 +3 +0 +[0-9.]+  {digest}$", done.stdout, flags=re.MULTILINE)
    assert re.search(r"^source  .*, as it was at 20[0-9-]+ [0-9:]+ UTC$", done.stdout, flags=re.MULTILINE)
    assert "keys    12 foreign keys hold over all rows\n" in done.stdout
    assert "ready   a new row was added to 10 tables, and taken back\n" in done.stdout
    assert "aside   nothing: every row moved as it is\n" in done.stdout
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE checkins SET date = 'infinity' WHERE id = 1")
    assert "next    once nobody writes to Supabase any more: `tatame-db move copy` again, then" in done.stdout
    assert "`tatame-db move verify` and `tatame-db check`\n" in done.stdout
    rejected = move("copy", "--rejects", "keep")
    assert "next    look at `tatame_move.rejects`" in rejected.stdout
    assert re.match(r"run 4 of [0-9-]+ [0-9:]+: proven\n", move("status").stdout)


def test_a_terminal_sees_how_far_a_table_is_and_a_file_does_not(
    environment: dict[str, str], supabase: URL, address: URL
) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 300000) AS n")
    variables = environment | {
        "SUPABASE_DB_URL": readable(supabase),
        "DATABASE_URL": readable(address),
        "TERM": "xterm",
    }
    ours, theirs = pty.openpty()
    copying = subprocess.Popen([COMMAND, "move", "copy"], env=variables, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # How Linux says that the other side is closed.
        while data := os.read(ours, 1 << 16):
            shown += data
    os.close(ours)
    answer, _ = copying.communicate()
    assert copying.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"checkins +\S+ +[0-9,]+ of 200,003 rows +[0-9,]+ rows/s", plain)
    assert "checkins: 200,003 rows, 200,003 written, 0 deleted, " in plain
    assert b"equal   200,024 rows in 11 tables" in answer
    assert b"\x1b" not in answer


def test_keys_that_are_away_are_said_loudly_until_the_move_is_ended(move: Run, run: Run, address: URL) -> None:
    assert move("copy").returncode == 0
    with psycopg.connect(readable(address)) as connection:
        connection.execute(
            "INSERT INTO tatame_move.parked (kind, table_name, name, definition)"
            " SELECT 'index', 'gyms', indexname, indexdef FROM pg_indexes WHERE indexname = 'gyms_manager_id_index'"
        )
        connection.execute("DROP INDEX gyms_manager_id_index")
    loud = "NOT READY  away, until `tatame-db move copy` has run again: gyms.gyms_manager_id_index\n"
    assert loud in move("status").stdout
    status = run("status", "--database-url", readable(address))
    assert (
        "NOT READY  a move is unfinished; not restored or not validated: gyms.gyms_manager_id_index\n" in status.stdout
    )
    assert json.loads(run("status", "--json", "--database-url", readable(address)).stdout)["move"] == [
        "gyms.gyms_manager_id_index"
    ]
    assert status.returncode == 0
    asked = run("status", "--check", "--database-url", readable(address))
    assert (asked.returncode, asked.stdout) == (3, status.stdout)
    assert (
        "error: a move out of Supabase is unfinished; not restored or not validated: gyms.gyms_manager_id_index\n"
        in (asked.stderr)
    )
    checked = run("check", "--database-url", readable(address))
    assert checked.returncode == 3
    assert "no   no move is unfinished\n     gyms.gyms_manager_id_index\n" in checked.stdout
    assert (
        "error: a move out of Supabase is unfinished; not restored or not validated: gyms.gyms_manager_id_index\n"
        in (checked.stderr)
    )
    assert "hint: run `tatame-db move copy`, which restores them" in checked.stderr
    assert move("copy").returncode == 0
    assert "NOT READY" not in move("status").stdout
    assert run("status", "--check", "--database-url", readable(address)).returncode == 0


def test_the_copy_that_ends_a_killed_one_is_printed_with_its_choices(
    move: Run, run: Run, supabase: URL, address: URL
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
    assert f"rows that are there, until `{command}` has run again: class.{key}\n" in move("status").stdout
    assert json.loads(move("status", "--json").stdout)["finish_command"] == command
    asked = run("status", "--check", "--database-url", readable(address))
    assert f"           run `{command}` to restore them\n" in asked.stdout
    assert f"hint: run `{command}`, which restores them" in asked.stderr
    assert f"hint: run `{command}`, which restores them" in run("check", "--database-url", readable(address)).stderr
    assert move(*command.split()[2:]).returncode == 0
    assert "NOT READY" not in move("status").stdout
    assert move("copy", "--phase", "1", *choices).returncode == 0
    command = "tatame-db move copy roles versions app_stores --misfits null --unknown keep"
    assert json.loads(move("status", "--json").stdout)["finish_command"] == command


def test_copy_of_one_phase_and_of_rows_of_others(move: Run, address: URL) -> None:
    assert move("copy", "--phase", "3").returncode == 1
    assert move("copy", "--phase", "1").returncode == 0
    second = move("copy", "--phase", "2")
    assert "waits   manager_id of gyms, for rows of a later phase" in second.stdout
    with psycopg.connect(readable(address)) as connection:
        connection.execute("INSERT INTO roles VALUES ('GHOST')")
    refused = move("copy")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "roles with 4 rows" in refused.stderr
    assert move("copy", "--replace").returncode == 0
    assert move("verify").returncode == 0


def test_choices_are_shown_planned_kept_and_told_by_every_report(move: Run, supabase: URL, address: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
        connection.execute("UPDATE notifications SET created_at = 'infinity' WHERE id = 2")
        connection.execute("ALTER TABLE users ADD nickname text")
        connection.execute("UPDATE users SET nickname = 'Aninha' WHERE id = 1")
    undecided = move("plan", "--misfits", "null")
    assert undecided.returncode == 3
    assert "class: start has seconds, which HH:MM cannot hold: 1 row, for example 1\n" in undecided.stdout
    assert "for example 1\n  chosen: `--misfits null`: 1 nulled\n" in undecided.stdout
    assert "  can be done: `--unknown keep`: the values are kept as JSON\n" in undecided.stdout
    assert "error: the move would not be whole: 1 obstacle" in undecided.stderr
    assert move("copy", "--misfits", "null").returncode == 1
    choices = ("--misfits", "null", "--unknown", "keep")
    planned = move("plan", *choices)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert "nothing stands in the way of 22 rows\n" in planned.stdout
    assert json.loads(move("plan", *choices, "--json").stdout)["whole"] is True

    copied = move("copy", *choices)
    assert copied.returncode == 0, copied.stderr
    exclusions = [
        "aside   1 kept of users.nickname: nickname (text) has values, and no column of ours takes them",
        "aside   1 nulled of class.start: start has seconds, which HH:MM cannot hold",
        "aside   1 rejected of notifications.created_at: created_at is infinite or outside the years 1 to 9999",
    ]
    assert sorted(re.findall("^aside .*$", planned.stdout, flags=re.MULTILINE)) == exclusions
    assert sorted(re.findall("^aside .*$", copied.stdout, flags=re.MULTILINE)) == exclusions
    told = json.loads(move("copy", *choices, "--json").stdout)
    assert {(what["action"], what["rows"]) for what in told["exclusions"]} == {
        ("nulled", 1),
        ("rejected", 1),
        ("kept", 1),
    }
    status = move("status")
    assert sorted(re.findall("^aside .*$", status.stdout, flags=re.MULTILINE)) == exclusions
    assert re.search(r"notifications +2 rows, .*, 1 rejected$", status.stdout, flags=re.MULTILINE)

    counted = move("counts")
    assert counted.returncode == 3
    assert "differ, by choice, 1 rejected: misfit\n" in counted.stdout
    verified = move("verify")
    assert verified.returncode == 3
    assert "error: equal but for 2 rows set aside by choice: class, notifications\n" in verified.stderr
    assert "  2  missing, by choice: created_at is infinite" in verified.stdout
    assert "  1  differing, by choice: start has seconds" in verified.stdout
    told = json.loads(move("verify", "--json").stdout)
    assert (told["equal"], told["equal_but_for_choices"], told["by_choice"]) == (False, True, 2)
    with psycopg.connect(readable(address)) as connection:
        connection.execute("DELETE FROM checkins WHERE id = 1")
    verified = move("verify")
    assert verified.returncode == 3
    assert "not equal: class, checkins, notifications; 2 differences by choice, the others not\n" in verified.stderr


def test_a_choice_that_there_is_not_is_a_mistyped_one(move: Run) -> None:
    done = move("copy", "--orphans", "keep")
    assert (done.returncode, done.stdout) == (2, "")


def test_the_whole_move_over_rest_tells_how_it_read(
    move: Run, postgrest: Callable[..., str], supabase_key: Callable[..., str]
) -> None:
    address, key = postgrest(2), supabase_key("service_role")
    rest = {"SUPABASE_DB_URL": "", "SUPABASE_REST_URL": address, "SUPABASE_SERVICE_ROLE_KEY": key}
    differ = move("counts", **rest)
    assert differ.returncode == 3
    assert re.search(r"^ +users +3 +0 +differ$", differ.stdout, flags=re.MULTILINE)
    done = move("copy", **rest)
    assert done.returncode == 0, done.stderr
    assert f"source  {address}, PostgREST 12.0.2\n" in done.stdout
    assert "read    over REST as service_role, in 25 pages, of 2 rows at most, and not in one moment\n" in done.stdout
    assert done.stderr.count("users: 3 rows read\n") == 2
    told = json.loads(move("verify", "--json", **rest).stdout)
    assert (told["equal"], told["rest"]["cap"]) == (True, 2)
    assert json.loads(move("counts", "--json", **rest).stdout)["rest"]["role"] == "service_role"
    assert "nothing stands in the way of 23 rows" in move("plan", **rest).stdout
    assert not any(key in output for output in (done.stdout, done.stderr))


def test_choices_hold_over_rest_too_and_for_the_second_reading(
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
    assert len(re.findall("^aside ", done.stdout, flags=re.MULTILINE)) == 2
    counted = move("counts", **rest)
    assert "differ, by choice, 1 rejected: misfit\n" in counted.stdout
    verified = move("verify", **rest)
    assert verified.returncode == 3
    assert "error: equal but for 2 rows set aside by choice: class, notifications\n" in verified.stderr


def test_a_public_key_needs_the_word_and_sees_no_empty_table(
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


def test_a_copy_that_is_read_back_shows_the_hash_of_each_table(move: Run) -> None:
    done = move("copy", "--sha256")
    assert done.returncode == 0, done.stderr
    assert "bytes   11 tables read back" in done.stdout
    assert len(re.findall(r"^ +[a-z_]+ +SHA-256 [0-9a-f]{64}$", done.stdout, flags=re.MULTILINE)) == 11
    assert "SHA-256" not in move("copy", "--sha256").stdout


def test_a_copy_in_several_jobs_that_is_interrupted_undoes_what_it_was_at(
    environment: dict[str, str], move: Run, supabase: URL, address: URL
) -> None:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(100); RETURN NEW; END';"
            "CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow()"
        )
        variables = environment | {"SUPABASE_DB_URL": readable(supabase), "DATABASE_URL": readable(address)}
        copying = subprocess.Popen(
            [COMMAND, "move", "copy", "--jobs", "2"], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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


@pytest.mark.long
def test_a_copy_that_is_killed_again_and_again_ends_equal(
    environment: dict[str, str], move: Run, supabase: URL, address: URL
) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 400000) AS n")
        # One that stays behind each time.
        connection.execute("INSERT INTO checkins (id, date) VALUES (500000, 'infinity')")
    variables = environment | {"SUPABASE_DB_URL": readable(supabase), "DATABASE_URL": readable(address)}
    chance = random.Random(1)  # noqa: S311, moments and no secrets
    killed = 0
    for _ in range(20):
        copying = subprocess.Popen(
            [COMMAND, "move", "copy", "--rejects", "keep"],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            copying.wait(chance.uniform(0.5, 6))
        except subprocess.TimeoutExpired:
            copying.kill()
            copying.wait()
            killed += 1
        with psycopg.connect(readable(address)) as connection:
            # Either all of a table or nothing of it, at any moment.
            assert connection.execute("SELECT count(*) FROM checkins").fetchone() in ((0,), (300_003,))
        # Something new to copy, so that each round has work.
        with psycopg.connect(readable(supabase)) as connection:
            connection.execute("UPDATE checkins SET date = '2024-01-01'::date + %s WHERE id > 99999", [killed])
            connection.execute("UPDATE checkins SET date = 'infinity' WHERE id = 500000")
    assert killed > 5
    assert move("copy", "--rejects", "keep").returncode == 0
    assert "equal but for 1 row set aside by choice: checkins\n" in move("verify").stderr
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("DELETE FROM checkins WHERE id = 500000")
    assert move("copy").returncode == 0
    assert move("verify").returncode == 0
    with Database(address) as database:
        assert evolve.check(database.engine).failed == []
