"""The address of a database: read from text, and written without its password."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote

from sqlalchemy import URL

from tatame_db.errors import TatameError, fact

MARK = ".tatame-db"
"""The file that marks a directory as an embedded server's."""

# Options of Prisma and asyncpg in addresses that people copy, and what replaces them.
_OF_OTHER_TOOLS = {
    "pgbouncer": "a pooler is detected",
    "schema": "the tables are in the schema `public`",
    "connection_limit": "`TATAME_POOL_SIZE` limits the connections",
    "pool_timeout": "`TATAME_POOL_TIMEOUT_SECONDS` limits the wait for one",
    "ssl": "`sslmode=require` encrypts the connection",
}

# The values that libpq has without its variables, where it or the driver accepts no empty one.
_NOT_EMPTY = {
    "connect_timeout": "0",
    "sslcertmode": "allow",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}
# Where SQLAlchemy would write the host; no escaped part of an address contains it.
_PLACE = "\0"
# With the name of any driver, as SQLAlchemy writes it: this package brings its own.
_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?")


@fact
class AddressInvalid(TatameError):
    """An address cannot be read. It is not repeated in the message, because it may contain a password."""

    problem: str
    advice: str = "write it as `postgresql://user:password@host:5432/database`"
    variable: str | None = None
    """The setting that has it, if it is known."""
    what = "the database address {of}{problem}"
    fix = "{advice}"

    @property
    def of(self) -> str:
        """The setting."""
        return f"in `{self.variable}` " if self.variable else ""


def parse_address(text: str) -> URL:
    """Read a PostgreSQL address, even if its password contains unescaped `%@:/#[`.

        parse_address("postgres://ana:p@ss@db.example/tatame").password  # "p@ss"

    The password is everything between the first colon of the user part and the last `@` before the options.
    Percent-encoding such as `%40` is decoded in it, as the standard requires; a lone `%` stays. `str()` and `repr()`
    of the result print `***` in its place.

    Raises `AddressInvalid`.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"`":
        # Docker and systemd keep the quotes of a file of variables.
        text = text[1:-1].strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise AddressInvalid(problem="does not start with `postgresql://`")
    if not _SCHEME.fullmatch(scheme.lower()):
        raise AddressInvalid(problem=f"has the scheme {scheme!r}; only PostgreSQL is supported")
    # A password may contain `?`. Options follow it only if `name=` does, or if no `@` does.
    start = re.search(r"\?([a-z_]+=|[^@]*$)", rest)
    location, query = (rest[: start.start()], rest[start.start() + 1 :]) if start else (rest, "")
    user_part, _, location = location.rpartition("@")
    username, _, password = user_part.partition(":")
    hosts, _, database = location.partition("/")
    options = _options(query)
    if "," in hosts:
        host, port = None, None
        options = _several_hosts(hosts) | options
    else:
        host, port = _host_and_port(hosts)
    if "," in options.get("host", "") and options.get("target_session_attrs") == "prefer-standby":
        # psycopg tries one host after the other, and each alone satisfies it.
        raise AddressInvalid(problem="has several hosts and `prefer-standby`; use `standby` or `any`")
    # libpq accepts these as options too. SQLAlchemy hides a password only in the field of its own.
    named = {name: options.pop(name, "") for name in ("user", "password", "dbname")}
    if not (database or named["dbname"]):
        raise AddressInvalid(problem="names no database")
    return URL.create(
        "postgresql+psycopg",
        username=unquote(username) or named["user"] or None,
        password=unquote(password) or named["password"] or None,
        host=host,
        port=port,
        database=unquote(database) or named["dbname"],
        query=options,
    )


def parse_setting(variable: str, text: str) -> URL:
    """Read the address of a setting. Raises `AddressInvalid` with its name."""
    try:
        return parse_address(text)
    except AddressInvalid as error:
        raise AddressInvalid(problem=error.problem, advice=error.advice, variable=variable) from None


def _options(query: str) -> dict[str, str]:
    # libpq knows its own options. Loading it takes time, and settings without an address do not need it.
    from psycopg import pq  # noqa: PLC0415

    defaults = pq.Conninfo.get_defaults()
    known = {option.keyword.decode() for option in defaults}
    # libpq marks the options that a dialog should mask.
    secrets = {option.keyword.decode() for option in defaults if option.dispchar == b"*"} - {"password"}
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise AddressInvalid(problem="has an option that is not `name=value`") from None
    if unknown := sorted(set(options) - known):
        names = ", ".join(unknown)
        why = "".join(f"; {_OF_OTHER_TOOLS[name]}" for name in unknown if name in _OF_OTHER_TOOLS)
        raise AddressInvalid(
            problem=f"has options that PostgreSQL does not know: {names}",
            advice=f"remove {names} from the address{why}",
        )
    if secret := sorted(options.keys() & secrets):
        raise AddressInvalid(problem=f"has a secret in an option, which messages would show: {', '.join(secret)}")
    return options


def _host_and_port(hosts: str) -> tuple[str | None, int | None]:
    if hosts.startswith("["):
        host, bracket, port = hosts[1:].partition("]")
        if not bracket:
            raise AddressInvalid(problem="has a `[` without a matching `]`")
        port = port.removeprefix(":")
    else:
        host, _, port = hosts.partition(":")
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise AddressInvalid(problem="has a port that is not a number from 1 to 65535")
    return unquote(host) or None, int(port) if port else None


def _several_hosts(hosts: str) -> dict[str, str]:
    """Return the options of libpq for hosts that are tried in turn: `a:5432,b:5433`."""
    parts = [_host_and_port(host) for host in hosts.split(",")]
    if not all(host for host, _ in parts):
        raise AddressInvalid(problem="has an empty name among its hosts")
    return {
        "host": ",".join(str(host) for host, _ in parts),
        "port": ",".join(str(port or 5432) for _, port in parts),
    }


def readable(address: URL) -> str:
    """Write an address for psql, libpq and other tools, without its password."""
    without = address._replace(drivername="postgresql", password=None)
    if several := _several_hosts_of(address):
        without = without.difference_update_query(("host", "port")).set(host=_PLACE)
    front, mark, options = without.render_as_string().partition("?")
    front = front.replace(_PLACE, several)
    # libpq wants a space escaped and does not read `+` as one; `/` needs no escape among the options.
    return front.replace(" ", "%20") + mark + options.replace("+", "%20").replace("%2F", "/").replace("%2C", ",")


def hosts_of(address: URL) -> list[str]:
    """Return the hosts of an address, which are tried in turn; none if it names none."""
    named = str(address.query.get("host") or address.host or "")
    return named.split(",") if named else []


def _several_hosts_of(address: URL) -> str:
    """Write several hosts as `parse_address` reads them: `a:5432,b:5433`. Directories of sockets stay an option."""
    hosts, ports = hosts_of(address), str(address.query.get("port", "")).split(",")
    if len(hosts) < 2 or len(ports) != len(hosts) or not all(map(_is_plain, hosts)):
        return ""
    written = (f"[{host}]" if ":" in host else host for host in hosts)
    return ",".join(f"{host}:{port}" for host, port in zip(written, ports, strict=True))


def _is_plain(host: str) -> bool:
    return re.fullmatch(r"[\w.:-]+", host) is not None


def is_embedded(address: URL) -> bool:
    """Return whether an address is that of an embedded server: its socket is in a directory with the mark of one."""
    directory = str(address.query.get("host") or address.host or "")
    return directory.startswith("/") and os.path.exists(f"{directory}/{MARK}")  # noqa: PTH110, other users may not look


def may_be_embedded(address: URL) -> bool:
    """Return whether an address is that of an embedded server, or of one that was never started."""
    directory = str(address.query.get("host") or address.host or "")
    return directory.startswith("/") and (is_embedded(address) or not os.path.exists(directory))  # noqa: PTH110, as above


def libpq_variables() -> set[str]:
    """Return the names of the variables with which a shell sets libpq's options."""
    from psycopg import pq  # noqa: PLC0415, as above

    return {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}


def without_environment(address: URL) -> dict[str, str]:
    """Return parameters for libpq that keep the shell's variables from leading to another server than the address.

    For an embedded server they are all variables: `PGSERVICE` would lead elsewhere, and `PGREQUIREAUTH` reject this
    one. `PGHOSTADDR`, or the `hostaddr` of a service, would lead elsewhere whatever host an address names. A broken
    service file is an error even so: libpq reads it first.
    """
    if not is_embedded(address):
        return {"hostaddr": ""} if _names_host(address) and "hostaddr" not in address.query else {}
    from psycopg import pq  # noqa: PLC0415, as above

    named = {"service", "host", "user", "password", "dbname", *address.query}
    options = ((option.keyword.decode(), option) for option in pq.Conninfo.get_defaults() if option.envvar)
    return {
        name: _NOT_EMPTY.get(name, (option.compiled or b"").decode()) for name, option in options if name not in named
    }


def _names_host(address: URL) -> bool:
    return bool(address.host or address.query.get("host"))


def is_local(address: URL) -> bool:
    """Return whether an address leads to this machine: by a socket, or by a loopback name or number."""
    if is_embedded(address):
        return True
    if "service" in address.query:
        # Only libpq reads what it names.
        return False
    from psycopg import pq  # noqa: PLC0415, as above

    # The variables of the shell, and the service that PGSERVICE names.
    defaults = {option.keyword.decode(): (option.val or b"").decode() for option in pq.Conninfo.get_defaults()}
    shell = None if _names_host(address) else defaults["hostaddr"]
    named = (address.query.get("hostaddr") or shell, address.query.get("host"), address.host)
    host = str(next(filter(None, named), defaults["host"]))
    return all(map(_is_local_host, host.split(",")))


def _is_local_host(host: str) -> bool:
    if not host or host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
