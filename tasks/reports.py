"""What a sync has to say: one report for the flow's answer, the artifact, the event and the command line."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from store.drift import Drift


class KindReport(BaseModel):
    """What became of one kind in one run."""

    kind: str
    state: Literal["saved", "superseded", "failed"]
    items: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    reason: str | None = None

    @property
    def rows_written(self) -> int:
        """Versions begun or ended by this run."""
        return self.added + self.changed + self.removed


class SyncReport(BaseModel):
    """What one sync read, saved and found changed. Holds no secret and no personal data but item names."""

    org: str
    scope: str
    run_id: str
    state: Literal["completed", "failed"]
    reason: str | None = None
    requests: int = Field(description="Requests sent to Kommo, retries included.")
    retries: int = Field(description="How many of the requests were repeats.")
    seconds: float
    kinds: list[KindReport]
    drift: Drift = Field(
        description="What changed since the snapshots before; nothing on an org's first sync."
    )
    failures_in_a_row: int = Field(default=0, description="This one counted; eight runs are looked at.")

    @property
    def breaking(self) -> int:
        """How many changes break a consumer."""
        return self.drift.counts()["breaking"]

    def facts(self) -> dict[str, Any]:
        """What is told of it, to the product and to automations alike."""
        return self.model_dump(include={"org", "scope", "run_id", "state", "reason", "requests", "seconds"})

    def summary(self) -> str:
        """One line for a log, an event and the terminal."""
        items = sum(kind.items for kind in self.kinds)
        rows = sum(kind.rows_written for kind in self.kinds)
        return (
            f"{self.org}: {items} items of {len(self.kinds)} kinds, {rows} version rows written, "
            f"{self.requests} requests in {self.seconds:.1f} s"
        )


class FleetReport(BaseModel):
    """What one sync of all connected orgs came to."""

    scope: str
    completed: list[str] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict, description="Org → why, as a sentence.")
