"""Questions at a terminal: a wrong answer is asked again, and Ctrl-C ends the command at once.

While a question waits, nothing else runs: asyncio, which hears the first Ctrl-C everywhere else, would only note it,
and a second one was needed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

from deployments.cli.output import say
from deployments.cli.run import WrongUseError

Check = Callable[[str], str | None]
"""What is wrong with an answer, as a sentence; None if nothing is."""

_NO_MORE = "The answers ended before the last question: nothing was done with those that were given."


def ask(question: str, *, before: str = "", hidden: bool = False, check: Check = lambda _: None) -> str:
    """Ask until there is an answer that can be; without blanks around it.

    Args:
        question: What is asked, without a colon.
        before: The answer that Enter gives.
        hidden: Do not show what is typed.
        check: Says what is wrong with an answer.

    Raises:
        WrongUseError: the input ended.
        KeyboardInterrupt: the person has had enough.
    """
    shown = f"{question} ({before}): " if before else f"{question}: "
    while True:
        answer = _answer(shown, hidden=hidden).strip() or before
        wrong = check(answer)
        if wrong is None:
            return answer
        say(wrong, style="yellow")


def confirm_by_name(question: str, org: str) -> None:
    """Let a person type an org's name, for what cannot be undone.

    Args:
        question: What is about to happen.
        org: The name.

    Raises:
        WrongUseError: it was another one.
    """
    if ask(f"{question} Type its name") != org:
        raise WrongUseError("Nothing was removed.")


def _answer(shown: str, *, hidden: bool) -> str:
    place = sys.stdout if sys.stdout.isatty() else sys.stderr
    try:
        with _heard_at_once() as wait, _unseen() if hidden else contextlib.nullcontext():
            place.write(shown)
            place.flush()
            wait()
            line = sys.stdin.readline()
    except KeyboardInterrupt:
        place.write("\n")  # the terminal has shown ^C in the line of the question
        raise
    if hidden or not line:
        place.write("\n")
    if not line:
        raise WrongUseError(_NO_MORE)
    return line


@contextlib.contextmanager
def _heard_at_once() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C end the wait for a line, whenever it comes.

    Not `input`: it does not hear a Ctrl-C that comes between its prompt and its wait.

    Yields:
        Waits until a line can be read.
    """
    heard, written = os.pipe()
    os.set_blocking(written, False)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    wakeup = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    try:
        yield lambda: _until_readable(sys.stdin.fileno(), heard)
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, interrupt)
        os.close(heard)
        os.close(written)


def _until_readable(place: int, heard: int) -> None:
    # A terminal has something to read when a whole line was typed.
    while place not in select.select([place, heard], [], [])[0]:
        os.read(heard, 64)  # a signal; what it does has been done by now


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Do not show what is typed; the terminal is as it was afterwards."""
    import termios

    place = sys.stdin.fileno()
    before = termios.tcgetattr(place)
    unseen = [*before]
    unseen[3] &= ~termios.ECHO
    termios.tcsetattr(place, termios.TCSAFLUSH, unseen)
    try:
        yield
    finally:
        termios.tcsetattr(place, termios.TCSAFLUSH, before)
