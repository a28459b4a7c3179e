"""The id of the request at work here: what a log line and an event of the outbox carry, so that both can be found."""

from contextvars import ContextVar

REFERENCE: ContextVar[str | None] = ContextVar("kommo_reference", default=None)
"""Set by whoever takes a request in, for all that is done for it."""


def current_reference() -> str | None:
    """The id of the request at work here; None outside of one."""
    return REFERENCE.get()
