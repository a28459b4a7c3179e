"""The store's errors: sentences that say what is wrong, whose business it is and what to do.

No message carries a password, a database URL, a statement's parameters or a customer's data: an error ends up
in logs, in Prefect's run states and in front of people.
"""


class StoreError(Exception):
    """Anything the store cannot or will not do.

    `retryable` says whether the same call may work a little later without anybody changing anything.
    """

    retryable: bool = False

    @property
    def sentence(self) -> str:
        """What happened and what to do, for people."""
        return str(self)


class DatabaseAddressError(StoreError):
    """The database URL (or schema name) cannot be used as it is written."""


class DatabaseUnavailableError(StoreError):
    """The database does not answer, or broke off."""

    retryable = True


class DatabaseBusyError(DatabaseUnavailableError):
    """Another process held the write lock for longer than we wait."""


class DatabaseForbiddenError(StoreError):
    """The database (or the file system) refuses us: wrong password, missing right, missing database."""


class SchemaBehindError(StoreError):
    """The database's tables are older than this version, and a person decides when to migrate."""


class SchemaUnknownError(StoreError):
    """The database's tables were made by a version that this one does not know."""


class UnknownKindError(StoreError):
    """A kind of snapshot that does not exist."""


class UnknownRunError(StoreError):
    """A run id that the store has never given out, or that belongs to another org."""


class UnknownConnectionError(StoreError):
    """An org that has no connection."""


class InvalidReadError(StoreError):
    """The rows of a read contradict each other or the kind's columns: a fault of the calling code."""


class WriteRefusedError(StoreError):
    """The database refused a row: a fault of this program, which should have checked it before."""


class NoSnapshotError(StoreError):
    """Nothing has been saved for this org and kind (at the time asked for)."""


class NothingToCompareError(StoreError):
    """There are not two runs to compare."""


class SealKeyError(StoreError):
    """The keys that seal tokens are missing or malformed."""


class SealBrokenError(StoreError):
    """A sealed token cannot be opened with the keys at hand."""


class BackupError(StoreError):
    """A copy of the database could not be made."""
