"""What of a connection's block goes to Prefect's server."""

from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from blocks.connection import KommoConnection
from tasks.credentials import _plain


@pytest.mark.parametrize("expires_at", [None, datetime(2026, 11, 24, 12, 30, 1, 5, tzinfo=UTC)])
def test_a_block_is_saved_as_prefect_itself_would_save_it(expires_at: datetime | None) -> None:
    block = KommoConnection(
        org="acme",
        host="acme.kommo.com",
        account_id=31234567,
        token_kind="pair",
        access_token=SecretStr("an access token"),
        refresh_token=SecretStr("a refresh token"),
        used="of",
        expires_at=expires_at,
        scopes=["crm", "notifications"],
    )
    fields = set(KommoConnection.model_fields)
    by_prefect = block.model_dump(mode="json", include=fields, context={"include_secrets": True})
    assert _plain(block) == by_prefect
    assert _plain(block)["refresh_token"] == "a refresh token"
