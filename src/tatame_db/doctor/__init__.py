"""What is wrong with a database, and what will be: one page, with what to do.

    doctor.examine(database.address).findings

Each line is a small function in `checks`, registered with `lines.line`; `limits` has all thresholds.
"""

from tatame_db.doctor.checks import LINES
from tatame_db.doctor.examination import Setup
from tatame_db.doctor.examine import Examined, NotExamined, ProblemsFound, examine
from tatame_db.doctor.finding import Finding, Verdict
from tatame_db.doctor.limits import LIMITS, Limits

__all__ = [
    "LIMITS",
    "LINES",
    "Examined",
    "Finding",
    "Limits",
    "NotExamined",
    "ProblemsFound",
    "Setup",
    "Verdict",
    "examine",
]
