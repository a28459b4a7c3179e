"""The database of these tests: migrated once, emptied for each."""

from tests.store.conftest import db, migrated_place

__all__ = ["db", "migrated_place"]
