"""`kommo doctor`: everything that an operator can get wrong, looked at, each with a sentence and something to type.

A check is a plain function of the `Surroundings`. They know nothing of one another and run beside each other; one that
crashes is a fault of itself. `CHECKS` holds those that need nothing above this floor;
`deployments.doctor` adds its own.
"""

from tasks.doctor import configuration, database, kommo, prefect, work
from tasks.doctor.checks import Check, Finding, Level, SkippedError
from tasks.doctor.running import Row, run_checks
from tasks.doctor.surroundings import Surroundings, open_surroundings

CHECKS: tuple[Check, ...] = (
    *prefect.CHECKS,
    *database.CHECKS,
    *configuration.CHECKS,
    *kommo.CHECKS,
    *work.CHECKS,
)

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Level",
    "Row",
    "SkippedError",
    "Surroundings",
    "open_surroundings",
    "run_checks",
]
