"""Errors of reads and writes. None of them shows a value of a row, which may be personal."""

from __future__ import annotations

from typing import Literal, TypeAlias

from tatame_db.errors import TatameError, fact


@fact
class ReadInvalid(TatameError):
    """A read asks for something that one statement cannot return."""

    problem: str
    advice: str
    what = "{problem}"
    means = "Nothing was read."
    fix = "{advice}"


@fact
class ReadHasNoMethod(TatameError, AttributeError):
    """A read is used like a `Query` or `Select` of SQLAlchemy."""

    method: str
    form: str
    what = "a read has no `{method}`"
    means = "Nothing was read."
    fix = "write `{form}`"


@fact
class ReadNotRun(TatameError, TypeError):
    """A read is used like its rows, or like the function that describes it."""

    name: str
    use: str
    form: str
    what = "`{name}` {use}, but it is the description of a read"
    means = "Nothing was read."
    fix = "run it: `{form}`"


@fact
class TargetInvalid(TatameError, TypeError):
    """A read or write was passed something else than a database, a session or a connection to run on."""

    received: str
    is_factory: bool
    """Whether the value makes sessions, as `Database.session` does."""
    what = "expected a database, a session or a connection, got {received}"
    means = "The statement was not sent."
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """The advice for `db.session` and for any other value."""
        if self.is_factory:
            return "make a session, `with db.session() as session:`, and pass that, or pass the database itself"
        return "pass it first, before all parameters: `.all(db, …)`, `.run(db)`"


@fact
class ParameterHasNoValue(TatameError):
    """The function of a `@query` uses a parameter as a Python value."""

    function: str
    parameters: tuple[str, ...]
    """The parameter; several if it is not known which of them."""
    use: str
    advice: str
    what = "`{function}` uses {subject} {use}, but it has no value yet"
    means = "The function describes the read once, and each call sends its values to the server. Nothing was read."
    fix = "{advice}"

    @property
    def subject(self) -> str:
        """The parameter, as precisely as it is known."""
        names = ", ".join(f"`{name}`" for name in self.parameters)
        return f"its parameter {names}" if len(self.parameters) == 1 else f"one of its parameters {names}"


@fact
class ParametersDiffer(TatameError):
    """The arguments of a call are not the parameters of the read."""

    name: str
    missing: set[str]
    unknown: set[str]
    repeated: set[str]
    known: tuple[str, ...]
    """All parameters of the read, in order."""
    what = "`{name}` {problem}"
    means = "The statement was not sent."
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """The call that works."""
        if not self.known:
            return "pass no parameters: this read has none"
        names = ", ".join(f"{name}=…" for name in self.known)
        return f"pass each parameter once, by position or by name: `.all(db, {names})`"

    @property
    def problem(self) -> str:
        """The parameters without a value or with two, and the values without a parameter."""
        parts = [f"has no value for {', '.join(sorted(self.missing))}"] if self.missing else []
        parts += [f"has no parameter {', '.join(sorted(self.unknown))}"] if self.unknown else []
        parts += [f"has two values for {', '.join(sorted(self.repeated))}"] if self.repeated else []
        return " and ".join(parts)


@fact
class ParameterInvalid(TatameError):
    """The value of a parameter cannot be sent to PostgreSQL."""

    name: str
    parameter: str
    problem: str
    form: str | None = None
    """Code that makes a value that is accepted of the one that was passed, if its type says which."""
    what = "`{name}`: the value of `{parameter}` {problem}"
    means = "The statement was not sent."
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """The conversion of the value, or another value."""
        return f"pass `{self.form}`" if self.form else f"pass another value for `{self.parameter}`"


@fact
class DeadlineExceeded(TatameError):
    """A call took longer than its deadline, and the server ended its statement."""

    name: str
    deadline_ms: int
    seconds: float
    sent: bool
    """False if no connection was free in time."""
    what = "`{name}` {problem} after {seconds:.2f} s; its deadline was {deadline_ms:,} ms"
    means = "It changed nothing. If it was part of a transaction, roll it back."
    fix = "{advice}"

    @property
    def problem(self) -> str:
        """What the call was doing."""
        return "was still running" if self.sent else "still had no connection"

    @property
    def advice(self) -> str:
        """The advice for a slow statement, or for a busy pool."""
        if self.sent:
            return "allow more time, or see with `explain` where the time goes"
        return "allow more time, end sessions sooner, or raise `pool_size`"


@fact
class NotOneRow(TatameError):
    """`one` found no row, or more than one."""

    name: str
    several: bool
    what = "`{name}` expected exactly one row, found {found}"
    means = "No row was returned."
    fix = "call `first` if the row may be missing, or `all` if there may be several"

    @property
    def found(self) -> str:
        """The rows that were found; the statement stops at the second."""
        return "several" if self.several else "none"


@fact
class ValueNotReadable(TatameError):
    """A value does not exist in Python; a session fails on it too."""

    name: str
    what = "`{name}` found a date or time that Python cannot represent: `infinity`, or outside the years 1 to 9999"
    means = "No row was returned."
    fix = "correct the value in the database, or leave it out: `.where(func.isfinite(…))` or `.columns(…)`"


Outcome: TypeAlias = Literal["committed", "open", "undone"]
"""What became of a write: `open` if it is part of the transaction of a session or connection."""


@fact
class AnswerNotReadable(ValueNotReadable):
    """A write succeeded, but its answer has a value that does not exist in Python or in the model."""

    outcome: Outcome
    what = "`{name}` returned a value that Python or the model cannot represent, such as `infinity`"
    means = "{state}"
    fix = "name another column with `returning=`, or change the default or trigger that sets the value"

    @property
    def state(self) -> str:
        """Where the rows are that were written."""
        match self.outcome:
            case "committed":
                return "The rows were written, and are committed: do not write them again."
            case "open":
                return "The open transaction has rows of this write, perhaps not all: roll it back."
            case "undone":
                return "Nothing was written: the transaction was rolled back."


@fact
class ValueDiffersFromModel(TatameError):
    """A value in the database is not of the type that its model declares."""

    name: str
    problem: str
    what = "`{name}` found a value that its model does not allow: {problem}"
    means = "No row was returned."
    fix = "compare the models with the database: `tatame-db check`"


@fact
class NotLoaded(TatameError, AttributeError):
    """An attribute of a row was not part of the read; `hasattr` is false for it."""

    model: str
    attribute: str
    is_relation: bool
    what = "{model}.{attribute} was not loaded"
    means = "Rows never query the database themselves, so nothing was read."
    fix = "add it to the read that returned this row: `{step}`"

    @property
    def step(self) -> str:
        """The method call that loads the attribute."""
        name = f"{self.model}.{self.attribute}"
        return f".load({name})" if self.is_relation else f".columns(…, {name})"


@fact
class RowReadOnly(TatameError):
    """An attribute of a row was assigned or deleted."""

    model: str
    name: str
    what = "{model}.{name} cannot be set: the rows of a read are read-only"
    fix = "load the object into a session to change it: `session.get({model}, row.id)`"


@fact
class RowOutdated(TatameError):
    """A pickled row has attributes that its model no longer has."""

    model: str
    names: list[str]
    what = "a pickled row of {model} has attributes that the model no longer has: {names}"
    means = "The row was not restored."
    fix = "discard the row, and read it again"


@fact
class RowInvalid(TatameError):
    """A row cannot be written: a column is unknown or missing, or its value has the wrong type."""

    model: str
    position: int
    column: str | None
    """The column; `None` if the problem is the row as a whole."""
    problem: str
    advice: str = "correct this row, or remove it"
    what = "row {position} for {model}: {subject}{problem}"
    means = "Nothing was written. The first row is row 0."
    fix = "{advice}"

    @property
    def subject(self) -> str:
        """The column, if there is one."""
        return f"`{self.column}` " if self.column is not None else ""


@fact
class RowRejected(TatameError):
    """PostgreSQL rejected a row because of a constraint, or a value that its column does not hold."""

    model: str
    position: int | None
    """The position of the row; `None` if PostgreSQL's message does not reveal it."""
    columns: tuple[str, ...]
    """The columns; none if PostgreSQL's message does not name them."""
    problem: str
    advice: str
    what = "{row} for {model}: {subject}{problem}"
    means = "Nothing was written. The first row is row 0. If the rows were part of a transaction, roll it back."
    fix = "{advice}"

    @property
    def row(self) -> str:
        """The row, as precisely as it is known."""
        return "a row" if self.position is None else f"row {self.position}"

    @property
    def subject(self) -> str:
        """The columns, if there are any."""
        return f"`{', '.join(self.columns)}` " if self.columns else ""


@fact
class RowsSkipped(TatameError):
    """A trigger or rule of the database skipped rows, so that results do not match the rows that were passed."""

    model: str
    rows: int
    written: int
    is_committed: bool
    """False if the rows are part of the transaction of a session or connection."""
    returned: list[object]
    """The results of the rows that were written, in the order in which the server returned them."""
    what = "{written} of {rows:row} for {model} came back: a trigger or rule of the database skipped the others"
    means = "The others were not written. {outcome}"
    fix = (
        "do not write all rows again; the error's `returned` has the results, but nothing tells which rows they are of"
    )

    @property
    def outcome(self) -> str:
        """Where the rows are that were written."""
        state = "are committed" if self.is_committed else "are part of the open transaction"
        return f"The rows that came back were written, and {state}."


@fact
class WriteInvalid(TatameError):
    """A write was called with something else than a model, rows and what to return."""

    problem: str
    advice: str
    what = "{problem}"
    means = "Nothing was written."
    fix = "{advice}"


@fact
class NotAKey(TatameError):
    """`by` names columns by which rows cannot be matched."""

    model: str
    problem: str
    advice: str
    what = "`by` cannot match rows of {model}: {problem}"
    means = "Nothing was written."
    fix = "{advice}"
