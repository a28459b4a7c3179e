"""`kommo records`: reading, counting, showing, asking in SQL."""

from pathlib import Path

import pytest

from tests.cli.support import Cli, SandboxProcess


@pytest.mark.whole_service
@pytest.mark.seconds(6)
async def test_records_from_the_command_line(
    sqlite_cli: Cli, home: Path, sandbox_process: SandboxProcess
) -> None:
    cli, acme = sqlite_cli, sandbox_process.acme
    assert cli.connect("acme", acme["host"], acme["admin_token"]).code == 0
    report = cli("records", "sync", "acme", "leads", "contacts", "--json").answer
    assert {one["kind"]: one["mode"] for one in report["kinds"]} == {"leads": "full", "contacts": "full"}
    question = "SELECT count(*) AS leads FROM current_leads WHERE org = 'acme'"
    one = cli("records", "show", "acme", "leads", "--limit", "1", "--json").answer[0]["record_id"]
    counted, shown, asked, refused, wrong, exported, kept, before, there = cli.together(
        ("records", "count", "acme", "--json"),
        ("records", "show", "acme", "leads", "--limit", "2", "--json"),
        ("records", "sql", question, "--json"),
        ("records", "sql", "DELETE FROM record"),
        ("records", "sync", "acme", "deals"),
        ("records", "export", "acme", "leads", "--format", "csv", "--to", str(home / "out"), "--json"),
        ("records", "keep-history", "acme", "leads", "--json"),
        ("records", "history", "acme", "leads", str(one), "--json"),
        ("records", "forget", "acme", "leads", str(one)),
    )
    assert [(history["kind"], history["versions"]) for history in kept.answer] == [("leads", 0)]
    assert [(version["record_id"], version["known_until"]) for version in before.answer] == [(one, None)]
    assert (there.code, "still there" in there.sentence) == (2, True)
    leads = {one["entity"]: one["present"] for one in counted.answer}["leads"]
    assert leads == report["kinds"][0]["records"] > 0
    assert len(shown.answer) == 2
    assert asked.answer == [{"leads": leads}]
    assert (refused.code, "SELECT" in refused.sentence) == (1, True)
    assert (wrong.code, "no kind 'deals'" in wrong.sentence) == (2, True)
    assert exported.answer == [
        {
            "kind": "leads",
            "file": str(home / "out" / "leads.csv"),
            "rows": leads,
            "bytes": exported.answer[0]["bytes"],
        }
    ]
