"""Parameters that several flows share, with the titles and choices that Prefect's form shows."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from tasks.scopes import Scope, SyncScope

Org = Annotated[
    str,
    Field(
        title="Org",
        description="The product's tenant, as it was connected.",
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        max_length=100,
        examples=["acme"],
    ),
]
ScopeParameter = Annotated[
    Scope,
    Field(title="Scope", description="What to read: the whole set-up, or one part in the product's words."),
]
SyncScopeParameter = Annotated[
    SyncScope,
    Field(
        title="Scope",
        description="What to read: the whole set-up (`all`), one part of it in the product's words, the `records` as "
        "far as they changed, or `everything`.",
    ),
]
ShardParameter = Annotated[
    str | None,
    Field(
        title="Shard",
        description="Only a part of the orgs, as in 1/4: the first of four parts. Every org is in exactly one.",
        pattern=r"^[0-9]{1,4}/[0-9]{1,4}$",
        examples=["1/4"],
    ),
]
Span = Annotated[
    str,
    Field(
        title="Span",
        description="A time: a number and s, m, h or d.",
        pattern=r"^[0-9]{1,5}[smhd]$",
        examples=["6h", "2m"],
    ),
]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_span(text: str) -> timedelta:
    """A span of time as a person writes it: `6h`, `30m`, `2d`, `90s`.

    Raises:
        ValueError: it is not written so.
    """
    if not re.fullmatch(r"[0-9]{1,5}[smhd]", text):
        raise ValueError("A span of time is a number and s, m, h or d, as in 6h.")
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})


def parse_shard(text: str) -> tuple[int, int]:
    """A part of the orgs as a person writes it: `1/4` is the first of four, which the store knows as (0, 4).

    Raises:
        ValueError: it is not written so.
    """
    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("A shard is written as in 1/4, the first of four parts.")
    return int(found[1]) - 1, int(found[2])


def shard_of(text: str | None) -> tuple[int, int] | None:
    """`parse_shard`, or all orgs."""
    return None if text is None else parse_shard(text)
