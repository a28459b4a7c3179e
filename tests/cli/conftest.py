"""Fixtures of the tests of the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.settings import Settings
from tests.cli.support import ROOT, Cli, SandboxProcess, plain_environment


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[SandboxProcess]:
    """One sandbox for the folder; whoever changes it puts it back."""
    command = [sys.executable, "-m", "sandbox", "--port", "0", "--json", "--limit", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield SandboxProcess(ready["url"], ready["accounts"])
        finally:
            process.terminate()


@pytest.fixture
def cli(prefect_api: str, quick: None, installation: Settings) -> Cli:
    """The command line on each dialect."""
    del installation, quick  # they are in the environment
    return Cli({**os.environ, "PREFECT_API_URL": prefect_api})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def sqlite_cli(prefect_api: str, quick: None, home: Path) -> Cli:
    """The command line on SQLite, for what does not depend on the dialect."""
    del quick  # it is in the environment
    return Cli(
        plain_environment(
            PREFECT_API_URL=prefect_api,
            KOMMO_HOME=str(home),
            KOMMO_DATABASE_URL=f"sqlite:///{home}/kommo.db",
            KOMMO_SANDBOX="1",
            KOMMO_REQUESTS_PER_SECOND="50",
        )
    )
