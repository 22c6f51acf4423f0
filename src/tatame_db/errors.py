"""Errors that a person can act on: typed facts, and three sentences that state them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from string import Formatter
from typing import TYPE_CHECKING, Any, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

E = TypeVar("E", bound="TatameError")

NOTHING_CHANGED = "Nothing was changed."


class TatameError(Exception):
    """A failure with a known cause: shown as a message, never as a traceback.

    A subclass is a `@fact`: its fields are the facts, and `what`, `means` and `fix` are templates over its attributes,
    properties included. On an instance the three are the finished sentences.
    """

    exit_code = 1
    what: str
    """What happened, with real names and numbers."""
    means: str = NOTHING_CHANGED
    """What it means for the data."""
    fix: str
    """What to do or type next."""

    def __post_init__(self) -> None:
        for part in ("what", "means", "fix"):
            setattr(self, part, _SENTENCES.vformat(getattr(type(self), part), [self], {}))
        super().__init__(self.what)

    def __str__(self) -> str:
        return f"{self.what}\n{self.means}\n\nhint: {self.fix}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their positional arguments, and facts have none.
        return _rebuilt, (type(self), {name: getattr(self, name) for name in _fact_names(type(self))})


@dataclass_transform(kw_only_default=True, eq_default=False)
def fact(error: type[E]) -> type[E]:
    """Make the annotated fields of an error the keyword-only arguments of its constructor.

        @fact
        class PortTaken(TatameError):
            port: int
            what = "port {port} on 127.0.0.1 is already in use"
            fix = "choose another port with `tatame-db start --port`"

    A template may name any attribute. A sequence is written as `a, b`, and `{rows:row}` as `1 row` or `2 rows`.
    """
    return dataclass(kw_only=True, eq=False, repr=False)(error)


def counted(number: int, noun: str) -> str:
    """Write `1 row` and `2 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(sentences: Iterable[object]) -> str:
    """Write sentences of an error one a line."""
    return "\n".join(f"  {sentence}" for sentence in sentences)


class _Sentences(Formatter):
    """Fills a template with the attributes of an error."""

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ARG002
        return getattr(args[0], str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list | tuple | AbstractSet):
            return ", ".join(map(str, cast("Iterable[object]", value)))
        if isinstance(value, int) and format_spec.replace(" ", "").isalpha() and len(format_spec) > 1:
            return counted(value, format_spec)
        return str(super().format_field(value, format_spec))


_SENTENCES = _Sentences()


def _fact_names(error: type[TatameError]) -> list[str]:
    return [field.name for field in fields(error)]  # type: ignore[arg-type]  # every concrete error is a `@fact`


def _rebuilt(error: type[E], facts: Mapping[str, Any]) -> E:
    return error(**facts)
