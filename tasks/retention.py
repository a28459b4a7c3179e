"""Removing what has grown old: one task for all rules, and what is reported of it."""

import asyncio
from collections.abc import Mapping

from prefect import task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, Field, ValidationError

from blocks.retention import RetentionSettings
from kommo.clock import Clock
from store.database import Database
from store.retention import RULES, Ages, remove_old
from tasks.errors import RetentionSetupError, sentence_of

_BREATH = 0.01
"""Seconds between two batches, so that others get at a database with one writer."""


class RuleReport(BaseModel):
    """What one rule came to."""

    rule: str
    setting: str
    table: str
    days: int = Field(description="Older than this goes; 0: nothing does.")
    rows: int = 0
    with_them: int = Field(default=0, description="Rows of other tables that hung on these.")
    failed: str | None = None


class RetentionReport(BaseModel):
    """What one run of the retention came to. Holds no data of anybody."""

    dry_run: bool
    rules: list[RuleReport] = Field(default_factory=list)
    orgs: list[str] = Field(default_factory=list, description="Orgs that have ages of their own.")
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """How many rows went, or would go."""
        return sum(rule.rows + rule.with_them for rule in self.rules)

    @property
    def failed(self) -> list[RuleReport]:
        """The rules that did not come to their end; what they had removed is gone, the next run goes on."""
        return [rule for rule in self.rules if rule.failed]

    def summary(self) -> str:
        """One line for a log, an artifact and the terminal."""
        what = "rows would go" if self.dry_run else "rows were removed"
        failed = f"; {len(self.failed)} of {len(self.rules)} rules failed" if self.failed else ""
        return f"{self.rows} {what} in {self.seconds:.1f} s{failed}"


def ages_of(days: Mapping[str, int] | None = None) -> Ages:
    """The ages that this installation is set to.

    Args:
        days: ages for this once, by their names, in place of the general ones; orgs keep their own.

    Raises:
        RetentionSetupError: a setting, or one of `days`, cannot be used.
    """
    try:
        settings = RetentionSettings()
        if days:
            if unknown := sorted(set(days) - set(settings.days)):
                raise RetentionSetupError(
                    f"There is no age called {unknown[0][:40]!r}. The ages are {', '.join(sorted(settings.days))}."
                )
            for_once = {f"{name}_days": value for name, value in days.items()}
            settings = RetentionSettings.model_validate(settings.model_dump() | for_once)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = str(first["msg"]).removeprefix("Value error, ")
        raise RetentionSetupError(f"KOMMO_RETENTION: {f'{where}: ' if where else ''}{said}") from None
    return Ages(settings.days, settings.orgs)


@task(
    name="remove-old",
    description="Remove what has been done with and has grown old, in short transactions.",
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def remove_all_old(session: "RetentionSession") -> RetentionReport:
    """Go through all rules; one that fails does not stop the others.

    Args:
        session: what to work with.
    """
    begun, now = session.clock.monotonic(), session.clock.now()
    report = RetentionReport(dry_run=session.dry_run, orgs=sorted(session.ages.orgs))

    async def breathe() -> None:
        await asyncio.sleep(_BREATH)

    for rule in RULES:
        done = RuleReport(
            rule=rule.name,
            setting=rule.setting,
            table=rule.table.name,
            days=session.ages.days.get(rule.setting, 0),
        )
        report.rules.append(done)
        try:
            removal = await remove_old(
                session.database, rule, session.ages, now=now, dry_run=session.dry_run, pause=breathe
            )
        except Exception as error:  # noqa: BLE001 - whatever it was, the others go on and the report names it
            done.failed = sentence_of(error)
        else:
            done.rows, done.with_them = removal.rows, removal.with_them
    report.seconds = session.clock.monotonic() - begun
    return report


class RetentionSession:
    """What the task works with. Not a dataclass: Prefect walks into those when a task gets one as an argument.

    Args:
        database: The store.
        ages: How old things may become.
        clock: Source of time.
        dry_run: Only count.
    """

    def __init__(self, database: Database, ages: Ages, clock: Clock, *, dry_run: bool = False) -> None:
        self.database = database
        self.ages = ages
        self.clock = clock
        self.dry_run = dry_run

    def __repr__(self) -> str:
        return "RetentionSession()"


@task(
    name="publish-retention",
    description="Put what was removed where people see it.",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
)
async def publish_retention(report: RetentionReport) -> None:
    """Publish one report as the artifact `kommo-retention`."""
    await acreate_table_artifact(
        [
            {
                "what": rule.rule,
                "kept for": f"{rule.days} days" if rule.days else "ever",
                "rows": rule.rows + rule.with_them,
                "failed": rule.failed or "",
            }
            for rule in report.rules
        ],
        key="kommo-retention",
        description=report.summary(),
    )
