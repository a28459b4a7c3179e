"""What a check is, and what it finds."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.doctor.surroundings import Surroundings


class Level(StrEnum):
    """How bad it is: `skipped` could not be looked at, because of something that another check names."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        level: how bad it is.
        sentence: what is so; never a secret.
        fix: what to type or do; each fault has one.
    """

    level: Level
    sentence: str
    fix: str | None = None


def ok(sentence: str) -> list[Finding]:
    """All is well."""
    return [Finding(Level.OK, sentence)]


def warning(sentence: str, fix: str) -> list[Finding]:
    """It works, and should not stay so."""
    return [Finding(Level.WARNING, sentence, fix)]


def fault(sentence: str, fix: str) -> list[Finding]:
    """Something does not work, or will not."""
    return [Finding(Level.FAULT, sentence, fix)]


class SkippedError(Exception):
    """It cannot be looked at now; the sentence says why. What is at fault is another check's to tell."""


Look = Callable[["Surroundings"], Awaitable[list[Finding]]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at.

    Attributes:
        name: by which `--only` finds it.
        group: under which it is shown.
        looks_at: what it looks at, in a few words.
        look: looks.
    """

    name: str
    group: str
    looks_at: str
    look: Look
