"""`kommo action`: having something done at Kommo, once, and seeing what came of it."""

from pathlib import Path

import pytest

from tests.actions.support import TILL
from tests.cli.support import Cli, SandboxProcess


@pytest.mark.whole_service
@pytest.mark.seconds(8)
async def test_actions_from_the_command_line(
    sqlite_cli: Cli, home: Path, sandbox_process: SandboxProcess
) -> None:
    del home
    cli, acme = sqlite_cli, sandbox_process.acme
    assert cli.connect("acme", acme["host"], acme["admin_token"]).code == 0
    assert cli("sync", "acme", "--json").answer["state"] == "completed"
    ask = (
        "action",
        "create-task",
        "acme",
        "From the terminal",
        "--till",
        str(TILL),
        "--key",
        "cli-1",
        "--json",
    )
    first = cli(*ask).answer
    again, conflict, invalid, wrong, empty, note = cli.together(
        ask,
        ("action", "create-task", "acme", "Another", "--till", str(TILL), "--key", "cli-1"),
        ("action", "create-task", "acme", "x", "--till", str(TILL), "--task-type", "99"),
        ("action", "create-task", "acme", "x", "--till", str(TILL * 1000)),
        ("action", "create-task", "acme", "x", "--till", str(TILL), "--key", ""),
        ("action", "add-note", "acme", "leads", "999999999", "x"),
    )
    assert (first["state"], first["idempotency_key"]) == ("confirmed", "cli-1")
    assert again.answer == first
    assert (conflict.code, "belongs to another create-task" in conflict.sentence) == (1, True)
    assert (invalid.code, "There is no task type 99" in invalid.sentence) == (1, True)
    assert (wrong.code, "complete_till" in wrong.sentence) == (2, True)
    assert (empty.code, "An idempotency key is" in empty.sentence) == (2, True)  # a variable that was not set
    assert (note.code, "is failed" in note.sentence) == (1, True)
    assert "Idempotency key: " in note.out
    listed, shown, failed, nothing, settled = cli.together(
        ("action", "list", "acme", "--json"),
        ("action", "show", "acme", first["action_id"]),
        ("action", "list", "--state", "failed", "--json"),
        ("action", "show", "acme", "0" * 32),
        ("action", "settle", "--json"),
    )
    assert [one["state"] for one in listed.answer] == ["failed", "confirmed"]
    assert "From the terminal" in shown.out
    assert [one["kind"] for one in failed.answer] == ["add-note"]
    assert (nothing.code, "has no action" in nothing.sentence) == (1, True)
    assert settled.answer["left"] == {}
