"""How the valid choices are named in a sentence."""

from collections.abc import Sequence

MOST_NAMED = 20
"""Choices in one sentence."""
_LONGEST = 60


def named(choices: Sequence[tuple[str, str]]) -> str:
    """Choices as (id, name): at most 20 of them, and how many more there are."""
    if not choices:
        return "none, there are no choices"
    shown = ", ".join(f"{_short(name)} ({number})" for number, name in choices[:MOST_NAMED])
    more = len(choices) - MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _short(name: str) -> str:
    """A name from the CRM; it may be long, and hold what a terminal would obey."""
    clean = "".join(letter if letter.isprintable() else "�" for letter in name)
    return clean if len(clean) <= _LONGEST else f"{clean[:_LONGEST]}…"
