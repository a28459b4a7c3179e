"""The control API under /_sandbox/."""

from sandbox.wire import Request, Response, hal
from sandbox.world import World


class Control:
    """Stub."""

    def __init__(self, world: World) -> None:
        self.world = world

    def handle(self, request: Request) -> Response:
        """Answer."""
        del request
        return hal({})
