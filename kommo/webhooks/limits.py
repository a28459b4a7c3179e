"""How large a webhook's body may be, and what is said about one that cannot be read."""

from dataclasses import dataclass
from typing import Self

from kommo.errors import ErrorKind, KommoError

DEEPEST = 64
"""No `Limits` may allow more levels: the end of the work goes down by recursion."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may be; Kommo names no limit of its own, real bodies have a few dozen fields [C].

    Attributes:
        bytes: Length of the body.
        fields: How many values it may have; and how many groups of values.
        depth: How many levels of names: `leads[add][0][id]` has four, the deepest that Kommo sends has eleven (the
            fields of an incoming lead).
    """

    bytes: int = 1 << 20
    fields: int = 20_000
    depth: int = 16

    def __post_init__(self) -> None:
        if min(self.bytes, self.fields, self.depth) < 1 or self.depth > DEEPEST:
            raise ValueError(f"Limits must be at least 1, and the depth at most {DEEPEST}.")


class UnreadableBodyError(KommoError):
    """The body of a webhook is not what Kommo sends; `str(error)` never repeats it.

    Args:
        why: What is wrong with it, as a half-sentence of our own.
    """

    def __init__(self, why: str, kind: ErrorKind = ErrorKind.HOOK_UNREADABLE) -> None:
        super().__init__(kind, detail=why)


class BodyTooLargeError(UnreadableBodyError):
    """The body of a webhook has more bytes than are accepted; nothing of it was looked at."""

    def __init__(self, why: str) -> None:
        super().__init__(why, ErrorKind.HOOK_TOO_LARGE)

    @classmethod
    def of(cls, length: int, limits: Limits) -> Self:
        """The error of a body of that length."""
        return cls(f"it has {length} bytes, {limits.bytes} are accepted")
