"""The flow `deliver-events` on a real Prefect engine."""

import pytest

from blocks.settings import Settings
from flows.deliver_events import deliver_events
from tasks.errors import EventsGoneError, EventsSetupError
from tasks.installation import open_database
from tests.outbox.receiver import Reply, running_receiver
from tests.outbox.support import SECRET, states, tell

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.mark.seconds(4)
async def test_the_flow_tells_the_product_what_the_installation_knows(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(installation) as database, running_receiver() as product:
        await tell(database, "acme", "lead:1", 0, 1)
        await tell(database, "other", "lead:1", 0)
        unset = await deliver_events("0s")
        assert (unset.state, unset.posts) == ("unset", 0)
        assert "KOMMO_EVENTS_URL is not set" in unset.summary()
        monkeypatch.setenv("KOMMO_EVENTS_URL", product.url)
        with pytest.raises(EventsSetupError):
            await deliver_events("0s")
        monkeypatch.setenv("KOMMO_EVENTS_SECRET", SECRET.get_secret_value())
        assert (await deliver_events("0s", ["acme"], "1/1")).delivered == 2
        product.behave = lambda _received: Reply(410)
        with pytest.raises(EventsGoneError, match="events test"):
            await deliver_events("0s")
        assert await states(database) == {"delivered": 2, "pending": 1}
