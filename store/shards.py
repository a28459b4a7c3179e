"""Which part of the fleet an org belongs to: a hash of its name that never changes, the same in Python and in SQL.

The low bits say the shard, the high bits the org's moment in the night, so that the one says nothing about the other.
"""

import zlib

from sqlalchemy import ColumnElement

from store.types import clean_text

Shard = tuple[int, int]
"""(number, of how many), counted from 0."""

SLOTS = 2**32


def slot_of(org: str) -> int:
    """An org's place in the fleet, from 0 to SLOTS - 1."""
    return zlib.crc32(clean_text(org).encode())


def is_in(shard: Shard | None, org: str) -> bool:
    """Whether an org belongs to a shard; without one, to all."""
    return shard is None or slot_of(org) % shard[1] == shard[0]


def slot_in(shard: Shard, slot: ColumnElement[int]) -> ColumnElement[bool]:
    """The same of a column that holds the slot."""
    return slot % shard[1] == shard[0]
