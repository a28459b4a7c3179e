"""What the tests of the command line share: running `kommo` as a process, steering a sandbox process."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.quick.running import KOMMO

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The sentence of the error, in one line."""
        return " ".join(self.err.rpartition("error:")[2].split())

    @property
    def answer(self) -> Any:
        """The JSON answer of a command that did well."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """The command line in one installation."""

    environment: Mapping[str, str]

    def __call__(self, *arguments: str, **more: str) -> Ran:
        done = subprocess.run(
            [*KOMMO, *arguments],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=90,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def connect(self, org: str, domain: str, token: str) -> Ran:
        return self("connect", org, "--domain", domain, KOMMO_TOKEN=token)

    def begin_to_connect(self, org: str, domain: str, token: str) -> Future[Ran]:
        """The same beside whatever follows."""
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(self.connect, org, domain, token)
        finally:
            pool.shutdown(wait=False)

    def connect_together(self, *connections: tuple[str, str, str]) -> list[Ran]:
        """Several connections, two at a time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda wanted: self.connect(*wanted), connections))

    def together(self, *commands: Sequence[str]) -> list[Ran]:
        """Commands that do not need one another, two at a time: that is what the machine has."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda arguments: self(*arguments), commands))


def plain_environment(**values: str) -> dict[str, str]:
    """This process's environment without any setting of ours, and these values."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KOMMO_")} | values


@dataclass(frozen=True)
class SandboxProcess:
    """A sandbox in a process of its own."""

    url: str
    accounts: list[dict[str, Any]]

    @property
    def acme(self) -> dict[str, Any]:
        return next(known for known in self.accounts if known["subdomain"] == "acme")

    def control(self, name: str, body: object = None) -> Any:
        """One control call: POST with a body, GET without."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_sandbox/{name}", data=data)  # noqa: S310 - our loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            return json.load(answer)
