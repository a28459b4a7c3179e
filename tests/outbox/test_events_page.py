"""docs/events.md names every type that the code can tell, and nothing else; its examples are such events."""

import ast
import itertools
import json
import re
from pathlib import Path

from tasks.event_types import NOUNS, TEST, every_type, told_type

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "events.md").read_text()
PREFECT_ONLY = {
    *("kommo.connection.connected", "kommo.connection.disconnected"),
    *(f"kommo.webhooks.{what}" for what in ("disabled", "missing", "incomplete", "reconciled")),
    *("kommo.sync.failing", "kommo.fleet.synced"),
    *("kommo.dead_letters.growing", "kommo.completeness.low", "kommo.backlog.stale", "kommo.webhook.waiting"),
}
_TYPE = re.compile(r"kommo\.[a-z_]+\.[a-z_]+|integration_[a-z]+")
# Words that look like a type: a reason code, an argument.
_NO_TYPES = {
    *("integration_id", "integration_removed", "integration_disabled"),
    *("kommo.event.type", "kommo.events.done"),  # what spans say
}


def _table_of_types() -> set[str]:
    section = PAGE.partition("## Every type\n")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_page_names_exactly_the_types_that_there_are() -> None:
    assert _table_of_types() == every_type() | {TEST}


def test_whatever_a_webhook_says_is_told_as_a_type_of_the_page() -> None:
    actions = [
        *("add", "update", "delete", "restore", "responsible", "status", "note", "accept", "decline"),
        *("mail_in", "call_in", "chat", "site_visit", "something_new"),
    ]
    payloads: list[dict[str, str]] = [{}, {"type": "outgoing"}, {"action": "accept"}, {"action": "decline"}]
    told = {
        told_type(entity, action, payload)
        for entity, action, payload in itertools.product([*NOUNS, "something_new"], actions, payloads)
    }
    assert told <= every_type()


def test_every_type_that_is_written_out_in_the_code_is_on_the_page() -> None:
    found: set[str] = set()
    for room in ("store", "tasks", "flows", "gateway", "deployments"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= {node.value} if _TYPE.fullmatch(node.value) else set()
    assert {"kommo.sync.failed", "kommo.connection.moved", "integration_error"} <= found
    assert found - PREFECT_ONLY - _NO_TYPES <= every_type()
    assert all(f"`{name}`" in PAGE for name in PREFECT_ONLY)


def test_the_examples_are_cloud_events_of_those_types_with_the_keys_that_the_page_explains() -> None:
    examples = [
        json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    ]
    assert len(examples) >= 4
    for example in examples:
        assert example.keys() == {
            *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"),
        }
        assert example["type"] in every_type()
        assert all(f"`{key}`" in PAGE for key in example["data"])
