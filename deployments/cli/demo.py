"""`kommo demo`: the whole story in a minute, on a stand-in for Kommo, leaving nothing running.

It works in a folder of its own, with a Prefect and a database of its own, so that it can never touch an installation
that is already here, whatever PREFECT_API_URL or KOMMO_DATABASE_URL say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.cli.output import cell, out, say
from deployments.cli.run import WrongUseError, many_imports, quiet_prefect

if TYPE_CHECKING:
    from sandbox import Sandbox

ORG = "acme"


def demo() -> None:
    """See it all work, on a stand-in for Kommo: no account, no key, no service needed.

    It starts the sandbox, connects an org, syncs, changes the CRM, syncs again, shows the drift, and stops everything.
    """
    from blocks.settings import Settings

    folder = (Settings().home / "demo").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / "lock"):
        _own_environment(folder)
        for leftover in folder.glob("kommo.db*"):
            leftover.unlink()
        asyncio.run(_story(folder))


def _own_environment(folder: Path) -> None:
    """Cut every tie to an installation that is already here; Prefect is not imported yet."""
    for name in [name for name in os.environ if name.startswith(("KOMMO_", "PREFECT_"))]:
        if name != "KOMMO_DEBUG":
            del os.environ[name]
    quiet_prefect()
    os.environ |= {
        "KOMMO_HOME": str(folder),
        "KOMMO_SANDBOX": "1",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    }
    # Prefect also reads .env, prefect.toml and pyproject.toml of the current folder.
    os.chdir(folder)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Two demos at once would pull the database from under each other: the second says so and stops."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system; there a second demo at the same time is the user's to avoid
        yield
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WrongUseError("Another demo is running. Wait until it is through.") from None
        yield


async def _story(folder: Path) -> None:
    from pydantic import SecretStr

    from blocks.settings import Settings
    from deployments.cli.sync import sync_one
    from sandbox import LimitSettings, SandboxConfig, running_sandbox
    from tasks.scopes import SyncScope

    with many_imports():
        from tasks.connect import connect_with_token
    settings = Settings()
    # A busy machine may have the stand-in see eight requests in a second: nobody waits five minutes for that here.
    limits = LimitSettings(retry_after=3)
    async with running_sandbox(SandboxConfig(port=0, limits=limits)) as kommo:
        account = kommo.accounts[0]
        _step(1, f"A stand-in for Kommo runs on {kommo.url} (account {account.host}).")

        _step(2, f"Connect it as org '{ORG}'. The token goes into a Prefect block, nowhere else.")
        say(f"  $ kommo connect {ORG} --domain {account.host} --token …")
        await connect_with_token(ORG, account.host, SecretStr(account.admin_token), settings)

        _step(3, "First sync: a Prefect flow run. (Prefect's own small server starts: some seconds.)")
        say(f"  $ kommo sync {ORG}")
        await sync_one(ORG, SyncScope.ALL)

        _step(4, "Now somebody at the customer's changes the CRM …")
        for line in _change_the_crm(kommo, account.subdomain):
            say(f"  – {line}")

        _step(5, "… and the next sync sees what that means for your agents.")
        say(f"  $ kommo sync {ORG}")
        await sync_one(ORG, SyncScope.ALL)
    _what_next(folder)


def _change_the_crm(kommo: Sandbox, subdomain: str) -> list[str]:
    """Do what people do to a CRM on an ordinary Tuesday; say what was done."""
    account = kommo.account(subdomain)
    pipeline = next(iter(account.pipelines))
    stage = next(known for known in account.statuses(pipeline["id"]) if known["type"] == 0)
    field = next(known for known in account.fields["leads"] if known["type"] == "select" and known["enums"])
    enum = field["enums"][-1]
    kommo.change(
        subdomain,
        "rename_status",
        pipeline_id=pipeline["id"],
        status_id=stage["id"],
        name=f"{stage['name']} (new process)",
    )
    kommo.change(subdomain, "remove_enum", entity="leads", field_id=field["id"], enum_id=enum["id"])
    kommo.change(subdomain, "add_field", entity="leads", name="Budget approved", type="checkbox")
    return [
        f"renames the stage '{stage['name']}' of '{pipeline['name']}'",
        f"removes the choice '{enum['value']}' from the lead field '{field['name']}'",
        "adds a lead field 'Budget approved'",
    ]


def _step(number: int, text: str) -> None:
    out.print(f"\n[bold cyan]{number}[/] [bold]{cell(text)}[/]")


def _what_next(folder: Path) -> None:
    uv_run = "uv run " if "UV_RUN_RECURSION_DEPTH" in os.environ else ""
    kommo = f"{uv_run}kommo"
    _step(6, "All is stopped again; what was read stays.")
    say(f"  Snapshots: {folder / 'kommo.db'}")
    say(f"  Prefect's history and the block: {folder / 'prefect'}")
    out.print("\n[bold]Try next[/]")
    say(f"  export KOMMO_HOME={folder}")
    for command, what in (
        (f"{kommo} snapshot show {ORG} pipelines", "the stages, as they are now"),
        (f"{kommo} snapshot diff {ORG}", "the drift again"),
        (f"{kommo} snapshot runs {ORG}", "both runs"),
        (f"{kommo} status {ORG}", "the connection"),
        (f"{kommo} snapshot show {ORG} lead_fields --json", "everything, for a machine"),
    ):
        say(f"  {command:<52} {what}")
    say(f"  PREFECT_HOME={folder / 'prefect'} {uv_run}prefect server start   the runs in Prefect's UI")
    say(f"  rm -r {folder}   nothing of the demo is left then")
