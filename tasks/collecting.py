"""Reading masses of JSON without Python's collector going through all that there is, again and again."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLD = (50_000, 20, 100)
_within: list[tuple[int, int, int]] = []


@contextmanager
def few_collections() -> Iterator[None]:
    """Collect seldom, and pass by what was there before, for as long as the block lasts.

    A page of records is tens of thousands of objects that refer to one another in no circle, and go when the page goes.
    Each thousand of them made Python look for circles among them, and now and then among all that Prefect has imported:
    four fifths of the time in which a page is decoded. Blocks may overlap in one process; the last one to end puts
    everything right.
    """
    if not _within:
        gc.freeze()
    # The first of them has what was set before; all are counted.
    _within.append(gc.get_threshold())
    gc.set_threshold(*_THRESHOLD)
    try:
        yield
    finally:
        if len(_within) == 1:
            gc.set_threshold(*_within[0])
            gc.unfreeze()
        _within.pop()
