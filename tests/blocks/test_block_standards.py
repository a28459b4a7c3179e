"""Prefect's own standards for blocks, and what ours promise beyond them."""

import json
import traceback

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from blocks.app import KommoApp
from blocks.connection import KommoConnection
from blocks.database import KommoDatabase
from blocks.names import block_name
from blocks.settings import Settings

CANARY = "canary-5e1f0c-do-not-leak"


class _Standards(BlockStandardTestSuite):
    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's version downloads the picture; ours must at least be a picture's secure address."""
        assert str(block._logo_url).startswith("https://")
        assert str(block._logo_url).endswith(".png")

    def test_every_field_has_a_title_for_the_form(self, block: type[Block]) -> None:
        assert all(field.title for field in block.model_fields.values())

    def test_a_new_field_never_breaks_a_stored_block(self, block: type[Block]) -> None:
        assert not [name for name, field in block.model_fields.items() if field.is_required()]


class TestKommoApp(_Standards):
    @pytest.fixture
    def block(self) -> type[Block]:
        return KommoApp


class TestKommoConnection(_Standards):
    @pytest.fixture
    def block(self) -> type[Block]:
        return KommoConnection


class TestKommoDatabase(_Standards):
    @pytest.fixture
    def block(self) -> type[Block]:
        return KommoDatabase


def _filled() -> list[Block]:
    secret = SecretStr(CANARY)
    return [
        KommoApp(client_id="id", client_secret=secret, webhook_secret=secret),
        KommoConnection(org="acme", host="acme.kommo.com", access_token=secret, refresh_token=secret),
        KommoDatabase(url=SecretStr(f"postgresql://me:{CANARY}@db/x")),
    ]


@pytest.mark.parametrize("block", _filled(), ids=lambda block: type(block).__name__)
def test_t5_a_block_never_shows_its_secrets(block: Block) -> None:
    shown = [repr(block), str(block), block.model_dump_json(), json.dumps(block.model_dump(), default=str)]
    assert all(CANARY not in text for text in shown)


def test_t5_a_refused_value_is_not_shown_either() -> None:
    with pytest.raises(ValidationError) as caught:
        KommoConnection(access_token={"nested": CANARY})
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_the_environment_fills_the_first_app(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KOMMO_CLIENT_ID": "a-client",
        "KOMMO_CLIENT_SECRET": CANARY,
        "KOMMO_WEBHOOK_SECRET": "hook",
        "NEXT_PUBLIC_APP_URL": "https://app.example/",
    }.items():
        monkeypatch.setenv(name, value)
    app = KommoApp.from_environment(Settings())
    assert app.client_id == "a-client"
    assert app.client_secret.get_secret_value() == CANARY
    assert app.redirect_uri == "https://app.example/api/v1/crm/kommo/callback"


@pytest.mark.parametrize("org", ["acme", "acme-eu-2", "7", "a" * 100])
def test_an_org_names_its_block(org: str) -> None:
    assert block_name(org) == f"org-{org}"


@pytest.mark.parametrize("org", ["", "Acme", "a_b", "a--b", "-a", "a-", "a b", "ä", "a" * 101, "a/b", "a\n"])
def test_an_org_that_cannot_be_a_block_name_is_refused(org: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        block_name(org)
