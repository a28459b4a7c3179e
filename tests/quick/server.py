"""Commands without the seconds of importing: each runs in a process forked from one that has imported all.

A command is what it is otherwise: a process of its own with its own environment, arguments, standard streams and end,
and the same `main()`. Only what Python imports is there already. The installed script itself is run by the demo, the
proofs that kill, and tests/test_readme.py.

`python -m tests.quick.server SOCKET` serves tests/quick/start.py, until its standard input ends.
"""

import atexit
import gc
import importlib
import marshal
import os
import runpy
import select
import signal
import socket
import sys
import threading

import aiosqlite

import store.sqlite_driver

# All that takes long to import and remembers nothing of the environment; Prefect's settings are read anew in each fork.
IMPORTS = (
    "deployments.cli.refresh",
    "deployments.cli.connect",
    "deployments.cli.gateway",
    "deployments.cli.keys",
    "deployments.cli.sealing",
    "deployments.cli.snapshot",
    "deployments.cli.status",
    "deployments.cli.sync",
    "deployments.cli.events",
    "deployments.cli.webhook_health",
    "deployments.cli.webhooks",
    "flows.connect",
    "flows.deliver_events",
    "flows.fleet_sync",
    "flows.full_sync",
    "flows.reconcile",
    "flows.token_refresh",
    "flows.webhook_backlog",
    "flows.webhook_health",
    "gateway.app",
    "gateway.serve",
    "uvicorn.protocols.http.auto",
    "uvicorn.lifespan.on",
    "prefect.server.api.server",
    "tests.store.builders",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)
LENGTH = 8


def main() -> None:
    """Import everything, then fork for whoever connects."""
    place = sys.argv[1]
    gc.disable()
    for name in IMPORTS:
        importlib.import_module(name)
    # Prefect's servers too: half of what they do for a test is going to SQLite's thread and back.
    aiosqlite.connect = store.sqlite_driver.connect  # type: ignore[assignment]  # as SQLAlchemy calls it
    gc.enable()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(place + ".half")
        door.listen(16)
        os.rename(place + ".half", place)  # noqa: PTH104 - there from the moment on when it is listened to
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([door.fileno(), 0], [], [])
            if 0 in ready:
                return
            asked, _ = door.accept()
            with asked:
                if os.fork() == 0:
                    door.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _watch(asked)
                    return  # it is the command now


def _watch(asked: socket.socket) -> None:
    """Fork the command, say how it ended; if whoever asked for it is killed, it is killed."""
    head, streams, _, _ = socket.recv_fds(asked, LENGTH, 3)
    wanted = bytearray()
    while len(wanted) < int.from_bytes(head, "big"):
        wanted += asked.recv(1 << 16)
    command = os.fork()
    if command == 0:
        asked.close()
        folder, arguments, environment = marshal.loads(wanted)  # noqa: S302 - from start.py
        _become(folder, arguments, environment, streams)
        return  # and so out of `main` to the interpreter's ordinary end
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(command)
    while ended not in (ready := select.select([ended, asked.fileno()], [], [])[0]):
        told = asked.recv(1)
        os.kill(command, told[0] if told else signal.SIGKILL)
        if not told:
            break
    _, status = os.waitpid(command, 0)
    if ended in ready:
        asked.sendall(os.waitstatus_to_exitcode(status).to_bytes(LENGTH, "big", signed=True))
    os._exit(0)


def _become(folder: str, arguments: list[str], environment: dict[bytes, bytes], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    os.chdir(folder)
    os.environb.clear()
    os.environb.update(environment)
    sys.argv = arguments


def run() -> None:
    """Serve; in a fork, be the command."""
    served = list(sys.argv)
    main()
    if sys.argv == served:
        return
    from prefect.context import refresh_global_settings_context

    if sys.argv[0] != "kommo":
        refresh_global_settings_context()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    from prefect.logging.configuration import setup_logging

    from deployments.cli import main as kommo
    from deployments.cli.run import quiet_prefect

    quiet_prefect()
    refresh_global_settings_context()
    setup_logging(incremental=False)
    kommo()


def end(code: object) -> None:
    """End as the interpreter does, but for taking apart, object by object, what dies with the process anyway."""
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    # The interpreter's own two steps; no public way leads to them without the third.
    threading._shutdown()  # type: ignore[attr-defined]  # see above
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    try:
        run()
    except SystemExit as ended:
        end(ended.code)
    else:
        end(0)
