"""`kommo status --watch`: the fleet, looked at again and again: drawn anew on a terminal; piped, changes are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deployments.cli.output import out, say
from deployments.cli.status import fleet_columns, summary_text
from tasks.status import FleetLook, FleetView, look_at_fleet

if TYPE_CHECKING:
    from store.database import Database


async def watch_fleet(database: Database, view: FleetView, every: float) -> None:
    """Look until q or Ctrl-C, which end it well.

    Args:
        database: The store.
        view: Which connections.
        every: Seconds between two looks.
    """
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        if out.is_terminal:
            await _draw(database, view, every)
        else:
            await _tell(database, view, every)


async def _draw(database: Database, view: FleetView, every: float) -> None:
    stop = asyncio.Event()
    with _heard_keys(stop), Live(console=out, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            look = await look_at_fleet(database, view)
            live.update(drawn(look, every), refresh=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every)


def drawn(look: FleetLook, every: float) -> Group:
    """One screen: the summary, the table, and how to leave."""
    now = datetime.now(tz=UTC)
    columns, rows = fleet_columns(look, now)
    grid = Table(header_style="bold", expand=True)
    for column in columns:
        grid.add_column(column, overflow="ellipsis", no_wrap=True)
    # What would be below the screen's end is not seen; a line for the top, the bottom and the frame each.
    for row in rows[: max(1, out.size.height - 7)]:
        grid.add_row(*row)
    left = look.found - grid.row_count
    more = f" · {left} more: --sort, --broken, --search" if left > 0 else ""
    foot = Text(f"{now:%H:%M:%S} UTC, every {every:g} s · q ends{more}", style="dim")
    return Group(Text.from_markup(summary_text(look)), grid, foot)


async def _tell(database: Database, view: FleetView, every: float) -> None:
    """One line for the beginning, and one for each connection whose state or reason has changed."""
    before: dict[str, tuple[object, ...]] | None = None
    while True:
        look = await look_at_fleet(database, view)
        now: dict[str, tuple[object, ...]] = {
            row["org"]: (row["state"], row["reason"], (row["webhooks"] or {}).get("state"))
            for row in look.connections
        }
        if before is None:
            _line(Text.from_markup(summary_text(look)).plain)
        else:
            for org in sorted(now.keys() | before.keys()):
                if now.get(org) != before.get(org):
                    _line(_change(org, now.get(org)))
        before = now
        await asyncio.sleep(every)


def _change(org: str, to: tuple[object, ...] | None) -> str:
    if to is None:
        return f"{org}: no longer among those that are shown"
    state, reason, webhooks = to
    return f"{org}: {state}{f', webhooks {webhooks}' if webhooks else ''}{f': {reason}' if reason else ''}"


def _line(text: str) -> None:
    say(f"{datetime.now(tz=UTC):%Y-%m-%dT%H:%M:%SZ}  {text}")
    sys.stdout.flush()


@contextlib.contextmanager
def _heard_keys(stop: asyncio.Event) -> Iterator[None]:
    """Let q end it, without Enter; the terminal is as it was afterwards."""
    if os.name != "posix" or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    place, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(place)

    def pressed() -> None:
        keys = _keys(place)
        if keys is None or b"q" in keys.lower():
            stop.set()
            loop.remove_reader(place)

    tty.setcbreak(place)
    # Ctrl-C throws away what was typed before it: a read that waits would then wait for the next key, and the loop with
    # it, so that neither would end the watch.
    at_once = termios.tcgetattr(place)
    at_once[6][termios.VMIN] = 0
    termios.tcsetattr(place, termios.TCSANOW, at_once)
    loop.add_reader(place, pressed)
    try:
        yield
    finally:
        loop.remove_reader(place)
        with contextlib.suppress(termios.error):  # it has gone away
            termios.tcsetattr(place, termios.TCSADRAIN, before)


def _keys(place: int) -> bytes | None:
    """What has been typed, maybe nothing; None if the terminal has gone away."""
    try:
        keys = os.read(place, 64)
    except OSError:
        return None
    if keys:
        return keys
    state = select.poll()
    state.register(place, 0)
    return None if state.poll(0) else b""
