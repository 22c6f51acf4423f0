"""Whether a read may run twice without effect, so that it can be sent again if its connection is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import TextClause, TypeDecorator
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import TextualSelect

if TYPE_CHECKING:
    from sqlalchemy import ClauseElement

    from tatame_db.queries.description import RelationRead

# Functions of PostgreSQL that change nothing; any other may.
PURE_FUNCTIONS = frozenset(
    """
    abs age array_agg array_append array_cat array_length array_position array_positions array_prepend array_remove
    array_replace array_to_string ascii avg bit_length bool_and bool_or btrim cardinality ceil ceiling char_length
    character_length chr clock_timestamp coalesce concat concat_ws count cube current_date current_time
    current_timestamp date_bin date_part date_trunc dense_rank div every exists exp extract first_value floor
    format greatest grouping_sets initcap isfinite json_agg json_build_array json_build_object jsonb_agg
    jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object
    jsonb_path_exists jsonb_path_query jsonb_typeof justify_days justify_hours justify_interval lag last_value lead
    least left length ln localtime localtimestamp log lower lpad ltrim make_date make_interval make_time
    make_timestamp max md5 min mod now nth_value ntile nullif octet_length overlay percent_rank phraseto_tsquery
    plainto_tsquery position power random rank regexp_count regexp_like regexp_match regexp_matches regexp_replace
    regexp_split_to_array repeat replace reverse right rollup round row_number row_to_json rpad rtrim sha256 sign
    similarity split_part sqrt starts_with statement_timestamp string_agg string_to_array strpos substr substring sum
    timezone to_char to_date to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector transaction_timestamp
    translate trim trunc ts_rank ts_rank_cd unaccent unnest upper websearch_to_tsquery width_bucket word_similarity
    """.split()  # noqa: SIM905, a list of words is easier to read without quotes
)
PURE_OPERATORS = frozenset(
    "@> <@ && || -> ->> #> #>> ? ?| ?& @@ @? ~ ~* !~ !~* % <-> << >> -|- + - * / = <> < <= > >=".split()  # noqa: SIM905
)


def may_repeat(description: RelationRead) -> bool:
    """Return whether the read changes nothing, as far as its description shows; `False` where that is not certain."""
    clauses = (*description.conditions, *description.order)
    return all(map(_is_pure, clauses)) and all(map(may_repeat, description.relations))


def _is_pure(clause: ClauseElement) -> bool:
    return all(map(_changes_nothing, visitors.iterate(clause)))


def _changes_nothing(element: Any) -> bool:
    if isinstance(element, TextClause | TextualSelect | UpdateBase):
        return False
    # SQLAlchemy writes `EXISTS (SELECT 1 …)` with a literal.
    if getattr(element, "is_literal", False) and element.name != "1":
        return False
    if getattr(element, "_for_update_arg", None) is not None or _is_own_type(getattr(element, "type", None)):
        return False
    if _is_unknown(getattr(element, "operator", None)):
        return False
    return not isinstance(element, FunctionElement) or _is_known(element)


def _is_own_type(kind: Any) -> bool:
    """Return whether a type may call any function in its expressions."""
    module = str(kind.__class__.__module__)
    return isinstance(kind, TypeDecorator) and not module.startswith("sqlalchemy.")


def _is_unknown(operator: object) -> bool:
    return isinstance(operator, custom_op) and operator.opstring not in PURE_OPERATORS


def _is_known(function: Any) -> bool:
    schema = getattr(function, "packagenames", ())
    return getattr(function, "name", "").lower() in PURE_FUNCTIONS and tuple(schema) in ((), ("pg_catalog",))
