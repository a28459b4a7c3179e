"""Snapshots, drift, all orgs: what is known of accounts, as the product asks for it."""

from typing import Any

from store.completeness import Completeness, save_completeness
from store.kinds import ALIASES, KINDS
from store.subscriptions import Subscription, SubscriptionState, save_subscription
from tests.gateway.doors import Doors
from tests.store.builders import field, item, minutes, pipeline, save, status

SNAPSHOT = "/api/v1/orgs/acme/snapshots/pipelines"
DRIFT = "/api/v1/orgs/acme/drift"


def _sales(stage: str = "New") -> dict[str, Any]:
    return {"pipelines": [pipeline(1)], "statuses": [status(1, 11, stage)]}


async def test_s3_a_kind_is_shown_as_it_is_and_as_it_was(doors: Doors) -> None:
    first, _ = await save(doors.database, 0, _sales())
    second, _ = await save(doors.database, 10, _sales("Fresh"))
    now = await doors.get(SNAPSHOT)
    assert now.status_code == 200
    told = now.json()
    assert (told["org"], told["kind"]) == ("acme", "pipelines")
    assert [one["name"] for one in told["items"][0]["statuses"]] == ["Fresh"]
    assert now.headers["x-kommo-run-id"] == second
    assert told["changed_at"] == minutes(10).isoformat().replace("+00:00", "Z")
    then = await doors.get("/api/v1/orgs/acme/snapshots/funnels", params={"at": minutes(5).isoformat()})
    assert [one["name"] for one in then.json()["items"][0]["statuses"]] == ["New"]
    assert then.headers["x-kommo-run-id"] == first
    assert "raw" not in now.json()["items"][0]
    assert (await doors.get(SNAPSHOT, params={"raw": "true"})).json()["items"][0]["raw"]["id"] == 1


async def test_an_etag_stays_for_as_long_as_nothing_changes(doors: Doors) -> None:
    await save(doors.database, 0, _sales())
    first = await doors.get(SNAPSHOT)
    tag = first.headers["etag"]
    assert tag.startswith('"')
    run_id, _ = await save(doors.database, 10, _sales())
    again = await doors.get(SNAPSHOT, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["x-kommo-run-id"] == run_id, "it says all the same that it was read again"
    assert again.headers["x-kommo-taken-at"] == minutes(10).isoformat()
    assert (await doors.get(SNAPSHOT)).content == first.content, "the tag is strong"
    assert (await doors.get(SNAPSHOT, headers={"If-None-Match": f'"x", W/{tag}'})).status_code == 304
    await save(doors.database, 20, _sales("Renamed"))  # a stage is a part of its pipeline
    changed = await doors.get(SNAPSHOT, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    raw = await doors.get(SNAPSHOT, params={"raw": "true"})
    assert raw.headers["etag"] != changed.headers["etag"]
    old = await doors.get(SNAPSHOT, params={"at": minutes(15).isoformat()}, headers={"If-None-Match": tag})
    assert old.status_code == 304, "what was then is what the tag names"


async def test_what_was_removed_changes_the_tag_and_an_empty_kind_has_one(doors: Doors) -> None:
    await save(doors.database, 0, _sales() | {"users": []})
    tag = (await doors.get(SNAPSHOT)).headers["etag"]
    await save(doors.database, 10, {"pipelines": [], "statuses": []})
    assert (await doors.get(SNAPSHOT, headers={"If-None-Match": tag})).json()["items"] == []
    empty = await doors.get("/api/v1/orgs/acme/snapshots/users")
    assert empty.json()["items"] == []
    await save(doors.database, 20, {"users": []})
    path = "/api/v1/orgs/acme/snapshots/users"
    assert (await doors.get(path, headers={"If-None-Match": empty.headers["etag"]})).status_code == 304


async def test_s2_what_utf_8_cannot_hold_is_told_all_the_same(doors: Doors) -> None:
    given: dict[str, Any] = {"pipeline_id": 1, "status_id": 11, "name": "New", "sort": 11}
    half = item("statuses", {"hint": "\ud83d"}, **given)
    await save(doors.database, 0, _sales())
    await save(doors.database, 10, {"pipelines": [pipeline(1)], "statuses": [half]})
    whole = await doors.get(SNAPSHOT, params={"raw": "true"})
    assert whole.status_code == 200, whole.text
    assert whole.json()["items"][0]["statuses"][0]["raw"]["hint"] == "\ud83d"
    drift = await doors.get(DRIFT)
    assert drift.status_code == 200, drift.text
    assert drift.json()["changes"][0]["after"] == {"hint": "\ud83d"}


async def test_an_unknown_kind_is_told_with_those_that_there_are(doors: Doors) -> None:
    answer = await doors.get("/api/v1/orgs/acme/snapshots/canary-kind")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert all(name in detail for name in (*KINDS, *ALIASES))
    assert "canary" not in answer.text
    never = await doors.get(SNAPSHOT)
    assert (never.status_code, "been read" in never.json()["detail"]) == (404, True)
    await save(doors.database, 0, _sales())
    before = await doors.get(SNAPSHOT, params={"at": minutes(-1).isoformat()})
    assert "by that time" in before.json()["detail"]
    for at in ("yesterday", "0001-01-01T00:00:00+14:00"):
        wrong = await doors.get(SNAPSHOT, params={"at": at})
        assert (wrong.status_code, "query.at" in wrong.json()["detail"]) == (400, True), at


async def test_drift_is_told_between_the_newest_two_runs_or_those_named(doors: Doors) -> None:
    first, _ = await save(doors.database, 0, _sales())
    assert (await doors.get(DRIFT)).status_code == 404
    second, _ = await save(doors.database, 10, _sales("Fresh"))
    third, _ = await save(doors.database, 20, _sales("Fresh") | {"lead_fields": [field(7)]})
    told = (await doors.get(DRIFT, params={"from": first, "to": second})).json()
    assert [(one["kind"], one["change"], one["name"]) for one in told["changes"]] == [
        ("statuses", "renamed", "Fresh")
    ]
    assert told["counts"][told["worst"]] == 1
    newest = (await doors.get(DRIFT)).json()
    assert (newest["from_run"], newest["to_run"]) == (second, third)
    assert (newest["changes"], newest["worst"], newest["not_compared"]) == ([], None, ["lead_fields"])
    for unknown in ("0" * 32, "canary run"):
        answer = await doors.get(DRIFT, params={"from": unknown})
        assert answer.status_code == (404 if unknown[0] == "0" else 400)
        assert unknown not in answer.text


async def test_another_orgs_run_is_no_run_of_this_one(doors: Doors) -> None:
    theirs, _ = await save(doors.database, 0, _sales("Secret stage"), org="globex")
    await save(doors.database, 0, _sales())
    await save(doors.database, 10, _sales())
    answer = await doors.get(DRIFT, params={"from": theirs})
    assert answer.status_code == 404
    assert "Secret" not in answer.text
    assert (await doors.get(f"/api/v1/orgs/acme/syncs/{theirs}")).status_code == 404


async def test_all_orgs_that_a_key_may_see_are_told_in_pages(doors: Doors) -> None:
    now = doors.services.clock.now()
    for org in ("acme", "globex", "initech"):
        await doors.connect(org)
    await save(doors.database, 0, _sales(), org="globex")
    async with doors.database.begin() as connection:
        await save_subscription(
            connection,
            Subscription("initech", None, "hooks.example.com", (), SubscriptionState.ON, None, now),
        )
        await save_completeness(connection, Completeness("initech", now, now, 4, 3, 1, {}, now))
    every = doors.signed(None, doors.every)
    first = (await doors.http.get("/api/v1/orgs", params={"limit": 2}, headers=every)).json()
    assert [one["org"] for one in first["items"]] == ["acme", "globex"]
    assert first["items"][0]["last_sync"] is None
    assert first["items"][1]["last_sync"]["state"] == "completed"
    rest = await doors.http.get(
        "/api/v1/orgs", params={"limit": 2, "after": first["next_after"]}, headers=every
    )
    assert [one["org"] for one in rest.json()["items"]] == ["initech"]
    assert rest.json()["next_after"] is None
    assert rest.json()["items"][0]["webhooks"]["completeness"]["share"] == 0.75
    mine = await doors.http.get("/api/v1/orgs", headers=doors.signed(None))
    assert [one["org"] for one in mine.json()["items"]] == ["acme"]
    assert mine.json()["items"][0] == (await doors.get("/api/v1/orgs/acme/connection")).json()


async def test_how_a_sync_stands_is_told_by_its_own_id(doors: Doors) -> None:
    run_id, _ = await save(doors.database, 0, _sales())
    told = (await doors.get(f"/api/v1/orgs/acme/syncs/{run_id}")).json()
    assert (told["state"], told["requests"]) == ("completed", 1)
    assert {one["kind"]: one["added"] for one in told["kinds"]} == {"pipelines": 1, "statuses": 1}
    assert (
        await doors.get("/api/v1/orgs/acme/syncs/0d0a7f3e-5c35-4f0b-9a94-0b7f5d0c2a11")
    ).status_code == 404
