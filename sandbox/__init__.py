"""A Kommo account on loopback, faithful enough that real clients cannot tell. Imports nothing of ours.

Start it as a process (`python -m sandbox --port 8025`), on the running event loop (`running_sandbox`) or in a
thread (`sandbox_in_thread`). Every fact comes from the fact sheet of the API; what is not documented and had to be
chosen is said where it is done.
"""

from sandbox.config import LimitSettings, SandboxConfig, WebhookSettings
from sandbox.server import AccountAccess, Sandbox, running_sandbox, sandbox_in_thread

__all__ = [
    "AccountAccess",
    "LimitSettings",
    "Sandbox",
    "SandboxConfig",
    "WebhookSettings",
    "running_sandbox",
    "sandbox_in_thread",
]
