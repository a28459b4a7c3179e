"""The project's own database: is it there, of this version, with a sane clock and room to write."""

import os
import re
from pathlib import Path
from typing import Any

from store.checkup import server_facts
from store.errors import DatabaseAddressError, StoreError
from tasks.doctor.checks import Check, Finding, Level, SkippedError, fault, ok, warning
from tasks.doctor.prefect import same_file
from tasks.doctor.surroundings import Surroundings

GROUP = "Database"
MOST_SKEW = 2.0
"""Seconds that two clocks may differ by: a signature is good for minutes, a claim for seconds."""
OLDEST_POSTGRES = 13
LEAST_FREE = 1 << 30
"""Bytes under which the disk is nearly full, and a tenth of it under which it is a fault."""


async def _opened(around: Surroundings) -> Any:  # noqa: ANN401 - a pair
    answer = await around.database_answer()
    if answer.error is not None:
        raise SkippedError("The database cannot be asked.")
    return answer.value


async def _reachable(around: Surroundings) -> list[Finding]:
    answer = await around.database_answer()
    if answer.error is None:
        return ok(f"{answer.value[0].address.shown} answers.")
    if isinstance(answer.error, DatabaseAddressError):
        return fault(str(answer.error), "export KOMMO_DATABASE_URL=postgresql://user:password@host/name")
    if isinstance(answer.error, StoreError):
        return fault(
            str(answer.error), "put KOMMO_DATABASE_URL right, or start the database; then kommo doctor"
        )
    if isinstance(answer.error, TimeoutError):
        return fault("The database does not answer in time.", "see that it runs and can be reached from here")
    raise answer.error


async def _migrated(around: Surroundings) -> list[Finding]:
    if (await same_file(around))[0].level is Level.FAULT:
        raise SkippedError("The file is Prefect's.")
    state = (await _opened(around))[1]
    if state.name == "current":
        return ok(f"The tables are of this version (revision {state.revision}).")
    if state.name == "empty":
        return warning("There are no tables yet; what needs them first makes them.", "kommo db upgrade")
    if state.name == "behind":
        return fault(
            f"The tables are of an older version (revision {state.revision}).",
            "stop what runs, back the database up, then: kommo db upgrade",
        )
    return fault(
        f"The tables were made by a newer version of this program (revision {state.revision}).",
        "update this installation to that version; or there, not here: kommo db downgrade REVISION",
    )


async def _server(around: Surroundings) -> list[Finding]:
    database = (await _opened(around))[0]
    facts = await server_facts(database)
    if database.dialect != "postgresql":
        return ok(f"SQLite {facts.version}; for a service on several machines use PostgreSQL.")
    number = int((re.findall(r"\d+", facts.version) or ["0"])[0])
    if number < OLDEST_POSTGRES:
        return fault(
            f"PostgreSQL {number} is older than what this program is made for ({OLDEST_POSTGRES}).",
            f"upgrade the database to PostgreSQL {OLDEST_POSTGRES} or newer",
        )
    return ok(f"PostgreSQL {facts.version}, time zone {facts.time_zone}; times are kept with their zone.")


async def _clock(around: Surroundings) -> list[Finding]:
    facts = await server_facts((await _opened(around))[0])
    if facts.now is None:
        return ok("SQLite has this machine's clock.")
    skew = facts.now - around.clock.now().timestamp()
    if abs(skew) > MOST_SKEW:
        return fault(
            f"The database's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's.",
            "timedatectl set-ntp true, on both machines",
        )
    return ok(f"The database's clock and this machine's differ by {abs(skew):.1f} s.")


async def _room(around: Surroundings) -> list[Finding]:
    answer = await around.database_answer()
    file = answer.value[0].address.file if answer.error is None else None
    folder = (file or around.settings.home).parent
    while not folder.exists():
        folder = folder.parent
    free = around.free_bytes(str(folder))
    words = f"{free / (1 << 30):.1f} GiB are free under {folder}"
    if free < LEAST_FREE // 10:
        return fault(f"The disk is full: {words}.", f"make room: df -h {folder}; kommo retention --help")
    if free < LEAST_FREE:
        return warning(
            f"The disk is nearly full: {words}.", f"make room: df -h {folder}; kommo retention --help"
        )
    if file is not None and not _may_write(file):
        return fault(f"{file} cannot be written.", f"chown $(id -u) {file}*; chmod u+w {file}*")
    return ok(f"{words}.")


def _may_write(file: Path) -> bool:
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


CHECKS = (
    Check("database", GROUP, "the database", _reachable),
    Check("database-own", GROUP, "whose file it is", same_file),
    Check("database-tables", GROUP, "the tables' version", _migrated),
    Check("database-server", GROUP, "the database's version", _server),
    Check("database-clock", GROUP, "the database's clock", _clock),
    Check("disk", GROUP, "room on the disk", _room),
)
