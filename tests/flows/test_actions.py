"""The action flows on a real Prefect engine, with credentials from blocks."""

from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from blocks.settings import Settings
from flows.actions import add_note, create_task, send_message, settle_actions, update_deal_field
from flows.full_sync import full_crm_sync
from kommo.hosts import parse_host
from sandbox import Sandbox, running_sandbox
from sandbox.oauth_pages import callback_url
from store.actions import ActionState, list_actions
from tasks.actions import CreateTask, open_action_session, perform
from tasks.actions.running import ActionAnswer
from tasks.app import require_app
from tasks.connect import connect_with_code
from tasks.errors import ActionFailedError, InvalidActionError, NotConnectedError
from tasks.installation import open_database
from tests.actions.support import TILL, a_key
from tests.syncing import connect, quiet_config

pytestmark = pytest.mark.usefixtures("prefect_api")


def first_lead(kommo: Sandbox) -> int:
    return int(next(iter(kommo.account("acme").entities["leads"]))["id"])


@pytest.mark.seconds(6)
async def test_r3_the_actions_as_flows_each_done_once(installation: Settings) -> None:
    async with running_sandbox(quiet_config(accounts=1, leads=6, contacts=4, companies=2, talks=4)) as kommo:
        await connect("acme", kommo.accounts[0], installation)
        await full_crm_sync("acme")
        lead, account = first_lead(kommo), kommo.account("acme")
        talk = next(one for one in account.talks if one["is_in_work"] and one["entity_id"])

        task = await create_task("acme", text="Call back", complete_till=TILL, idempotency_key="key-1")
        again = await create_task("acme", text="Call back", complete_till=TILL, idempotency_key="key-1")
        assert again == task
        assert task.result == {
            "task_id": next(one["id"] for one in account.tasks if one["text"] == "Call back")
        }

        note = await add_note("acme", entity_type="leads", entity_id=lead, text="Only for us")
        field = await update_deal_field("acme", deal_id=lead, field_id="price", value=77)
        message = await send_message("acme", entity_type="leads", entity_id=talk["entity_id"], text="Hello")
        assert (note.result or {})["as"] == "note"
        assert field.state is ActionState.CONFIRMED
        assert (message.result or {})["as"] == "message"
        assert (account.entities["leads"].get(lead) or {})["price"] == 77

        with pytest.raises(InvalidActionError, match="There is no task type 99"):
            await create_task("acme", text="x", complete_till=TILL, task_type_id=99)
        account.chats_quota = 0
        with pytest.raises(ActionFailedError, match="quota"):
            await send_message("acme", entity_type="leads", entity_id=talk["entity_id"], text="Once more")
        with pytest.raises(NotConnectedError):
            await create_task("globex", text="x", complete_till=TILL)
        report = await settle_actions()
        assert (report.taken, report.left) == (0, {})
    async with open_database(installation) as database:
        states = [record.state.value for record in await list_actions(database, "acme")]
    assert states == ["failed", *["confirmed"] * 4]


@pytest.mark.parametrize(("how", "name"), [("confirmed", "Completed"), ("sent", "UnderWay")])
async def test_a_run_is_completed_only_if_its_action_was_done(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, how: str, name: str
) -> None:
    now = datetime.now(UTC)
    facts = {"action_id": "a" * 32, "org": "acme", "kind": "create-task", "idempotency_key": "key-1"}
    answer = ActionAnswer(**facts, state=ActionState(how), reason="Why.", created_at=now, updated_at=now)

    async def performed(*_: object) -> ActionAnswer:
        return answer

    del installation  # it is in the environment
    monkeypatch.setattr("flows.actions.perform_action", performed)
    state = await create_task("acme", text="Call back", complete_till=TILL, return_state=True)
    assert (state.name, state.is_completed()) == (name, True)
    assert await create_task("acme", text="Call back", complete_till=TILL) == answer


@pytest.mark.seconds(4)
async def test_one_session_serves_many_at_once_and_notices_a_new_token(installation: Settings) -> None:
    """As the gateway has it: it lives on while the account is connected anew with another long-lived token."""
    async with running_sandbox(quiet_config(accounts=1, leads=6, contacts=4, companies=2)) as kommo:
        access = kommo.accounts[0]
        await connect("acme", access, installation)
        await full_crm_sync("acme")
        async with open_action_session(installation) as session:

            async def ask(number: int) -> ActionState:
                wish = CreateTask(text=f"Task {number}", complete_till=TILL)
                return (await perform(session, "acme", wish, a_key())).state

            assert {await ask(0)} == {ActionState.CONFIRMED}
            kommo.world.tokens.revoke(access.account_id, lambda known: known.value == access.admin_token)
            assert {await ask(1)} == {ActionState.FAILED}
            card = next(iter(kommo.world.accounts.cards))
            integration = kommo.world.integration
            token = kommo.world.tokens.issue(
                card, card.admin_id, integration.client_id, integration.scopes, seconds=3_600
            )
            await connect("acme", access, installation, token=token.value)
            assert {await ask(2)} == {ActionState.CONFIRMED}
        made = {one["text"] for one in kommo.account("acme").tasks}
    assert {"Task 0", "Task 2"} <= made
    assert "Task 1" not in made


@pytest.mark.seconds(5)
async def test_an_action_whose_access_token_has_ended_refreshes_it_and_is_done_once(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    del installation  # it is in the environment
    async with running_sandbox(quiet_config(accounts=1, leads=3, contacts=2, companies=1)) as kommo:
        known = kommo.world.integration
        monkeypatch.setenv("KOMMO_CLIENT_ID", known.client_id)
        monkeypatch.setenv("KOMMO_CLIENT_SECRET", known.client_secret)
        monkeypatch.setenv("KOMMO_REDIRECT_URI", known.redirect_uri)
        settings, account = Settings(), kommo.account("acme")
        url = callback_url(kommo.world, known, account, "")
        code = SecretStr(url.partition("code=")[2].partition("&")[0])
        async with open_database(settings) as database:
            host = parse_host(account.host, allow_loopback=True)
            await connect_with_code(
                "acme", host, code, settings, database=database, app=await require_app(settings)
            )
        await full_crm_sync("acme")
        long_lived = {kommo.accounts[0].admin_token, kommo.accounts[0].plain_token}
        async with open_action_session(settings) as session:
            for number in range(2):
                ended = kommo.world.tokens.revoke(account.id, lambda one: one.value not in long_lived)
                assert ended == 1
                wish = CreateTask(text=f"Task {number}", complete_till=TILL)
                record = await perform(session, "acme", wish, a_key())
                assert record.state is ActionState.CONFIRMED, record.reason
        made = [one["text"] for one in account.tasks if one["text"].startswith("Task ")]
    assert made == ["Task 0", "Task 1"]
