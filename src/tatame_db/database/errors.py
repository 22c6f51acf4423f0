"""The reasons why a database cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.address import hosts_of, is_local, may_be_embedded, readable
from tatame_db.database.dialect import OLDEST_SERVER, quoted
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from sqlalchemy import URL


@fact
class DatabaseUnavailable(TatameError):
    """A database cannot be used; each reason has a class of its own."""

    address: URL
    variable: str = "DATABASE_URL"
    """The setting that has the address."""
    what = "the database at {where} is unavailable"
    fix = "check the server, and the address in `{variable}`"

    @property
    def where(self) -> str:
        """The address without its password."""
        return readable(self.address)


@fact
class ServerNotRunning(DatabaseUnavailable):
    """No PostgreSQL answers at the address."""

    reason: str
    what = "PostgreSQL does not answer at {where}: {reason}"
    fix = "{first_step}"

    @property
    def first_step(self) -> str:
        """The advice for the embedded server, for another one on this machine, or for one elsewhere."""
        if may_be_embedded(self.address):
            return f"start it with `tatame-db start`, or set `{self.variable}` to a running server"
        if is_local(self.address):
            return (
                f"start the server, or the pooler, of this address; or check the host and the port in `{self.variable}`"
            )
        return f"check the host and the port in `{self.variable}`, and the network between here and there"


@fact
class PrimaryMissing(ServerNotRunning):
    """None of the hosts of an address takes writes: the primary is lost, and no standby is promoted yet."""

    what = "none of the {hosts} hosts accepts writes at {where}: {reason}"
    fix = (
        "wait and try again if a standby is being promoted at the moment; otherwise promote one, or start the primary,"
        " and check the hosts in `{variable}`"
    )

    @property
    def hosts(self) -> int:
        """The number of hosts in the address."""
        return len(hosts_of(self.address))


@fact
class StandbyMissing(ServerNotRunning):
    """The address asks for a standby, and the server that answers is none."""

    what = "no standby answers at {where}: {reason}"
    fix = "set `{variable}` to a standby, or remove `target_session_attrs` from it to read from any server"


@fact
class ServerSilent(ServerNotRunning):
    """A server on this machine accepts connections, and does not answer."""

    pid: int | None
    """Its main process, if it is known."""
    suspended: bool
    """Whether a signal or a debugger has stopped the process."""
    what = "{subject} and does not answer: {state}"
    means = "Nothing was sent to it; what it has committed is stored."
    fix = "{first_step}"

    @property
    def subject(self) -> str:
        """What accepts connections: only a socket tells that it is a server, and a port may be that of a pooler."""
        return (
            f"a server or a pooler listens at {self.where}" if self.pid is None else f"PostgreSQL runs at {self.where}"
        )

    @property
    def state(self) -> str:
        """The process, if it is known, and why it may be silent."""
        if self.pid is None:
            return self.reason
        return f"process {self.pid} is suspended" if self.suspended else f"process {self.pid} exists; {self.reason}"

    @property
    def first_step(self) -> str:
        """The command that continues or ends the process."""
        if self.pid is None:
            return (
                "read its log; a pooler answers only after it has logged in to PostgreSQL itself, so check that with"
                " `psql` and the server's own address"
            )
        if self.suspended:
            return f"continue it with `kill -CONT {self.pid}`"
        return f"wait and try again, or end it with `kill -QUIT {self.pid}` and start it again"


@fact
class PasswordRejected(DatabaseUnavailable):
    """The server rejected the user or the password."""

    reason: str
    what = "the server at {where} rejected the login of {user}: {reason}"
    fix = "check the user and the password in `{variable}`"

    @property
    def user(self) -> str:
        """The user in the address."""
        return self.address.username or "the default user"


@fact
class DatabaseMissing(DatabaseUnavailable):
    """The server has no database of this name."""

    what = "the server at {where} has no database {address.database!r}"
    fix = "{first_step}"

    @property
    def first_step(self) -> str:
        """The advice; nothing can be created on a replica."""
        if self.variable == "DATABASE_REPLICA_URL":
            return (
                f"set `{self.variable}` to a standby of the server in `DATABASE_URL`, with the same name of the"
                " database; a standby has each database of its primary once it has replayed its creation"
            )
        return f"create it with `tatame-db up --no-seed`, or set `{self.variable}` to an existing database"


@fact
class ConnectionRefused(DatabaseUnavailable):
    """The server refused the connection for another reason, such as too many connections."""

    reason: str
    what = "could not connect to {where}: {reason}"
    fix = "fix the reported problem, or set `{variable}` to another server"


@fact
class ServerNotReady(ConnectionRefused):
    """The server is starting, stopping or recovering."""

    what = "the server at {where} accepts no connections at the moment: {reason}"
    fix = "try again in a few seconds; if it lasts, the log of the server says why"


@fact
class TooManyConnections(ConnectionRefused):
    """The server, or the pooler before it, has as many connections as it allows."""

    what = "the server at {where} has no connection left: {reason}"
    fix = "lower `pool_size`, which each process may open, raise the limit, or connect through a pooler"


@fact
class PoolerBusy(ConnectionRefused):
    """A pooler found no free connection to PostgreSQL within its own time limit."""

    what = "the pooler at {where} had no free connection to PostgreSQL: {reason}"
    fix = (
        "check that PostgreSQL behind it answers; then make transactions shorter, raise its `default_pool_size`, "
        "or lower `pool_size` if it is in session mode"
    )


@fact
class PoolerWithoutServer(ConnectionRefused):
    """A pooler answers, and PostgreSQL behind it does not."""

    what = "the pooler at {where} cannot connect to PostgreSQL: {reason}"
    fix = "check the server behind the pooler; the log of the pooler says why"


@fact
class PoolerModeUnsupported(ConnectionRefused):
    """A pooler in statement mode, which allows no transaction of several statements."""

    what = "the pooler at {where} is in statement mode: {reason}"
    means = "Nothing was changed; sessions and writes of several statements cannot work there."
    fix = "set `pool_mode = transaction` or `pool_mode = session` for this database in PgBouncer"


@fact
class PoolerConsole(ConnectionRefused):
    """The address leads to the console of PgBouncer, which knows its own commands alone."""

    what = "{where} is the console of PgBouncer, and no database: {reason}"
    means = "Nothing was changed."
    fix = "set the database of the app in `{variable}`"


@fact
class TlsFailed(ConnectionRefused):
    """No encrypted connection could be made."""

    what = "no TLS connection to {where} could be made: {reason}"
    fix = "check `sslmode` and `sslrootcert` in the address, and the certificate of the server"


@fact
class HostUnknown(ServerNotRunning):
    """The name of the host has no address."""

    what = "the host of {where} was not found: {reason}"
    fix = "check the host in `{variable}`, and the name service (DNS) of this machine"


@fact
class ServerReadOnly(DatabaseUnavailable):
    """The server is a standby, or its database, role or configuration allows reads only."""

    reason: str
    what = "the server at {where} accepts no writes: {reason}"
    means = "The statement changed nothing; roll its transaction back."
    fix = (
        "write to the primary server: with `db` in place of `db.replica` or `db.reader()`, or by an address that leads"
        " to it, such as one with all hosts and `target_session_attrs=read-write`"
    )


@fact
class NotOnCitus(DatabaseUnavailable):
    """Citus does not run a statement on tables that it has placed on several nodes."""

    reason: str
    what = "Citus at {where} does not run this statement: {reason}"
    means = "The statement changed nothing; roll its transaction back."
    fix = "write it as `docs/citus.md` shows, which lists the known limits of tables on several nodes"


@fact
class CitusNotLoaded(DatabaseUnavailable):
    """The database has the extension Citus, and its server runs without the library."""

    what = "{where} has the extension Citus, and its server has not loaded the library"
    means = "Nothing was read or written: the tables that Citus has placed would look empty."
    fix = "add `citus` to `shared_preload_libraries` as the first of them, and restart the server"


@fact
class NodeUnavailable(DatabaseUnavailable):
    """The coordinator of Citus answers, and a node that stores rows of the statement does not."""

    reason: str
    what = "Citus at {where} cannot reach one of its nodes: {reason}"
    means = (
        "A statement of a transaction changed nothing; roll the transaction back. A COMMIT, or a write outside of a"
        " transaction, may have been done if the node went away while it ran."
    )
    fix = (
        "start the node; the line `citus` of `tatame-db doctor` names it. Until then its rows cannot be read, and no"
        " table on every node can be written"
    )


@fact
class NotAReplica(DatabaseUnavailable):
    """`DATABASE_REPLICA_URL` leads to another database than `DATABASE_URL`, and not to a copy of it."""

    primary: URL
    difference: str
    what = "the server at {where} is no replica of {primary_where}: {difference}"
    means = "Nothing was read from it."
    fix = "set `DATABASE_REPLICA_URL` to a standby of the server in `DATABASE_URL`, or remove it"

    @property
    def primary_where(self) -> str:
        """The address of the primary without its password."""
        return readable(self.primary)


@fact
class ConnectionsExhausted(DatabaseUnavailable):
    """All connections of the pool stayed in use for as long as the pool waits."""

    size: int
    seconds: float
    what = "{subject} in use; none was free within {seconds:g} seconds"
    means = "Nothing was sent to the server."
    fix = (
        "end sessions sooner, pass an open session to queries in place of the database, do nothing slow while one is "
        "open, or raise `pool_size`"
    )

    @property
    def subject(self) -> str:
        """The connections of the pool, with their verb."""
        return (
            "the only connection of the pool is" if self.size == 1 else f"all {self.size} connections of the pool are"
        )


@fact
class ServerDisconnected(DatabaseUnavailable):
    """The connection was lost each time a query was sent, and none of it was committed."""

    name: str
    reason: str
    what = "the connection to {where} was lost each time `{name}` was sent: {reason}"
    means = "It changed nothing."
    fix = "run it again; if it lasts, the log of the server says why"


@fact
class ServerTooOld(DatabaseUnavailable):
    """The server is older than the oldest supported version."""

    version: str
    what = "the server at {where} is PostgreSQL {version}; the oldest supported version is {oldest}"
    fix = "upgrade the server, or set `{variable}` to a newer one"
    oldest = OLDEST_SERVER


@fact
class DatabaseNotCreated(DatabaseUnavailable):
    """The database is missing, and the user may not create it."""

    reason: str
    what = "the database {address.database!r} cannot be created at {where}: {reason}"
    fix = "ask an administrator to create it, or to run `ALTER ROLE {user} CREATEDB`"

    @property
    def user(self) -> str:
        """The user in the address, as SQL names it."""
        return quoted(self.address.username or "CURRENT_USER")


@fact
class DatabaseClosed(DatabaseUnavailable):
    """A connection was requested after `close()`."""

    what = "the connections to {where} are closed"
    fix = "make a new `Database` or `AsyncDatabase`, or close this one later"


@fact
class ConnectionCut(TatameError):
    """The connection was lost in the middle of a command."""

    reason: str
    what = "the connection to the database was lost: {reason}"
    means = "What was not committed is rolled back; what the command had reported as done before is stored."
    fix = "see with `tatame-db status` which database answers now, then run the command again"


@fact
class OutcomeUnknown(TatameError):
    """The connection was lost while a write or a commit was running."""

    name: str
    reason: str
    what = "the connection was lost while `{name}` was being committed: {reason}"
    means = "Either all of it was committed, or nothing; the answer of the server is lost."
    fix = "read the rows to find out before you run it again"


@fact
class CommandOutcomeUnknown(OutcomeUnknown):
    """The connection was lost while a command was committing."""

    fix = "see with `tatame-db status`, `tatame-db check` or `tatame-db roles` which, before you run the command again"


@fact
class TransactionAborted(TatameError):
    """A transaction was to be committed after one of its statements had failed."""

    what = "a statement of this transaction failed before, so PostgreSQL does not commit it"
    means = "Nothing of the transaction was stored."
    fix = "let that error end the transaction, or run what may fail in `with session.begin_nested():`"


@fact
class EventLoopDiffers(TatameError):
    """An `AsyncDatabase` was used on an event loop while another one still uses it."""

    what = "this AsyncDatabase belongs to another event loop, which has not ended"
    fix = "make one `AsyncDatabase` for each event loop"


@fact
class ConnectionsBusy(TatameError):
    """Connections were still in use when the time for closing ran out."""

    busy: int
    seconds: float
    what = "{busy:connection} still in use after {seconds:g} seconds"
    means = "They can finish; idle connections are closed, and no new one can be opened."
    fix = "end those sessions, or pass a longer `close(timeout_seconds=…)`"
