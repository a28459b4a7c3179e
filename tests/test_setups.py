"""The set-ups of `deployments/setups`: what they name exists, and what they say in several places is the same."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it comes with Prefect, its stubs do not
from pydantic import BaseModel

from blocks.settings import Settings
from deployments.catalogue import CATALOGUE, OF_WHICH_DEAD
from deployments.cli import build_app
from tests.service.units import FOLDER, UNITS, read_settings, read_unit

ROOT = Path(__file__).parents[1]
CLUSTER = FOLDER.parent / "cluster"
EXAMPLES = ("kommo.env.example", "prefect-server.env.example")
INSTANCES = {"kommo-prefect-api@": "kommo-prefect-api@4200", "kommo-worker@": "kommo-worker@1"}
REDIS = ("PREFECT_REDIS_MESSAGING_URL", "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL", "PREFECT_SERVER_DOCKET_URL")
BACKUP = "kommo-backup"  # once a night; all others run for ever
SERVICES = sorted({file.stem for file in UNITS.glob("*.service")} - {BACKUP})
_SECRET = re.compile(r"KEYS?$|SECRET|PASSWORD|AUTH_STRING|DATABASE_URL|CONNECTION_URL|CLIENT_ID")
# What Docker or Caddy read, and no process of ours.
_OF_OTHERS = re.compile(
    r"(POSTGRES|KOMMO_DATABASE|PREFECT_DATABASE|REDIS)_PASSWORD|REDISCLI_AUTH|KOMMO_(GATEWAY|PREFECT)_(NAME|AT|FROM)"
)


@cache
def _known_names() -> frozenset[str]:
    """Every environment variable that we or Prefect read."""
    from prefect.settings import Settings as PrefectSettings
    from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings  # type: ignore[import-untyped]  # it says nothing of types
    from prefect_redis.client import RedisMessagingSettings  # type: ignore[import-untyped]  # no py.typed

    # The encryption key is no setting of Prefect's model: prefect.server.utilities.encryption reads it.
    names = {"APP_URL", "DO_NOT_TRACK", "PREFECT_SERVER_ENCRYPTION_KEY"} | {
        f"KOMMO_{name}".upper() for name in Settings.model_fields
    }

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation, f"{prefix}{name}_")
            else:
                names.add(f"{prefix}{name}".upper())

    walk(PrefectSettings, "prefect_")
    names.update(f"PREFECT_REDIS_MESSAGING_{name}".upper() for name in RedisMessagingSettings.model_fields)
    names.update(
        f"PREFECT_REDIS_WORKER_CLEANUP_QUEUE_{name}".upper()
        for name in RedisWorkerCleanupQueueSettings.model_fields
    )
    return frozenset(names)


def _documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def _named_variables(value: Any) -> Iterator[str]:
    """The variables that a manifest or a chart's values set."""
    if isinstance(value, dict):
        if set(value) in ({"name", "value"}, {"name", "valueFrom"}):
            yield value["name"]
        for key in ("data", "stringData", "environment"):
            yield from (name for name in value.get(key) or () if name.isupper())
        for inner in value.values():
            yield from _named_variables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_variables(inner)


@pytest.mark.parametrize(
    "file",
    [*(FOLDER / name for name in EXAMPLES), FOLDER / "compose.yaml", *sorted(CLUSTER.glob("*.yaml"))],
    ids=str,
)
def test_every_variable_that_a_set_up_names_is_a_setting(file: Path) -> None:
    if file.suffix == ".example":
        names = set(read_settings(file)) | set(re.findall(r"^#([A-Z_]+)=", file.read_text(), re.MULTILINE))
    else:
        names = {name for document in _documents(file) for name in _named_variables(document)}
    names = {name for name in names if not _OF_OTHERS.fullmatch(name)}
    assert names <= _known_names()
    assert names or file.name == "worker.values.yaml"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_no_secret_in_it_and_says_how_to_make_each(name: str) -> None:
    text = (FOLDER / name).read_text()
    for setting, value in read_settings(FOLDER / name).items():
        if _SECRET.search(setting):
            assert "CHANGE-ME" in value, setting
    assert text.count("openssl rand") + text.count("os.urandom") >= 2


def test_prefects_settings_of_the_example_are_taken_by_prefect() -> None:
    """Names alone do not do: a retention period that cannot be read ends a server before it has begun."""
    from prefect.settings import Settings as PrefectSettings

    given = {name: value for name in EXAMPLES for name, value in read_settings(FOLDER / name).items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        settings = PrefectSettings()
    server = settings.server
    assert server.analytics_enabled is False
    assert server.api.auth_string is not None
    assert server.events.messaging_broker == "prefect_redis.messaging"
    assert server.concurrency.lease_storage == "prefect_redis.lease_storage"
    assert server.services.task_run_recorder.batch_size == 50
    assert server.services.db_vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert settings.flows.heartbeat_frequency == 30


def test_the_cluster_runs_the_version_of_prefect_that_the_lock_names() -> None:
    [locked] = re.findall(r"^prefect==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    [values] = _documents(CLUSTER / "prefect-server.values.yaml")
    assert values["global"]["prefect"]["image"]["prefectTag"].split("-")[0] == locked


def test_cluster_and_server_tell_prefect_the_same() -> None:
    """What differs is where things are, and whose secret it is."""
    [values] = _documents(CLUSTER / "prefect-server.values.yaml")
    cluster = {
        known["name"]: known["value"] for known in values["global"]["prefect"]["env"] if "value" in known
    }
    server = read_settings(FOLDER / "prefect-server.env.example")
    assert {name: server[name] for name in cluster} == cluster


def _commands() -> Iterator[tuple[str, list[str]]]:
    for name in SERVICES:
        unit = read_unit(INSTANCES.get(name, name), {"/opt/kommo/venv/bin/": ""})
        for command in [unit.start, *unit.before]:
            yield name, command
    for name, service in _documents(FOLDER / "compose.yaml")[0]["services"].items():
        if service.get("command") and name not in {"postgres", "redis"}:
            yield f"compose: {name}", service["command"]
    for document in _documents(CLUSTER / "kommo.yaml"):
        for container in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            yield f"cluster: {container['name']}", container["args"]


def test_every_command_that_is_started_exists() -> None:
    from prefect.cli._app import _app as prefect_app

    seen = 0
    for place, command in _commands():
        start = next((n for n, word in enumerate(command) if word in {"kommo", "prefect"}), None)
        assert start is not None, (place, command)
        app: Any = build_app() if command[start] == "kommo" else prefect_app
        path, options = [], [word for word in command[start + 1 :] if word.startswith("--")]
        for word in command[start + 1 :]:
            if word.startswith("-"):
                break
            path.append(word)
            assert word in app, (place, path)
            app = app[word]
        seen += 1
        known = {name for argument in app.assemble_argument_collection() for name in argument.names}
        assert set(options) <= known, (place, options)
    assert seen >= 10


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_comes_again_after_every_end_and_gives_up_its_rights(name: str) -> None:
    unit = read_unit(INSTANCES.get(name, name), {})
    assert unit.keys["Restart"] == "always"
    assert unit.keys["RestartSec"] == "5"
    assert unit.keys["StartLimitIntervalSec"] == "0"
    assert unit.keys["User"] == ("prefect" if name.startswith("kommo-prefect") else "kommo")
    assert unit.keys["NoNewPrivileges"] == "yes"
    assert unit.keys["ProtectSystem"] == "strict"
    assert unit.keys["CapabilityBoundingSet"] == ""
    assert unit.keys["SystemCallFilter"] == "@system-service"
    # Prefect's secrets are for Prefect's server alone.
    assert ("/etc/kommo/prefect-server.env" in unit.files) == name.startswith("kommo-prefect")


def test_a_backup_dumps_prefects_database_first_and_replaces_the_last_pair_at_the_end() -> None:
    [backup] = re.findall(
        r"^ExecStart=(.*?[^\\])$", (UNITS / f"{BACKUP}.service").read_text(), re.MULTILINE | re.DOTALL
    )
    steps = [
        backup.index(step) for step in (" prefect > ", "--schema=kommo kommo > ", "mv prefect", "mv kommo")
    ]
    assert steps == sorted(steps)
    assert (UNITS / f"{BACKUP}.timer").exists()
    page = (ROOT / "docs" / "setups" / "one-server.md").read_text()
    assert f"systemctl enable --now {BACKUP}.timer" in page


def test_every_part_of_prefect_that_uses_redis_is_told_where_it_is() -> None:
    """Seen for real: the cleanup queue has an address of its own, and without it asks localhost, with no password."""
    [compose] = _documents(FOLDER / "compose.yaml")
    assert set(REDIS) <= set(compose["services"]["prefect-services"]["environment"])
    [values] = _documents(CLUSTER / "prefect-server.values.yaml")
    assert set(REDIS) <= {known["name"] for known in values["global"]["prefect"]["env"]}


def test_the_password_of_redis_is_for_prefects_server_alone() -> None:
    server, ours = (read_settings(FOLDER / name) for name in reversed(EXAMPLES))
    for name in REDIS:
        assert server[name].startswith("redis://:CHANGE-ME@")
        assert name not in ours


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for file in UNITS.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("/opt/kommo/venv/bin/", "/usr/bin/env "))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not [line for line in done.stderr.splitlines() if "kommo" in line], done.stderr


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed here")
def test_caddy_takes_the_proxys_file(tmp_path: Path) -> None:
    done = subprocess.run(
        ["caddy", "validate", "--adapter", "caddyfile", "--config", str(FOLDER / "Caddyfile")],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr


def test_the_image_is_made_from_the_lock_by_hash_and_runs_as_nobody_special() -> None:
    text = (ROOT / "deployments" / "Dockerfile").read_text()
    stages = text.split("\nFROM ")
    assert "--require-hashes" in stages[1]
    assert re.search(r"^USER 1001:1001$", stages[2], re.MULTILINE)
    assert "HEALTHCHECK" in stages[2]
    [command] = re.findall(r"^CMD \[(.*)\]$", stages[2], re.MULTILINE)
    assert command.startswith('"kommo", "gateway"')
    sent = (ROOT / "deployments" / "Dockerfile.dockerignore").read_text().splitlines()
    [built] = re.findall(r"^packages = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {f"!{name}" for name in re.findall(r'"(\w+)"', built)} <= set(sent)


def test_what_runs_every_minute_goes_on_when_a_killed_worker_keeps_its_places() -> None:
    """Seen for real: with two places, both of a killed worker, the backlog stood still for five minutes."""
    for entry in CATALOGUE:
        if entry.cron == "* * * * *" and entry.limit is not None:
            lingers = "linger" in entry.parameters
            assert entry.limit - (OF_WHICH_DEAD if lingers else 1) >= (2 if lingers else 1), entry.entrypoint
