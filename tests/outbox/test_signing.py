"""What the product gets: CloudEvents, signed as Standard Webhooks says; secrets and addresses that are none."""

import base64
import hashlib
import hmac
import logging

import pytest
from pydantic import SecretStr

from store.database import Database
from store.endpoint import endpoint_state
from store.outbox import OutboxEvent
from tasks.endpoint import parse_endpoint
from tasks.errors import EventsSetupError
from tasks.signing import Signer, cloud_event, verified
from tests.outbox.receiver import Receiver, Reply
from tests.outbox.support import SECRET, outbox, run, session_of, tell, tell_all

OTHER = SecretStr("whsec_" + base64.b64encode(b"n" * 32).decode())


def test_the_signature_is_that_of_the_standards_own_example() -> None:
    body = b'{"test": 2432232314}'
    headers = Signer(SECRET).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_what_comes_is_a_cloud_event_that_a_receiver_can_verify(
    database: Database, product: Receiver
) -> None:
    odd = {"n": 0, "text": 'half \ud83d of a pair, "quotes", четыре \x00', "deep": [{"a": None}]}
    [event_id] = await tell_all(database, [OutboxEvent("kommo.lead.updated", "acme", "lead:1", odd)])
    await run(database, product.url)
    [received] = product.taken
    [row] = await outbox(database)
    assert received.headers["content-type"] == "application/cloudevents+json"
    assert received.event == {
        "specversion": "1.0",
        "id": event_id,
        "source": "/kommo/acme",
        "type": "kommo.lead.updated",
        "subject": "lead:1",
        "time": row.created_at.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": odd,
    }
    # By hand, as the standard describes it.
    key = base64.b64decode(SECRET.get_secret_value().removeprefix("whsec_"))
    signed = f"{event_id}.{received.headers['webhook-timestamp']}.".encode() + received.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert received.headers["webhook-signature"] == f"v1,{expected}"
    assert verified(SECRET, received.headers, received.body)
    assert not verified(SECRET, received.headers, received.body + b" ")
    assert not verified(OTHER, received.headers, received.body)
    assert cloud_event(row) == received.body


async def test_while_a_secret_is_replaced_both_the_old_and_the_new_one_verify(
    database: Database, product: Receiver
) -> None:
    await tell(database, "acme", "lead:1", 0)
    both = SecretStr(f"{OTHER.get_secret_value()} {SECRET.get_secret_value()}")
    await run(database, product.url, secret=both)
    [received] = product.taken
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    assert verified(SECRET, received.headers, received.body)
    assert verified(OTHER, received.headers, received.body)


@pytest.mark.parametrize(
    "secret",
    ["", "  ", "canary", "whsec_", "whsec_canary!", "whsec_Y2FuYXJ5", f"{SECRET.get_secret_value()} canary"],
)
def test_a_secret_that_is_none_is_refused_without_being_repeated(secret: str) -> None:
    with pytest.raises(EventsSetupError) as caught:
        Signer(SecretStr(secret))
    assert "KOMMO_EVENTS_SECRET" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None, "the error of the layer below may repeat it"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "not set"),
        ("http://app.example.com/x?canary", "https"),
        ("ftp://app.example.com/", "https"),
        ("https://", "not an address"),
        ("canary", "not an address"),
        ("https://user:canary@app.example.com/", "password"),
        ("https://app.example.com:99999/canary", "not an address"),
        ("https://app.example.com/ canary", "not an address"),
        ("https://app.example.com/#canary", "not an address"),
        ("http://127.0.0.1:8000/canary", "this machine"),
        ("http://127.0.0.1.example.com/canary", "https"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_being_repeated(url: str, why: str) -> None:
    with pytest.raises(EventsSetupError, match=why) as caught:
        parse_endpoint(SecretStr(url))
    assert "canary" not in str(caught.value)


def test_https_and_with_permission_this_machine_are_taken() -> None:
    assert parse_endpoint(SecretStr("https://app.example.com:8443/a?b=c")).host == "app.example.com:8443"
    for loopback in (
        "http://localhost:1/x",
        "http://a.localhost/x",
        "http://127.0.0.1:1/",
        "http://[::1]:1/",
    ):
        assert parse_endpoint(SecretStr(loopback), allow_loopback=True).key


async def test_t5_neither_the_secret_nor_the_addresss_path_and_query_is_shown_anywhere(
    database: Database, product: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await tell(database, "acme", "lead:1", 0, 1)
    product.behave = lambda _received: Reply(500)
    report = await run(database, product.url, threshold=1)
    session = session_of(database, product.url)
    found = await endpoint_state(database, session.endpoint.key)
    said = caplog.text + repr((report, report.summary(), found, session, session.endpoint, session.signer))
    said += repr(await outbox(database))
    assert "canary" not in said
    assert SECRET.get_secret_value().removeprefix("whsec_") not in said
