"""A copy of an SQLite database while others write to it: whole, of one moment, and checked before it has its name."""

import contextlib
import hashlib
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from store.errors import BackupError

_PAGES = 1000
_BETWEEN = 0.005
"""Seconds between two parts of the copy."""


@dataclass(frozen=True)
class Copy:
    """A copy that was made. `size` is in bytes."""

    file: str
    size: int
    sha256: str


def copy_sqlite(source: Path, target: Path) -> Copy:
    """Copy a database by SQLite's online backup; blocks, so call it in a thread.

    The copy is readable by its owner only (0600) and gets its name when it is whole, checked and on the disk.

    Args:
        source: the database's file.
        target: the copy; must not be there yet.

    Raises:
        BackupError: it cannot be made, with what to do; no half copy is left.
    """
    if not source.is_file():
        raise BackupError(f"There is no database at {source}. Name the file that is in use.")
    half = target.with_name(f".{target.name}.half-{os.getpid()}")
    try:
        os.close(os.open(half, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _copy(source, half)
        digest = _digest(half)
        try:
            os.link(half, target)  # unlike a rename it never takes a file's place
        except FileExistsError:
            raise BackupError(
                f"{target} is there already. A backup overwrites nothing: name another file."
            ) from None
        _sync_folder(target.parent)
    except sqlite3.Error as error:
        raise BackupError(
            f"{source} cannot be copied to {target} ({type(error).__name__}: {error}). Nothing was left behind."
        ) from error
    except OSError as error:
        raise BackupError(
            f"{target} cannot be written ({error.strerror}). Make its directory, give this user the right to it, or "
            "make room; nothing was left behind."
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            half.unlink()
    return Copy(str(target), target.stat().st_size, digest)


def _copy(source: Path, half: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as old,
        closing(sqlite3.connect(half)) as new,
    ):
        # One reading transaction: otherwise every write of another process lets the copy begin again.
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM sqlite_master").fetchone()
        old.backup(new, pages=_PAGES, sleep=_BETWEEN)
        old.rollback()
        # One file for itself: whoever restores it copies nothing else.
        new.execute("PRAGMA journal_mode = DELETE")
        [(said,)] = new.execute("PRAGMA integrity_check(1)").fetchall()
        if said != "ok":
            raise BackupError(f"{source} is damaged: {said}. Restore it from an older backup.")


def _digest(file: Path) -> str:
    with file.open("rb+") as written:
        os.fsync(written.fileno())
        return hashlib.file_digest(written, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
