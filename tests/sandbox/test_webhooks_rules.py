"""When webhooks are sent again, when never, and when a hook is switched off: by the sandbox's own clock."""

import asyncio
from typing import Any

import pytest

from sandbox.webhooks_rules import BadAnswers, is_good, next_attempt
from tests.sandbox.support import Api
from tests.sandbox.webhook_support import Receiver, change, first, settled, subscribe

Json = dict[str, Any]
MINUTE = 60


async def touch(api: Api, count: int = 1) -> None:
    """Change leads; each change is one webhook."""
    await api.control("POST", "load", {"changes": count})


async def log(api: Api, **query: object) -> list[Json]:
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    found: list[Json] = (await api.control("GET", f"webhooks?{asked}"))["deliveries"]
    return found


async def advance(api: Api, seconds: float) -> Json:
    found: Json = (await api.control("POST", "webhooks/advance", {"seconds": seconds}))["counts"]
    return found


async def hook(api: Api) -> Json:
    [found] = (await api.get("webhooks")).json()["_embedded"]["webhooks"]
    return dict(found)


def test_every_status_and_attempt_has_its_row_in_the_table_of_repetitions() -> None:
    for status in (0, 300, 302, 399, 400, 404, 429, 498, 499, 500, 503, 599, 600):
        assert not is_good(status)
        assert next_attempt(1, status) == 5 * MINUTE
        assert next_attempt(2, status) == 15 * MINUTE
        lasting = status == 499 or 500 <= status <= 599
        assert next_attempt(3, status) == (15 * MINUTE if lasting else None)
        assert next_attempt(4, status) == (60 * MINUTE if lasting else None)
        assert next_attempt(5, status) is None
    assert [status for status in (99, 100, 200, 204, 299, 300) if is_good(status)] == [100, 200, 204, 299]


def test_more_than_a_hundred_bad_answers_within_two_hours_are_too_many() -> None:
    answers = BadAnswers()
    assert not any(answers.add(number) for number in range(100))
    assert answers.add(100)
    fading = BadAnswers()
    assert not any(fading.add(number * 73) for number in range(1_000))  # a hundred at most in any two hours
    assert fading.count(1_000_000) == 0


@pytest.mark.parametrize(
    ("status", "minutes"),
    [(503, [0, 5, 20, 35, 95]), (499, [0, 5, 20, 35, 95]), (404, [0, 5, 20]), (302, [0, 5, 20])],
)
async def test_a_bad_answer_is_followed_by_repetitions_at_their_times_and_then_by_nothing(
    api: Api, receiver: Receiver, status: int, minutes: list[int]
) -> None:
    receiver.status, receiver.headers = status, f"Location: {receiver.url}/elsewhere\r\n"
    await subscribe(api, receiver, "update_lead")
    await touch(api)
    counts = await advance(api, 24 * 3_600)
    assert (counts["lost"], counts["waiting"], counts["attempts"]) == (1, 0, len(minutes))
    [delivery] = await log(api)
    moments = [attempt["moment"] for attempt in delivery["attempts"]]
    assert [round((moment - moments[0]) / MINUTE) for moment in moments] == minutes
    assert {attempt["status"] for attempt in delivery["attempts"]} == {status}
    assert {hit.target for hit in receiver.hits} == {"/hook"}  # a redirect is not followed
    assert {(hit.body, hit.headers["x-amocrm-requestid"]) for hit in receiver.hits} == {
        (receiver.hits[0].body, delivery["request_id"])
    }


async def test_nobody_there_is_tried_three_times(api: Api, receiver: Receiver) -> None:
    body = {"destination": "http://127.0.0.1:9/nobody", "settings": ["update_lead"]}
    await api.post("webhooks", body)
    await api.post("webhooks", body | {"destination": "https://app.example/public"})
    await touch(api)
    counts = await advance(api, 24 * 3_600)
    assert (counts["lost"], counts["attempts"]) == (2, 6)
    assert [len(delivery["attempts"]) for delivery in await log(api)] == [3, 3]
    reasons = {attempt["reason"] for delivery in await log(api) for attempt in delivery["attempts"]}
    assert reasons == {"ConnectionRefusedError instead of an answer", "not on loopback"}
    routes = {"https://app.example": receiver.url}
    await api.control("POST", "webhooks/settings", {"routes": routes})
    await touch(api)
    await settled(api)
    assert [hit.target for hit in receiver.hits] == ["/public"]


async def test_a_repetition_that_is_taken_ends_the_matter(api: Api, receiver: Receiver) -> None:
    receiver.status = 500
    await subscribe(api, receiver, "update_lead")
    await touch(api)
    await advance(api, 6 * MINUTE)
    receiver.status = 204
    counts = await advance(api, 24 * 3_600)
    assert (counts["delivered"], counts["attempts"], len(receiver.hits)) == (1, 3, 3)


async def test_an_answer_after_two_seconds_is_none(api: Api, receiver: Receiver) -> None:
    assert (await api.control("GET", "webhooks/settings"))["seconds"] == 2
    await api.control("POST", "webhooks/settings", {"seconds": 0.05})
    receiver.before = asyncio.Event().wait
    await subscribe(api, receiver, "update_lead")
    await touch(api)
    await settled(api)
    [delivery] = await log(api)
    assert delivery["attempts"][0]["status"] == 0
    assert delivery["attempts"][0]["reason"] == "no answer within 0.05 s"
    assert delivery["attempts"][0]["seconds"] >= 0.05
    assert (delivery["state"], delivery["due"] > delivery["attempts"][0]["moment"]) == ("waiting", True)


async def test_a_hook_that_answers_badly_too_often_is_disabled_and_gets_nothing_until_it_is_posted_again(
    api: Api, receiver: Receiver
) -> None:
    receiver.status = 400
    made = await subscribe(api, receiver, "update_lead")
    await touch(api, 100)
    await settled(api)
    assert not (await hook(api))["disabled"]
    await touch(api)
    counts = await settled(api)
    assert (await hook(api))["disabled"]
    assert counts["waiting"] == 0
    assert counts["reasons"] == {"the hook is disabled": 101}
    receiver.status = 200
    await touch(api)
    assert (await advance(api, 24 * 3_600))["attempts"] == 101
    again = await subscribe(api, receiver, "update_lead")
    assert (again["id"], again["disabled"]) == (made["id"], False)
    await touch(api)
    await settled(api)
    assert len(receiver.hits) == 102
    [shown] = (await api.control("GET", "webhooks"))["hooks"]
    assert shown["bad_answers"] == 0


async def test_where_posting_does_not_help_a_hook_is_deleted_and_made_anew(
    api: Api, receiver: Receiver
) -> None:
    await api.control("POST", "webhooks/settings", {"post_enables": False})
    made = await subscribe(api, receiver, "update_lead")
    api.sandbox.account("acme").webhooks.change(made["id"], disabled=True)
    assert (await subscribe(api, receiver, "update_lead"))["disabled"]
    await api.send("DELETE", "webhooks", body={"destination": made["destination"]})
    assert not (await subscribe(api, receiver, "update_lead"))["disabled"]


async def test_bad_answers_spread_over_more_than_two_hours_do_not_disable(
    api: Api, receiver: Receiver
) -> None:
    receiver.status = 404
    await subscribe(api, receiver, "update_lead")
    await touch(api, 60)
    await settled(api)
    [shown] = (await api.control("GET", "webhooks"))["hooks"]
    assert shown["bad_answers"] == 60
    receiver.status = 200
    await advance(api, 2 * 3_600)
    receiver.status = 404
    await touch(api, 60)
    await settled(api)
    assert not (await hook(api))["disabled"]


@pytest.mark.parametrize("fresh", [False, True])
async def test_duplicates_are_the_same_bytes(api: Api, receiver: Receiver, fresh: bool) -> None:
    settings = {"duplicates": 1, "fresh_request_ids": fresh}
    await api.control("POST", "webhooks/settings", settings)
    await subscribe(api, receiver, "update_lead")
    await touch(api, 10)
    counts = await settled(api)
    assert (counts["delivered"], len(receiver.hits)) == (20, 20)
    assert len({hit.body for hit in receiver.hits}) == 10
    assert len({hit.headers["x-amocrm-requestid"] for hit in receiver.hits}) == (20 if fresh else 10)
    assert sum(delivery["copy_of"] is not None for delivery in await log(api)) == 10


async def test_order_is_lost_when_asked_for_and_kept_by_one_connection_otherwise(
    api: Api, receiver: Receiver
) -> None:
    await api.control("POST", "webhooks/settings", {"concurrency": 1})
    await subscribe(api, receiver, "update_lead")
    prices = list(range(30))
    for price in prices:
        await change(api, "update_record", entity="leads", id=first(api, "leads"), values={"price": price})
    await settled(api)

    def came() -> list[int]:
        return [int(hit.decoded()["leads"]["update"]["0"]["price"]) for hit in receiver.hits]

    assert came() == prices
    receiver.hits.clear()
    await api.control("POST", "webhooks/settings", {"delay": 60, "shuffle": 60})
    for price in prices:
        await change(api, "update_record", entity="leads", id=first(api, "leads"), values={"price": price})
    await settled(api)
    assert came() == []
    await advance(api, 121)
    assert came() != prices
    assert sorted(came()) == prices


async def test_what_waited_comes_in_one_burst(api: Api, receiver: Receiver) -> None:
    await api.control("POST", "webhooks/settings", {"paused": True})
    await subscribe(api, receiver, "update_lead")
    await touch(api, 50)
    await settled(api)
    assert not receiver.hits
    await api.control("POST", "webhooks/settings", {"paused": False})
    assert (await settled(api))["delivered"] == len(receiver.hits) == 50


async def test_some_are_never_sent_and_the_log_says_which(api: Api, receiver: Receiver) -> None:
    await api.control("POST", "webhooks/settings", {"loss": 0.3, "keep_bodies": True})
    await subscribe(api, receiver, "update_lead")
    await touch(api, 100)
    counts = await settled(api)
    assert counts["reasons"] == {"never sent": counts["lost"]}
    assert 10 < counts["lost"] < 60
    assert counts["delivered"] == len(receiver.hits) == 100 - counts["lost"]
    delivered = await log(api, state="delivered")
    assert sorted(delivery["body"] for delivery in delivered) == sorted(
        hit.body.decode() for hit in receiver.hits
    )
    lost = await log(api, state="lost", limit=3, after=5)
    assert len(lost) == 3
    assert all(delivery["number"] > 5 and not delivery["attempts"] for delivery in lost)


async def test_a_connection_that_was_closed_meanwhile_is_no_bad_answer(api: Api, receiver: Receiver) -> None:
    receiver.close = True
    await subscribe(api, receiver, "update_lead")
    for _ in range(3):
        await touch(api)
        await settled(api)
    assert [delivery["state"] for delivery in await log(api)] == ["delivered"] * 3
    assert receiver.connections == 3


async def test_what_waits_for_a_deleted_hook_is_never_sent(api: Api, receiver: Receiver) -> None:
    receiver.status = 500
    made = await subscribe(api, receiver, "update_lead")
    await touch(api)
    await settled(api)
    await api.send("DELETE", "webhooks", body={"destination": made["destination"]})
    assert (await advance(api, 3_600))["reasons"] == {"the hook is gone": 1}
    assert len(receiver.hits) == 1


async def test_the_automation_of_a_stage_is_sent_once_by_amo_and_again_by_kommo(
    api: Api, receiver: Receiver
) -> None:
    receiver.status = 500
    for account in ("acme", "romashka"):
        await subscribe(api, receiver, "add_lead", path=f"/{account}", account=account)
        body = {"account": account, "lead_id": first(api, "leads", account), "action": "call_in"}
        await api.control("POST", "webhooks/stage", body)
    await advance(api, 24 * 3_600)
    targets = [hit.target for hit in receiver.hits]
    assert (targets.count("/acme"), targets.count("/romashka")) == (5, 1)


async def test_the_log_is_cleared_only_when_nothing_waits(api: Api, receiver: Receiver) -> None:
    receiver.status = 500
    await subscribe(api, receiver, "update_lead")
    await touch(api)
    await settled(api)
    refused = await api.http.request("DELETE", f"{api.sandbox.url}/_sandbox/webhooks")
    assert refused.status_code == 400
    await advance(api, 24 * 3_600)
    await api.control("DELETE", "webhooks")
    assert (await api.control("GET", "webhooks"))["counts"]["made"] == 0


async def test_an_unknown_setting_or_kind_is_refused_in_words(api: Api) -> None:
    for name, body, words in (
        ("webhooks/settings", {"speed": 1}, "no such settings: speed"),
        ("webhooks/stage", {"lead_id": 1}, "no lead 1"),
        ("load", {"changes": 1, "kinds": ["burn"]}, "kinds are update, status"),
        ("change", {"change": "restore_record", "entity": "tasks", "id": 1}, "cannot be restored"),
        ("change", {"change": "write", "method": "GET", "path": "nothing/here"}, "no GET nothing/here"),
        ("change", {"change": "add_record", "entity": "leads", "values": {"price": "x"}}, "InvalidType"),
    ):
        answer = await api.http.post(f"{api.sandbox.url}/_sandbox/{name}", json=body)
        assert (answer.status_code, words in answer.json()["error"]) == (400, True)


async def test_a_destination_that_nobody_can_call_is_a_bad_answer_like_any_other(
    api: Api, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    account = api.sandbox.account("acme")
    for number, place in enumerate(
        ("http://localhost:99999/", "http://127.0.0.1/привет", "ftp://localhost/"), 1
    ):
        account.webhooks.add(
            {"id": number, "destination": place, "disabled": False, "settings": ["update_lead"]}
        )
    await touch(api)
    await settled(api)
    assert [len(delivery["attempts"]) for delivery in await log(api)] == [1, 1, 1]
    account.webhooks.change(1, destination=f"{receiver.url}/")
    world, held = api.sandbox.world, account.entities["leads"].get(first(api, "leads")) or {}
    broken = held | {"custom_fields_values": [{"broken": 1}]}
    world.announce(account, "leads", "update", before=broken, after=broken, user_id=0)
    await touch(api)
    await settled(api)
    assert "KeyError" in capsys.readouterr().err
    assert len(receiver.hits) == 1  # a bug with one change does not end the sending
