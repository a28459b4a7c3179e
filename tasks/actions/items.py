"""One action while it is worked on."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kommo.writing import MOST_ELEMENTS
from store.action_journal import HeldAction
from store.actions import ActionState
from tasks.actions.outcomes import INTERRUPTED
from tasks.actions.plans import Plan

Done = tuple[dict[str, Any], str | None]
"""The result, and the name of what Kommo made."""


@dataclass
class Item:
    """One action while it is worked on.

    Attributes:
        held: Its row, as it was taken.
        plan: What is sent.
        state: `intended`: may be sent; `sent`: must be looked up; `unknown`: likewise, once it is marked.
        attempts: How often it was sent.
        sent_at: When it was marked as sent, by whomever; None if it never was.
        ended: When our own request for it ended (monotonic); None while it runs, or if another process sent it.
        done: What Kommo has answered, until it is written down.
        not_before: It rests until then (monotonic).
        answered: Kommo has answered our request with a refusal: what it did not do by then it will not do.
        most: So many go into one request with it at most.
        waits: Why it is not at its end yet: a word and a sentence.
    """

    held: HeldAction
    plan: Plan
    state: ActionState
    attempts: int
    sent_at: datetime | None = None
    ended: float | None = None
    done: Done | None = None
    not_before: float = -math.inf
    answered: bool = False
    most: int = MOST_ELEMENTS
    waits: tuple[str, str] = INTERRUPTED
    tries: int = 0

    @classmethod
    def of(cls, held: HeldAction) -> "Item":
        """The action of a row."""
        record = held.record
        return cls(held, Plan.from_json(held.plan), record.state, record.attempts, held.sent_at)

    @property
    def id(self) -> int:
        """Its row."""
        return self.held.id

    def rest(self, now: float, seconds: float, waits: tuple[str, str]) -> None:
        """Let it wait for a while, and say why."""
        self.not_before = now + seconds
        self.waits = waits
        self.tries += 1
