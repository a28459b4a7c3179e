"""The product's round trip, run by Node from TypeScript that uses `fetch` only."""

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gateway.conftest import house as gateway_house
from tests.gateway.support import APP_URL, House

SCRIPT = Path(__file__).with_name("roundtrip.ts")
# Where Node does not strip types by itself, TypeScript does it, and checks them on the way.
_COMPILER = ("npm", "exec", "--yes", "--prefer-offline", "--package=typescript@5.9.3", "--", "tsc")
_OPTIONS = "--strict --noEmitOnError --target es2022 --module commonjs --lib es2022,dom"
_REQUIRED = os.environ.get("KOMMO_TEST_NODE") == "required"  # before a fixture tidies the environment
_NODE = shutil.which("node")

house = gateway_house
pytestmark = pytest.mark.skipif(_NODE is None and not _REQUIRED, reason="Node is not installed here")


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KOMMO_", "PREFECT_"))}
    return subprocess.run(
        command,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the script."""
    assert _NODE is not None, "KOMMO_TEST_NODE=required, and there is no Node"
    stripping = [_NODE, "--experimental-strip-types", "--no-warnings"]
    if _run(*stripping, "--eval", "0").returncode == 0:
        return [*stripping, str(SCRIPT)]
    folder = tmp_path_factory.mktemp("script")
    compiled = _run(*_COMPILER, *_OPTIONS.split(), "--outDir", str(folder), str(SCRIPT))
    if compiled.returncode and "roundtrip.ts" not in compiled.stdout and not _REQUIRED:
        pytest.skip("this Node does not strip types, and TypeScript cannot be had from npm")
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    return [_NODE, str(folder / "roundtrip.js")]


async def _round_trip(node: list[str], house: House, org: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        _run,
        *node,
        GATEWAY_URL=house.url,
        API_KEY=house.key,
        ORG=org,
        DOMAIN=house.acme.host,
        APP_URL=APP_URL,
    )


@pytest.mark.seconds(4)
@pytest.mark.seconds(5)
async def test_the_products_round_trip(house: House, node: list[str]) -> None:
    done = await _round_trip(node, house, "acme")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"account": house.acme.account_id, "host": house.acme.host}
    connection = await house.connection()
    assert connection is not None
    assert connection.state == "connected"
    assert [found.org for found in house.synced] == ["acme"]


async def test_the_round_trip_can_fail(house: House, node: list[str]) -> None:
    done = await _round_trip(node, house, "globex")
    assert done.returncode == 1
    assert "start" in done.stderr
