"""The keys of `kommo status --watch`, at a terminal whose other end is the test's."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from deployments.cli.watching import _heard_keys


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of the terminal that this process's standard input is."""
    place, line = os.openpty()
    with os.fdopen(line) as stdin, os.fdopen(os.dup(place), "wb", buffering=0) as kept:
        os.close(place)
        monkeypatch.setattr(sys, "stdin", stdin)
        yield kept.fileno()


def _in_time(work: Callable[[], object]) -> bool:
    """Whether it comes to its end: what holds up a loop holds up a test of it."""
    working = threading.Thread(target=work, daemon=True)
    working.start()
    working.join(10)
    return not working.is_alive()


async def test_a_key_that_is_thrown_away_before_it_is_read_holds_nothing_up(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does with the keys before it."""
    stop, pressed = asyncio.Event(), list[Callable[[], None]]()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_reader", lambda _, called: pressed.append(called))
    with _heard_keys(stop):
        assert _in_time(pressed[0])
        assert not stop.is_set()
        os.write(place, b"x")
        assert _in_time(pressed[0])
        assert not stop.is_set()
        os.write(place, b"xQ")
        assert _in_time(pressed[0])
        assert stop.is_set()


async def test_a_terminal_that_goes_away_ends_the_watch() -> None:
    place, line = os.openpty()
    stop = asyncio.Event()
    with os.fdopen(line) as stdin, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        with _heard_keys(stop):
            os.close(place)
            await asyncio.wait_for(stop.wait(), 10)
