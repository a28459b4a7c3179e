"""The command line as a person uses it: real processes, a sandbox as a process, both dialects where they matter."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import ROOT, Cli, Ran, SandboxProcess, plain_environment
from tests.everywhere import bytes_under, prefect_database, said_by_prefect

COMMANDS = ("demo", "sandbox", "connect", "sync", "status", "snapshot", "db", "budget")


def _shown(kind: str, state: dict[str, Any]) -> list[dict[str, Any]]:
    """What the sandbox holds of a kind, in the words of our answers."""
    if kind == "pipelines":
        keys = ("id", "name", "sort", "is_main", "is_archive")
        stage = ("id", "pipeline_id", "name", "sort", "color", "type")
        return [
            {key: held[key] for key in keys}
            | {"statuses": [{key: s[key] for key in stage} for s in held["_embedded"]["statuses"]]}
            for held in state["pipelines"]
        ]
    if kind == "users":
        return [
            {key: held[key] for key in ("id", "name", "email")}
            | {key: held["rights"][key] for key in ("is_admin", "is_active")}
            for held in state["users"]
        ]
    entity = {"lead_fields": "leads", "contact_fields": "contacts", "company_fields": "companies"}[kind]
    return [
        {key: held[key] for key in ("id", "name", "type", "code", "sort")}
        | {"enums": [{key: e[key] for key in ("id", "value", "sort")} for e in held["enums"] or []]}
        for held in state[f"{entity}_fields"]
    ]


def _like(wanted: Any, found: Any) -> Any:
    """`found` with only the keys of `wanted`, lists by id; nothing missing and nothing too many."""
    if isinstance(wanted, list):
        assert len(wanted) == len(found)
        return [_like(w, f) for w, f in zip(_by_id(wanted), _by_id(found), strict=True)]
    if isinstance(wanted, dict):
        return {key: _like(value, found[key]) for key, value in wanted.items()}
    return found


def _by_id(items: Any) -> Any:
    if isinstance(items, list):
        return sorted((_by_id(item) for item in items), key=lambda item: int(item["id"]))
    if isinstance(items, dict):
        return {key: _by_id(value) for key, value in items.items()}
    return items


def _rows_written(report: dict[str, Any]) -> int:
    return sum(kind["added"] + kind["changed"] + kind["removed"] for kind in report["kinds"])


@pytest.mark.whole_service
@pytest.mark.seconds(12)
def test_connect_sync_show_equals_what_the_sandbox_holds(cli: Cli, sandbox_process: SandboxProcess) -> None:
    acme = sandbox_process.acme
    connected = cli.connect("acme", acme["host"], acme["admin_token"])
    assert connected.code == 0, connected.err
    assert "Next: kommo sync acme" in connected.out

    first = cli("sync", "acme", "--json").answer
    assert _rows_written(first) > 0
    again = cli("sync", "acme", "--json").answer
    assert _rows_written(again) == 0
    assert {kind["state"] for kind in again["kinds"]} == {"saved"}

    kinds = ("channels", "pipelines", "lead_fields", "contact_fields", "company_fields", "users")
    status, *shown = cli.together(
        ("status", "--json"), *(("snapshot", "show", "acme", kind, "--json") for kind in kinds)
    )
    (one,) = status.answer
    assert (one["org"], one["state"], one["reason"]) == ("acme", "connected", None)
    assert (one["host"], one["account_id"]) == (acme["host"], acme["account_id"])

    state = sandbox_process.control("state?account=acme")
    answers = {kind: ran.answer for kind, ran in zip(kinds, shown, strict=True)}
    for kind in kinds[1:]:
        wanted = _shown(kind, state)
        assert answers[kind]["kind"] == kind
        assert _like(wanted, answers[kind]["items"]) == _by_id(wanted), kind

    channels = {item["id"]: item for item in answers["channels"]["items"]}
    for source in state["sources"]:
        assert channels[str(source["id"])]["name"] == source["name"]
    listed = {str(source["id"]) for source in state["sources"]}
    origins = {talk["origin"] for talk in state["talks"]}
    assert set(channels) - listed <= origins  # nothing that the sandbox does not know


@pytest.mark.whole_service
@pytest.mark.seconds(25)
def test_each_failure_has_its_own_sentence(sqlite_cli: Cli, sandbox_process: SandboxProcess) -> None:
    cli, acme = sqlite_cli, sandbox_process.acme
    other = next(known for known in sandbox_process.accounts if known["subdomain"] != "acme")
    failures: dict[str, Ran] = {}
    # It tries again for twenty seconds; the others need not wait for that.
    unreachable = cli.begin_to_connect("unreachable", "acme.localhost:1", acme["admin_token"])
    wrong = (
        ("wrong-token", acme["host"], acme["admin_token"][:-8] + "AAAAAAAA"),
        ("evil-host", "evil.example", acme["admin_token"]),
    )
    right = (
        ("non-admin", acme["host"], acme["plain_token"]),
        ("unpaid", other["host"], other["admin_token"]),
    )
    ran = cli.connect_together(*wrong, *right)
    failures |= {org: failed for (org, _, _), failed in zip(wrong, ran[:2], strict=True)}
    assert [one.code for one in ran[2:]] == [0, 0]

    sandbox_process.control("plan", {"account": other["subdomain"], "paid": False})
    try:
        ran = cli.together(("sync", "non-admin"), ("sync", "unpaid"))
    finally:
        sandbox_process.control("plan", {"account": other["subdomain"], "paid": True})
    failures |= {"non-admin": ran[0], "unpaid": ran[1], "unreachable": unreachable.result()}
    sandbox_process.control("block", {})
    try:
        failures["blocked"] = cli.connect("blocked", acme["host"], acme["admin_token"])
    finally:
        sandbox_process.control("unblock", {})

    for org, failed in failures.items():
        assert failed.code == 1, (org, failed)
        assert failed.err.count("error:") == 1, (org, failed.err)
        assert "Traceback" not in failed.err, org
        assert len(failed.sentence) > 30, org
    # Neither the request, its id, the org nor the group is what makes the difference.
    said = [re.sub(r".*localhost:\d+: |\(status.*", "", failed.sentence) for failed in failures.values()]
    assert len(set(said)) == len(failures), said

    status, budget = cli.together(("status", "--json"), ("budget", "show", "--json"))
    shown = {row["org"]: row for row in status.answer}
    for org, failed in failures.items():
        assert shown[org]["state"] in {"failed", "degraded", "reauthorization_required"}, shown[org]
        assert shown[org]["reason"], org
        assert shown[org]["reason"] in failed.sentence, org

    # The block has stopped this machine's outgoing address for every process, until a person says otherwise.
    stopped = {row["key"]: row for row in budget.answer if row["blocked_for"]}
    assert "blocked our address" in stopped["egress:default"]["blocked_reason"]
    # The account's own key is stopped by it, too.
    unblocked = cli.together(*(("budget", "unblock", key) for key in stopped))
    assert {one.code for one in unblocked} == {0}
    cleared = cli("budget", "show", "--json").answer
    assert not [row for row in cleared if row["blocked_for"]]
    assert cli.connect("blocked", acme["host"], acme["admin_token"]).code == 0


@pytest.mark.seconds(3)
def test_wrong_use_is_two(sqlite_cli: Cli) -> None:
    wrong = {
        ("nonsense",): "nonsense",
        ("sync",): "--all-orgs",
        ("snapshot", "show", "acme", "nonsense"): "pipelines",
        ("snapshot", "show", "acme", "pipelines", "--at", "nonsense"): "is not a time",
        ("connect", "Bad Org!", "--domain", "acme.kommo.com", "--token", "x"): "lower-case letters",
    }
    for (arguments, says), ran in zip(wrong.items(), sqlite_cli.together(*wrong), strict=True):
        assert ran.code == 2, (arguments, ran)
        assert says in ran.err, arguments
        assert "Traceback" not in ran.err, arguments


@pytest.mark.seconds(10)
def test_the_token_is_nowhere(
    sqlite_cli: Cli, home: Path, prefect_api: str, sandbox_process: SandboxProcess
) -> None:
    # Only the home is named here: each command asks Prefect whether a block says where the database is.
    environment = {
        name: value for name, value in sqlite_cli.environment.items() if name != "KOMMO_DATABASE_URL"
    }
    cli, acme = Cli(environment), sandbox_process.acme
    canary = sandbox_process.control("tokens", {"account": "acme"})["access_token"]
    # The second is a token pasted into the wrong place.
    ran = cli.connect_together(("canary", acme["host"], canary), ("canary-here", canary, canary))
    ran.append(cli("sync", "canary", KOMMO_DEBUG="1"))
    sandbox_process.control("revoke", {"account": "acme", "token": canary})
    ran.append(cli("sync", "canary", KOMMO_DEBUG="1"))
    assert [one.code for one in ran] == [0, 1, 0, 1]
    ran.append(cli("status", "--json"))
    states = {row["org"]: row["state"] for row in ran[-1].answer}
    assert states["canary"] == "reauthorization_required"

    needles = [canary, canary[-40:]]
    prefect_home = prefect_database().parent
    places: dict[str, Callable[[], bytes]] = {
        "what the commands said": lambda: "".join(one.out + one.err for one in ran).encode(),
        "our database": lambda: bytes_under(home),
        "Prefect's database": lambda: bytes_under(prefect_home),
        "Prefect's API": lambda: said_by_prefect(prefect_api).encode(),
    }
    for place, read in places.items():
        content = read()
        assert content, place
        for needle in needles:
            assert needle.encode() not in content, place
    # The search would have found it: what is stored beside the token is there.
    assert b"canary" in places["our database"]()
    assert b"canary" in places["Prefect's database"]()
    assert "canary" in said_by_prefect(prefect_api)


def test_help_lists_every_command_and_never_imports_prefect() -> None:
    script = (
        "import sys; from deployments.cli import build_app; app = build_app(); "
        "app(['--help'], exit_on_error=False, result_action='return_value'); "
        "heavy = {'prefect', 'sqlalchemy', 'httpx', 'pydantic_settings'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    words = set(done.stdout.split())
    assert set(COMMANDS) <= words


def test_commands_that_only_read_never_import_prefect(tmp_path: Path) -> None:
    """On a laptop without a server; where one is configured, it may have to be asked which database there is."""
    script = (
        "import sys; from deployments.cli import build_app; from deployments.cli.run import exit_code\n"
        "how = {'exit_on_error': False, 'result_action': 'return_value'}\n"
        "for line in sys.stdin: print(exit_code(lambda: build_app()(line.split(), **how)))\n"
        "sys.exit('imported Prefect' if 'prefect' in sys.modules else 0)"
    )
    without_rows = ("status", "db upgrade", "db state", "budget show", "budget unblock egress:default")
    with_rows = ("status acme", "snapshot show acme pipelines", "snapshot diff acme", "snapshot runs acme")
    environment = plain_environment(KOMMO_HOME=str(tmp_path), PREFECT_HOME=str(tmp_path))
    for name in [name for name in environment if name.startswith("PREFECT_API")]:
        del environment[name]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, input="\n".join(without_rows + with_rows),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.splitlines() if line.isdecimal()]
    assert codes == [0] * len(without_rows) + [1, 1, 1, 0], done.stdout + done.stderr
