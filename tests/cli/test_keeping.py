"""`kommo retention` and `kommo db backup`: what a person does about data that grows old, and about its loss."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.support import Cli


@pytest.mark.whole_service
@pytest.mark.seconds(8)
def test_a_person_removes_what_has_grown_old(sqlite_cli: Cli) -> None:
    counted = sqlite_cli("retention", "--dry-run", "--json").answer
    assert (counted["dry_run"], {rule["rows"] for rule in counted["rules"]}) == (True, {0})
    done = sqlite_cli("retention", "--days.deliveries", "7")
    assert done.code == 0, done.err
    assert "0 rows were removed" in done.out
    assert [line.split()[:3] for line in done.out.splitlines() if line.startswith("deliveries")] == [
        ["deliveries", "7", "days"]
    ]


def test_an_age_that_cannot_be_used_is_refused_before_anything_goes(sqlite_cli: Cli) -> None:
    short = sqlite_cli("retention", "--days.tokens", "3")
    assert (short.code, "tokens must be kept for at least 92 days" in short.sentence) == (2, True)
    odd = sqlite_cli("retention", "--days.everything", "3")
    assert (odd.code, "no age called 'everything'" in odd.sentence) == (2, True)
    setting = sqlite_cli("retention", KOMMO_RETENTION_ORGS='{"acme": {"events": 1}}')
    assert (setting.code, "events of acme must be kept for at least 7 days" in setting.sentence) == (1, True)


def test_a_backup_is_whole_private_and_overwrites_nothing(sqlite_cli: Cli, tmp_path: Path) -> None:
    sqlite_cli("db", "upgrade")
    copy = tmp_path / "copy.db"
    made = sqlite_cli("db", "backup", str(copy), "--json").answer
    assert (made["file"], made["size"]) == (str(copy), copy.stat().st_size)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as opened:
        assert opened.execute("select count(*) from alembic_version").fetchone() == (1,)
    again = sqlite_cli("db", "backup", str(copy))
    assert (again.code, "is there already" in again.sentence) == (1, True)
    nowhere = sqlite_cli("db", "backup", str(tmp_path / "no" / "copy.db"))
    assert (nowhere.code, "cannot be written" in nowhere.sentence) == (1, True)
    missing = sqlite_cli("db", "backup", str(tmp_path / "b.db"), "--source", str(tmp_path / "none.db"))
    assert (missing.code, "There is no database at" in missing.sentence) == (1, True)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_database_on_postgresql_is_left_to_its_own_tool(sqlite_cli: Cli, tmp_path: Path) -> None:
    refused = sqlite_cli(
        "db", "backup", str(tmp_path / "b.db"), KOMMO_DATABASE_URL="postgresql://somebody:hidden@localhost/x"
    )
    assert (refused.code, "pg_dump --format=custom" in refused.sentence, "hidden" in refused.err) == (
        2,
        True,
        False,
    )
