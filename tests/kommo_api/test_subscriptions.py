"""Subscriptions: one object with an array of names; an installation that knows fewer names gets fewer."""

import json
from typing import Any

import pytest

from kommo.errors import ErrorKind, KommoError
from kommo.subscriptions import EVENTS, NOT_EVERYWHERE, list_subscriptions, subscribe, unsubscribe
from tests.kommo_api.support import Asked, RawServer, client_of, raw_server, reply

HERE = "https://app.example.com/api/webhooks/kommo/s3cret-key"
REFUSED = {
    "validation-errors": [
        {"request_id": "0", "errors": [{"code": "NotSupportedChoice", "path": "settings.7", "detail": "No."}]}
    ]
}


def bodies(server: RawServer) -> list[dict[str, Any]]:
    return [json.loads(asked.body) for asked in server.asked]


async def test_one_object_with_an_array_of_names_is_sent() -> None:
    async with raw_server(reply(201, {"id": 1, "disabled": False})) as server, client_of(server) as client:
        made = await subscribe(client, HERE)
    assert (made.destination, made.settings, made.disabled) == (HERE, EVENTS, False)
    assert bodies(server) == [{"destination": HERE, "settings": list(EVENTS)}]
    assert {"add_contact", "delete_lead", "status_lead", "responsible_lead", "restore_lead"} <= set(EVENTS)
    assert len(set(EVENTS)) == len(EVENTS)


async def test_names_that_an_installation_does_not_know_are_left_out() -> None:
    answers = reply(400, REFUSED), reply(200, {"disabled": True})
    async with raw_server(*answers) as server, client_of(server) as client:
        made = await subscribe(client, HERE)
    first, second = bodies(server)
    assert set(first["settings"]) - set(second["settings"]) == NOT_EVERYWHERE
    assert (set(made.settings), made.disabled) == (set(EVENTS) - NOT_EVERYWHERE, True)


async def test_a_destination_that_is_refused_is_not_tried_without_end() -> None:
    async with raw_server(reply(400, REFUSED)) as server, client_of(server) as client:
        with pytest.raises(KommoError) as caught:
            await subscribe(client, HERE)
        assert caught.value.kind is ErrorKind.VALIDATION
        assert "s3cret-key" not in str(caught.value)
        with pytest.raises(KommoError):
            await subscribe(client, HERE, ("add_lead",))
    assert len(server.asked) == 3


async def test_ending_one_that_is_not_there_is_no_failure() -> None:
    async with (
        raw_server(reply(204), reply(404, {"title": "Not Found"})) as server,
        client_of(server) as client,
    ):
        assert await unsubscribe(client, HERE) is True
        assert await unsubscribe(client, HERE) is False
    assert [asked.method for asked in server.asked] == ["DELETE", "DELETE"]
    assert bodies(server) == [{"destination": HERE}] * 2


async def test_each_shape_of_the_list_is_understood() -> None:
    hooks = [
        {"id": 1, "destination": HERE, "settings": ["add_lead"], "disabled": False},
        {"id": 2, "destination": "https://b.example", "settings": {"0": "add_lead"}, "disabled": 1},
        {"id": 3},
    ]
    wrapped = {"_total_items": 3, "_embedded": {"webhooks": hooks}}

    async def answering(_: Asked, writer: Any) -> None:
        writer.write(reply(200, wrapped))

    async with raw_server(answering) as server, client_of(server) as client:
        found = await list_subscriptions(client)
    assert [(one.destination, one.settings, one.disabled) for one in found] == [
        (HERE, ("add_lead",), False),
        ("https://b.example", ("add_lead",), True),
        ("", (), False),
    ]
    assert "s3cret-key" not in repr(found)
    async with raw_server(reply(204)) as server, client_of(server) as client:
        assert await list_subscriptions(client) == []
