"""What a drift is made of: plain values that know nothing of the database."""

from dataclasses import dataclass
from typing import Any

from store.severity import ChangeKind, Severity


@dataclass(frozen=True)
class Change:
    """One item that differs.

    Attributes:
        kind: the item's kind.
        key: its natural key (for a move: the new one).
        name: what people call it, None if it has no name.
        parent: the name of the pipeline or field that it belongs to.
        change: what happened.
        before: the values that changed, as they were; all of them for what was removed; None for what was
            added.
        after: the same keys, as they are; None for what was removed.
        severity: how much it matters.
        why: who is hit and how.
    """

    kind: str
    key: str
    name: str | None
    parent: str | None
    change: ChangeKind
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    severity: Severity
    why: str


@dataclass(frozen=True)
class Drift:
    """The difference of two snapshots, weightiest first.

    `not_compared` has the kinds of which there was no earlier snapshot: a first read is no drift.
    """

    org: str
    from_run: str | None
    to_run: str
    changes: list[Change]
    not_compared: tuple[str, ...] = ()

    @property
    def worst(self) -> Severity | None:
        """The weight of the weightiest change, None when nothing changed."""
        return self.changes[0].severity if self.changes else None

    def counts(self) -> dict[str, int]:
        """How many changes there are of each severity."""
        return {level: sum(change.severity == level for change in self.changes) for level in Severity}
