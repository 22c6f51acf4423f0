"""The studio over a million users and a million check-ins: its response times beside plain SQL, and its memory.

Run it by hand: `python benchmarks/studio.py [DIRECTORY]`. A DIRECTORY keeps the data for the next run, and
`ROWS=20000` in the environment makes fewer rows, to try it. Recorded results are in `README.md`.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import psycopg
from playwright.sync_api import sync_playwright

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.studio.index import STATIC, scripts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ROUNDS = 15
_SECONDS_OF_A_SEARCH = 10
MILLION = int(os.environ.get("ROWS", "1_000_000"))
COMMAND = Path(sys.executable).with_name("tatame-db")

ROWS = f"""
INSERT INTO roles (id) VALUES ('STUDENT'), ('INSTRUCTOR'), ('MANAGER');
INSERT INTO gyms (name, address, since)
SELECT 'Gym ' || n, 'Rua ' || n || ', Centro', '2015-03-01' FROM generate_series(1, 1000) AS n;
INSERT INTO users (clerk_user_id, email, first_name, last_name, birth, birth_day, gender, phone, role, gym_id,
    expo_push_token, plan, approved_at, created_at)
SELECT 'user_' || md5(n::text), 'user' || n || '@gym.example', (ARRAY['Ana', 'Bia', 'Caio', 'Davi'])[1 + n % 4],
    'Silva ' || md5(n::text), '1990-12-31', '12-31', 'F', '+55119' || lpad(n::text, 8, '0'), 'STUDENT', 1 + n % 1000,
    'ExponentPushToken[' || md5((-n)::text) || ']', CASE WHEN n % 3 = 0 THEN 'monthly' END,
    CASE WHEN n % 10 > 0 THEN timestamp '2026-01-01' + n * interval '1 second' END,
    timestamp '2025-01-01' + (n::bigint * 7919 % {MILLION}) * interval '1 second'
FROM generate_series(1, {MILLION}) AS n;
INSERT INTO class (gym_id, instructor_id, day, start) SELECT n, n, 'MONDAY', '18:00' FROM generate_series(1, 1000) AS n;
INSERT INTO checkins (user_id, class_id, date, created_at)
SELECT 1 + n::bigint * 7919 % {MILLION}, 1 + n % 1000, to_char(date '2025-01-01' + n % 600, 'YYYY-MM-DD'),
    timestamp '2025-01-01' + n * interval '1 second'
FROM generate_series(1, {MILLION}) AS n;
"""


class Studio:
    """The command in its own process, and a client that is signed in."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [COMMAND, "studio", "--no-browser", "--port", "4799"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        if not self.process.stdout:
            raise SystemExit("the studio prints no address")
        address = self.process.stdout.readline().strip()
        self.base, self.sign_in = address.split("/?")[0], f"?{address.split('/?')[1]}"
        self.headers: dict[str, str] = {}
        with self.responding(address.partition("4799")[2]) as signed_in:
            cookie = signed_in.headers["Set-Cookie"].partition(";")[0]
        self.headers = {"Cookie": cookie, "Origin": "http://127.0.0.1:4799", "Content-Type": "application/json"}

    @contextmanager
    def responding(self, path: str, body: Any = None) -> Generator[HTTPResponse]:
        """Send a request on a new connection, because the server closes idle ones."""
        connection = HTTPConnection("127.0.0.1", 4799, timeout=600)
        content = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, content, headers=self.headers)
        yield connection.getresponse()
        connection.close()

    def ask(self, path: str, **query: Any) -> Any:
        """Return the JSON of a response."""
        with self.responding(f"{path}?{urlencode(query)}") as response:
            content = json.loads(response.read())
            assert response.status == 200, content
        return content

    def answered(self, path: str, **query: Any) -> int:
        """Return the status of a response; a search without an index may end in words."""
        with self.responding(f"{path}?{urlencode(query)}") as response:
            response.read()
            assert response.status in {200, 422}, path
            return response.status

    def drain(self, path: str, body: Any = None) -> int:
        """Read a stream to its end and count its bytes."""
        size = 0
        with self.responding(path, body) as response:
            while piece := response.read(1 << 20):
                size += len(piece)
        return size

    def memory_mb(self, kind: str = "VmHWM") -> float:
        """Return the peak of memory since `reset_peak`, or with `VmRSS` the memory in use now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith(kind)]
        return int(line.split()[1]) / 1024

    def cpu_ms(self) -> float:
        """Return the time on a processor so far, which other programs on the machine do not lengthen."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")

    def reset_peak(self) -> None:
        """Let the peak of memory be measured from now on."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def filled_server(directory: Path) -> EmbeddedServer:
    """Start the server, and fill the database if it is missing."""
    server = EmbeddedServer(directory / "data")
    server.start()
    if create_missing_database(server.address):
        with Database(server.address) as database:
            evolve.migrate(database.engine)
        with psycopg.connect(readable(server.address), autocommit=True) as connection:
            connection.execute(ROWS.encode())
            connection.execute("CREATE EXTENSION pg_stat_statements")
            connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
            connection.execute("ALTER SYSTEM SET pg_stat_statements.track_planning = on")
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        # The statements of the studio are measured apart from the studio itself.
        server.stop()
        server.start()
    return server


def timed(function: Callable[[], object]) -> float:
    """Return how many milliseconds a function takes."""
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1000


def walk(studio: Studio, connection: psycopg.Connection[Any]) -> None:
    """Send each kind of request, with the time that it takes beside the time of its statements in PostgreSQL."""
    row = studio.ask("/api/rows/users", limit=1)["keys"][0]
    requests: dict[str, tuple[str, Any]] = {
        "the page itself": ("/", None),
        "session": ("/api/session", None),
        "overview": ("/api/overview", None),
        "a page of users": ("/api/rows/users", None),
        "a page of check-ins": ("/api/rows/checkins", None),
        "a user": (f"/api/row/users/{row}", None),
        "a value": (f"/api/cell/users/email/{row}", None),
        "a user to refer to": ("/api/find?table=users&q=Ana", None),
        "SQL: `select 1`": ("/api/sql", {"id": "a", "tab": "a", "text": "select 1"}),
        "move": ("/api/move", None),
        "activity": ("/api/activity", None),
        "slow statements": ("/api/activity/statements", None),
        "all users counted": ("/api/count/users", None),
        "drift": ("/api/drift", None),
        "doctor": ("/api/doctor", None),
    }
    once = {"drift", "doctor"}
    print("\n| Request | Response, ms | In PostgreSQL, ms | Own time, ms | CPU, ms | Memory at most, MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (path, body) in requests.items():
        rounds = 1 if name in once else ROUNDS
        studio.drain(path, body)
        before, cpu_before = in_postgres(connection), studio.cpu_ms()
        response = [timed(partial(studio.drain, path, body)) for _ in range(rounds)]
        cpu = (studio.cpu_ms() - cpu_before) / rounds
        sql = (in_postgres(connection) - before) / rounds
        own = median(response) - sql
        print(f"| {name} | {median(response):.1f} | {sql:.1f} | {own:.1f} | {cpu:.1f} | {studio.memory_mb():.0f} |")


def in_postgres(connection: psycopg.Connection[Any]) -> float:
    """Return the milliseconds that the statements of the studio's role have taken, planning included."""
    query = (
        "SELECT coalesce(sum(total_exec_time + total_plan_time), 0) FROM pg_stat_statements"
        " JOIN pg_roles ON pg_roles.oid = userid WHERE rolname LIKE 'tatame_studio%'"
    )
    [[milliseconds]] = connection.execute(query).fetchall()
    return float(milliseconds)


PAINT = """() => new Promise((done) => new PerformanceObserver((list) => {
    const [paint] = list.getEntriesByName("first-contentful-paint");
    if (paint) done(paint.startTime);
}).observe({ type: "paint", buffered: true }))"""


def first_paint(studio: Studio) -> None:
    """Open the printed address in Chromium, with nothing in its cache."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        print("\nno Chromium: the first paint was not measured")
        return
    print("\n| Page | JavaScript, kB compressed | First paint, ms | Content, ms |\n| --- | --- | --- | --- |")
    pages = {"/": "table.list", "/t/users": ".ag-row", "/sql": ".cm-content", "/schema": "svg.diagram a.table"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=False)
        for path, content in pages.items():
            paints: list[float] = []
            contents: list[float] = []
            for _ in range(5):
                context = browser.new_context()
                page = context.new_page()
                started = time.perf_counter()
                page.goto(studio.base + path + studio.sign_in)
                page.locator(content).first.wait_for()
                contents.append((time.perf_counter() - started) * 1000)
                paints.append(page.evaluate(PAINT))
                context.close()
            size = sum(len(gzip.compress((STATIC / name).read_bytes())) for name in scripts_of(path)) / 1000
            print(f"| {path} | {size:.0f} | {median(paints):.0f} | {median(contents):.0f} |")
        browser.close()


def pages(studio: Studio, connection: psycopg.Connection[Any]) -> None:
    """Compare pages with SQL written by hand for the same rows."""

    def page(table: str, **query: Any) -> Callable[[], Any]:
        return lambda: studio.ask(f"/api/rows/{table}", **query)

    def where(column: str, operator: str, value: str) -> str:
        return json.dumps({"column": column, "op": operator, "value": value})

    def plain(query: str) -> Callable[[], Any]:
        return lambda: connection.execute(query.encode()).fetchall()

    clerk = "user_" + connection.execute("SELECT md5('4711')").fetchall()[0][0]
    beyond = where("id", ">", str(MILLION // 2))
    middle = {
        table: studio.ask(f"/api/rows/{table}", filter=beyond, limit=1)["next"] for table in ("users", "checkins")
    }
    compared: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for table in ("users", "checkins"):
        compared |= {
            f"{table}, first page": (page(table), plain(f"SELECT * FROM {table} ORDER BY id LIMIT 100")),
            f"{table}, last page": (
                page(table, last=1),
                plain(f"SELECT * FROM {table} ORDER BY id OFFSET {MILLION - 100} LIMIT 100"),
            ),
            f"{table}, a page in the middle": (
                page(table, after=middle[table]),
                plain(f"SELECT * FROM {table} ORDER BY id OFFSET {MILLION // 2} LIMIT 100"),
            ),
            f"{table}, last page by `created_at`, no index": (
                page(table, sort="created_at", last=1),
                plain(f"SELECT * FROM {table} ORDER BY created_at DESC, id DESC LIMIT 100"),
            ),
        }
    compared |= {
        "checkins, last page by `user_id,date`": (
            page("checkins", sort="user_id,date", last=1),
            plain(f"SELECT * FROM checkins ORDER BY user_id, date, id OFFSET {MILLION - 100} LIMIT 100"),
        ),
        "`clerk_user_id` is": (
            page("users", filter=where("clerk_user_id", "is", clerk)),
            plain(f"SELECT * FROM users WHERE clerk_user_id = '{clerk}'"),
        ),
        "`clerk_user_id` starts exact": (
            page("users", filter=where("clerk_user_id", "starts exact", clerk[:10])),
            plain(f"SELECT * FROM users WHERE clerk_user_id LIKE '{clerk[:10]}%' ORDER BY id LIMIT 100"),
        ),
        "`clerk_user_id` starts": (
            page("users", filter=where("clerk_user_id", "starts", clerk[:10])),
            plain(f"SELECT * FROM users WHERE clerk_user_id ILIKE '{clerk[:10]}%' ORDER BY id LIMIT 100"),
        ),
        "`clerk_user_id` contains": (
            page("users", filter=where("clerk_user_id", "contains", clerk[8:20])),
            plain(f"SELECT * FROM users WHERE clerk_user_id ILIKE '%{clerk[8:20]}%' ORDER BY id LIMIT 100"),
        ),
        "`email` contains, no index, one match": (
            page("users", filter=where("email", "contains", "user4711@")),
            plain("SELECT * FROM users WHERE email ILIKE '%user4711@%' ORDER BY id LIMIT 100"),
        ),
        "`first_name` contains, no index, many matches": (
            page("users", filter=where("first_name", "contains", "an")),
            plain("SELECT * FROM users WHERE first_name ILIKE '%an%' ORDER BY id LIMIT 100"),
        ),
        "`gym_id` is, a thousand matches": (
            page("users", filter=where("gym_id", "is", "700")),
            plain("SELECT * FROM users WHERE gym_id = 700 ORDER BY id LIMIT 100"),
        ),
        "a user and its referrers": (
            lambda: studio.ask("/api/row/users/4711"),
            plain("SELECT * FROM users WHERE id = 4711"),
        ),
        "a class with a thousand check-ins": (
            lambda: studio.ask("/api/row/class/700"),
            plain("SELECT count(*) FROM checkins WHERE class_id = 700"),
        ),
        "a user to refer to, by name": (
            lambda: studio.ask("/api/find", table="users", q="Ana"),
            plain("SELECT id FROM users WHERE first_name ILIKE 'Ana%' ORDER BY id LIMIT 20"),
        ),
        "the overview": (lambda: studio.ask("/api/overview"), plain("SELECT 1")),
        "all users counted": (lambda: studio.ask("/api/count/users"), plain("SELECT count(*) FROM users")),
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in compared}
    for _ in range(ROUNDS):
        for name, pair in compared.items():
            for milliseconds, function in zip(times[name], pair, strict=True):
                milliseconds.append(timed(function))
    print("\n| What | Studio, ms | Plain SQL, ms | Ratio |\n| --- | --- | --- | --- |")
    for name, (in_studio, in_sql) in times.items():
        ratio = median(one / other for one, other in zip(in_studio, in_sql, strict=True))
        print(f"| {name} | {median(in_studio):.1f} | {median(in_sql):.1f} | {ratio:.2f} |")
    print(f"\nmemory afterwards: {studio.memory_mb('VmRSS'):.0f} MB, at most {studio.memory_mb():.0f} MB")


# As `docs/see-your-data.md` describes it.
INDEX = """
CREATE EXTENSION pg_trgm;
CREATE EXTENSION unaccent;
CREATE FUNCTION folded(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN lower(unaccent('unaccent', $1));
CREATE INDEX users_search_index ON users USING gin (folded(
    coalesce(first_name, '') || ' ' || coalesce(last_name, '') || ' ' || coalesce(email, '') || ' ' ||
    coalesce(phone, '') || ' ' || translate(coalesce(phone, ''), ' -().+/', '')) gin_trgm_ops);
ANALYZE users;
"""


def searches(studio: Studio, connection: psycopg.Connection[Any]) -> None:
    """Search without an index and with one, and leave the database as it was."""
    middle = MILLION // 2
    words = connection.execute(f"SELECT md5('{middle}')".encode()).fetchall()[0][0]
    questions: dict[str, tuple[str, dict[str, str]]] = {
        "one person, by first name and a part of the last": ("/api/rows/users", {"q": f"davi {words[:9]}"}),
        "one person, by a part of the phone number": ("/api/rows/users", {"q": f"55119{middle:08}"}),
        "a quarter of all rows, `davi`": ("/api/rows/users", {"q": "davi"}),
        "all rows, `silva`": ("/api/rows/users", {"q": "silva"}),
        "two frequent words that no row has together": ("/api/rows/users", {"q": "davi caio"}),
        "no row": ("/api/rows/users", {"q": "quixadá"}),
        "no row, two letters": ("/api/rows/users", {"q": "qy zq"}),
        "a reference, one row": ("/api/find", {"table": "users", "q": words[:9]}),
        "a reference, no row": ("/api/find", {"table": "users", "q": "quixadá"}),
        "the palette, no row": ("/api/search", {"q": "quixadá"}),
    }
    times: dict[str, list[float]] = {name: [] for name in questions}
    seconds = 0.0
    for is_indexed in (False, True):
        if is_indexed:
            seconds = timed(lambda: connection.execute(INDEX.encode())) / 1000
        for name, (path, query) in questions.items():
            rounds: list[float] = []
            while len(rounds) < ROUNDS and (not rounds or sum(rounds) < _SECONDS_OF_A_SEARCH * 1000):
                rounds.append(timed(partial(studio.answered, path, **query)))
            times[name].append(median(rounds))
    print("\n| Search | Without an index, ms | With one, ms |\n| --- | --- | --- |")
    for name, (without, indexed) in times.items():
        print(f"| {name} | {without:.1f} | {indexed:.1f} |")
    size = connection.execute("SELECT pg_relation_size('users_search_index') / 1e6").fetchall()[0][0]
    print(f"\nthe index: {seconds:.0f} s, {size:.0f} MB")
    connection.execute("DROP FUNCTION folded(text) CASCADE")
    connection.execute("DROP EXTENSION pg_trgm, unaccent")


def streams(studio: Studio, connection: psycopg.Connection[Any]) -> None:
    """Read whole tables through the studio and watch its memory."""
    wide = "SELECT repeat('x', 1000000) AS a, repeat('y', 1000000) AS b FROM generate_series(1, 300)"
    requests: dict[str, tuple[str, Any]] = {
        "SQL: `select * from checkins`, limit of 1,000": (
            "/api/sql",
            {"id": "a", "tab": "a", "text": "select * from checkins"},
        ),
        "SQL: `select * from checkins`, limit of 100,000": (
            "/api/sql",
            {"id": "b", "tab": "a", "text": "select * from checkins", "limit": 100_000},
        ),
        "SQL: 300 rows of two cells of 1 MB": ("/api/sql", {"id": "c", "tab": "a", "text": wide}),
        "export of all check-ins as CSV": ("/api/export/checkins.csv", None),
        "export of all users as CSV": ("/api/export/users.csv", None),
        "export of all users as JSON": ("/api/export/users.json", None),
    }
    print("\n| What | Seconds | MB | Memory at most, MB |\n| --- | --- | --- | --- |")
    for name, (path, body) in requests.items():
        studio.reset_peak()
        size = 0

        def drain(path: str = path, body: Any = body) -> None:
            nonlocal size
            size = studio.drain(path, body)

        seconds = timed(drain) / 1000
        print(f"| {name} | {seconds:.1f} | {size / 1e6:.1f} | {studio.memory_mb():.0f} |")

    def copy_checkins() -> None:
        with connection.cursor().copy("COPY checkins TO STDOUT (FORMAT csv)") as copy:
            for _ in copy:
                pass

    print(f"\nCOPY of all check-ins as CSV, beside it: {timed(copy_checkins) / 1000:.1f} s")


def main() -> None:
    """Fill the database, measure, and remove the data unless a directory is named."""
    named = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    directory = named or Path(tempfile.mkdtemp(prefix="tatame-studio-"))
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    server = filled_server(directory)
    environment = os.environ | {"TATAME_DATA_DIR": str(server.directory), "DATABASE_URL": ""}
    studio = Studio(environment)
    try:
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"memory at the start: {studio.memory_mb('VmRSS'):.0f} MB")
        with psycopg.connect(readable(server.address), autocommit=True) as connection:
            walk(studio, connection)
            first_paint(studio)
            pages(studio, connection)
            searches(studio, connection)
            streams(studio, connection)
    finally:
        studio.process.terminate()
        studio.process.wait()
        server.stop()
        if named is None:
            server.delete()
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
