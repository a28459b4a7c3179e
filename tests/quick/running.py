"""Starts what tests/quick/server.py serves, and says how a test runs a command by it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_HERE = Path(__file__).parent
STARTS_WITHIN = 120.0

# Python without its `site`: it needs nothing of it, and begins in half the time. What to run comes next.
QUICK = (sys.executable, "-S", "-E", "-s", str(_HERE / "start.py"))
KOMMO = (*QUICK, "kommo")


@contextmanager
def quick_server() -> Iterator[None]:
    """Serve for as long as the block lasts; QUICK finds it by the environment, also that of processes begun meanwhile.

    It does not wait for the server: see `wait_until_quick`.
    """
    with (
        TemporaryDirectory(prefix="kommo-") as folder,  # the path of a socket must be short: pytest's are not
        subprocess.Popen(
            [sys.executable, "-m", "tests.quick.server", f"{folder}/socket"],
            cwd=_HERE.parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as server,
    ):
        os.environ["QUICK_SERVER"] = str(Path(folder, "socket"))
        try:
            yield
        finally:
            del os.environ["QUICK_SERVER"]
            assert server.stdin is not None
            server.stdin.close()


def wait_until_quick() -> None:
    """Wait for the server of this process's environment to have imported all."""
    place = Path(os.environ["QUICK_SERVER"])
    end = time.monotonic() + STARTS_WITHIN
    while not place.exists():
        assert place.parent.exists(), "the session that served quick commands has ended"
        assert time.monotonic() < end, "the server of quick commands does not start"
        time.sleep(0.05)
