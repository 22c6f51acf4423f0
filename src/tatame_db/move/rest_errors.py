"""What can go wrong while a source is read over REST."""

from __future__ import annotations

from tatame_db.errors import TatameError, fact


class RestError(TatameError):
    """The source cannot be read over REST."""


@fact
class RestNotReached(RestError):
    """No response arrived, or only a part of one."""

    address: str
    reason: str
    what = "no response from the source at {address}: {reason}"
    fix = "check `SUPABASE_URL` (or `SUPABASE_REST_URL`) and the network, then run the command again"


@fact
class UnexpectedResponse(RestError):
    """A response arrived that does not answer the request."""

    url: str
    problem: str
    what = "unexpected response from {url}: {problem}"
    fix = "check that `SUPABASE_URL` (or `SUPABASE_REST_URL`) leads to PostgREST; if it does, try again later"


@fact
class RestAddressInvalid(RestError):
    """The address of the source is not that of a web server. It is not repeated, because it may hold a password."""

    problem: str
    what = "the address in `SUPABASE_URL` (or `SUPABASE_REST_URL`) {problem}"
    fix = "write it as `https://host`"


@fact
class ProxyInvalid(RestError):
    """The proxy is not that of a web server. Its address is not repeated, because it may hold a password."""

    problem: str
    what = "the address in `SUPABASE_PROXY` {problem}"
    fix = "write it as `http://host:port`; other kinds of proxies are not supported"


@fact
class CertificatesUnusable(RestError):
    """The file with the certificates of trusted servers cannot be read."""

    file: str
    reason: str
    what = "cannot read the certificates in {file}: {reason}"
    fix = "correct `SSL_CERT_FILE`, or remove it to trust the usual certificates"


@fact
class KeyInvalid(RestError):
    """The key cannot be sent. It is not repeated, because it is a secret."""

    problem: str
    what = "the Supabase key {problem}"
    fix = "copy the key again from the project's settings"


@fact
class KeyRejected(RestError):
    """The server does not accept the key."""

    address: str
    reason: str
    what = "{address} rejected the key: {reason}"
    fix = "set `SUPABASE_SERVICE_ROLE_KEY` to a key of this project that has not expired"


@fact
class KeyIsRestricted(RestError):
    """Row-level security applies to the key's role, so rows may be hidden."""

    role: str
    what = "the key is for the role {role}, from which row-level security may hide rows without an error"
    fix = "set `SUPABASE_SERVICE_ROLE_KEY`; if the policies let this role read every row, add `--anon-sees-all`"


@fact
class TableForbidden(RestError):
    """The key's role has no permission to read a table, or a column of it."""

    table: str
    role: str
    what = "the role {role} has no permission to read {table} or some of its columns"
    fix = "set `SUPABASE_SERVICE_ROLE_KEY`, or grant the role SELECT on the table"


@fact
class PageKeyMissing(RestError):
    """A table has no primary key of one column, so its rows cannot be read page by page."""

    table: str
    what = "{table} has no primary key of one column, so its pages could overlap or skip rows"
    fix = "add a primary key to the table at the source, or set `SUPABASE_DB_URL`"


@fact
class RowTooLong(RestError):
    """A single row is too long to be received."""

    table: str
    limit_bytes: int
    what = "a row of {table} takes more than {limit_bytes:,} bytes as JSON, the most that is read over REST"
    fix = "set `SUPABASE_DB_URL`, over which rows of any size are read, or shorten the row at the source"


@fact
class RowsChanged(RestError):
    """A table changed while its pages were read."""

    table: str
    before: int
    read: int
    after: int
    what = "{table} changed while it was read: {before:,} rows before, {read:,} read, {after:,} after"
    fix = "stop writing to the source, then run the command again"


@fact
class EmptyOrForbidden(RestError):
    """The key's role sees no row of some tables, which may be empty or hidden from it."""

    role: str
    tables: list[str]
    what = "the role {role} sees no rows of {tables}: the tables are empty, or a policy hides their rows"
    fix = "set `SUPABASE_SERVICE_ROLE_KEY`, whose role sees every row"


@fact
class NoRoomForRows(RestError):
    """The disk has no room for the temporary copy of the source."""

    directory: str
    what = "no room for the rows of the source in {directory}, where they are stored until the command ends"
    fix = "set `TMPDIR` to a directory on a larger disk, or set `SUPABASE_DB_URL`, which needs no temporary copy"
