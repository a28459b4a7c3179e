"""Whatever the sandbox sends, in every way it can write it, is read without losing a value and as what it is."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from kommo.webhooks import Delivery, parse
from sandbox.fidelity_cases import Probe
from sandbox.fidelity_webhooks import HOOKS
from sandbox.routes.hooks import EVENTS
from sandbox.webhooks_log import Delivery as Sent
from tests.webhooks.encoding import leaves

FORM = "application/x-www-form-urlencoded"
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "old": {"account_block": "last", "plain_brackets": True, "empty_nulls": True},
    "together": {"bundle": 5, "odd_notes": True},
}


def sent(settings: dict[str, Any]) -> Iterator[Sent]:
    """Every delivery that the cases of the published samples lead to."""
    probe = Probe()
    probe.world.webhooks.configure(**settings, lists=True)
    hook = {"destination": "http://127.0.0.1:9/hook", "settings": sorted(EVENTS)}
    probe.json("POST", "romashka", "/api/v4/webhooks", hook)
    for case in HOOKS.values():
        case.make(probe, "romashka")
    probe.world.webhooks.prepare()
    yield from probe.world.webhooks.log


def last_names(delivery: Delivery) -> list[tuple[str, Any]]:
    parts = [*(event.payload for event in delivery.events), delivery.rest]
    return sorted((path[-1], value) for part in parts for path, value in leaves(part))


@pytest.mark.parametrize("way", WAYS)
def test_everything_that_the_sandbox_sends_is_read_without_loss(way: str) -> None:
    deliveries = list(sent(WAYS[way]))
    assert len(deliveries) > 20
    for delivery in deliveries:
        read = parse(delivery.body, FORM, request_id=delivery.request_id)
        fields = parse_qsl(delivery.body.decode(), keep_blank_values=True)
        values = [(name.rpartition("[")[2].rstrip("]"), value) for name, value in fields]
        assert sorted(value for _, value in last_names(read)) == sorted(value for _, value in values)
        if delivery.entities:
            told = sorted((action, record_id) for _, action, record_id in delivery.entities)
            found = sorted(
                ("note" if event.entity == "notes" else event.action, event.entity_id)
                for event in read.events
            )
            assert found == told
        assert read.account_id == delivery.account.id


def test_companies_and_contacts_are_told_apart_and_deletes_are_no_repetitions_of_each_other() -> None:
    deliveries = [known for known in sent({}) if known.names[0].startswith(("delete_co", "restore_co"))]
    events = [
        (known.names[0], event)
        for known in deliveries
        for event in parse(known.body, FORM, request_id=known.request_id).events
    ]
    assert {(name, event.entity) for name, event in events} == {
        ("delete_contact", "contacts"),
        ("delete_company", "companies"),
        ("restore_contact", "contacts"),
        ("restore_company", "companies"),
    }
    gone = next(known for known in deliveries if known.names[0] == "delete_company")
    first, second = (parse(gone.body, FORM, request_id=name).events[0] for name in ("a", "b"))
    again = parse(gone.body, FORM, request_id="a").events[0]
    assert first.unique_key != second.unique_key
    assert first.unique_key == again.unique_key
