"""The runbook names only commands that exist, and each check of the doctor."""

import re
from pathlib import Path

import pytest

from deployments.cli import build_app
from deployments.doctor import ALL_CHECKS

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`kommo ([^`]+)`", RUNBOOK))))
def test_a_command_of_the_runbook_exists(command: str) -> None:
    _, _, left_over, _ = build_app().parse_known_args(command)
    assert not left_over


@pytest.mark.parametrize("check", [check.name for check in ALL_CHECKS])
def test_each_check_is_in_the_runbook(check: str) -> None:
    assert f"`{check}`" in RUNBOOK
