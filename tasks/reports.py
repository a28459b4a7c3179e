"""What a sync has to say: one report for the flow's answer, the artifact, the event and the command line."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from store.drift import Drift
from tasks.record_reports import RecordsReport

FAILURES_SHOWN = 100
"""So many failures are named in a report; all are in `sync_run`."""


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
    records: RecordsReport | None = Field(
        default=None, description="Of the records, where they were read, too."
    )

    @classmethod
    def of_records(cls, records: RecordsReport) -> "SyncReport":
        """The report of a sync that read records and nothing of the set-up."""
        return cls(
            org=records.org,
            scope="records",
            run_id="",
            state=records.state,
            requests=records.requests,
            retries=0,
            seconds=records.seconds,
            kinds=[],
            drift=Drift(records.org, None, "", []),
            records=records,
        )

    @property
    def breaking(self) -> int:
        """How many changes break a consumer."""
        return self.drift.counts()["breaking"]

    def facts(self) -> dict[str, Any]:
        """What is told of it, to the product and to automations alike."""
        return self.model_dump(include={"org", "scope", "run_id", "state", "reason", "requests", "seconds"})

    def summary(self) -> str:
        """One line for a log, an event and the terminal."""
        if self.records is not None and not self.kinds:
            return self.records.summary()
        items = sum(kind.items for kind in self.kinds)
        rows = sum(kind.rows_written for kind in self.kinds)
        return (
            f"{self.org}: {items} items of {len(self.kinds)} kinds, {rows} version rows written, "
            f"{self.requests} requests in {self.seconds:.1f} s"
        )


class FleetFailure(BaseModel):
    """One org that could not be synced."""

    org: str
    reason: str


class FleetReport(BaseModel):
    """What one sync of many orgs came to: counts, and the first failures. Every org's own run is in the store."""

    scope: str
    shard: str | None = None
    due: int = Field(default=0, description="Orgs that were to be synced when the run began.")
    completed: int = 0
    failed: int = 0
    drifted: int = Field(default=0, description="Orgs whose set-up had changed.")
    breaking: int = Field(default=0, description="Orgs with a change that breaks somebody.")
    requests: int = 0
    rows: int = Field(default=0, description="Version rows written.")
    failures: list[FleetFailure] = Field(default_factory=list, description="The first of those that failed.")
    stopped: str | None = Field(default=None, description="Why the run ended before its time.")
    seconds: float = 0.0

    def add(self, other: "FleetReport") -> None:
        """Count what a part came to."""
        for name in ("completed", "failed", "drifted", "breaking", "requests", "rows"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures = (self.failures + other.failures)[:FAILURES_SHOWN]

    def count(self, org: str, outcome: "SyncReport | str") -> None:
        """Count one org: its report, or why there is none."""
        if isinstance(outcome, SyncReport):
            self.requests += outcome.requests
            self.rows += sum(kind.rows_written for kind in outcome.kinds)
            self.drifted += bool(outcome.drift.changes)
            self.breaking += outcome.breaking > 0
            if outcome.state == "completed":
                self.completed += 1
                return
            outcome = outcome.reason or "It failed."
        self.failed += 1
        if len(self.failures) < FAILURES_SHOWN:
            self.failures.append(FleetFailure(org=org, reason=outcome))

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        drift = f", {self.drifted} changed ({self.breaking} breaking)" if self.drifted else ""
        return (
            f"{self.completed} of {self.due} orgs synced{drift}{f', {self.failed} failed' if self.failed else ''}, "
            f"{self.rows} version rows written, {self.requests} requests in {self.seconds:.1f} s"
            f"{f'. Stopped: {self.stopped}' if self.stopped else ''}"
        )
