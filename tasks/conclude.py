"""How a sync ends: the run's row, the connection's state and the report, from what became of each group."""

from datetime import datetime
from itertools import takewhile

from store.connections import PAIR, ConnectionState, get_connection, set_state
from store.drift import changes_of_run
from store.kinds import KINDS
from store.outbox import OutboxEvent
from store.runs import finish_run, list_runs, note_sync
from store.snapshots import Saved
from tasks.errors import connection_state_after, sentence_of
from tasks.outbox import drift_detected, drift_facts, reauthorization_required, sync_ended
from tasks.reports import KindReport, SyncReport
from tasks.scopes import KINDS_OF_GROUP, Group, Scope
from tasks.session import SyncSession

_LOOKED_BACK = 8
"""Runs that are looked at for failures in a row; some may still be under way."""

Outcomes = dict[Group, dict[str, Saved] | Exception]


def _reason(failures: dict[Group, Exception]) -> str:
    """One text for all failures: groups that failed alike are named together."""
    by_sentence: dict[str, list[str]] = {}
    for group, error in failures.items():
        by_sentence.setdefault(sentence_of(error), []).append(group.value)
    return " ".join(f"{', '.join(groups)}: {sentence}" for sentence, groups in by_sentence.items())


def _kind_reports(outcomes: Outcomes) -> list[KindReport]:
    reports = []
    for group, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            reason = sentence_of(outcome)
            reports += [
                KindReport(kind=kind, state="failed", reason=reason) for kind in KINDS_OF_GROUP[group]
            ]
            continue
        reports += [
            KindReport(
                kind=kind,
                state="superseded" if saved.superseded else "saved",
                items=saved.items,
                added=saved.added,
                changed=saved.changed,
                removed=saved.removed,
            )
            for kind, saved in outcome.items()
        ]
    order = list(KINDS)
    return sorted(reports, key=lambda report: order.index(report.kind))


async def _settle_state(session: SyncSession, states: set[str], reason: str | None, now: datetime) -> None:
    """The connection's state after the sync; what the refresh of its token has to say about it goes first."""
    connection = await get_connection(session.database, session.org)
    if connection.state == ConnectionState.DISCONNECTED:
        return
    if connection.token_kind != session.connection.token_kind:
        return  # its credentials were replaced meanwhile, and about the new ones this sync knows nothing
    # A pair is replaced again and again and stays the same consent; another long-lived token is another one.
    serial = None if connection.token_kind == PAIR else session.connection.token_serial
    # Of a pair's token only its refresh can say that it is dead (T4).
    if "reauthorization_required" in states and connection.token_kind != PAIR:
        if connection.state != "reauthorization_required":
            await set_state(
                session.database,
                session.org,
                "reauthorization_required",
                reason,
                reason_code="token_refused",
                serial=serial,
                events=reauthorization_required(session.org, "token_refused", reason or "", connection.host),
                now=now,
            )
    elif connection.token_kind == PAIR and (
        connection.refresh_attempts > 0 or connection.state not in {"connected", "degraded"}
    ):
        return
    elif states:
        await set_state(
            session.database,
            session.org,
            "degraded",
            reason,
            reason_code="sync_failed",
            serial=serial,
            now=now,
        )
    elif reason is None and (connection.state != "connected" or connection.reason is not None):
        await set_state(session.database, session.org, "connected", None, serial=serial, now=now)


async def conclude_sync(session: SyncSession, scope: Scope, outcomes: Outcomes) -> SyncReport:
    """Finish the run, settle the connection's state, and put the report together."""
    failures = {group: outcome for group, outcome in outcomes.items() if isinstance(outcome, Exception)}
    reason = _reason(failures) if failures else None
    now = session.clock.now()
    report = SyncReport(
        org=session.org,
        scope=scope.value,
        run_id=session.run_id,
        state="failed" if failures else "completed",
        reason=reason,
        requests=session.requests,
        retries=session.client.retries,
        seconds=round((now - session.started_at).total_seconds(), 3),
        kinds=_kind_reports(outcomes),
        drift=await changes_of_run(session.database, session.run_id),
    )
    await finish_run(
        session.database,
        session.run_id,
        state=report.state,
        requests=report.requests,
        reason=reason,
        events=_told(report),
        now=now,
    )
    states = {after for error in failures.values() if (after := connection_state_after(error))}
    await _settle_state(session, states, reason, now)
    if failures:
        runs = await list_runs(session.database, session.org, _LOOKED_BACK)
        ended = [run.state for run in runs if run.state in {"completed", "failed"}]
        report.failures_in_a_row = len(list(takewhile(lambda state: state == "failed", ended)))
    else:
        await note_sync(session.database, session.org, session.run_id, breaking=report.breaking > 0, now=now)
    return report


def _told(report: SyncReport) -> list[OutboxEvent]:
    """What the product is told of the sync: that it ended, and what has changed in the CRM's set-up."""
    events = [sync_ended(report.org, report.run_id, report.state, report.facts())]
    if report.drift.changes:
        facts = report.facts() | drift_facts(report.drift)
        events.append(drift_detected(report.org, report.run_id, facts))
    return events
