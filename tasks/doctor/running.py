"""Running checks beside each other, each with an end in time."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from tasks.doctor.checks import Check, Finding, Level, SkippedError
from tasks.doctor.surroundings import Surroundings
from tasks.errors import sentence_of


@dataclass(frozen=True, slots=True)
class Row:
    """One finding, with the check that it is of."""

    name: str
    group: str
    looks_at: str
    level: Level
    sentence: str
    fix: str | None


async def run_checks(checks: Iterable[Check], around: Surroundings, *, seconds: float = 10.0) -> list[Row]:
    """Run all checks at once; in the answer they are in their own order.

    Args:
        checks: which.
        around: what they look at.
        seconds: how long each may take.
    """
    chosen = list(checks)
    found = await asyncio.gather(*(_run(check, around, seconds) for check in chosen))
    return [
        Row(check.name, check.group, check.looks_at, one.level, one.sentence, one.fix)
        for check, findings in zip(chosen, found, strict=True)
        for one in findings
    ]


async def _run(check: Check, around: Surroundings, seconds: float) -> list[Finding]:
    try:
        async with asyncio.timeout(seconds):
            return await check.look(around)
    except SkippedError as why:
        return [Finding(Level.SKIPPED, f"Not looked at. {why}")]
    except TimeoutError:
        return [
            Finding(
                Level.FAULT,
                f"Nothing was learned about {check.looks_at} within {seconds:g} s.",
                f"kommo doctor --only {check.name} --timeout {seconds * 6:g}",
            )
        ]
    except Exception as error:  # noqa: BLE001 - one check that crashes must not take the others with it
        return [
            Finding(
                Level.FAULT,
                f"Looking at {check.looks_at} failed: {sentence_of(error)}",
                f"KOMMO_DEBUG=1 kommo doctor --only {check.name}",
            )
        ]
