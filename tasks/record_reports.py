"""What a reading of records has to say: for the flow's answer, the artifact and the command line."""

from typing import Literal

from pydantic import BaseModel, Field


class KindCount(BaseModel):
    """What became of one kind in one run."""

    kind: str
    mode: str = ""
    state: Literal["complete", "failed"] = "complete"
    records: int = Field(default=0, description="Read by this run; some may have come twice.")
    added: int = 0
    changed: int = 0
    gone: int = 0
    pages: int = 0
    requests: int = 0
    seconds: float = 0.0
    resumed: bool = Field(default=False, description="Whether it went on where another run was broken off.")
    note: str | None = Field(default=None, description="What is worth knowing, or why it failed.")


class RecordsReport(BaseModel):
    """What one run read of an org's records. Holds nothing of a customer's data."""

    org: str
    mode: str
    state: Literal["completed", "failed"]
    kinds: list[KindCount]
    requests: int
    seconds: float

    @property
    def records(self) -> int:
        """How many records were read."""
        return sum(kind.records for kind in self.kinds)

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        added, changed, gone = (
            sum(getattr(one, name) for one in self.kinds) for name in ("added", "changed", "gone")
        )
        return (
            f"{self.org}: {self.records} records of {len(self.kinds)} kinds read, {added} new, {changed} changed, "
            f"{gone} gone, {self.requests} requests in {self.seconds:.1f} s"
        )

    def reason(self) -> str:
        """Why it failed, kinds that failed alike together."""
        alike: dict[str, list[str]] = {}
        for kind in self.kinds:
            if kind.state == "failed":
                alike.setdefault(kind.note or "", []).append(kind.kind)
        return " ".join(f"{', '.join(kinds)}: {why}" for why, kinds in alike.items())
