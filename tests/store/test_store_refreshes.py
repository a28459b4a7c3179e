"""Connections whose pairs must be refreshed: which are due, what a failure says and does not say, moves, the end."""

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import select, table, text

from store.audit import AuditNote, list_audit
from store.connections import (
    AttemptNoted,
    ConnectionRecord,
    due_connections,
    get_connection,
    mark_attempt_failed,
    put_connection,
    rehome,
    set_state,
)
from store.database import Database
from store.errors import UnknownConnectionError
from store.outbox import OutboxEvent, list_outbox
from store.token_journal import append_pair, mark_dead, promote
from tests.store.builders import minutes, run_many

DAY = 1440.0


async def _connect(db: Database, org: str = "acme", **facts: Any) -> ConnectionRecord:
    """A connection whose pair expires after a day."""
    given: dict[str, Any] = {"block_name": org, "host": "acme.kommo.com", "token_kind": "pair"}
    given |= {"token_fingerprint": "a", "expires_at": minutes(DAY), "now": minutes(0)}
    return await put_connection(db, org=org, **(given | facts))


async def _due(db: Database, at: float, **more: Any) -> list[str]:
    """What is due `at` some minutes: six hours before its end, or thirty days after its last refresh."""
    found = await due_connections(
        db,
        **{
            "before": minutes(at + 360),
            "idle_before": minutes(at - 30 * DAY),
            "now": minutes(at),
            **more,
        },
    )
    return [record.org for record in found.items]


async def _fail(db: Database, at: float = 1, **more: Any) -> AttemptNoted:
    given: dict[str, Any] = {"next_refresh_at": minutes(at + 5), "reason": "Kommo does not answer."}
    return await mark_attempt_failed(db, "acme", **(given | {"now": minutes(at)} | more))


def _event(kind: str = "integration_error") -> OutboxEvent:
    return OutboxEvent(kind, "acme", "connection", {"reason": "why"})


async def test_a_new_pair_begins_with_a_clean_slate_and_counts_on(db: Database) -> None:
    first = await _connect(db)
    assert (first.token_fingerprint, first.token_serial, first.refreshed_at) == ("a", 1, minutes(0))
    await _fail(db)
    second = await _connect(db, token_fingerprint="b", now=minutes(2))
    assert (second.token_fingerprint, second.token_serial, second.refreshed_at) == ("b", 2, minutes(2))
    assert (second.refresh_attempts, second.next_refresh_at, second.reason_code) == (0, None, None)
    third = await _connect(db, token_kind="long_lived", token_fingerprint=None, now=minutes(3))
    assert (third.token_fingerprint, third.token_serial, third.refreshed_at) == (None, 3, None)


async def test_a_pair_is_due_from_the_margin_before_its_end_on(db: Database) -> None:
    await _connect(db)
    assert await _due(db, DAY - 360) == []
    assert await _due(db, DAY - 359) == ["acme"]
    assert await _due(db, 3 * DAY) == ["acme"], "also when it has expired long since"


async def test_a_connection_that_nobody_uses_is_refreshed_long_before_its_token_dies(db: Database) -> None:
    await _connect(db, expires_at=minutes(1000 * DAY))
    assert await _due(db, 30 * DAY) == []
    assert await _due(db, 30.1 * DAY) == ["acme"]
    await append_pair(
        db,
        org="acme",
        used="a",
        fingerprint="b",
        sealed="s",
        host="h",
        expires_at=None,
        now=minutes(0),
    )
    await promote(db, "acme", "b", expires_at=minutes(1000 * DAY), host="h", now=minutes(30.1 * DAY))
    assert await _due(db, 30.2 * DAY) == []


@pytest.mark.parametrize(
    ("state", "due"),
    [
        ("connected", True),
        ("refreshing", True),
        ("degraded", True),
        ("outcome_unknown", True),
        ("reauthorization_required", False),
        ("disconnected", False),
        ("failed", False),
    ],
)
async def test_only_what_does_not_need_a_person_is_due(db: Database, state: str, due: bool) -> None:
    await _connect(db, state=state)
    assert await _due(db, DAY) == (["acme"] if due else [])
    assert await _due(db, 1) == (["acme"] if state == "outcome_unknown" else []), "that is to be settled"


async def test_long_lived_tokens_are_never_due(db: Database) -> None:
    await _connect(db, token_kind="long_lived", token_fingerprint=None)
    assert await _due(db, 5 * DAY) == []


async def test_a_pair_without_a_known_end_is_due(db: Database) -> None:
    await _connect(db, expires_at=None)
    assert await _due(db, 1) == ["acme"]


async def test_after_a_failure_nobody_tries_again_before_its_time(db: Database) -> None:
    await _connect(db)
    assert await _fail(db, DAY) is AttemptNoted.NOTED
    assert await _due(db, DAY + 4.9) == []
    assert await _due(db, DAY + 5) == ["acme"]


async def test_the_pages_of_the_due_hold_each_once(db: Database) -> None:
    orgs = [f"org-{number}" for number in range(7)]
    for org in reversed(orgs):
        await _connect(db, org, expires_at=minutes(1 if org != "org-2" else 9999))
    seen: list[str] = []
    after = None
    for _ in range(3):
        page = await due_connections(
            db, before=minutes(2), idle_before=minutes(-1), now=minutes(1), after=after, limit=2
        )
        seen += [record.org for record in page.items]
        after = page.next_after
    assert (seen, after) == ([org for org in orgs if org != "org-2"], None)


async def test_failures_in_a_row_are_counted_and_leave_the_state_unless_one_is_given(db: Database) -> None:
    await _connect(db)
    await _fail(db, 1, events=[_event()])
    await _fail(db, 2, reason="Kommo answered 502.", reason_code="unreachable")
    found = await get_connection(db, "acme")
    assert (found.state, found.state_since, found.refresh_attempts) == ("connected", minutes(0), 2)
    assert (found.reason, found.reason_code, found.next_refresh_at) == (
        "Kommo answered 502.",
        "unreachable",
        minutes(7),
    )
    assert await _fail(db, 3, state="degraded", events=[_event()]) is AttemptNoted.CHANGED
    assert await _fail(db, 4, state="degraded", events=[_event()]) is AttemptNoted.NOTED
    found = await get_connection(db, "acme")
    assert (found.state, found.state_since, found.refresh_attempts) == ("degraded", minutes(3), 4)
    assert len(await list_outbox(db)) == 1, "of the change only"


async def test_t4_a_verdict_on_a_pair_that_others_have_replaced_meanwhile_is_not_written(
    db: Database,
) -> None:
    await _connect(db)

    async def pair(used: str, fingerprint: str) -> None:
        await append_pair(
            db,
            org="acme",
            used=used,
            fingerprint=fingerprint,
            sealed="s",
            host="h",
            expires_at=None,
            now=minutes(0),
        )

    async def dead(seen: str) -> AttemptNoted:
        return await _fail(
            db, state="reauthorization_required", seen=seen, events=[_event()], audit=AuditNote("dead", {})
        )

    before = await get_connection(db, "acme")
    await pair("a", "b")  # another process got it, and has not promoted it yet
    assert await dead("a") is AttemptNoted.MOVED_ON
    assert await get_connection(db, "acme") == before
    await promote(db, "acme", "b", expires_at=None, host="h", now=minutes(0))
    assert await dead("a") is AttemptNoted.MOVED_ON
    assert (await get_connection(db, "acme")).state == "connected"
    assert await list_outbox(db) == []
    await pair("b", "c")
    await mark_dead(db, "acme", "c", minutes(1))
    assert await dead("b") is AttemptNoted.CHANGED, "its only successor is dead itself"
    assert len(await list_outbox(db)) == len(await list_audit(db, "acme")) == 1


async def test_t4_a_verdict_says_nothing_of_a_consent_that_came_meanwhile_also_while_the_store_is_behind(
    db: Database,
) -> None:
    await _connect(db)
    serial = (await get_connection(db, "acme")).token_serial
    await _connect(db)
    for state in ("reauthorization_required", "degraded"):
        assert await _fail(db, state=state, seen=None, serial=serial) is AttemptNoted.MOVED_ON
    assert (await get_connection(db, "acme")).state == "connected"
    assert await _fail(db, state="degraded", seen=None, serial=serial + 1) is AttemptNoted.CHANGED


@pytest.mark.parametrize("state", ["degraded", "outcome_unknown"])
async def test_t4_kommos_final_word_is_not_taken_back_by_a_failure_that_says_nothing(
    db: Database, state: str
) -> None:
    await _connect(db)
    assert await _fail(db, state="reauthorization_required", reason="refused") is AttemptNoted.CHANGED
    assert await _fail(db, state=state, reason="Kommo answered 502.") is AttemptNoted.MOVED_ON
    found = await get_connection(db, "acme")
    assert (found.state, found.reason) == ("reauthorization_required", "refused")


async def test_a_change_its_events_and_its_audit_are_written_together(db: Database) -> None:
    await _connect(
        db, events=[_event("integration_connected")], audit=AuditNote("connected", {"by": "oauth"})
    )
    given: dict[str, Any] = {"events": [_event()], "audit": AuditNote("disconnected", {}), "now": minutes(1)}
    assert not await set_state(db, "acme", "connected", **given)
    assert await set_state(db, "acme", "disconnected", "The hook came.", reason_code="uninstalled", **given)
    assert [one.type for one in await list_outbox(db)] == ["integration_connected", "integration_error"]
    assert [(one.event, one.detail) for one in await list_audit(db, "acme")] == [
        ("disconnected", {}),
        ("connected", {"by": "oauth"}),
    ]
    found = await get_connection(db, "acme")
    assert (found.reason, found.reason_code) == ("The hook came.", "uninstalled")


async def test_a_change_whose_event_cannot_be_written_does_not_happen(db: Database) -> None:
    await _connect(db)
    broken = OutboxEvent("integration_error", "acme", "connection", {"reason": object()})
    with pytest.raises(Exception, match="JSON"):
        await set_state(db, "acme", "failed", events=[broken], now=minutes(1))
    assert (await get_connection(db, "acme")).state == "connected"


@pytest.mark.usefixtures("quick")
async def test_of_ten_processes_that_report_the_same_change_one_tells_the_product(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    await _connect(db)
    told = await run_many(10, "report_failure", *migrated_place, "acme")
    assert Counter(told) == {"True": 1, "False": 9}
    assert len(await list_outbox(db)) == len(await list_audit(db, "acme")) == 1


@pytest.mark.usefixtures("quick")
async def test_of_ten_processes_that_find_the_same_pair_dead_one_tells_the_product(
    db: Database, migrated_place: tuple[str, str]
) -> None:
    await _connect(db)
    told = await run_many(10, "report_dead", *migrated_place, "acme")
    assert Counter(told) == {"changed": 1, "noted": 9}
    assert len(await list_outbox(db)) == len(await list_audit(db, "acme")) == 1
    assert (await get_connection(db, "acme")).refresh_attempts == 10


async def test_a_moved_account_is_followed_once_with_an_entry_in_the_audit(db: Database) -> None:
    await _connect(db, subdomain="acme")
    event = _event("connection_moved")
    assert not await rehome(db, "acme", "acme.kommo.com", "acme", minutes(1), events=[event])
    assert await rehome(db, "acme", "acme-new.kommo.com", "acme-new", minutes(2), events=[event])
    assert not await rehome(db, "acme", "acme-new.kommo.com", "acme-new", minutes(3), events=[_event()])
    found = await get_connection(db, "acme")
    assert (found.host, found.subdomain, found.updated_at) == ("acme-new.kommo.com", "acme-new", minutes(2))
    (entry,) = await list_audit(db, "acme")
    assert (entry.event, entry.detail, entry.at) == (
        "moved",
        {"from": "acme.kommo.com", "to": "acme-new.kommo.com"},
        minutes(2),
    )
    assert [one.event_id for one in await list_outbox(db)] == [event.event_id]


async def test_an_org_without_a_connection_is_named(db: Database) -> None:
    for call in (_fail(db), _fail(db, state="degraded", seen="a"), rehome(db, "acme", "h", None, minutes(0))):
        with pytest.raises(UnknownConnectionError, match="'acme' has no connection"):
            await call


async def test_the_products_view_shows_its_columns_and_no_secret(db: Database) -> None:
    await _connect(
        db,
        account_id=7,
        account_name="Acme",
        scopes=["crm", "files"],
        state="degraded",
        reason="why",
        reason_code="unreachable",
    )
    await _connect(db, "beta", token_fingerprint=None, token_kind="long_lived")
    view = table("crm_connections", schema=db.address.schema)
    everything = select(text("*")).select_from(view).order_by(text("org_id"))
    async with db.read() as connection:
        rows = (await connection.execute(everything)).mappings().all()
    assert set(rows[0]) == {
        *("org_id", "provider", "base_domain", "account_id", "account_name", "expires_at", "scope"),
        *("status", "status_since", "reason", "reason_code", "last_synced_at", "created_at", "updated_at"),
    }
    acme, beta = rows
    assert (acme["org_id"], acme["provider"], acme["base_domain"], acme["account_id"]) == (
        "acme",
        "kommo",
        "acme.kommo.com",
        7,
    )
    assert (acme["scope"], acme["status"], acme["reason"], acme["reason_code"]) == (
        "crm files",
        "degraded",
        "why",
        "unreachable",
    )
    assert str(acme["expires_at"]).startswith("2026-11-02 12:00:00")
    assert (beta["scope"], beta["status"], beta["last_synced_at"]) == (None, "connected", None)
