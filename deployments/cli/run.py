"""How a command runs: a quiet Prefect, one place where errors become sentences and exit codes.

Exit codes: 0 done, 1 failed with a sentence that says what to do, 2 wrong use, 130 interrupted (143 by SIGTERM).
"""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

from deployments.cli.output import complain

LEAVES_WITHIN = 15.0
"""Seconds that an interrupted command has for tidying up."""
_TOLD_TO_END = frozenset({130, 143})
_INTERRUPTED = "Interrupted. What was saved is whole; run the command again to go on."

# Settings for a person at a terminal. A worker or a service sets its own; nothing here overrides what is set.
_QUIET_PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_ROOT_LEVEL": "ERROR",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}


_LOUD_IN_A_SERVICE = ("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "PREFECT_LOGGING_ROOT_LEVEL")
_quieted: set[str] = set()


def quiet_prefect() -> None:
    """Set Prefect's environment for the command line; must run before Prefect is imported."""
    for name, value in _QUIET_PREFECT.items():
        if name not in os.environ:
            os.environ[name] = value
            _quieted.add(name)


def let_prefect_speak() -> None:
    """For a command that serves: its log is all that an operator sees of it. Must run before Prefect is imported."""
    for name in _quieted.intersection(_LOUD_IN_A_SERVICE):
        del os.environ[name]


@contextlib.contextmanager
def many_imports() -> Iterator[None]:
    """For the import of Prefect: many objects and no garbage; to look for some takes a seventh of the time.

    What was imported stays until the end, and is not looked through again: neither while the command works nor when it
    ends, which took a second of it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class WrongUseError(Exception):
    """The command was called with something it cannot take; exit code 2."""


def run_app(app: App, tokens: list[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    code = exit_code(lambda: app(tokens, exit_on_error=False, print_error=True))
    if code in _TOLD_TO_END:
        _leave_in_time(code)
    sys.exit(code)


def _leave_in_time(code: int) -> None:
    """Prefect takes leave of its server at the end, and may wait for it for ever: whoever said stop does not."""

    def leave() -> None:
        for children in Path("/proc/self/task").glob("*/children"):  # Prefect's small server, if there is one
            for child in children.read_text().split():
                with contextlib.suppress(OSError):
                    os.kill(int(child), signal.SIGTERM)
        os._exit(code)

    watch = threading.Timer(LEAVES_WITHIN, leave)
    watch.daemon = True
    watch.start()


@contextlib.contextmanager
def _end_as_if_interrupted() -> Iterator[list[int]]:
    """Let SIGTERM end a command as Ctrl-C does, so that Prefect's small server ends with it and is not left behind.

    Commands that serve have handlers of their own. What a script starts in its background begins with SIGINT ignored;
    asyncio would then not listen to it, so it is heard again for as long as the command runs.

    Yields:
        A list that is empty until SIGTERM came.
    """
    told: list[int] = []

    def end(number: int, frame: object) -> None:
        del frame
        told.append(number)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, end)
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


def exit_code(action: Callable[[], Any]) -> int:
    """Run an action; an error becomes a sentence on standard error and a code."""
    with _end_as_if_interrupted() as told_to_end:
        return _exit_code(action, told_to_end)


def _exit_code(action: Callable[[], Any], told_to_end: list[int]) -> int:
    try:
        action()
    except CycloptsError:
        return 2
    except WrongUseError as error:
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        complain(_INTERRUPTED)
        return 143 if told_to_end else 130
    except Exception as error:
        complain(_sentence(error))
        if os.environ.get("KOMMO_DEBUG"):
            raise
        return 1
    except BaseException as error:
        # Within a flow Prefect listens to SIGTERM itself, and makes this of it.
        if type(error).__name__ != "TerminationSignal":
            raise
        complain(_INTERRUPTED)
        return 143
    return 0


async def must_be_known(org: str) -> None:
    """Look for an org's connection before Prefect's small server is started for it, which takes a while.

    Raises:
        UnknownConnectionError: it has none.
    """
    from blocks.settings import Settings
    from store.connections import get_connection
    from tasks.installation import open_database

    async with open_database(Settings()) as database:
        await get_connection(database, org)


def _sentence(error: Exception) -> str:
    from tasks.errors import KNOWN_ERRORS, DataPlaneError

    if isinstance(error, (*KNOWN_ERRORS, DataPlaneError)):
        return str(error)
    # Prefect has no type of its own for it, or lets its HTTP client's through, whose module is not for us to import.
    if "Failed to reach API at" in str(error) or _is_of_http(error, "TransportError"):
        return (
            f"Prefect's server at {os.environ.get('PREFECT_API_URL', 'its usual address')} does not answer. Start it "
            "(prefect server start; it takes half a minute), or unset PREFECT_API_URL: then a small one is started for "
            "the command."
        )
    if _is_of_http(error, "HTTPStatusError") and "401 Unauthorized" in str(error):
        return (
            f"Prefect's server at {os.environ.get('PREFECT_API_URL', 'its usual address')} does not let us in. Set "
            "PREFECT_API_AUTH_STRING to the user:password that it was started with."
        )
    return (
        f"Unexpected {type(error).__name__}. Run it again with KOMMO_DEBUG=1 to see where; "
        "if it stays, please report it with that output."
    )


def _is_of_http(error: Exception, name: str) -> bool:
    return any(kind.__module__.startswith("httpx") and kind.__name__ == name for kind in type(error).__mro__)
