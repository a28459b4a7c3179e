"""Each type of custom field is written in its own forms and read back; what is wrong is refused before any request."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.actions import ActionState, list_actions
from tasks.actions import ActionKind, CreateTask, UpdateDealField, check_key, make_wish, perform
from tasks.actions.fieldreading import field_values, holds
from tasks.actions.fieldvalues import Choice, FieldSpec, values_for
from tasks.errors import InvalidActionError
from tests.actions.support import TILL, World, a_key, a_task


@pytest.fixture
def world(sqlite_world: World) -> World:
    """What Kommo takes does not depend on our database."""
    return sqlite_world


_FILE = {"file_uuid": "5a", "version_uuid": "5b", "file_name": "a.pdf", "file_size": 12}
_LEGAL = {"name": "Acme B.V.", "entity_type": 1, "vat_id": "NL1", "kpp": None}
# type → (given, what is read back); a choice stands for its place among the field's choices.
RIGHT: dict[str, list[tuple[Any, Any]]] = {
    "text": [("Hello\nyou 👋", "Hello\nyou 👋"), (5, "5")],
    "textarea": [("a\nb", "a\nb")],
    "url": [("https://example.com/?a=1", "https://example.com/?a=1")],
    "streetaddress": [("Main Street 1", "Main Street 1")],
    "tracking_data": [("spring", "spring")],
    "numeric": [(1.5, "1.5"), ("1e3", "1000"), (-7, "-7"), ("0.10", "0.10")],
    "monetary": [(19.99, "19.99")],
    "checkbox": [(True, True), (False, False), ("1", True), (0, False)],
    "date": [(1_577_836_800, 1_577_836_800), ("2020-01-01T00:00:00+00:00", 1_577_836_800)],
    "date_time": [("2020-01-01T10:00:00+02:00", 1_577_865_600)],
    "birthday": [(-86_400, -86_400)],
    "smart_address": [
        (
            {"city": "Utrecht", "country": "NL", "address_line_1": "Main Street 1"},
            {"address_line_1": "Main Street 1", "city": "Utrecht", "country": "NL"},
        )
    ],
    "legal_entity": [(_LEGAL, _LEGAL)],
    "file": [(_FILE, _FILE)],
    "chained_list": [({"catalog_id": 1001, "catalog_element_id": 5}, [(1001, 5)])],
}
WRONG: dict[str, list[Any]] = {
    "text": ["", "  ", True, ["a"], {"value": "a"}, "nul \x00"],
    "textarea": [{}, " "],
    "url": [False],
    "streetaddress": [[]],
    "tracking_data": [{}],
    "numeric": ["1,5", "many", True, "NaN", "Infinity", "1 000", [1], "٣", "9" * 50, "1e999"],
    "monetary": ["€5", "None"],
    "checkbox": ["maybe", 2, [], 1.0],
    "select": ["VIPP", "vip ", 1, {"enum_id": 1}, {"enum_id": True}, ["New"], True, {}, {"value": "New", "enum_id": 2}],
    "radiobutton": ["", {"name": "New"}],
    "multiselect": [[], ["New", "Old"], {"enum_code": "nobody"}],
    "date": [1_577_836_800_000, "01.01.2020", "2020-01-01T00:00:00", "2020-13-01", True, 1.5, {}],
    "date_time": ["2020-01-01", "soon"],
    "birthday": ["1990", "1990-1-1", []],
    "smart_address": ["Main Street 1", {}, {"town": "Utrecht"}, {"country": "Netherlands"}, {"city": ""}, [1]],
    "legal_entity": ["Acme", {}, {"name": ""}, {"name": "Acme", "vat": "1"}, {"name": "Acme", "entity_type": "1"}],
    "file": ["a.pdf", {"file_name": "a.pdf"}, {"file_uuid": 5}],
    "chained_list": [5, [], {"catalog_id": 1}, {"catalog_id": 1, "catalog_element_id": "2"}, {"value": 5}],
}  # fmt: skip
CHOICES = ("select", "radiobutton", "multiselect")


def field_of(world: World, kind: str) -> dict[str, Any]:
    return next(
        one for one in world.account.fields["leads"] if one["type"] == kind and not one.get("is_computed")
    )


def read_back(kind: str, values: list[Any]) -> Any:
    if kind == "smart_address":
        return {value["enum_code"]: value["value"] for value in values}
    if kind == "chained_list":
        return [(value["catalog_id"], value["catalog_element_id"]) for value in values]
    return values[0]["value"]


async def updated(world: World, field: Any, value: Any) -> Any:
    async with world.session() as session:
        wish = UpdateDealField(deal_id=world.lead_id, field_id=field, value=value)
        return await perform(session, "acme", wish, a_key())


def values_of(world: World, field_id: int) -> list[Any]:
    return [dict(value) for value in field_values(world.lead(), field_id)]


async def test_each_type_is_written_read_back_and_cleared(world: World) -> None:
    kinds = {one["type"] for one in world.account.fields["leads"]}
    assert kinds == RIGHT.keys() | set(CHOICES)
    for kind, cases in RIGHT.items():
        field = field_of(world, kind)
        for given_value, wanted in cases:
            record = await updated(world, field["id"], given_value)
            assert record.state is ActionState.CONFIRMED, (kind, record.reason)
            assert record.result["field_id"] == field["id"]
            assert read_back(kind, values_of(world, field["id"])) == wanted, kind
        assert (await updated(world, field["id"], None)).state is ActionState.CONFIRMED
        assert values_of(world, field["id"]) == []


@pytest.mark.parametrize("kind", CHOICES)
async def test_a_choice_is_named_by_its_text_id_or_code(world: World, kind: str) -> None:
    field = field_of(world, kind)
    new, vip, old = field["enums"][:3]
    forms: list[Any] = ["VIP", vip["id"], str(vip["id"]), "vip", {"value": "VIP"}, {"enum_id": vip["id"]}]
    for form in [*forms, {"enum_code": "vip"}]:
        assert (await updated(world, field["id"], None)).state is ActionState.CONFIRMED
        assert (await updated(world, field["id"], form)).state is ActionState.CONFIRMED
        assert [value["enum_id"] for value in values_of(world, field["id"])] == [vip["id"]], form
    if kind == "multiselect":
        await updated(world, field["id"], ["New", old["id"], "New"])
        assert [value["enum_id"] for value in values_of(world, field["id"])] == [new["id"], old["id"]]


async def test_each_wrong_value_is_refused_before_any_request_and_the_choices_are_named(world: World) -> None:
    assert WRONG.keys() == RIGHT.keys() | set(CHOICES)
    sent = len(world.sandbox.world.log.entries)
    async with world.session() as session:
        for kind, cases in WRONG.items():
            field = field_of(world, kind)
            for value in cases:
                wish = UpdateDealField(deal_id=world.lead_id, field_id=field["id"], value=value)
                with pytest.raises(InvalidActionError) as caught:
                    await perform(session, "acme", wish, a_key())
                assert f"({field['id']}, {kind})" in str(caught.value), (kind, value)
                assert caught.value.field == "value"
                if kind in CHOICES and value:
                    assert f"VIP ({field['enums'][1]['id']})" in str(caught.value), (kind, value)
    assert len(world.sandbox.world.log.entries) == sent
    assert await list_actions(world.database) == []


async def test_fields_users_stages_and_task_types_that_are_not_there_are_refused_with_those_that_are(
    world: World,
) -> None:
    account = world.account
    computed = next(one for one in account.fields["leads"] if one.get("is_computed"))
    inactive = next((one["id"] for one in account.users if not one["rights"]["is_active"]), 4711)
    active = next(one["id"] for one in account.users if one["rights"]["is_active"])
    pipeline = account.main_pipeline()
    incoming = next(one for one in account.statuses(pipeline["id"]) if one["type"] == 1)
    deal = {"deal_id": world.lead_id}
    sent = len(world.sandbox.world.log.entries)
    cases: list[tuple[Any, str, str]] = [
        (UpdateDealField(**deal, field_id=4711, value=1), "field_id", "Example select"),
        (UpdateDealField(**deal, field_id="NO_SUCH", value=1), "field_id", "status_id"),
        (UpdateDealField(**deal, field_id=computed["id"], value=1), "value", "computed"),
        (UpdateDealField(**deal, field_id="status_id", value=4711), "value", "(142)"),
        (UpdateDealField(**deal, field_id="status_id", value=incoming["id"]), "value", "(142)"),
        (UpdateDealField(**deal, field_id="status_id", value={"status": 142}), "value", "(142)"),
        (UpdateDealField(**deal, field_id="price", value=1.5), "value", "whole number"),
        (UpdateDealField(**deal, field_id="price", value=-1), "value", "not negative"),
        (UpdateDealField(**deal, field_id="name", value=" "), "value", "text"),
        (UpdateDealField(**deal, field_id="responsible_user_id", value=inactive), "value", str(active)),
        (a_task(world, task_type_id=99), "task_type_id", "(1)"),
        (a_task(world, responsible_user_id=inactive), "responsible_user_id", str(active)),
    ]
    async with world.session() as session:
        for wish, field, named in cases:
            with pytest.raises(InvalidActionError) as caught:
                await perform(session, "acme", wish, a_key())
            assert caught.value.field == field
            assert named in str(caught.value), (wish, str(caught.value))
    assert len(world.sandbox.world.log.entries) == sent


async def test_a_deals_own_fields_and_codes(world: World) -> None:
    account = world.account
    lead = world.lead()
    other = next(one for one in account.pipelines if one["id"] != lead["pipeline_id"])
    stage = next(
        one for one in account.statuses(other["id"]) if one["type"] == 0 and one["id"] not in {142, 143}
    )
    for field, value in (
        ("name", "A new name"),
        ("status_id", stage["id"]),
        ("status_id", 143),
        ("UTM_SOURCE", "ad"),
    ):
        record = await updated(world, field, value)
        assert record.state is ActionState.CONFIRMED, record.reason
    after = world.lead()
    assert (after["name"], after["pipeline_id"], after["status_id"]) == ("A new name", other["id"], 143)
    assert [one["values"] for one in after["custom_fields_values"] if one["field_code"] == "UTM_SOURCE"] == [
        [{"value": "ad"}]
    ]


def test_at_most_twenty_choices_are_named() -> None:
    spec = FieldSpec(1, "Colour", "select", [Choice(n, f"Colour {n}") for n in range(1, 31)])
    with pytest.raises(InvalidActionError, match=r"Colour 20 \(20\) and 10 more"):
        values_for(spec, "Pink")


def test_two_choices_of_one_name_need_an_id() -> None:
    spec = FieldSpec(1, "Colour", "select", [Choice(7, "Red"), Choice(8, "Red")])
    with pytest.raises(InvalidActionError, match="several choices of that name"):
        values_for(spec, "Red")
    assert values_for(spec, 8) == [{"enum_id": 8}]


_json: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=5,
)
_TYPES = (*RIGHT, *CHOICES, "multitext", "items", "payer", "brand_new_type")


@given(kind=st.sampled_from(_TYPES), value=_json)
def test_any_json_becomes_values_or_a_sentence(kind: str, value: Any) -> None:
    spec = FieldSpec(7, "A field", kind, [Choice(1, "One", "one"), Choice(2, "2", None)])
    try:
        values = values_for(spec, value)
    except InvalidActionError as error:
        assert str(error).endswith(".")  # noqa: PT017 - either outcome is right
        return
    assert (values == []) == (value is None)
    assert holds(kind, values, values)


@given(
    st.sampled_from(["numeric", "monetary"]),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12),
)
def test_a_number_stays_what_it_is(kind: str, number: Any) -> None:
    [value] = values_for(FieldSpec(7, "A number", kind), str(number))
    assert holds(kind, [value], [{"value": f"{number:f}00"}])
    assert not holds(kind, [value], [{"value": str(number + 1)}])


def test_what_can_be_seen_to_be_wrong_by_itself_is_refused_without_repeating_it() -> None:
    wrong: list[tuple[ActionKind, dict[str, Any], str]] = [
        (ActionKind.CREATE_TASK, {"text": "x", "complete_till": TILL * 1000}, "complete_till"),
        (ActionKind.CREATE_TASK, {"text": "x", "complete_till": TILL, "entity_id": 1}, "together"),
        (ActionKind.CREATE_TASK, {"text": " ", "complete_till": TILL}, "text"),
        (ActionKind.SEND_MESSAGE, {"entity_type": "companies", "entity_id": 1, "text": "hidden"}, "entity_type"),
        (ActionKind.ADD_NOTE, {"entity_type": "leads", "entity_id": 0, "text": "hidden"}, "entity_id"),
        (ActionKind.ADD_NOTE, {"entity_type": "leads", "entity_id": 1, "text": "hidden", "colour": 1}, "colour"),
    ]  # fmt: skip
    for kind, values, named in wrong:
        with pytest.raises(InvalidActionError) as caught:
            make_wish(kind, values)
        assert named in str(caught.value)
        assert "hidden" not in str(caught.value)
    for key in ("", "two words", "k" * 201, "ключ"):
        with pytest.raises(InvalidActionError, match="idempotency key is"):
            check_key(key)
    assert check_key(a_key())
    assert (
        CreateTask(text="x", complete_till=TILL).digest() != CreateTask(text="y", complete_till=TILL).digest()
    )
