"""Running the gateway as a process: one socket, one log that holds no query strings, a stop that loses nothing."""

import logging
import logging.config
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from blocks.settings import Settings
from gateway.app import create_app
from gateway.services import FINISH_SECONDS, open_services
from tasks.logs import log_json, wants_json

_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        name: {"level": level, "handlers": ["stderr"], "propagate": False}
        for name, level in (("gateway", "INFO"), ("tasks", "INFO"), ("store", "INFO"), ("uvicorn", "WARNING"))
    },
}


async def serve(
    host: str, port: int, settings: Settings, *, ready: Callable[[str], None] = lambda _: None
) -> None:
    """Serve until the process is told to stop, then let work that is under way end.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        settings: This installation.
        ready: Is told the address once requests are taken.

    Raises:
        OSError: The port is taken.
        StoreError: The database cannot be used.
    """
    logging.config.dictConfig(_LOGGING)
    if wants_json("text" if sys.stderr.isatty() else "json"):
        log_json()
        # A line for each delivery as well: where lines are looked for by a program, one must not be missing.
        logging.getLogger("gateway.access").setLevel(logging.DEBUG)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        async with open_services(settings) as services:
            server = uvicorn.Server(
                uvicorn.Config(
                    create_app(settings, services=services),
                    log_config=None,
                    # Our own line has the path only; uvicorn's has the query, and with it codes and states.
                    access_log=False,
                    server_header=False,
                    # Nothing here depends on who the proxy says the client is.
                    proxy_headers=False,
                    timeout_graceful_shutdown=int(FINISH_SECONDS),
                )
            )
            # uvicorn raises the signal that stopped it once more when its requests are through; without a handler of
            # ours that would end the process before work without a request, such as an install by a widget, is done.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, server.handle_exit)
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{listening.getsockname()[1]}")
            await server.serve(sockets=[listening])
