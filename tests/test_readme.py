"""The README's shell blocks, run as they stand; only the account's address is replaced by the sandbox's."""

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from blocks.settings import Settings
from sandbox import running_sandbox
from tests.proofs.support import rounds
from tests.quick.running import KOMMO
from tests.syncing import quiet_config

README = Path(__file__).parent.parent / "README.md"
INSTALLED = (str(Path(sys.executable).with_name("kommo")),)


def _blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def _commands(block: str) -> list[str]:
    """The lines of a block with `uv run` taken off: the test runs in the environment that it would make."""
    lines = [line.split("  #")[0].strip() for line in block.splitlines()]
    return [
        line.removeprefix("uv run ") for line in lines if line and not line.startswith(("pip ", "export "))
    ]


async def _run(command: str, environment: dict[str, str], program: Sequence[str] = INSTALLED) -> str:
    name, *arguments = command.split()
    assert name == "kommo", command
    process = await asyncio.create_subprocess_exec(
        *program,
        *arguments,
        env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{command}\n{out.decode()}\n{err.decode()}"
    return out.decode()


@pytest.mark.whole_service
@pytest.mark.proof
@pytest.mark.seconds(25)
async def test_the_demo_ends_well_and_leaves_no_process_behind(tmp_path: Path) -> None:
    """Once, from an empty folder; with all rounds again in the folder that it left, which goes another way."""
    assert "kommo demo" in _commands(_blocks()[0])
    environment = {"KOMMO_HOME": str(tmp_path)}
    for _ in range(rounds(2)):
        told = await _run("kommo demo", environment)
        assert "breaking" in told
        assert "renamed: name" in told
    assert not _processes_that_mention(str(tmp_path))


def _processes_that_mention(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in told and int(folder.name) != os.getpid():
            found.append(folder.name)
    return found


@pytest.mark.whole_service
@pytest.mark.seconds(12)
async def test_the_other_blocks_work_as_they_stand(
    installation: Settings, prefect_api: str, quick: None
) -> None:
    del installation, quick
    commands = [command for block in _blocks()[1:] for command in _commands(block)]
    assert len(commands) >= 6
    async with running_sandbox(quiet_config(accounts=1)) as kommo:
        account = kommo.accounts[0]
        environment = {"PREFECT_API_URL": prefect_api, "KOMMO_TOKEN": account.admin_token}
        for command in commands:
            if "snapshot diff" in command:  # it compares two runs, and the reader has had two by then
                await _run("kommo sync acme", environment, KOMMO)
            told = await _run(command.replace("acme.kommo.com", account.host), environment, KOMMO)
            assert told.strip(), command


def test_the_readme_promises_only_commands_that_exist() -> None:
    from deployments.cli import build_app

    app = build_app()
    commands = ["demo", "sandbox", "connect", "disconnect", "refresh", "gateway", "keys", "action", "events"]
    commands += ["sync", "status", "snapshot", "db", "budget"]
    named = set(re.findall(rf"kommo ({'|'.join(commands)})\b", README.read_text()))
    assert named
    for name in named:
        assert app[name]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README.read_text()))))
def test_what_the_readme_links_to_is_there(path: str) -> None:
    assert (README.parent / path).exists()
