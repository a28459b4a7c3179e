"""Files that a person asked for: they appear under their name when they are whole, for their owner's eyes only."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.errors import DataPlaneError


class FileNotWrittenError(DataPlaneError):
    """A file could not be written; the sentence says which, and why."""


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[IO[bytes]]:
    """Write a file, of mode 0600, that takes the place of an older one when the block ends well, or not at all.

    What is being written has a name of its own: nothing that lies there is written into, whose rights or links would
    let somebody else read it, and two that write the same file do not mix.

    Args:
        file: where to.

    Raises:
        FileNotWrittenError: it cannot be written there.
    """
    half: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=".kommo-", suffix=".half", dir=file.parent)
        half = Path(name)
        with os.fdopen(descriptor, "wb") as out:
            yield out
        half.replace(file)
        half = None
    except OSError as error:
        raise FileNotWrittenError(
            f"{file} cannot be written ({error.strerror or error}). Make room or name another file; nothing was left "
            "behind."
        ) from error
    finally:
        if half is not None:
            half.unlink(missing_ok=True)
