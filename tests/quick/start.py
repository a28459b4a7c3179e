"""The other end of tests/quick/server.py: looks like the command to whoever starts it, and begins at once.

`start.py kommo …` or `start.py MODULE …`. It passes on its arguments, environment, streams and the signals that
it gets, and ends as the command ended.
"""

import marshal
import os
import signal
import socket
import sys


def main() -> int:
    """Have the command run, and give its exit code; what it was killed with is negative."""
    wanted = marshal.dumps((os.getcwd(), sys.argv[1:], dict(os.environb)))  # noqa: PTH109 - `pathlib` would take longer
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["QUICK_SERVER"])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda given, _: server.sendall(bytes([given])))
        socket.send_fds(server, [len(wanted).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(wanted)
        return int.from_bytes(server.recv(8), "big", signed=True)


if __name__ == "__main__":
    code = main()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
