"""What Kommo prints is understood in all its documented shapes, and nothing of it is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kommo import models
from kommo.errors import ErrorKind, KommoError
from kommo.models import (
    Account,
    Channel,
    CustomField,
    LossReason,
    Pipeline,
    Source,
    Talk,
    User,
    parse_many,
    unwrap_one,
)

SAMPLES = Path(__file__).parent.parent / "samples"


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text())


def listed(name: str, key: str) -> list[dict[str, Any]]:
    items = sample(name)["_embedded"][key]
    assert isinstance(items, list)
    return items


PUBLISHED: list[tuple[str, type[models.KommoModel], str | None]] = [
    ("api_account_kommo", Account, None),
    ("api_pipelines_list_amo", Pipeline, "pipelines"),
    ("api_pipeline_created_kommo", Pipeline, "pipelines"),
    ("api_custom_fields_list", CustomField, "custom_fields"),
    ("api_custom_field_created_kommo", CustomField, None),
    ("api_users_list", User, "users"),
    ("api_sources_list", Source, "sources"),
    ("api_talk_single", Talk, None),
]


@pytest.mark.parametrize(("name", "model", "key"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_published_answers_are_read_and_keep_every_key(
    name: str, model: type[models.KommoModel], key: str | None
) -> None:
    items = listed(name, key) if key else [sample(name)]
    for item, parsed in zip(items, parse_many(model, items), strict=True):
        kept = parsed.model_dump(by_alias=True)
        assert item.keys() <= kept.keys()


def test_stages_stand_in_their_pipeline_and_are_told_apart_by_id() -> None:
    pipeline = parse_many(Pipeline, listed("api_pipeline_created_kommo", "pipelines"))[0]
    assert [status.id for status in pipeline.statuses] == [58220123, 58220127, 142, 143]
    assert [s.id for s in pipeline.statuses if s.is_incoming] == [58220123]
    assert [s.id for s in pipeline.statuses if s.is_won] == [142]
    assert [s.id for s in pipeline.statuses if s.is_lost] == [143]
    assert all(status.pipeline_id == pipeline.id for status in pipeline.statuses)
    bare = Pipeline.model_validate({"id": 7, "_embedded": {"statuses": {"0": {"id": 142}, "1": {"id": 143}}}})
    assert [(s.pipeline_id, s.id) for s in bare.statuses] == [(7, 142), (7, 143)]
    assert Pipeline.model_validate({"id": 7, "_embedded": []}).statuses == []


def test_a_pipeline_may_come_bare_or_in_a_collection() -> None:
    wrapped = sample("api_pipeline_created_kommo")
    bare = wrapped["_embedded"]["pipelines"][0]
    assert unwrap_one(wrapped, "pipelines") == bare == unwrap_one(bare, "pipelines")


@pytest.mark.parametrize(
    "data", [None, {}, [], {"_embedded": {"pipelines": []}}, {"_embedded": {"pipelines": [1]}}]
)
def test_an_answer_without_exactly_one_object_is_malformed(data: object) -> None:
    with pytest.raises(KommoError, match="One object of pipelines"):
        unwrap_one(data, "pipelines")


OPTION = {"id": 1, "value": "VIP", "sort": 500, "code": None}


@pytest.mark.parametrize(
    ("enums", "count"), [([OPTION, OPTION], 2), ({"0": OPTION, "2": OPTION}, 2), (None, 0), ([], 0), ({}, 0)]
)
def test_options_are_a_list_an_object_or_nothing(enums: object, count: int) -> None:
    field = CustomField.model_validate({"id": 1, "enums": enums})
    assert [option.value for option in field.enums] == ["VIP"] * count
    assert CustomField.model_validate({"id": 1}).enums == []


@pytest.mark.parametrize(
    ("keys", "is_system"),
    [
        ({}, False),
        ({"is_predefined": True}, True),
        ({"is_deletable": False}, True),
        ({"is_deletable": True, "is_predefined": False}, False),
        ({"is_deletable": None, "is_predefined": None}, False),
    ],
)
def test_a_field_that_came_with_kommo_is_a_system_field(keys: dict[str, Any], *, is_system: bool) -> None:
    assert CustomField.model_validate({"id": 1, **keys}).is_system is is_system


def test_group_id_of_a_field_is_text_even_when_printed_as_a_number() -> None:
    assert CustomField.model_validate({"id": 1, "group_id": 17}).group_id == "17"
    assert CustomField.model_validate({"id": 1, "group_id": "leads_17"}).group_id == "leads_17"


def test_flags_of_a_user_are_read_from_his_rights_or_beside_them() -> None:
    inside = User.model_validate({"id": 1, "rights": {"is_admin": True, "is_active": False, "group_id": 5}})
    beside = User.model_validate({"id": 1, "is_admin": True, "is_active": False, "group_id": 5})
    assert (inside.is_admin, inside.is_active, inside.group_id) == (True, False, 5)
    assert (beside.is_admin, beside.is_active, beside.group_id) == (True, False, 5)
    assert User.model_validate({"id": 1, "rights": []}).rights == {}


def test_extras_of_an_account_are_lifted_and_may_be_missing() -> None:
    extras = {
        "task_types": [{"id": 1, "name": "Follow-up", "color": None, "icon_id": None, "code": "FOLLOW_UP"}],
        "users_groups": [{"id": 0, "name": "Sales", "uuid": None}],
        "datetime_settings": {"timezone": "Europe/Amsterdam"},
    }
    account = Account.model_validate({"id": 1, "_embedded": extras})
    assert account.task_types[0].code == "FOLLOW_UP"
    assert account.users_groups[0].name == "Sales"
    assert account.timezone == "Europe/Amsterdam"
    plain = Account.model_validate({"id": 1, "_embedded": [], "tomorrow": {"new": 1}})
    assert (plain.timezone, plain.task_types) == (None, [])
    assert plain.model_dump()["tomorrow"] == {"new": 1}


def test_small_ones_are_read_with_their_oddities() -> None:
    assert Talk.model_validate({"id": 5, "origin": "waba", "entity_id": None}).talk_id == 5
    assert Channel.model_validate({"id": 5}).id == "5"
    assert LossReason.model_validate({"id": 1, "name": None, "sort": None}).name == ""


def test_a_malformed_object_is_named_by_list_id_and_place_and_shows_no_value() -> None:
    items: list[dict[str, Any]] = [
        {"id": 1},
        {"id": 77, "_embedded": {"statuses": [{"id": "jane@acme.example"}]}},
    ]
    with pytest.raises(KommoError) as caught:
        parse_many(Pipeline, items, "pipelines")
    error = caught.value
    assert error.kind is ErrorKind.MALFORMED
    assert "In pipelines, the item 77: statuses.0.id is not as documented (int_parsing)" in str(error)
    assert "jane" not in str(error)
    assert error.__context__ is None
    with pytest.raises(KommoError, match="without a proper id"):
        parse_many(Pipeline, [{"id": "jane"}])
    with pytest.raises(ValidationError) as raw:
        Pipeline.model_validate({"id": "jane"})
    assert "jane" not in str(raw.value)
