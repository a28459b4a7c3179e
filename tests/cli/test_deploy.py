"""`kommo deploy` and `kommo serve` as a person meets them; what they make is tested in tests/deployments."""

import asyncio
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import get_client

from deployments.apply import read_ours
from tests.cli.support import Cli


@pytest.fixture
def left_as_it_was(prefect_api: str) -> Iterator[None]:
    """The server is the session's: with deployments on it, the gateway would leave its runs to a worker."""
    del prefect_api
    yield
    asyncio.run(_clear())


async def _clear() -> None:
    async with get_client() as client:
        for there in (await read_ours(client)).values():
            await client.delete_deployment(there.id)
        await client.delete_work_pool("kommo")


@pytest.mark.whole_service
@pytest.mark.seconds(6)
def test_deploy_looks_first_does_it_then_and_says_so(sqlite_cli: Cli, left_as_it_was: None) -> None:
    del left_as_it_was
    before = sqlite_cli("deploy", "--dry-run")
    assert before.code == 1, "something differs"
    assert "kommo deploy" in before.out
    done = sqlite_cli("deploy", "--json").answer
    assert done["changed"]
    assert {step["change"] for step in done["steps"]} <= {"create", "update", "remove"}
    after = sqlite_cli("deploy", "--check", "--json").answer
    assert after["current"]
    assert after["steps"] == []
    # Two that execute the same runs would be one too many.
    serve = sqlite_cli("serve")
    assert serve.code == 1
    assert "--take-over" in serve.sentence


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("deploy", "--shards", "0"), "--shards"),
        (("deploy", "--pool-type", "docker"), "--image"),
        (("deploy", "--image", "x"), "--image"),
        (("serve", "--limit", "1"), "--limit"),
    ],
)
def test_wrong_use_is_named(sqlite_cli: Cli, arguments: tuple[str, ...], word: str) -> None:
    ran = sqlite_cli(*arguments)
    assert ran.code == 2
    assert word in ran.sentence
