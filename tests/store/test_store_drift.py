"""Drift: each kind of change gets its name, its weight and a reason, and the report can be shown anywhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from store.database import Database
from store.drift import Change, Drift, changes_of_run, diff, drift_markdown
from store.errors import NothingToCompareError, UnknownRunError
from store.snapshots import Item, begin_run, fail_snapshot, finish_run
from tests.store.builders import enum, field, item, minutes, pipeline, save, status

Rows = Mapping[str, Sequence[Item]]


def _user(number: int, **columns: Any) -> Item:
    return item("users", user_id=number, name=f"User {number}", **columns)


def _channel(identity: str, **columns: Any) -> Item:
    return item("channels", **{"channel_id": identity, "name": identity, "origin": "waba"} | columns)


# What was, what is, and the one change that must be told: kind, key, change, severity.
CASES: dict[str, tuple[Rows, Rows, tuple[str, str, str, str]]] = {
    "stage removed": (
        {"statuses": [status(1, 11)]},
        {"statuses": []},
        ("statuses", "1:11", "removed", "breaking"),
    ),
    "stage moved to another pipeline": (
        {"statuses": [status(1, 11)]},
        {"statuses": [status(2, 11)]},
        ("statuses", "2:11", "moved", "breaking"),
    ),
    "stage renamed": (
        {"statuses": [status(1, 11, "New")]},
        {"statuses": [status(1, 11, "Hello")]},
        ("statuses", "1:11", "renamed", "info"),
    ),
    "stage recoloured": (
        {"statuses": [status(1, 11, color="#fffeb2")]},
        {"statuses": [status(1, 11, color="#87f2c0")]},
        ("statuses", "1:11", "changed", "info"),
    ),
    "pipeline archived": (
        {"pipelines": [pipeline(1, is_archive=False)]},
        {"pipelines": [pipeline(1, is_archive=True)]},
        ("pipelines", "1", "changed", "breaking"),
    ),
    "pipeline no longer the main one": (
        {"pipelines": [pipeline(1, is_main=True)]},
        {"pipelines": [pipeline(1, is_main=False)]},
        ("pipelines", "1", "changed", "warning"),
    ),
    "pipeline added": (
        {"pipelines": []},
        {"pipelines": [pipeline(1)]},
        ("pipelines", "1", "added", "info"),
    ),
    "field removed": (
        {"lead_fields": [field(7)]},
        {"lead_fields": []},
        ("lead_fields", "7", "removed", "breaking"),
    ),
    "field of another type and renamed": (
        {"lead_fields": [field(7, "Size", type="text")]},
        {"lead_fields": [field(7, "Big", type="select")]},
        ("lead_fields", "7", "type_changed", "breaking"),
    ),
    "field required": (
        {"lead_fields": [field(7, is_required=False)]},
        {"lead_fields": [field(7, is_required=True)]},
        ("lead_fields", "7", "changed", "warning"),
    ),
    "field required at a stage (only in the raw JSON)": (
        {"lead_fields": [item("lead_fields", {"required_statuses": []}, field_id=7, name="Size")]},
        {
            "lead_fields": [
                item("lead_fields", {"required_statuses": [{"status_id": 1}]}, field_id=7, name="Size")
            ]
        },
        ("lead_fields", "7", "changed", "warning"),
    ),
    "choice renamed": (
        {"lead_field_enums": [enum(7, 70, "VIP")]},
        {"lead_field_enums": [enum(7, 70, "Gold")]},
        ("lead_field_enums", "7:70", "renamed", "warning"),
    ),
    "choice removed": (
        {"lead_field_enums": [enum(7, 70, "VIP")]},
        {"lead_field_enums": []},
        ("lead_field_enums", "7:70", "removed", "breaking"),
    ),
    "user deactivated": (
        {"users": [_user(5, is_active=True)]},
        {"users": [_user(5, is_active=False)]},
        ("users", "5", "changed", "breaking"),
    ),
    "user activated": (
        {"users": [_user(5, is_active=False)]},
        {"users": [_user(5, is_active=True)]},
        ("users", "5", "changed", "info"),
    ),
    "channel gone": (
        {"channels": [_channel("waba:1")]},
        {"channels": []},
        ("channels", "waba:1", "removed", "breaking"),
    ),
    "channel of another origin": (
        {"channels": [_channel("1", origin="waba")]},
        {"channels": [_channel("1", origin="telegram")]},
        ("channels", "1", "changed", "warning"),
    ),
    "loss reason removed": (
        {"loss_reasons": [item("loss_reasons", loss_reason_id=3, name="Price")]},
        {"loss_reasons": []},
        ("loss_reasons", "3", "removed", "breaking"),
    ),
    "account moved": (
        {"account": [item("account", account_id=9, subdomain="old")]},
        {"account": [item("account", account_id=9, subdomain="new")]},
        ("account", "9", "changed", "warning"),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_change_has_its_name_its_weight_and_a_reason(db: Database, case: str) -> None:
    before, after, expected = CASES[case]
    first, _ = await save(db, 0, before)
    second, _ = await save(db, 1, after)
    drift = await diff(db, "acme")
    (change,) = drift.changes
    assert (change.kind, change.key, change.change, change.severity) == expected
    assert change.why.endswith(".")
    assert (drift.from_run, drift.to_run) == (first, second)
    assert (await changes_of_run(db, second)).changes == drift.changes
    back = (await diff(db, "acme", second, first)).changes[0]
    assert (back.before, back.after) == (change.after, change.before)


async def test_a_change_tells_what_was_and_what_is_and_where_it_belongs(db: Database) -> None:
    await save(db, 0, {"pipelines": [pipeline(1, "Sales")], "statuses": [status(1, 11, "New", sort=1)]})
    await save(db, 1, {"pipelines": [pipeline(1, "Sales")], "statuses": [status(1, 11, "Hello", sort=2)]})
    (change,) = (await diff(db, "acme")).changes
    assert (change.parent, change.name) == ("Sales", "Hello")
    assert change.before == {"name": "New", "sort": 1}
    assert change.after == {"name": "Hello", "sort": 2}


async def test_what_changed_and_changed_back_between_two_runs_is_no_difference(db: Database) -> None:
    first, _ = await save(db, 0, {"pipelines": [pipeline(1, "Sales")]})
    await save(db, 1, {"pipelines": [pipeline(1, "Other")]})
    last, _ = await save(db, 2, {"pipelines": [pipeline(1, "Sales")]})
    assert (await diff(db, "acme", first, last)).changes == []


async def test_the_closed_stages_of_another_pipeline_are_not_taken_for_a_move(db: Database) -> None:
    await save(db, 0, {"statuses": [status(1, 142)]})
    await save(db, 1, {"statuses": [status(2, 142)]})
    assert [change.change for change in (await diff(db, "acme")).changes] == ["removed", "added"]


async def test_the_weightiest_come_first_and_a_first_read_is_no_drift(db: Database) -> None:
    await save(db, 0, {"pipelines": [pipeline(1), pipeline(2)], "statuses": []})
    rows = {"pipelines": [pipeline(2, "Renamed"), pipeline(3)], "statuses": [], "users": [_user(1)]}
    run_id, _ = await save(db, 1, rows)
    drift = await diff(db, "acme")
    assert [change.change for change in drift.changes] == ["removed", "renamed", "added"]
    assert drift.worst == "breaking"
    assert drift.counts() == {"breaking": 1, "warning": 0, "info": 2}
    assert drift.not_compared == ("users",)
    assert await changes_of_run(db, run_id) == Drift("acme", None, run_id, drift.changes, ("users",))


async def test_a_kind_that_a_run_did_not_read_is_compared_at_that_runs_time(db: Database) -> None:
    await save(db, 0, {"pipelines": [pipeline(1)], "loss_reasons": []})
    first, _ = await save(db, 1, {"pipelines": [pipeline(1)]})
    await save(db, 2, {"loss_reasons": [item("loss_reasons", loss_reason_id=1, name="x")]})
    last, _ = await save(db, 3, {"pipelines": [pipeline(1), pipeline(2)]})
    drift = await diff(db, "acme", first, last)
    assert {(change.kind, change.change.value) for change in drift.changes} == {
        ("pipelines", "added"),
        ("loss_reasons", "added"),
    }


async def test_runs_that_saved_nothing_or_have_not_finished_are_passed_over(db: Database) -> None:
    first, _ = await save(db, 0, {"pipelines": []})
    with pytest.raises(NothingToCompareError, match="second one"):
        await diff(db, "acme")
    second, _ = await save(db, 1, {"pipelines": [pipeline(1)]})
    failed = await begin_run(db, "acme", "all", now=minutes(2))
    await fail_snapshot(db, failed, "acme", ["pipelines"], "x", now=minutes(2))
    await finish_run(db, failed, "failed", now=minutes(2))
    await begin_run(db, "acme", "all", now=minutes(3))
    drift = await diff(db, "acme")
    assert (drift.from_run, drift.to_run) == (first, second)
    assert (await diff(db, "acme", to_run=second)).from_run == first
    assert (await diff(db, "acme", from_run=first)).to_run == second


async def test_another_orgs_run_is_not_comparable(db: Database) -> None:
    mine, _ = await save(db, 0, {"pipelines": []})
    theirs, _ = await save(db, 0, {"pipelines": []}, org="other")
    with pytest.raises(UnknownRunError):
        await diff(db, "acme", mine, theirs)
    with pytest.raises(UnknownRunError):
        await changes_of_run(db, "no-run")


async def test_the_report_shows_customers_texts_as_text(db: Database) -> None:
    evil = "<script>|`x`\n# [a](http://b) " + "y" * 200
    await save(db, 0, {"pipelines": [pipeline(1, "Sales")], "statuses": [status(1, 11, evil)]})
    await save(db, 1, {"pipelines": [pipeline(1, "Sales")], "statuses": []})
    report = drift_markdown(await diff(db, "acme"))
    assert "1 breaking" in report
    (row,) = (line for line in report.splitlines() if "Sales" in line)
    assert row.replace("\\|", "").count("|") == 6
    assert "\\<script\\>" in row
    assert "y" * 100 not in row


def test_a_report_of_nothing_and_a_report_of_very_much() -> None:
    assert "nothing changed" in drift_markdown(Drift("acme", "a", "b", []))
    change = Change("users", "1", None, None, *_added())
    report = drift_markdown(Drift("acme", "a", "b", [change] * 1000))
    assert "… and 800 more." in report
    assert "(no name, 1)" in report


def _added() -> tuple[Any, ...]:
    from store.severity import ChangeKind, Severity

    return ChangeKind.ADDED, None, {"id": 1}, Severity.INFO, "why."
