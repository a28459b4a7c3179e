"""Quiet for a measurement that needs it: while it runs, the other workers of the session wait.

Everything that a test does is done with the lock shared; what needs quiet has the lock to itself. tests/conftest.py
says when that is.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LATE = (
    "A bound on time: a machine that is busy may miss it. It is measured once more, with nothing beside it."
)


@contextmanager
def my_turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the turn for as long as the block lasts.

    Args:
        folder: where the workers of one session find the same locks.
        alone: nobody else may hold it at the same time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "turn.lock").open("w") as turn:
        # Whoever waits to be alone keeps the gate shut: otherwise the others would go on in turns for ever.
        with (folder / "gate.lock").open("w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(turn, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextmanager
def measured() -> Iterator[None]:
    """Assertions that a busy machine may fail, in a test that is marked `timing`; all others fail it at once."""
    try:
        yield
    except AssertionError as failed:
        failed.add_note(LATE)
        raise
