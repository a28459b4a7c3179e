"""A command at a real terminal: a pseudo-terminal of its own, at which a test types and reads what is shown."""

import fcntl
import os
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.cli.support import ROOT
from tests.quick.running import KOMMO

IN_THE_FOREGROUND = (sys.executable, "-c", "from deployments.cli import main; main()")
WITHIN = 90.0
_ORDERS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """The person's side of it.

    Args:
        place: Descriptor of the terminal's other end.
        line: Descriptor of the terminal itself, to look at its settings.
        process: What runs there.
    """

    def __init__(self, place: int, line: int, process: "subprocess.Popen[bytes]") -> None:
        self._place = place
        self._line = line
        self.process = process
        self.raw = ""

    @property
    def text(self) -> str:
        """What was shown so far, as a person reads it."""
        return _ORDERS.sub("", self.raw).replace("\r\n", "\n")

    def settings(self) -> list[Any]:
        """How the terminal is set: echo, line by line or key by key."""
        return termios.tcgetattr(self._line)

    def wait_for(self, text: str, times: int = 1, within: float = WITHIN) -> None:
        """Read until a text was shown so many times."""
        end = time.monotonic() + within
        while self.text.count(text) < times:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} was not shown {times} times in {within} s: {self.text!r}"
            assert self._read(left), f"it ended before {text!r} was shown {times} times: {self.text!r}"

    def type(self, text: str) -> None:
        """Type a line."""
        self.press(f"{text}\n")

    def press(self, keys: str) -> None:
        """Press keys; `\\x03` is Ctrl-C, `\\x04` Ctrl-D."""
        os.write(self._place, keys.encode())

    def end(self, within: float = 20.0) -> int:
        """Read until the command has ended; its exit code."""
        end = time.monotonic() + within
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.text!r}"
            self._read(0.1)
        while self._read(0.05):
            pass
        return self.process.returncode

    def _read(self, within: float) -> bool:
        ready, _, _ = select.select([self._place], [], [], within)
        if not ready:
            return self.process.poll() is None
        try:
            got = os.read(self._place, 65536)
        except OSError:  # nobody has the terminal open any more
            return False
        self.raw += got.decode(errors="replace")
        return bool(got)


@contextmanager
def at_a_terminal(
    environment: Mapping[str, str], *arguments: str, program: Sequence[str] = KOMMO
) -> Iterator[Terminal]:
    """Run a command at a terminal of 40 lines and 160 columns, of which Ctrl-C sends it SIGINT.

    Args:
        environment: The command's.
        arguments: The command's.
        program: What runs it; a quick one is in another session than its terminal, so it is never in the foreground.
    """
    place, line = os.openpty()
    termios.tcsetwinsize(place, (40, 160))
    process = subprocess.Popen(
        [*program, *arguments],
        cwd=ROOT,
        env={**environment, "TERM": "xterm", "PYTHONUNBUFFERED": "1"},
        stdin=line,
        stdout=line,
        stderr=line,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call
    )
    try:
        yield Terminal(place, line, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(place)
        os.close(line)
