"""What can go wrong above Kommo and the store; each sentence says who is at fault and what to do."""

import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kommo.errors import ErrorKind, KommoError
from store.errors import StoreError
from tasks.record_reports import RecordsReport
from tasks.reports import FleetReport, SyncReport

if TYPE_CHECKING:
    from store.actions import ActionRecord
    from tasks.refresh_due import RefreshReport
    from tasks.retention import RetentionReport
    from tasks.webhook_health import HealthReport

_NAMED = 20  # orgs in a sentence

KNOWN_ERRORS = (KommoError, StoreError)


class DataPlaneError(Exception):
    """Base of the errors that tasks and flows raise themselves; `str()` is a sentence for a person."""


class NotConnectedError(DataPlaneError):
    """The org has no connection, or its credentials are not where this process looks."""


class WrongAccountError(DataPlaneError):
    """The host answers for another Kommo account than the one this org was connected to."""


class AppIncompleteError(DataPlaneError):
    """The integration's id, secret or redirect URI is missing.

    `block_unread` says that Prefect did not give the block, so that what is missing may be there.
    """

    block_unread: bool = False


class EventsSetupError(DataPlaneError):
    """The product's address for events, or the secret that signs them, is missing or is not one."""


class EventNotTakenError(DataPlaneError):
    """The product did not take the event with which its address was tried."""


class EventsGoneError(DataPlaneError):
    """The product's address for events says that it is gone; nothing more is sent to it."""


class KeysFromEnvironmentError(DataPlaneError):
    """The sealing keys are set in the environment, where this program cannot change them."""


class BlocksUnavailableError(DataPlaneError):
    """Prefect's server, which keeps the credentials, does not do what it should."""


class ReauthorizationRequiredError(DataPlaneError):
    """Kommo gave its final word: only a person can help, by connecting the account again."""


class RefreshFailedError(DataPlaneError):
    """The token could not be refreshed this time; nothing is lost, and it will be tried again."""


class PairNotSavedError(DataPlaneError):
    """A new pair could be kept nowhere; it is lost with the process that got it."""


class RefreshUnknownError(RefreshFailedError):
    """Kommo may have used up the refresh token without our seeing the answer; it will be settled."""


class ClaimLostError(RefreshFailedError):
    """This process was held up for so long that another one has taken over; nothing was sent."""


class NotErasedError(DataPlaneError):
    """Something goes on writing about an org that is being erased."""

    def __init__(self, org: str, left: Mapping[str, int]) -> None:
        rows = ", ".join(f"{count} in {table}" for table, count in sorted(left.items()))
        super().__init__(
            f"Not everything of {org!r} is gone: something has written about it meanwhile ({rows}). "
            "Wait until what is running has ended, and erase it again."
        )


class AccountChangedError(DataPlaneError):
    """The org was connected to another account after the action was asked for."""

    def __init__(self) -> None:
        super().__init__(
            "The org has been connected to another Kommo account since this was asked for, and it was meant for the "
            "one before. Ask for it anew if it is wanted there."
        )


class InvalidActionError(DataPlaneError):
    """What was asked for does not fit the org's CRM; nothing was sent, and the sentence names what would fit.

    Args:
        sentence: What is wrong, and the valid choices.
        field: The name of the value that is at fault, such as `task_type_id`.
    """

    def __init__(self, sentence: str, field: str = "") -> None:
        self.field = field
        super().__init__(sentence)


class IdempotencyConflictError(DataPlaneError):
    """The idempotency key belongs to another request already; nothing was sent."""


class ActionFailedError(DataPlaneError):
    """An action was not done, or nobody can say whether it was; `record` says how it stands."""

    def __init__(self, record: "ActionRecord") -> None:
        self.record = record
        super().__init__(f"The action {record.action_id} ({record.kind}) is {record.state}. {record.reason}")


class ActionNotDoneError(DataPlaneError):
    """An action has not come to its end yet; `record` says how it stands."""

    def __init__(self, record: "ActionRecord") -> None:
        self.record = record
        super().__init__(
            f"The action {record.action_id} ({record.kind}) is not done yet: it is {record.state}. The flow "
            f"settle-actions goes on with it; the same command with --key {record.idempotency_key} says how it stands."
        )


class RefreshRunFailedError(DataPlaneError):
    """Not one of the connections that were due could be refreshed."""

    def __init__(self, report: "RefreshReport") -> None:
        self.report = report
        first = report.failures[0]
        super().__init__(
            f"None of the {report.due} connections that were due could be refreshed. The first: {first.reason}"
        )


class WebhookHealthFailedError(DataPlaneError):
    """Not one org's webhooks could be looked at."""

    def __init__(self, report: "HealthReport") -> None:
        self.report = report
        org, reason = next(iter(sorted(report.failed.items())))
        super().__init__(
            f"The webhooks of none of {report.failures} orgs could be looked at. The first, {org}: {reason}"
        )


class RetentionSetupError(DataPlaneError):
    """An age of the retention cannot be used."""


class RetentionFailedError(DataPlaneError):
    """A rule of the retention did not come to its end; what others removed, and what it had removed itself, is gone."""

    def __init__(self, report: "RetentionReport") -> None:
        self.report = report
        first = report.failed[0]
        super().__init__(
            f"{len(report.failed)} of {len(report.rules)} rules of the retention failed; the others are done, and the "
            f"next run goes on. The first, {first.rule}: {first.failed}"
        )


class SyncFailedError(DataPlaneError):
    """At least one group could not be read or saved; what was read is kept, `report` says what."""

    def __init__(self, report: SyncReport) -> None:
        self.report = report
        super().__init__(f"The sync of '{report.org}' failed. {report.reason}")


class RecordsFailedError(DataPlaneError):
    """At least one kind of records could not be read to its end; what was read is kept, `report` says what."""

    def __init__(self, report: RecordsReport) -> None:
        self.report = report
        super().__init__(
            f"Not all records of '{report.org}' could be read; what was read is kept, and the next run goes on there. "
            f"{report.reason()}"
        )


class FleetSyncFailedError(DataPlaneError):
    """At least one org could not be synced, or the run had to stop; `report` names the first with the reason."""

    def __init__(self, report: FleetReport) -> None:
        self.report = report
        named = [failure.org for failure in report.failures[:_NAMED]]
        more = f" and {report.failed - len(named)} more" if report.failed > len(named) else ""
        failed = (
            f"{report.failed} of {report.failed + report.completed} orgs could not be synced: "
            f"{', '.join(sorted(named))}{more}. `kommo status` says why."
        )
        stopped = f"The run stopped before its end: {report.stopped}" if report.stopped else ""
        super().__init__(" ".join(part for part in (stopped, failed if report.failed else "") if part))


def sentence_of(error: BaseException) -> str:
    """A sentence that may be shown to anyone and stored anywhere.

    Errors of this project are made to be shown; of any other only the type is, because its text may hold
    whatever was being worked on.
    """
    if isinstance(error, (*KNOWN_ERRORS, DataPlaneError)):
        return str(error)
    return f"Unexpected {type(error).__name__}; the log of the run has the details."


def place_of(error: BaseException) -> str:
    """Where an error came from, for a log: its last calls, without its text, of which nobody knows what it holds."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(
        f"{frame.name} ({frame.filename.rpartition('/')[2]}:{frame.lineno})" for frame in reversed(frames)
    )


def connection_state_after(error: BaseException) -> str | None:
    """The state of a connection after this error, or None when the error says nothing about it."""
    if isinstance(error, KommoError):
        # A long-lived token cannot be refreshed, so a 401 is final for it [D K/long-lived-token].
        return "reauthorization_required" if error.kind is ErrorKind.UNAUTHORIZED else "degraded"
    # `ReauthorizationRequiredError` says nothing new: the refresh that raised it has written it down.
    return "degraded" if isinstance(error, WrongAccountError) else None
