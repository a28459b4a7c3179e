"""W1: what Kommo tells is answered once it is on the disk, whatever it is; each refusal has its status."""

import asyncio
import json
import logging
import secrets

import httpx
import pytest
from pydantic import SecretStr

from blocks.app import KommoApp
from blocks.settings import Settings
from store.inbox import delivery_events, heard_of
from store.webhook_keys import create_key, hash_of_key, revoke_keys
from tests.gateway.hooks import ACCOUNT, DOOR, FORM, SAMPLES, Hooks, connect, form, signature


async def test_w1_a_delivery_is_in_the_inbox_when_it_is_answered(hooks: Hooks) -> None:
    body = form(1, 2, 3)
    answer = await hooks.send(body, x_amocrm_requestid="ac0999fe")
    assert (answer.status_code, answer.content) == (200, b"")
    (one,) = await hooks.deliveries()
    assert (one.org, one.account_id, one.door, one.body, one.state) == (
        "acme",
        ACCOUNT,
        "key",
        body,
        "stored",
    )
    assert (one.content_type, one.request_id, one.event_count) == (FORM, "ac0999fe", 3)
    assert one.headers == {
        "content-type": FORM,
        "user-agent": "amoCRM-Webhooks/3.0",
        "x-amocrm-requestid": "ac0999fe",
    }
    assert [event.entity_id for event in await delivery_events(hooks.database, one.delivery_id)] == [
        *("1", "2", "3")
    ]


@pytest.mark.parametrize("file", sorted(path.name for path in SAMPLES.glob("wh_*_raw.txt")))
async def test_w1_real_bodies_are_taken_in_by_the_key_of_any_account(hooks: Hooks, file: str) -> None:
    key = secrets.token_urlsafe(32)
    await create_key(hooks.database, "beta", None, hash_of_key(key), now=hooks.services.clock.now())
    body = (SAMPLES / file).read_bytes().strip()
    assert (await hooks.send(body, key)).status_code == 200
    (one,) = await hooks.deliveries()
    assert (one.body, one.state, one.org) == (body, "stored", "beta")
    assert one.event_count >= 1


async def test_w2_a_repeated_delivery_is_kept_and_flagged_also_of_two_at_once(hooks: Hooks) -> None:
    for _ in range(2):
        answers = await asyncio.gather(*(hooks.send(form(1, 2)) for _ in range(4)))
        assert {answer.status_code for answer in answers} == {200}
    assert len(await hooks.deliveries()) == 8
    assert await hooks.states() == {"pending": 2, "duplicate": 14}


async def test_w1_a_body_that_cannot_be_read_is_kept_with_the_reason(hooks: Hooks) -> None:
    bodies = [b"", b"\xff\xfe=1", b"a[b=1&[]=2", b"{not json", b"leads[add][0][id]=1&account[id]=x"]
    for body in bodies:
        kind = "application/json" if body.startswith(b"{") else FORM
        assert (await hooks.send(body, content_type=kind)).status_code == 200
    found = await hooks.deliveries()
    assert [one.body for one in found] == bodies
    unreadable = [one for one in found if one.state == "unreadable"]
    assert {one.body for one in unreadable} >= {b"", b"{not json", b"leads[add][0][id]=1&account[id]=x"}
    assert all(one.reason and one.org == "acme" for one in unreadable)


async def test_an_unknown_and_a_revoked_key_are_answered_like_any_unknown_path(hooks: Hooks) -> None:
    revoked = secrets.token_urlsafe(32)
    await create_key(hooks.database, "beta", ACCOUNT, hash_of_key(revoked), now=hooks.services.clock.now())
    async with hooks.database.begin() as connection:
        await revoke_keys(connection, "beta", now=hooks.services.clock.now())
    elsewhere = await hooks.http.post("/api/webhooks/else", content=form(1))
    wrong = [
        secrets.token_urlsafe(32),
        revoked,
        "short",
        "é" * 40,
        "x" * 200,
        hooks.key[:-1],
    ]
    for key in wrong:
        answer = await hooks.send(form(1), key)
        assert (answer.status_code, answer.json()) == (404, elsewhere.json()), key
        assert set(answer.headers) == set(elsewhere.headers)
    assert await hooks.deliveries() == []


async def test_a_key_that_is_revoked_stops_working_within_seconds(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await hooks.send(form(1))).status_code == 200
    async with hooks.database.begin() as connection:
        await revoke_keys(connection, "acme", now=hooks.services.clock.now())
    monkeypatch.setattr(hooks.services.webhooks.keys, "_clock", _Later())
    assert (await hooks.send(form(2))).status_code == 404


class _Later:
    def monotonic(self) -> float:
        return asyncio.get_running_loop().time() + 6.0


async def test_a_body_of_another_account_is_refused_and_logged_without_its_content(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await hooks.send(form(1, account=ACCOUNT + 1))
    assert answer.status_code == 400
    assert "not of the account" in answer.json()["detail"]
    assert await hooks.deliveries() == []
    assert "acme" in caplog.text
    assert "Deal" not in caplog.text
    assert (await hooks.send(form(1, account=None))).status_code == 200, "old hooks do not say"


async def test_other_kinds_of_bodies_and_compressed_ones_are_refused(hooks: Hooks) -> None:
    for headers in (
        {"content_type": "text/plain"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_encoding": "gzip"},
    ):
        answer = await hooks.send(form(1), **headers)
        assert answer.status_code == 415, headers
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await hooks.send(form(1), content_type=f"{FORM}; charset=UTF-8")).status_code == 200
    assert (await hooks.http.get(f"{DOOR}/{hooks.key}")).status_code == 405
    assert len(await hooks.deliveries()) == 1


async def test_a_body_that_is_too_large_is_refused_however_it_comes(hooks: Hooks) -> None:
    large = b"leads[add][0][text]=" + b"x" * (1024 * 1024)
    assert (await hooks.send(large)).status_code == 413
    head = f"POST {DOOR}/{hooks.key} HTTP/1.1\r\nhost: x\r\ncontent-type: {FORM}\r\n".encode()
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    reader, writer = await hooks.raw(head + b"transfer-encoding: chunked\r\n\r\n", *([chunk] * 17))
    async with asyncio.timeout(10):
        assert b" 413 " in await reader.readline()
    writer.close()
    reader, writer = await hooks.raw(
        head + b"transfer-encoding: chunked\r\n\r\n", b"5\r\na[b]=\r\n", b"1\r\n1\r\n", b"0\r\n\r\n"
    )
    async with asyncio.timeout(10):
        assert b" 200 " in await reader.readline()
    writer.close()
    assert [one.body for one in await hooks.deliveries()] == [b"a[b]=1"]


async def test_a_large_body_of_many_fields_is_taken_in(hooks: Hooks) -> None:
    body = b"account[id]=31234567&" + b"&".join(b"leads[add][%d][id]=%d" % (n, n) for n in range(3000))
    assert len(body) > 64 * 1024
    assert (await hooks.send(body)).status_code == 200
    assert await hooks.states() == {"pending": 3000}


async def test_w1_a_client_that_goes_away_leaves_a_whole_delivery_or_none(hooks: Hooks) -> None:
    body = form(*range(20))
    head = f"POST {DOOR}/{hooks.key} HTTP/1.1\r\nhost: x\r\ncontent-type: {FORM}\r\n".encode()
    head += f"content-length: {len(body)}\r\n\r\n".encode()
    for sent in (b"", body[:1], body[:-1]):
        _, writer = await hooks.raw(head + sent)
        writer.close()
        await writer.wait_closed()
    assert (await hooks.send(form(99))).status_code == 200
    assert len(await hooks.deliveries()) == 1, "half a body is none"
    for _ in range(10):
        _, writer = await hooks.raw(head + body)
        writer.close()
        await writer.wait_closed()
    await hooks.send(form(100))
    whole = [one for one in await hooks.deliveries() if one.event_count == 20]
    for one in whole:
        assert len(await delivery_events(hooks.database, one.delivery_id)) == 20


async def test_the_signed_door_takes_what_the_product_forwards_for_each_org_of_the_account(
    hooks: Hooks,
) -> None:
    await connect(hooks, "acme")
    await connect(hooks, "beta")
    await connect(hooks, "gone", state="disconnected")
    await connect(hooks, "other", account_id=7)
    body = json.dumps(
        {"account": {"id": ACCOUNT, "subdomain": "acme"}, "leads": {"status": [{"id": 5, "status_id": 142}]}}
    ).encode()
    answer = await hooks.forward(body)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    found = await hooks.deliveries()
    assert [(one.org, one.door, one.event_count) for one in found] == [
        ("acme", "signed", 1),
        ("beta", "signed", 1),
    ]
    assert await heard_of(hooks.database, "beta", "leads", ["5"])


async def test_a_signature_that_does_not_fit_is_refused_in_the_products_words(hooks: Hooks) -> None:
    body = b'{"account":{"id":31234567}}'
    for sign in ("-", "0" * 64, signature(body, "else"), signature(body)[:-1], signature(b"other"), "é"):
        answer = await hooks.http.post(
            DOOR,
            content=body,
            headers=[(b"content-type", b"application/json"), (b"x-signature", sign.encode())],
        )
        assert (answer.status_code, answer.json()) == (401, {"error": "Invalid signature"}), sign
    unsigned = await hooks.http.post(DOOR, content=body, headers={"content-type": "application/json"})
    assert (unsigned.status_code, unsigned.json()) == (401, {"error": "Invalid signature"})
    assert await hooks.deliveries() == []
    assert (await hooks.forward(body, signature(body).upper())).status_code == 200


async def test_a_signed_body_of_nobodys_is_kept_with_the_reason(hooks: Hooks) -> None:
    assert (await hooks.forward(b'{"account":{"id":5},"leads":{"add":[{"id":1}]}}')).status_code == 200
    assert (await hooks.forward(b"{")).status_code == 200
    first, second = await hooks.deliveries()
    assert (first.org, first.state, first.event_count) == ("", "unreadable", 0)
    assert "No connected org" in first.reason
    assert (second.org, second.state) == ("", "unreadable")
    answer = await hooks.forward(b"x", **{"content-type": "text/plain"})
    assert (answer.status_code, set(answer.json())) == (415, {"error"})


async def test_signatures_are_compared_in_constant_time(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[object, object]] = []

    def compare(left: object, right: object) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr("gateway.webhooks.hmac.compare_digest", compare)
    body = b'{"account":{"id":5}}'
    await hooks.forward(body, "0" * 64)
    await hooks.forward(body)
    assert compared == [(signature(body).encode(), b"0" * 64), (signature(body).encode(),) * 2]


async def test_w4_without_a_secret_at_hand_only_the_signed_door_waits_for_prefect(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = asyncio.Event()

    async def slow(_settings: Settings) -> KommoApp:
        await over.wait()
        return KommoApp(webhook_secret=SecretStr("late"))

    monkeypatch.delenv("KOMMO_WEBHOOK_SECRET")
    monkeypatch.setattr("gateway.services.find_app", slow)
    monkeypatch.setattr("gateway.services.SECRET_SECONDS", 0.05)
    hooks.services.settings = Settings()
    hooks.services._app = None
    answer = await hooks.forward(b"{}")
    assert (answer.status_code, set(answer.json())) == (503, {"error"})
    assert answer.headers["retry-after"]
    assert (await hooks.send(form(1))).status_code == 200
    over.set()
    await hooks.services.background.finish(5)
    assert (await hooks.forward(b"{}", signature(b"{}", "late"))).status_code == 200


async def test_w4_where_no_secret_is_set_nothing_is_signed_and_the_owner_is_told_once(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("KOMMO_WEBHOOK_SECRET")
    hooks.services.settings = Settings()
    hooks.services._found_until = float("inf")
    hooks.services._app = None
    for sign in (signature(b"{}", ""), signature(b"{}", "-")):
        assert (await hooks.forward(b"{}", sign)).status_code == 401
    assert caplog.text.count("KOMMO_WEBHOOK_SECRET") == 1


async def test_t5_neither_key_nor_secret_nor_body_is_in_the_log(
    hooks: Hooks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await hooks.send(form(1))
    await hooks.send(form(1), content_type="text/plain")
    await hooks.forward(b'{"account":{"id":5},"text":"canary-body"}')
    own = [record.getMessage() for record in caplog.records if record.name.startswith(("gateway", "store"))]
    assert any(f"POST {DOOR}/{{hook_key}} 415" in line for line in own)
    said = "\n".join(own)
    for secret in (hooks.key, "canary", "Deal"):
        assert secret not in said


async def test_a_head_request_by_somebody_else_tells_nothing(hooks: Hooks) -> None:
    answer: httpx.Response = await hooks.http.request("HEAD", f"{DOOR}/{hooks.key}")
    assert answer.status_code == 405
