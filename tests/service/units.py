"""The units of the one-server set-up, as far as they matter here: what is started, with which environment."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "deployments" / "setups" / "one-server"
UNITS = FOLDER / "systemd"
_LINE = re.compile(r"([A-Za-z]+)=(.*)")
_SETTING = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")


@dataclass
class Unit:
    """One unit file.

    Attributes:
        name: As in `systemctl start NAME`.
        start: The command and its arguments.
        before: What runs before it.
        environment: What the unit sets itself.
        files: The files of settings that it reads.
        keys: Everything else, by name.
    """

    name: str
    start: list[str]
    before: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)


def read_unit(name: str, places: Mapping[str, str]) -> Unit:
    """Read a unit.

    Args:
        name: `kommo-gateway`, or with an instance `kommo-worker@1`.
        places: What is to be replaced, such as `/opt/kommo/venv/bin` by another folder.
    """
    template, at, instance = name.partition("@")
    unit = Unit(name, [])
    for text in (UNITS / f"{template}{at}.service").read_text().splitlines():
        found = _LINE.fullmatch(text.strip())
        if not found:
            continue
        key, value = found[1], found[2].replace("%i", instance).replace("%H", "host")
        for old, new in places.items():
            value = value.replace(old, new)
        match key:
            case "ExecStart":
                unit.start = shlex.split(value)
            case "ExecStartPre":
                unit.before.append(shlex.split(value))
            case "Environment":
                variable, _, set_to = value.partition("=")
                unit.environment[variable] = set_to
            case "EnvironmentFile":
                unit.files.append(value)
            case _:
                unit.keys[key] = value
    return unit


def read_settings(file: Path) -> dict[str, str]:
    """The NAME=value lines of a file of settings."""
    found = (_SETTING.fullmatch(line) for line in file.read_text().splitlines())
    return {match[1]: match[2] for match in found if match}
