"""Where the database is found, and that looking for it never misses a server that Prefect knows of."""

import os
import uuid
from pathlib import Path

import pytest
from prefect.settings import Settings as PrefectSettings
from pydantic import SecretStr

from blocks import place
from blocks.database import KommoDatabase
from blocks.place import a_server_may_be_configured
from blocks.settings import Settings

URL = "http://127.0.0.1:4200/api"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def nothing_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder and a home without any setting of Prefect's."""
    for name in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "prefect"
    home.mkdir()
    monkeypatch.setenv("PREFECT_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _url_that_prefect_finds() -> str | None:
    return PrefectSettings().api.url


def test_without_any_setting_there_is_no_server(nothing_told: Path) -> None:
    del nothing_told
    assert _url_that_prefect_finds() is None
    assert not a_server_may_be_configured()


def test_the_settings_that_come_with_the_repository_name_no_server(
    nothing_told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del nothing_told
    monkeypatch.chdir(ROOT)
    assert not a_server_may_be_configured()


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "prefect_api_url"])
def test_a_server_in_the_environment_is_seen(
    nothing_told: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    del nothing_told
    monkeypatch.setenv(name, URL)
    assert _url_that_prefect_finds() == URL
    assert a_server_may_be_configured()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", f"PREFECT_API_URL={URL}"),
        (".env", f"export prefect_api_url='{URL}'"),
        (".env", "PREFECT_PROFILES_PATH=elsewhere.toml"),
        ("prefect.toml", f'[api]\nurl = "{URL}"'),
        ("prefect.toml", f'api.url = "{URL}"'),
        ("prefect.toml", 'profiles_path = "elsewhere.toml"'),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"'),
        ("pyproject.toml", f'[tool.prefect]\napi = {{url = "{URL}"}}'),
        ("pyproject.toml", '[tool.prefect]\nprofiles_path = "elsewhere.toml"'),
        ("prefect/profiles.toml", f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{URL}"'),
    ],
)
def test_a_server_in_a_file_is_seen(nothing_told: Path, file: str, text: str) -> None:
    elsewhere = f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{URL}"\n'
    (nothing_told / "elsewhere.toml").write_text(elsewhere)
    (nothing_told / file).write_text(text)
    assert _url_that_prefect_finds() == URL
    assert a_server_may_be_configured()


def test_a_server_in_a_profile_that_the_environment_names_is_seen(
    nothing_told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = f'[profiles.mine]\nPREFECT_API_URL = "{URL}"\n'
    (nothing_told / "prefect" / "profiles.toml").write_text(f'active = "other"\n[profiles.other]\n{mine}')
    assert _url_that_prefect_finds() is None
    monkeypatch.setenv("PREFECT_PROFILE", "mine")
    assert _url_that_prefect_finds() == URL
    assert a_server_may_be_configured()


def test_a_server_in_profiles_elsewhere_is_seen(nothing_told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = nothing_told / "mine.toml"
    profiles.write_text(f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{URL}"\n')
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(profiles))
    assert _url_that_prefect_finds() == URL
    assert a_server_may_be_configured()


def test_a_project_file_that_cannot_be_understood_is_left_to_prefect(nothing_told: Path) -> None:
    (nothing_told / "pyproject.toml").write_text("[tool.prefect")
    assert a_server_may_be_configured()


async def test_the_url_comes_first_then_the_block_then_the_file_at_home(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del prefect_api
    name = f"test-{uuid.uuid4().hex}"  # the name that everyone asks for would be found by other tests, too
    monkeypatch.setattr(place, "DEFAULT_NAME", name)
    at_home, of_block, of_url = (tmp_path / where / "kommo.db" for where in ("home", "block", "url"))
    settings = Settings(home=at_home.parent)

    async def found(settings: Settings) -> str:
        async with await place.find_database(settings) as database:
            return str(database.address.file)

    assert await found(settings) == str(at_home)
    await KommoDatabase(url=SecretStr(f"sqlite:///{of_block}")).asave(name)
    assert await found(settings) == str(of_block)
    by_url = settings.model_copy(update={"database_url": SecretStr(f"sqlite:///{of_url}")})
    assert await found(by_url) == str(of_url)
