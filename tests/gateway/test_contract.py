"""The OpenAPI document is true: whatever is asked, the answer is one that it names; and no key, no answer."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.app import create_app
from gateway.syncs import Phase as SyncPhase
from gateway.syncs import SyncStanding
from tests.gateway.doors import Doors
from tests.gateway.test_actions import Office
from tests.gateway.test_actions import office as office_fixture
from tests.proofs.support import rounds

office = office_fixture
_CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
_EXAMPLES = 3
_OPEN = {"/healthz", "/readyz"}
"""What anybody may ask."""
_OTHERWISE = {
    # They prove themselves in another way: by a key in the path, a signature, or a state.
    *("/api/webhooks/kommo", "/api/webhooks/kommo/{hook_key}"),
    *("/api/v1/crm/kommo/callback", "/api/v1/crm/kommo/disabled"),
}


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in create_app().openapi()["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


@pytest.mark.whole_service
@pytest.mark.proof
@pytest.mark.one_database
@pytest.mark.seconds(6)
async def test_no_answer_but_those_of_the_document(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    doors = office.doors
    doors.services.rates._burst = 1e9

    async def start(org: str, scope: object) -> str:
        del org, scope
        return "0d0a7f3e-5c35-4f0b-9a94-0b7f5d0c2a11"

    phases = iter(list(SyncPhase) * 10_000)

    async def wait(org: str, run_id: str, seconds: float) -> SyncStanding:
        del org, seconds
        return SyncStanding(run_id, next(phases))

    monkeypatch.setattr(doors.services.syncs, "start", start)
    monkeypatch.setattr(doors.services.syncs, "wait", wait)
    document = (await doors.http.get("/openapi.json")).json()
    seen = await asyncio.to_thread(
        _ask_everything, document, doors, next(iter(office.account.entities["leads"]))["id"]
    )
    assert {(path, method) for path, method, _ in _operations()} == {
        (path, method) for path, method, _ in seen
    }
    assert not [one for one in seen if one[2] == 500]
    # It was no use if nothing ever came through.
    assert len({path for path, _, status in seen if status < 300}) >= 6, sorted(seen)


def _ask_everything(document: dict[str, Any], doors: Doors, lead: int) -> set[tuple[str, str, int]]:
    seen: set[tuple[str, str, int]] = set()
    schema = schemathesis.openapi.from_dict(document)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(
                max_examples=_EXAMPLES * rounds(50),
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate],
            )
            @given(case=operation.as_strategy(generation_mode=mode), ours=st.booleans())
            def ask(case: schemathesis.Case[Any], ours: bool) -> None:
                headers = {"Authorization": f"Bearer {doors.every}"}
                if ours:
                    _make_ours(case, headers, lead)
                answer = case.call(base_url=doors.url, headers=headers, timeout=20, allow_redirects=False)
                seen.add((case.path, case.method.upper(), answer.status_code))
                case.validate_response(answer, checks=_CHECKS)

            with contextlib.suppress(Unsatisfiable):  # of some doors there is nothing that could be wrong
                ask()
    return seen


def _make_ours(case: schemathesis.Case[Any], headers: dict[str, str], lead: int) -> None:
    """Let a case be about what there is, so that it gets farther than to the first 404."""
    if "org" in case.path_parameters:
        case.path_parameters["org"] = "acme"
    if case.path == "/api/v1/agents/{id}/sync-crm":
        headers["X-Kommo-Org"] = "acme"
    if isinstance(case.query, dict):
        case.query.pop("at", None)
    if isinstance(case.body, dict) and case.body.get("entity_type") is not None:
        case.body["entity_type"] = "leads"
    for name in ("entity_id", "deal_id"):
        if isinstance(case.body, dict) and isinstance(case.body.get(name), int):
            case.body[name] = lead


async def test_without_a_key_with_a_wrong_one_or_anothers_no_door_says_anything(doors: Doors) -> None:
    await doors.connect("globex")
    body = {"type": "all", "text": "x", "complete_till": 1_800_000_000}
    asked = 0
    for path, method, operation in _operations():
        if path in _OPEN | _OTHERWISE:
            continue
        assert operation["security"], path
        filled = path.replace("{org}", "globex").replace("{kind}", "pipelines")
        filled = re.sub(r"{.*?}", "0" * 32, filled)
        for key, status in ((None, 401), ("kdp_" + "x" * 43, 401), ("x", 401), (doors.key, 403)):
            headers = {"X-Kommo-Org": "globex", "Idempotency-Key": "k1"}
            if key is not None:
                headers["Authorization"] = f"Bearer {key}"
            wanted = status
            if path == "/api/v1/orgs" and status == 403:
                del headers["X-Kommo-Org"]  # it shows the key's own orgs
                wanted = 200
            for content in (None, b"{") if method == "POST" else (None,):
                answer = await doors.http.request(
                    method,
                    filled,
                    params={"domain": "globex.kommo.com"},
                    headers=headers,
                    json=body if content is None and method == "POST" else None,
                    content=content,
                )
                asked += 1
                assert answer.status_code == wanted, (path, key, answer.text)
                if status == 401:
                    assert answer.headers["www-authenticate"].startswith("Bearer")
                assert "globex" not in answer.text
                assert "31234567" not in answer.text
    assert asked > 70
