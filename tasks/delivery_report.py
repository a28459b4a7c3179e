"""What a run of the delivery has to say: one report for the flow's answer, the artifact and the command line."""

from pydantic import BaseModel, Field


class OutboxRow(BaseModel):
    """How the outbox of one org stands at the end of a run."""

    org: str
    pending: int
    oldest_seconds: float = Field(description="Age of the oldest event that still waits.")
    held: int = Field(description="Subjects whose first event has failed and will be tried again.")
    dead: int = Field(description="Dead letters.")


class DeliveryReport(BaseModel):
    """What one run of the delivery came to. Holds nothing of a customer's data."""

    host: str = Field(default="", description="Where the product takes events.")
    state: str = Field(default="well", description="How that address does: well, resting, gone, or unset.")
    reason: str | None = Field(default=None, description="Why it rests or is gone.")
    delivered: int = Field(default=0, description="Events that the product took.")
    failed: int = Field(default=0, description="Attempts that failed.")
    dead: int = Field(default=0, description="Events given up in this run.")
    posts: int = Field(default=0, description="Requests sent to the product.")
    lost_turns: int = Field(default=0, description="Turns that another run took over.")
    failures: dict[str, int] = Field(default_factory=dict, description="Why attempts failed, and how many.")
    seconds: float = 0.0
    outbox: list[OutboxRow] = Field(default_factory=list, description="What is left, and dead letters.")

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        pending, dead = (sum(getattr(row, name) for row in self.outbox) for name in ("pending", "dead"))
        oldest = max((row.oldest_seconds for row in self.outbox if row.pending), default=0.0)
        left = f"{pending} wait, the oldest for {oldest:.0f} s" if pending else "none waits"
        told = f"{self.delivered} events told in {self.posts} requests, {self.failed} attempts failed"
        return (
            f"{told}, {self.seconds:.1f} s; {left}; {dead} dead letters"
            f"{f', {self.dead} of them new' if self.dead else ''}{self._address()}"
        )

    def _address(self) -> str:
        if self.state == "unset":
            return f"; {self.reason}"
        return "" if self.state == "well" else f"; the product's address is {self.state}: {self.reason}"
