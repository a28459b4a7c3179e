"""The product's client and its receiver: what is in the repository is what the gateway gives, and Node runs it."""

import asyncio
import base64
import hashlib
import hmac
import json
from asyncio.subprocess import PIPE
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deployments.product_client import FILE, client_source
from flows.deliver_events import deliver_events
from flows.webhook_backlog import webhook_backlog
from gateway.app import create_app
from store.inbox import heard_of
from tests.gateway.conftest import house as gateway_house
from tests.gateway.support import House
from tests.product.support import CLIENT, NODE, REQUIRED, compile_scripts, once_for_all, run

house = gateway_house
HERE = Path(__file__).parent
needs_node = pytest.mark.skipif(NODE is None and not REQUIRED, reason="Node is not installed here")


def test_the_client_is_what_the_generator_writes_today() -> None:
    assert FILE.read_text() == client_source(create_app().openapi()), "python -m deployments.product_client"


def test_the_generator_refuses_what_it_does_not_know() -> None:
    document = create_app().openapi()
    changed = json.loads(json.dumps(document))
    changed["components"]["schemas"]["Account"]["properties"]["id"] = {"type": "canary"}
    with pytest.raises(ValueError, match="canary"):
        client_source(changed)
    changed = json.loads(json.dumps(document))
    changed["components"]["schemas"]["Account"]["properties"]["added"] = {"type": "string"}
    assert "added?: string;" in client_source(changed), "a new field gets into the file"


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled scripts; both were checked strictly on the way."""
    mine = [HERE / f"{name}.ts" for name in ("receiving", "pausing", "fullcycle", "listening")]
    theirs = [CLIENT / "client.ts", CLIENT / "receiver.ts"]
    return once_for_all(tmp_path_factory, "scripts", lambda folder: compile_scripts(folder, *mine, *theirs))


NOW = 1_800_000_000
OLD, NEW, WRONG = (f"whsec_{base64.b64encode(bytes([number]) * 24).decode()}" for number in (1, 2, 3))


def _signature(secret: str, event_id: str, timestamp: int, body: str) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    told = f"{event_id}.{timestamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.new(key, told, hashlib.sha256).digest()).decode()


def _request(
    name: str, *secrets: str, at: int = NOW, type_: str = "kommo.test", id_: str = "", **changed: str
) -> dict[str, Any]:
    event_id = id_ or name
    body = json.dumps(
        {"specversion": "1.0", "id": event_id, "source": "/kommo/acme", "type": type_, "data": {"n": "ä"}}
    )
    signatures = " ".join(_signature(secret, event_id, at, body) for secret in secrets)
    headers = {"webhook-id": event_id, "webhook-timestamp": str(at), "webhook-signature": signatures}
    headers |= {key.replace("_", "-"): value for key, value in changed.items() if key != "body"}
    return {
        "name": name,
        "headers": {key: value for key, value in headers.items() if value},
        "body": changed.get("body", body),
    }


@needs_node
@pytest.mark.seconds(8)
def test_the_receiver_takes_what_is_signed_and_nothing_else(scripts: Path) -> None:
    given = [
        _request("good", NEW),
        _request("with the old secret", OLD),
        _request("with two", WRONG, NEW),
        _request("again", NEW, id_="good"),
        _request("at the edge", NEW, at=NOW - 299),
        _request("other versions beside it", NEW, webhook_signature=""),
        _request("wrong secret", WRONG),
        _request("too old", NEW, at=NOW - 301),
        _request("too new", NEW, at=NOW + 301),
        _request("other body", NEW, body="{}"),
        _request("other id", NEW, webhook_id="another"),
        _request("other time", NEW, webhook_timestamp=str(NOW + 1)),
        _request("no signature", NEW, webhook_signature=""),
        _request("garbage", NEW, webhook_signature="v1,%%% v1, v2,abc"),
        _request("handler fails", NEW, type_="kommo.fails"),
    ]
    signed = given[5]
    signed["headers"]["webhook-signature"] = "v1a,zzz " + _signature(NEW, signed["name"], NOW, signed["body"])
    done = run(
        str(NODE),
        str(scripts / "tests" / "product" / "receiving.js"),
        GIVEN=json.dumps(given),
        SECRETS=json.dumps([OLD, NEW]),
        NOW=str(NOW * 1000),
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    good = {one["name"] for one in given[:6]}
    assert {name for name, status in told["statuses"].items() if status == 204} == good
    assert told["statuses"].pop("handler fails") == 500, "so it comes again"
    assert {status for name, status in told["statuses"].items() if name not in good} == {401}
    assert sorted(told["handled"]) == sorted(good - {"again"}), "a repetition is not handled twice"
    assert told["type"] == "kommo.test"


@needs_node
def test_the_client_comes_again_when_asked_to_but_keeps_nobody_waiting_for_an_hour(scripts: Path) -> None:
    done = run(str(NODE), str(scripts / "tests" / "product" / "pausing.js"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "soon": {"status": 200, "calls": 2},
        "late": {"status": 503, "calls": 1},
    }


@needs_node
@pytest.mark.whole_service
@pytest.mark.one_database
@pytest.mark.seconds(10)
async def test_the_products_full_cycle_from_consent_to_the_signed_event_of_its_own_field(
    house: House, scripts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOMMO_WEBHOOK_URL", house.url)
    monkeypatch.setattr(house.services.settings, "webhook_url", house.url)
    account = house.kommo.account("acme")
    [talk] = [one for one in account.talks if one["is_in_work"]][:1]
    [select] = [one for one in account.fields["leads"] if one["type"] == "select"][:1]
    lead = next(iter(account.entities["leads"]))
    done = await asyncio.to_thread(
        run,
        str(NODE),
        str(scripts / "tests" / "product" / "fullcycle.js"),
        GATEWAY_URL=house.url,
        API_KEY=house.key,
        ORG="acme",
        DOMAIN=house.acme.host,
        LEAD=str(lead["id"]),
        CONTACT=str(talk["contact_id"]),
        VALUE=select["enums"][0]["value"],
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["lists"][0] == len(account.pipelines)
    assert told["lists"][2:] == [len(account.fields["leads"]), len(account.fields["contacts"])]
    assert told["lists"][1] > 0
    assert told["stages"] == sum(len(account.statuses(one["id"])) for one in account.pipelines)
    assert told["state"] == "connected"
    assert told["nobody"] == 403
    assert all(one["value"] in told["choices"] for one in select["enums"])
    assert [one["id"] for one in account.tasks if one["text"] == "Call Ann"] == [told["task"]["task_id"]]
    texts = [one["text"] for messages in account.messages.values() for one in messages]
    assert texts.count("Hello") == 1
    [written] = [
        value
        for one in account.entities["leads"]
        if one["id"] == lead["id"]
        for value in one["custom_fields_values"]
        if value["field_id"] == told["field"]
    ]
    assert written["values"][0]["value"] == select["enums"][0]["value"]
    events = await _told_to_the_product(house, scripts, monkeypatch, int(lead["id"]))
    types = Counter(event["type"] for event in events)
    assert types["kommo.action.confirmed"] == 3
    assert types["integration_connected"] == types["kommo.task.created"] == 1
    [changed] = [one for one in events if one["type"] == "kommo.lead.updated"]
    assert (changed["source"], changed["subject"]) == ("/kommo/acme", f"lead:{lead['id']}")
    assert changed["data"]["source"] == "webhook"
    assert written in changed["data"]["record"]["custom_fields_values"]


async def _told_to_the_product(
    house: House, scripts: Path, monkeypatch: pytest.MonkeyPatch, lead: int
) -> list[dict[str, Any]]:
    """What Kommo's webhooks, the backlog and the delivery bring to the product, whose signatures Node checks."""
    async with asyncio.timeout(20):
        while not await heard_of(house.services.database, "acme", "leads", [str(lead)]):  # noqa: ASYNC110 - a row
            await asyncio.sleep(0.05)
    listening = await asyncio.create_subprocess_exec(
        str(NODE), str(scripts / "tests" / "product" / "listening.js"), env={"SECRET": NEW}, stdout=PIPE
    )
    try:
        assert listening.stdout is not None
        port = json.loads(await asyncio.wait_for(listening.stdout.readline(), 20))["port"]
        monkeypatch.setenv("KOMMO_EVENTS_URL", f"http://127.0.0.1:{port}/")
        monkeypatch.setenv("KOMMO_EVENTS_SECRET", NEW)
        await webhook_backlog("0s")
        report = await deliver_events("0s")
        lines = [await asyncio.wait_for(listening.stdout.readline(), 20) for _ in range(report.delivered)]
    finally:
        listening.kill()
        await listening.wait()
    return [json.loads(line) for line in lines]
