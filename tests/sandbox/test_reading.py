"""Reading: envelopes, pages, 204 for nothing, filters, rights, hosts (fact sheet 2 and 3)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.fidelity_cases import Probe
from tests.sandbox.support import Api

_PROBE = Probe()


@settings(deadline=None)
@given(limit=st.integers(1, 250), key=st.sampled_from(["id", "updated_at", "created_at"]), down=st.booleans())
def test_the_pages_of_any_size_and_order_hold_every_lead_once(limit: int, key: str, down: bool) -> None:
    order = f"order[{key}]={'desc' if down else 'asc'}"
    path: str | None = f"/api/v4/leads?limit={limit}&{order}"
    read: list[dict[str, Any]] = []
    while path:
        page: Any = _PROBE.json("GET", "acme", path)
        read += page["_embedded"]["leads"]
        following = page["_links"].get("next", {}).get("href")
        path = following and following.partition("localhost:8025")[2]
    assert sorted(lead["id"] for lead in read) == sorted(
        lead["id"] for lead in _PROBE.account("acme").entities["leads"]
    )
    values = [lead[key] for lead in read]
    assert values == sorted(values, reverse=down)


@pytest.mark.parametrize(
    ("account", "path"),
    [
        ("globex", "sources"),
        ("globex", "talks"),
        ("globex", "leads/loss_reasons"),
        ("globex", "webhooks"),
        ("acme", "leads?filter[id][]=1"),
        ("acme", "leads?page=99"),
        ("acme", "leads/1"),
        ("acme", "contacts/1"),
        ("acme", "companies/1"),
    ],
)
async def test_nothing_found_is_204_without_a_body(api: Api, account: str, path: str) -> None:
    answer = await api.get(path, account=account)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-request-id"]


async def test_totals_stand_only_where_kommo_has_them(api: Api) -> None:
    for path in ("leads", "contacts", "tasks", "events", "talks", "leads/tags", "leads/notes"):
        page = (await api.get(f"{path}?limit=2")).json()
        assert page["_page"] == 1
        assert "_total_items" not in page
    for path in ("users", "leads/custom_fields"):
        page = (await api.get(f"{path}?limit=2")).json()
        assert page["_page_count"] == -(-page["_total_items"] // 2)
        assert page["_links"]["last"]["href"].endswith(f"page={page['_page_count']}&limit=2")
    assert "_total_items" in (await api.get("leads/pipelines")).json()


async def test_leads_have_more_than_fifty_custom_fields_and_fifty_come_by_default(api: Api) -> None:
    first = (await api.get("leads/custom_fields")).json()
    assert len(first["_embedded"]["custom_fields"]) == 50
    assert len(await api.read_all("leads/custom_fields", "custom_fields")) == first["_total_items"] > 50


async def test_a_page_over_the_limit_is_422(api: Api) -> None:
    for path in ("leads?limit=251", "events?limit=101", "leads?limit=0", "leads?limit=x"):
        assert (await api.get(path)).status_code == 422
    assert (await api.get("leads?limit=251")).json()["detail"] == "Limit 250 per page"


async def test_success_and_errors_have_their_content_types(api: Api) -> None:
    assert (await api.get("account")).headers["content-type"] == "application/hal+json"
    assert (await api.get("nothing")).headers["content-type"] == "application/problem+json"


async def test_channels_do_not_exist(api: Api) -> None:
    answer = await api.get("channels")
    assert answer.status_code == 404
    assert answer.json()["detail"] == f"Cannot GET http://acme.localhost:{api.sandbox.port}/api/v4/channels"


async def test_a_known_path_with_another_method_is_405(api: Api) -> None:
    assert (await api.post("contacts/1", {"a": 1})).status_code == 405
    assert (await api.send("DELETE", "leads/1")).status_code == 405


async def test_the_account_shows_more_only_with_with(api: Api) -> None:
    plain = (await api.get("account")).json()
    assert "_embedded" not in plain
    assert "amojo_id" not in plain
    rich = (await api.get("account?with=amojo_id,task_types,users_groups,datetime_settings")).json()
    assert rich["amojo_id"]
    assert set(rich["_embedded"]) == {"task_types", "users_groups", "datetime_settings"}


async def test_leads_show_contacts_and_loss_reasons_only_with_with(api: Api) -> None:
    lead = (await api.get("leads?limit=1")).json()["_embedded"]["leads"][0]
    assert set(lead["_embedded"]) == {"tags", "companies"}
    lead = (await api.get("leads?limit=1&with=contacts,loss_reason")).json()["_embedded"]["leads"][0]
    assert set(lead["_embedded"]) == {"tags", "companies", "contacts", "loss_reason"}


async def test_known_filters_select_and_unknown_ones_are_ignored(api: Api) -> None:
    everything = await api.read_all("leads", "leads")
    wanted = everything[3]
    low, high = wanted["updated_at"] - 1, wanted["updated_at"] + 1
    for query, fits in (
        (f"filter[id][]={wanted['id']}&filter[id][]=1", lambda lead: lead["id"] == wanted["id"]),
        (f"filter[id][0]={wanted['id']}", lambda lead: lead["id"] == wanted["id"]),
        (
            f"filter[updated_at][from]={low}&filter[updated_at][to]={high}",
            lambda lead: low <= lead["updated_at"] <= high,
        ),
        (
            f"filter[pipeline_id][]={wanted['pipeline_id']}",
            lambda lead: lead["pipeline_id"] == wanted["pipeline_id"],
        ),
        (
            f"filter[statuses][0][pipeline_id]={wanted['pipeline_id']}&filter[statuses][0][status_id]={wanted['status_id']}",
            lambda lead: (
                (lead["pipeline_id"], lead["status_id"]) == (wanted["pipeline_id"], wanted["status_id"])
            ),
        ),
        (
            f"filter[responsible_user_id][]={wanted['responsible_user_id']}",
            lambda lead: lead["responsible_user_id"] == wanted["responsible_user_id"],
        ),
        ("filter[tags_id][]=1", lambda _lead: True),
    ):
        found = await api.read_all(f"leads?{query}", "leads")
        assert [lead["id"] for lead in found] == [lead["id"] for lead in everything if fits(lead)], query


async def test_query_finds_names_and_phone_digits(api: Api) -> None:
    phone = api.sandbox.account("acme").field_by_code("contacts", "PHONE")
    assert phone
    values = [{"field_id": phone["id"], "values": [{"value": "+31 (20) 123-45-67", "enum_code": "WORK"}]}]
    await api.post("contacts", [{"name": "Zażółć", "custom_fields_values": values}])
    for words in ("zażółć", "201234567"):
        assert len(await api.read_all(f"contacts?query={words}", "contacts")) == 1


async def test_tasks_notes_events_and_talks_have_their_filters(api: Api) -> None:
    tasks = await api.read_all("tasks", "tasks")
    done = await api.read_all("tasks?filter[is_completed]=1", "tasks")
    assert 0 < len(done) < len(tasks)
    assert all(task["is_completed"] for task in done)
    lead = tasks[0]["entity_id"]
    for path, key in (
        (f"leads/{lead}/notes", "notes"),
        (f"events?filter[entity]=lead&filter[entity_id][]={lead}", "events"),
    ):
        assert {entry["entity_id"] for entry in await api.read_all(path, key, limit=100)} == {lead}
    working = await api.read_all("talks?filter[only_in_work]=1", "talks")
    assert {talk["status"] for talk in working} == {"in_work"}
    moments = [talk["created_at"] for talk in await api.read_all("talks", "talks")]
    assert moments == sorted(moments, reverse=True)


async def test_talks_carry_the_origins_seen_in_the_field(api: Api) -> None:
    origins = {talk["origin"] for talk in await api.read_all("talks", "talks")}
    assert {"waba", "telegram", "instagram_business", "onlinechat", "com.wazzup24.wz"} <= origins
    assert (await api.get("talks/1")).status_code == 404


async def test_only_administrators_see_users_and_webhooks_and_write_the_set_up(api: Api) -> None:
    plain = api.token(admin=False)
    for method, path in (
        ("GET", "users"),
        ("GET", "webhooks"),
        ("POST", "leads/pipelines"),
        ("POST", "leads/custom_fields"),
    ):
        answer = await api.send(method, path, token=plain, body=[{"name": "x"}] if method == "POST" else None)
        assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
    assert (await api.get("account", token=plain)).status_code == 200


async def test_a_token_opens_its_own_account_only(api: Api) -> None:
    assert (await api.get("account", token=api.token("globex"))).status_code == 401
    assert (await api.get("account", token="wrong")).json()["detail"] == "Invalid user name or password"
    assert (await api.get("account", host="nobody")).status_code == 404


async def test_without_a_subdomain_the_token_says_which_account(api: Api) -> None:
    for name in ("acme", "globex"):
        answer = await api.get(
            "account", headers={"Host": f"127.0.0.1:{api.sandbox.port}"}, token=api.token(name)
        )
        assert answer.json()["subdomain"] == name


async def test_an_administrator_may_run_as_another_user(api: Api) -> None:
    users = await api.read_all("users", "users")
    plain = next(user for user in users if not user["rights"]["is_admin"])
    context = {"X-Context-User-ID": str(plain["id"])}
    assert (await api.get("account", headers=context)).json()["current_user_id"] == plain["id"]
    assert (await api.get("users", headers=context)).status_code == 403
    assert (await api.get("account", headers={"X-Context-User-ID": "1"})).status_code == 401


async def test_the_data_is_as_untidy_as_real_data(api: Api) -> None:
    pipelines = (await api.get("leads/pipelines")).json()["_embedded"]["pipelines"]
    assert any(pipeline["is_archive"] for pipeline in pipelines)
    won = {
        stage["name"]
        for pipeline in pipelines
        for stage in pipeline["_embedded"]["statuses"]
        if stage["id"] == 142
    }
    assert len(won) > 1
    leads = await api.read_all("leads", "leads")
    kinds = {type(lead["custom_fields_values"]) for lead in leads}
    assert kinds == {list, type(None)}
    assert any(lead["custom_fields_values"] == [] for lead in leads)
    text = "".join(lead["name"] for lead in leads)
    for start, end in (("А", "я"), ("ء", "ي"), ("一", "龥")):  # noqa: RUF001 - scripts are meant
        assert any(start <= letter <= end for letter in text)
    types = {known["type"] for known in await api.read_all("leads/custom_fields", "custom_fields")}
    assert {
        "smart_address",
        "legal_entity",
        "chained_list",
        "monetary",
        "tracking_data",
        "file",
        "birthday",
    } <= types


async def test_the_amo_flavour_shows_the_older_shapes(api: Api) -> None:
    contacts = await api.read_all("contacts", "contacts", account="romashka")
    values = [
        value
        for contact in contacts
        for entry in contact["custom_fields_values"] or ()
        if entry["field_code"] == "PHONE"
        for value in entry["values"]
    ]
    assert values
    assert all("enum" in value and "enum_code" not in value for value in values)
    fields = await api.read_all("leads/custom_fields", "custom_fields", account="romashka")
    assert all("account_id" not in known for known in fields)


@pytest.mark.parametrize("name", ["leads/unsorted", "catalogs", "leads/tags", "contacts/17611273/links"])
async def test_the_smaller_lists_answer(api: Api, name: str) -> None:
    assert (await api.get(name)).status_code in {200, 204}
