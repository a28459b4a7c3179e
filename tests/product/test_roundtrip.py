"""The product's round trip, run by Node from TypeScript that uses `fetch` only."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.gateway.conftest import house as gateway_house
from tests.gateway.support import APP_URL, House
from tests.product.support import COMPILER, NODE, REQUIRED, once_for_all, run

SCRIPT = Path(__file__).with_name("roundtrip.ts")
_OPTIONS = "--strict --noEmitOnError --target es2022 --module commonjs --lib es2022,dom"

house = gateway_house
pytestmark = [
    pytest.mark.whole_service,
    pytest.mark.one_database,
    pytest.mark.skipif(NODE is None and not REQUIRED, reason="Node is not installed here"),
]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the script."""
    assert NODE is not None, "KOMMO_TEST_NODE=required, and there is no Node"
    stripping = [NODE, "--experimental-strip-types", "--no-warnings"]
    if run(*stripping, "--eval", "0").returncode == 0:
        return [*stripping, str(SCRIPT)]
    folder = once_for_all(tmp_path_factory, "roundtrip", _compile)
    return [NODE, str(folder / "roundtrip.js")]


def _compile(folder: Path) -> None:
    compiled = run(*COMPILER, *_OPTIONS.split(), "--outDir", str(folder), str(SCRIPT))
    if compiled.returncode and "roundtrip.ts" not in compiled.stdout and not REQUIRED:
        pytest.skip("this Node does not strip types, and TypeScript cannot be had from npm")
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr


async def _round_trip(node: list[str], house: House, org: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        run,
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
