"""The one-server set-up for real: started, used, and each part of it killed under load; a quarter of an hour."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE

import pytest

from tests.proofs.support import FULL, ROOT

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(not FULL, reason="a quarter of an hour: with KOMMO_TEST_ROUNDS=full"),
]


async def test_a_service_goes_on_and_loses_nothing_whatever_part_of_it_is_killed() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.service"), cwd=ROOT, stdout=PIPE, stderr=None
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-2000:]
    result = json.loads(out)
    assert result["triggers"]["inactive or paused"] == []
    assert result["ui"].get("run", "COMPLETED") == "COMPLETED"
    assert result["kills"]["faults"] == []
    assert all(row["all well after"] is not None for row in result["kills"]["kills"])
