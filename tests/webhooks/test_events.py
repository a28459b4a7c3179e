"""What a delivery says: its account, its events, and which of them are the same."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from kommo.errors import ErrorKind, KommoError
from kommo.webhooks import Delivery, Limits, UnreadableBodyError, is_understood, parse
from tests.webhooks.encoding import encode

FORM = "application/x-www-form-urlencoded"
ACCOUNT = {"subdomain": "acme", "id": "31234567", "_links": {"self": "https://acme.kommo.com"}}
LEAD = {
    "id": "15318175",
    "name": "Deal",
    "status_id": "142",
    "created_at": "1726572752",
    "updated_at": "1726572758",
}


def delivered(request_id: str | None = None, **parts: Any) -> Delivery:
    return parse(encode({"account": ACCOUNT, **parts}), FORM, request_id=request_id)


def test_the_account_is_known_wherever_its_block_stands() -> None:
    first = parse(encode({"account": ACCOUNT, "leads": {"add": [LEAD]}}), FORM)
    last = parse(encode({"leads": {"add": [LEAD]}, "account": ACCOUNT}), FORM)
    assert first == last
    assert (first.account_id, first.subdomain, first.self_link) == (
        31234567,
        "acme",
        "https://acme.kommo.com",
    )
    assert first.rest == {"account": ACCOUNT}


def test_an_old_hook_has_a_subdomain_only() -> None:
    delivery = parse(b"leads[add][0][id]=1&account[subdomain]=acme", FORM)
    assert (delivery.account_id, delivery.subdomain, delivery.self_link) == (None, "acme", None)


@pytest.mark.parametrize(
    "ids", ["account[id]=1&account[id]=2", "account[id]=x", "account[id]=", "account[id][0]=1"]
)
def test_an_account_id_that_is_not_one_number_is_refused(ids: str) -> None:
    with pytest.raises(UnreadableBodyError, match="account"):
        parse(f"{ids}&leads[add][0][id]=1".encode(), FORM)


def test_every_event_of_a_body_is_found_in_its_order() -> None:
    delivery = delivered(
        leads={"update": [LEAD, {"id": "2"}], "status": [LEAD], "delete": [{"id": "3"}]},
        contacts={"add": [{"id": "4", "type": "contact"}, {"id": "5", "type": "company"}]},
        task={"delete": [{"id": "6"}]},
        tasks={"add": [{"id": "7"}]},
        customers={"add": [{"id": "8"}]},
        whatever={"happened": [{"id": "9"}]},
    )
    assert [(event.entity, event.action, event.entity_id) for event in delivery.events] == [
        ("leads", "update", "15318175"),
        ("leads", "update", "2"),
        ("leads", "status", "15318175"),
        ("leads", "delete", "3"),
        ("contacts", "add", "4"),
        ("companies", "add", "5"),
        ("tasks", "delete", "6"),
        ("tasks", "add", "7"),
        ("customers", "add", "8"),
        ("whatever", "happened", "9"),
    ]


@pytest.mark.parametrize("action", ["add", "status", "mail_in", "call_in", "chat", "site_visit"])
def test_the_digital_pipeline_keeps_its_words(action: str) -> None:
    (event,) = parse(f"leads[{action}][0][id]=1&leads[{action}][0][status_id]=2".encode(), FORM).events
    assert (event.entity, event.action, event.payload) == ("leads", action, {"id": "1", "status_id": "2"})


def test_a_note_is_an_event_of_its_own_with_what_it_stands_at() -> None:
    note = {"id": "42", "text": "Called", "metadata": '{"a":{"b":1}}', "created_at": "1726580291"}
    delivery = delivered(
        leads={"note": [{"note": note}]}, contacts={"note": [{"note": note, "type": "company"}]}
    )
    at_lead, at_company = delivery.events
    assert (at_lead.entity, at_lead.action, at_lead.entity_id, at_lead.parent) == (
        "notes",
        "add",
        "42",
        "leads",
    )
    assert at_company.parent == "companies"
    assert at_company.payload == {"note": note, "type": "company"}
    assert at_lead.occurred_at == datetime.fromtimestamp(1726580291, UTC)


def test_ids_as_keys_and_a_single_item_are_items_as_well() -> None:
    by_id = parse(b"leads[update][77][id]=77&leads[update][78][id]=78", FORM)
    assert [event.entity_id for event in by_id.events] == ["77", "78"]
    (alone,) = parse(b"leads[update][id]=77", FORM).events
    assert alone.entity_id == "77"


@pytest.mark.parametrize(
    ("item", "wanted"),
    [
        ({"updated_at": "1726572758", "created_at": "1726572752"}, 1726572758),
        ({"last_modified": "1726572758", "date_create": "1726572752"}, 1726572758),
        ({"last_modified": "2024-09-17 13:21:09", "created_at": "1726572752"}, 1726572752),
        ({"updated_at": "", "created_at": "1726572752"}, 1726572752),
        ({"updated_at": "17265663a90"}, None),
        ({"updated_at": "99999999999999"}, None),
        ({"updated_at": "0"}, None),
        ({"updated_at": ["1", "2"]}, None),
        ({}, None),
    ],
)
def test_the_time_of_an_event_is_the_newest_number(item: dict[str, Any], wanted: int | None) -> None:
    (event,) = delivered(leads={"update": [{"id": "1", **item}]}).events
    assert event.occurred_at == (None if wanted is None else datetime.fromtimestamp(wanted, UTC))


def test_a_delivery_that_is_repeated_has_the_same_keys() -> None:
    parts = {"leads": {"update": [LEAD], "status": [LEAD]}}
    first, again = delivered("a", **parts), delivered("b", **parts)
    assert [event.unique_key for event in first.events] == [event.unique_key for event in again.events]
    assert len({event.unique_key for event in first.events}) == 2


def test_two_changes_within_one_second_are_two() -> None:
    keys = {
        delivered(leads={"update": [{**LEAD, "price": str(price)}]}).events[0].unique_key
        for price in range(3)
    }
    assert len(keys) == 3


def test_the_order_of_fields_makes_no_difference() -> None:
    turned = dict(reversed(LEAD.items()))
    assert (
        delivered(leads={"add": [LEAD]}).events[0].unique_key
        == delivered(leads={"add": [turned]}).events[0].unique_key
    )


def test_a_deletion_is_told_from_a_later_one_by_its_request() -> None:
    def key(request_id: str | None) -> str:
        return delivered(request_id, leads={"delete": [{"id": "1"}]}).events[0].unique_key

    assert key("a") == key("a")
    assert key("a") != key("b")
    assert key(None) != key(None)


@pytest.mark.parametrize(
    "parts",
    [
        # Restoring and deleting need not change anything else.
        {"leads": {"restore": [LEAD]}},
        {"leads": {"delete": [LEAD]}},
        # What changed twice may say only when it was created.
        {"unsorted": {"update": [{"uid": "u", "category": "sip", "created_at": "1726573764"}]}},
    ],
)
def test_w2_what_truly_happens_twice_is_two_events_though_it_says_the_same(parts: dict[str, Any]) -> None:
    def key(request_id: str | None) -> str:
        return delivered(request_id, **parts).events[0].unique_key

    assert key("a") == key("a")
    assert key("a") != key("b")
    assert key(None) != key(None)


def test_w2_what_can_be_deleted_only_once_is_one_event_whichever_request_tells_of_it() -> None:
    parts = {"unsorted": {"delete": [{"uid": "u", "action": "accept", "created_at": "1726573764"}]}}
    first, again = delivered("a", **parts), delivered("b", **parts)
    assert first.events[0].unique_key == again.events[0].unique_key


def test_w2_two_changes_of_one_message_are_two() -> None:
    def key(text: str) -> str:
        message = {"id": "d3bac6d3", "chat_id": "c", "updated_at": "1726581295", "text": text}
        return delivered(message={"update": [message]}).events[0].unique_key

    assert key("a") != key("b")
    assert key("a") == key("a")


def test_an_id_that_is_too_long_for_a_column_is_none_also_as_a_number() -> None:
    (event,) = parse(b'{"leads":{"add":[{"id":' + b"7" * 4000 + b"}]}}", "application/json").events
    assert event.entity_id == ""


def test_a_message_is_known_by_its_id() -> None:
    def key(**more: str) -> str:
        message = {"id": "d3bac6d3", "chat_id": "c", "created_at": "1726581295", **more}
        return delivered(message={"add": [message]}).events[0].unique_key

    assert key(text="a") == key(text="a", message_type="text")
    assert key(text="a") != key(id="another")


def test_a_message_without_its_wrapper_is_one() -> None:
    (event,) = parse(b"add[0][id]=d3&add[0][chat_id]=c&add[0][talk_id]=1", FORM).events
    assert (event.entity, event.action, event.entity_id) == ("messages", "add", "d3")


def test_what_is_no_event_is_kept() -> None:
    delivery = delivered(leads={"add": [LEAD], "odd": "1"}, plain="x", listed=["a", {"b": "c"}])
    assert len(delivery.events) == 1
    assert delivery.rest == {
        "account": ACCOUNT,
        "leads": {"odd": "1"},
        "plain": "x",
        "listed": ["a", {"b": "c"}],
    }


def test_items_that_are_no_mappings_are_kept_among_the_others() -> None:
    delivery = parse(b"leads[add][0][id]=1&leads[add][1]=odd", FORM)
    assert [event.payload for event in delivery.events] == [{"id": "1"}, {"": "odd"}]


def test_the_products_json_says_the_same() -> None:
    body = {
        "account": {"id": 31234567, "subdomain": "acme"},
        "leads": {"status": [{"id": 1, "status_id": 142}]},
    }
    delivery = parse(json.dumps(body).encode(), "application/json")
    (event,) = delivery.events
    assert (delivery.account_id, event.entity, event.action, event.entity_id) == (
        31234567,
        "leads",
        "status",
        "1",
    )
    assert event.payload == {"id": 1, "status_id": 142}


def test_json_is_recognised_without_a_content_type() -> None:
    assert parse(b' {"leads":{"add":[{"id":1}]}}', None).events[0].entity_id == "1"


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"1", b"null", b"", b'{"a":NaN}', b'{"a":1e999}', b'{"a":' * 50 + b"1" + b"}" * 50,
        b"[" * 900_000, b'{"a":"' + b"\xff" + b'"}', b'{"a":[' + b"0," * 30_000 + b"0]}",
        b'{"a":' + b"1" * 10_000 + b"}",
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)  # fmt: skip
def test_json_that_is_not_what_it_should_be_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableBodyError) as caught:
        parse(body, "application/json")
    assert caught.value.kind is ErrorKind.HOOK_UNREADABLE
    assert caught.value.__context__ is None


def test_halves_of_characters_do_not_travel_on() -> None:
    (event,) = parse(
        b'{"leads":{"add":[{"id":1,"name":"\\ud83d!","\\udc00":"\\ud83d\\ude00"}]}}', None
    ).events
    assert event.payload == {"id": 1, "name": "\ufffd!", "\ufffd": "\U0001f600"}


@pytest.mark.parametrize("body", [b"", b"&&"])
def test_an_empty_form_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableBodyError, match="empty"):
        parse(body, FORM)


def test_another_content_type_is_refused() -> None:
    assert is_understood("application/JSON; charset=utf-8")
    assert is_understood(None)
    assert not is_understood("multipart/form-data; boundary=x")
    with pytest.raises(UnreadableBodyError, match="content type"):
        parse(b"a=1", "text/plain")


def test_an_error_is_one_of_kommos_and_repeats_nothing() -> None:
    with pytest.raises(KommoError) as caught:
        parse(b"account[id]=t0p-secret", FORM)
    assert "t0p-secret" not in str(caught.value) + repr(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("values", [{"bytes": 0}, {"fields": 0}, {"depth": 0}, {"depth": 65}])
def test_limits_that_make_no_sense_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Limits"):
        Limits(**values)


def test_names_and_ids_that_are_too_long_for_a_column_are_kept_elsewhere() -> None:
    long = "x" * 300
    parts: dict[str, Any] = {long: {"add": [LEAD]}, "leads": {long: [LEAD], "add": [{"id": long}]}}
    delivery = delivered(None, **parts)
    assert [event.entity_id for event in delivery.events] == [""]
    assert delivery.events[0].payload == {"id": long}
    assert delivery.rest[long] == {"add": [LEAD]}
    assert delivery.rest["leads"] == {long: [LEAD]}
