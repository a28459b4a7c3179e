"""Whatever a client sends, the answer is one of Kommo's: never a crash of the stand-in."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.fidelity_cases import Probe
from tests.sandbox.support import Api

# Another test's Prefect may still have threads in this process that roll the dice Hypothesis watches.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")

_PROBE = Probe()
_LEAD, _CONTACT = _PROBE.any_id("acme", "leads"), _PROBE.any_id("acme", "contacts")
_TALK = next(iter(_PROBE.account("acme").talks))["id"]
_FIELD = next(known for known in _PROBE.account("acme").fields["leads"] if known["type"] == "select")
_KEYS = [
    "id",
    "name",
    "price",
    "status_id",
    "pipeline_id",
    "responsible_user_id",
    "created_by",
    "updated_at",
    "custom_fields_values",
    "field_id",
    "field_code",
    "values",
    "value",
    "enum_id",
    "enum_code",
    "_embedded",
    "tags",
    "contacts",
    "companies",
    "metadata",
    "category",
    "tags_to_add",
    "tags_to_delete",
    "text",
    "complete_till",
    "entity_id",
    "entity_type",
    "task_type_id",
    "result",
    "is_completed",
    "note_type",
    "params",
    "statuses",
    "sort",
    "color",
    "is_main",
    "type",
    "enums",
    "code",
    "to_entity_id",
    "to_entity_type",
    "destination",
    "settings",
    "source_uid",
    "source_name",
    "request_id",
    "user_id",
    "first_name",
    "loss_reason_id",
    "chat_id",
    "contact_id",
    "bot_id",
    "duration",
    "phone",
    "source",
    "direction",
    "force_close",
]
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(
        [_LEAD, _CONTACT, 142, 143, 10**20, "leads", "contacts", "common", "forms", "select", "1e400"]
    ),
    st.sampled_from(
        [_FIELD["id"], _FIELD["enums"][0]["id"], "inbound", "https://a.example", "add_lead", "\ud800"]
    ),
)
_JSON = st.recursive(
    _VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)
_SOUND: dict[str, Any] = {
    "name": "x", "price": 3, "text": "t", "complete_till": 5, "note_type": "common", "params": {"text": "x"},
    "source_uid": "a", "source_name": "b", "duration": 1, "source": "x", "phone": "+1", "direction": "inbound",
    "to_entity_type": "contacts", "to_entity_id": _CONTACT, "entity_id": _LEAD, "entity_type": "leads", "type": "text",
    "id": _LEAD, "destination": "https://a.example", "settings": ["add_lead"], "chat_id": "x", "contact_id": _CONTACT,
}  # fmt: skip
_OBJECTS = st.builds(
    lambda sound, odd: sound | odd,
    st.sampled_from([_SOUND, {}]),
    st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4),
)
_PATHS = (
    "leads", "contacts", "companies", "leads/complex", f"leads/{_LEAD}", f"contacts/{_CONTACT}", "tasks",
    f"leads/{_LEAD}/notes", "leads/notes", "leads/tags", f"leads/{_LEAD}/link", f"leads/{_LEAD}/unlink",
    "leads/pipelines", "leads/custom_fields", f"leads/custom_fields/{_FIELD['id']}", "webhooks", "calls",
    "leads/unsorted/forms", "leads/unsorted/sip", "contacts/chats", f"talks/{_TALK}/send_message",
    f"talks/{_TALK}/close", "bots/321/run", "bots/run",
)  # fmt: skip


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["POST", "PATCH", "DELETE"]),
    path=st.sampled_from(_PATHS),
    body=st.one_of(_JSON, _OBJECTS, st.lists(_OBJECTS, min_size=1, max_size=3)),
)
def test_no_body_makes_the_sandbox_fail(method: str, path: str, body: Any) -> None:
    answer = _PROBE.send(method, "acme", f"/api/v4/{path}", body)
    assert answer.status in {200, 201, 202, 204, 400, 402, 403, 404, 405, 422}


_READS = (
    "leads",
    "contacts",
    "tasks",
    "events",
    "talks",
    "leads/notes",
    "leads/custom_fields",
    "users",
    "leads/tags",
)


@settings(deadline=None, max_examples=80)
@given(
    path=st.sampled_from(_READS),
    pairs=st.lists(
        st.tuples(
            st.sampled_from(["filter", "order", "with", "limit", "page", "query"]),
            st.lists(
                st.sampled_from([*_KEYS, "", "0", "from", "to", "statuses", "is_completed"]), max_size=3
            ),
            st.sampled_from(
                ["", "1", "0", "-1", "asc", "desc", "x", "1,2", "99999999999999999999", "²", "%F0%9F%98%80"]
            ),
        ),
        max_size=4,
    ),
)
def test_no_query_makes_the_sandbox_fail(path: str, pairs: list[tuple[str, list[str], str]]) -> None:
    query = "&".join(f"{name}{''.join(f'[{key}]' for key in keys)}={value}" for name, keys, value in pairs)
    assert _PROBE.send("GET", "acme", f"/api/v4/{path}?{query}").status in {200, 204, 422}


async def _raw(api: Api, data: bytes, size: int = 10_000) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.sandbox.port)
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
        await writer.drain()
        await asyncio.sleep(0)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def _head(api: Api, line: str, *more: str) -> bytes:
    lines = [line, f"Host: acme.localhost:{api.sandbox.port}", f"Authorization: Bearer {api.token()}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_requests_sent_without_waiting_are_answered_in_order(api: Api) -> None:
    await api.control("POST", "faults", {"kind": "slow", "delay": 0.05, "path": "users", "times": 1})
    first = _head(api, "GET /api/v4/users HTTP/1.1")
    last = _head(api, "GET /api/v4/nothing HTTP/1.1", "Connection: close")
    answer = await _raw(api, first + last)
    assert answer.index(b"200 OK") < answer.index(b"404 Not Found")


@pytest.mark.parametrize("size", [7, 10_000])
async def test_a_chunked_body_is_understood_in_pieces_of_any_size(api: Api, size: int) -> None:
    body = b'5\r\n[{"na\r\n9;x=y\r\nme":"A"}]\r\n0\r\n\r\n'
    head = _head(api, "POST /api/v4/leads HTTP/1.1", "Transfer-Encoding: chunked", "Connection: close")
    assert b'"request_id":"0"' in await _raw(api, head + body, size)


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"GET / HTTP/1.1\r\nbad\r\n\r\n"],
)
async def test_what_is_no_http_is_answered_400_and_closed(api: Api, data: bytes) -> None:
    assert (await _raw(api, data)).startswith(b"HTTP/1.1 400 ")
