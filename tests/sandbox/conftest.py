"""A running sandbox and a client of it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from sandbox import running_sandbox
from tests.sandbox.support import NO_TLS, SMALL, Api
from tests.sandbox.webhook_support import Receiver, receiving


@pytest.fixture
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """The small unthrottled sandbox, or one of another configuration by indirect parameter."""
    config = getattr(request, "param", SMALL)
    async with (
        running_sandbox(config) as sandbox,
        httpx.AsyncClient(trust_env=False, transport=httpx.AsyncHTTPTransport(verify=NO_TLS)) as http,
    ):
        yield Api(sandbox, http)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found
