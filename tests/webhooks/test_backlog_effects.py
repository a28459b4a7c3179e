"""What webhook events come to: the rules by themselves, without a database."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from store.inbox import NewEvent
from store.mirror import Change, ChangeKind, Facts
from store.outbox import OutboxEvent
from tasks.effects import (
    Absent,
    Effects,
    Found,
    Gone,
    Present,
    Source,
    created_id,
    effects_of,
    effects_of_repair,
    gone_state,
)
from tests.webhooks.backlog_support import START, happening, stored

ACME = Source("acme", 31234567)
RECORD = {"id": 7, "name": "Deal", "status_id": 142, "pipeline_id": 1}


def facts(
    state: str = "present", *, status: int | None = 142, responsible: int | None = 5, at: int = 0
) -> Facts:
    moment = START + timedelta(seconds=at)
    return Facts(state, "Deal", responsible, status, 1, START, moment, START, START, "webhook", "")


def present(kind: ChangeKind = ChangeKind.UPDATED, before: Facts | None = None) -> Present:
    known = before if before is not None or kind is ChangeKind.CREATED else facts(status=141)
    return Present(RECORD, Change(kind, known, facts()))


def effects(found: Found, *events: NewEvent) -> Effects:
    return effects_of(ACME, [stored(event, number) for number, event in enumerate(events, 1)], found)


def told(effects: Effects) -> list[OutboxEvent]:
    return [event for _, event in effects.told]


def types(effects: Effects) -> list[str]:
    return [event.type for event in told(effects)]


def outcomes(effects: Effects) -> list[str]:
    return [outcome for _, outcome in effects.outcomes]


@pytest.mark.parametrize(
    ("entity", "noun"),
    [("leads", "lead"), ("contacts", "contact"), ("companies", "company"), ("tasks", "task")],
)
def test_each_entity_that_is_read_is_told_under_its_own_name(entity: str, noun: str) -> None:
    found = effects(
        present(),
        happening(entity, "add", 7),
        happening(entity, "update", 7),
        happening(entity, "responsible", 7),
    )
    assert types(found) == [f"kommo.{noun}.{verb}" for verb in ("created", "updated", "responsible_changed")]
    assert {event.subject for event in told(found)} == {f"{noun}:7"}


def test_what_is_told_holds_the_record_the_ids_as_numbers_and_where_it_came_from() -> None:
    [event] = told(
        effects(
            present(),
            happening(
                "leads",
                "status",
                7,
                status_id="142",
                old_status_id="10",
                pipeline_id="1",
                modified_user_id="0",
            ),
        )
    )
    assert (event.org, event.type) == ("acme", "kommo.lead.status_changed")
    assert event.payload == {
        "org": "acme",
        "account_id": 31234567,
        "entity": "leads",
        "id": 7,
        "action": "status",
        "occurred_at": START.isoformat(),
        "event_ids": [1],
        "source": "webhook",
        "status_id": 142,
        "old_status_id": 10,
        "pipeline_id": 1,
        "modified_user_id": 0,
        "record": RECORD,
    }


def test_what_the_webhook_does_not_say_of_before_the_mirror_does() -> None:
    [status] = told(effects(present(), happening("leads", "status", 7, status_id="142", pipeline_id="1")))
    assert status.payload["old_status_id"] == 141
    [person] = told(
        effects(
            present(before=facts(responsible=4)),
            happening("leads", "responsible", 7, responsible_user_id="5"),
        )
    )
    assert person.payload["old_responsible_user_id"] == 4


def test_a_mirror_that_has_the_new_value_already_knows_no_old_one() -> None:
    [event] = told(
        effects(
            present(ChangeKind.UNCHANGED, before=facts(status=142)),
            happening("leads", "status", 7, status_id="142", pipeline_id="1"),
        )
    )
    assert "old_status_id" not in event.payload


def test_w2_updates_that_are_worked_together_are_told_once_with_all_their_events() -> None:
    found = effects(present(), *(happening("leads", "update", 7, seconds=number) for number in range(3)))
    [event] = told(found)
    assert event.payload["event_ids"] == [1, 2, 3]
    assert event.payload["occurred_at"] == (START + timedelta(seconds=2)).isoformat()
    assert outcomes(found) == ["kommo.lead.updated"] * 3


def test_every_step_through_the_stages_is_told() -> None:
    steps = [happening("leads", "status", 7, status_id=str(stage)) for stage in (10, 20, 142)]
    assert [event.payload["status_id"] for event in told(effects(present(), *steps))] == [10, 20, 142]


def test_a_creation_has_one_id_whoever_tells_it() -> None:
    first = told(effects(present(ChangeKind.CREATED), happening("leads", "add", 7)))
    again = told(effects(present(), happening("leads", "update", 7), happening("leads", "add", 7)))
    repaired = effects_of_repair(ACME, "leads", 7, present(ChangeKind.CREATED), read_at=START)
    ids = {event.event_id for event in [*first, *again, *repaired] if event.type == "kommo.lead.created"}
    assert ids == {created_id(ACME, "leads", "7")}
    other = told(effects(present(ChangeKind.CREATED), happening("contacts", "add", 7)))
    assert other[0].event_id not in ids
    assert created_id(Source("acme", 1), "leads", "7") not in ids


def test_w2_the_same_event_gets_the_same_id_and_another_one_another() -> None:
    one, two = happening("leads", "update", 7), happening("leads", "update", 7)
    ids = [
        told(effects_of(ACME, [stored(event, number)], present()))[0].event_id
        for event, number in ((one, 1), (one, 1), (two, 2))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_deletion_of_something_that_is_still_there_is_none() -> None:
    found = effects(present(), happening("leads", "delete", 7, seconds=None))
    assert told(found) == []
    assert outcomes(found) == ["nothing: it is still there"]


def test_a_deletion_is_told_once_and_what_came_before_it_too() -> None:
    deletions = [happening("leads", "delete", 7, seconds=None) for _ in range(2)]
    found = effects(Absent(Gone.DELETED, changed=True), happening("leads", "update", 7), *deletions)
    assert types(found) == ["kommo.lead.updated", "kommo.lead.deleted"]
    assert "record" not in told(found)[0].payload
    assert told(found)[0].payload["data"] == {"id": "7"}
    assert outcomes(found)[1:] == ["kommo.lead.deleted", "nothing: known already"]
    assert types(effects(Absent(Gone.DELETED, changed=False), *deletions)) == []


def test_something_that_the_api_does_not_give_is_missing_unless_a_webhook_says_deleted() -> None:
    update, delete = stored(happening("leads", "update", 7), 1), stored(happening("leads", "delete", 7), 2)
    assert gone_state([update]) == "missing"
    assert gone_state([update, delete]) == "deleted"
    found = effects(Absent(Gone.MISSING, changed=True), happening("leads", "update", 7))
    assert types(found) == ["kommo.lead.updated", "kommo.lead.missing"]
    assert types(effects(Absent(Gone.MISSING, changed=False), happening("leads", "update", 7))) == [
        "kommo.lead.updated"
    ]


def test_a_restoration_is_told_when_the_mirror_changes_whatever_event_brings_it() -> None:
    was_deleted = present(ChangeKind.RESTORED, facts("deleted"))
    restored = effects(was_deleted, happening("leads", "restore", 7))
    assert types(restored) == ["kommo.lead.restored"]
    assert told(restored)[0].payload["old_state"] == "deleted"
    assert types(effects(was_deleted, happening("leads", "update", 7))) == [
        "kommo.lead.updated",
        "kommo.lead.restored",
    ]
    there = effects(present(ChangeKind.UNCHANGED, facts()), happening("leads", "restore", 7))
    assert (told(there), outcomes(there)) == ([], ["nothing: it was there already"])
    unknown = effects(present(ChangeKind.CREATED), happening("leads", "restore", 7))
    assert types(unknown) == ["kommo.lead.restored"]
    gone = effects(Absent(Gone.MISSING, changed=False), happening("leads", "restore", 7))
    assert (told(gone), outcomes(gone)) == ([], ["nothing: it is not there"])


def test_deleted_and_restored_between_two_looks_is_told_to_nobody() -> None:
    found = effects(
        present(ChangeKind.UNCHANGED, facts()),
        happening("leads", "delete", 7, seconds=None),
        happening("leads", "restore", 7),
    )
    assert told(found) == []


def test_an_answer_that_is_older_than_the_mirror_restores_nothing() -> None:
    found = effects(present(ChangeKind.OLDER, facts("deleted")), happening("leads", "restore", 7))
    assert told(found) == []


def test_another_responsible_user_and_a_closed_task_are_told_beside_the_update() -> None:
    update = happening("contacts", "update", 7, responsible_user_id="5", old_responsible_user_id="4")
    found = effects(present(), update)
    assert types(found) == ["kommo.contact.updated", "kommo.contact.responsible_changed"]
    same = happening("contacts", "update", 7, responsible_user_id="5", old_responsible_user_id="5")
    assert types(effects(present(), same)) == ["kommo.contact.updated"]
    closed = happening("tasks", "update", 7, action_close="1")
    assert types(effects(present(), closed)) == ["kommo.task.updated", "kommo.task.completed"]
    with_result = happening("tasks", "update", 7, action_close="1", result={"text": "Reached"})
    assert sorted(types(effects(present(), closed, with_result))) == [
        "kommo.task.completed",
        "kommo.task.updated",
    ]


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (happening("messages", "add", "a-b", type="incoming"), "kommo.message.received"),
        (happening("messages", "add", "a-b"), "kommo.message.received"),
        (happening("messages", "add", "a-b", type="outgoing"), "kommo.message.sent"),
        (happening("talks", "add", 191), "kommo.talk.created"),
        (happening("talks", "update", 191), "kommo.talk.updated"),
        (happening("notes", "add", 3), "kommo.note.added"),
        (happening("unsorted", "add", "f00"), "kommo.unsorted.added"),
        (happening("unsorted", "delete", "f00", action="accept"), "kommo.unsorted.accepted"),
        (happening("unsorted", "delete", "f00", action="decline"), "kommo.unsorted.declined"),
        (happening("unsorted", "delete", "f00"), "kommo.unsorted.deleted"),
        (happening("catalogs", "update", 3), "kommo.catalog_element.updated"),
        (happening("customers", "add", 3), "kommo.customer.created"),
        (happening("leads", "mail_in", 3), "kommo.lead.mail_in"),
        (happening("leads", "rainbow", 3), "kommo.event.unknown"),
        (happening("pigeons", "add", 3), "kommo.event.unknown"),
        (happening("messages", "delete", 3), "kommo.event.unknown"),
    ],
)
def test_everything_else_is_told_by_its_name_with_what_the_webhook_said(event: NewEvent, name: str) -> None:
    [one] = told(effects(None, event))
    assert one.type == name
    assert one.payload["data"] == event.payload
    assert one.payload["action"] == event.action


def test_what_a_record_would_not_show_keeps_the_webhooks_own_words() -> None:
    for action in ("mail_in", "rainbow"):
        [event] = told(effects(present(), happening("leads", action, 7, subject="Offer")))
        assert event.payload["data"] == {"id": "7", "subject": "Offer"}
        assert event.payload["record"] == RECORD


def test_messages_of_one_chat_are_told_in_their_order() -> None:
    [one] = told(effects(None, happening("messages", "add", "a-b", chat_id="c-d")))
    assert (one.subject, one.payload["id"]) == ("chat:c-d", "a-b")


@pytest.mark.parametrize("value", [["1", "2"], {"": "1"}, "", "1.5", "٣", "9" * 30, None, True])
def test_odd_values_of_a_webhook_are_left_out_instead_of_failing(value: Any) -> None:
    [event] = told(effects(present(), happening("leads", "status", 7, status_id=value)))
    assert "status_id" not in event.payload


REPAIRS: Sequence[tuple[Present | Absent, list[str]]] = [
    (present(ChangeKind.CREATED), ["created"]),
    (present(ChangeKind.UNCHANGED), []),
    (present(ChangeKind.OLDER), []),
    (present(ChangeKind.UPDATED, facts()), ["updated"]),
    (
        present(ChangeKind.UPDATED, facts(status=1, responsible=9)),
        ["updated", "status_changed", "responsible_changed"],
    ),
    (present(ChangeKind.RESTORED, facts("missing")), ["restored"]),
    (Absent(Gone.DELETED, changed=True), ["deleted"]),
    (Absent(Gone.MISSING, changed=True), ["missing"]),
    (Absent(Gone.DELETED, changed=False), []),
]


@pytest.mark.parametrize(("found", "verbs"), REPAIRS)
def test_a_repair_is_told_by_what_it_changed(found: Present | Absent, verbs: list[str]) -> None:
    events = effects_of_repair(ACME, "leads", 7, found, read_at=START)
    assert [event.type for event in events] == [f"kommo.lead.{verb}" for verb in verbs]
    assert all(event.payload["source"] == "reconcile" for event in events)
    assert len({event.event_id for event in events}) == len(events)
    later = datetime.fromisoformat("2026-12-01T00:00:00+00:00")
    again = effects_of_repair(ACME, "leads", 7, found, read_at=later)
    if "created" not in verbs:
        assert not {event.event_id for event in events} & {event.event_id for event in again}


def test_a_repair_says_what_it_was_before() -> None:
    found = present(ChangeKind.UPDATED, facts(status=1, responsible=9))
    by_type = {
        event.type: event.payload for event in effects_of_repair(ACME, "leads", 7, found, read_at=START)
    }
    assert by_type["kommo.lead.status_changed"]["old_status_id"] == 1
    assert by_type["kommo.lead.status_changed"]["status_id"] == 142
    assert by_type["kommo.lead.responsible_changed"]["old_responsible_user_id"] == 9
