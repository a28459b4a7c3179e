"""`kommo webhooks health`, `kommo webhooks reconcile` and what `kommo status` says of webhooks."""

import pytest

from tests.cli.support import Cli, SandboxProcess


@pytest.mark.whole_service
@pytest.mark.seconds(12)
def test_w5_a_persons_way_to_webhooks_that_arrive(sqlite_cli: Cli, sandbox_process: SandboxProcess) -> None:
    access = sandbox_process.accounts[0]
    connected = sqlite_cli.connect("acme", access["host"], access["admin_token"])
    assert connected.code == 0, connected.err
    health = sqlite_cli("webhooks", "health", KOMMO_WEBHOOK_URL="https://hooks.example.com")
    assert health.code == 0, health.err
    assert "1 of 1 subscriptions are on, 1 mended" in health.out
    wrong = sqlite_cli("webhooks", "reconcile", "acme", "--since", "yesterday")
    assert (wrong.code, "--since 'yesterday' is not a time" in wrong.sentence) == (2, True)
    compared = sqlite_cli(
        "webhooks", "reconcile", "acme", "--since", "2026-01-01", "--grace", "0s", "--json"
    ).answer
    assert set(compared["by_entity"]) == {"leads", "contacts", "companies", "tasks"}
    status = sqlite_cli("status", "acme")
    assert "webhooks: on, looked at" in status.out
    assert "changes had come" in status.out
