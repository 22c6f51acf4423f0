"""A few lifelike gyms to develop with; the same plan writes the same bytes on every machine.

So nothing here reads the clock after the plan is made, depends on the order of a set, or calls a function whose result
may be rounded differently elsewhere.
"""

from tatame_db.seed.plan import SeedPlan, SeedPlanInvalid
from tatame_db.seed.write import (
    DatabaseNotEmpty,
    OtherTablesRefer,
    SampleRowsRefused,
    TableRefusesWrites,
    empty,
    is_empty,
    seed,
)

__all__ = [
    "DatabaseNotEmpty",
    "OtherTablesRefer",
    "SampleRowsRefused",
    "SeedPlan",
    "SeedPlanInvalid",
    "TableRefusesWrites",
    "empty",
    "is_empty",
    "seed",
]
