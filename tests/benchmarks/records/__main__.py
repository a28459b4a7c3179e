"""Reading records, beside what else reads them.

`python -m tests.benchmarks.records [--records 20000] [--out FOLDER] [--only NAME]`: one sandbox, unthrottled, with
leads and contacts. One candidate after the other reads all of them into a new SQLite file and a new PostgreSQL
database (where KOMMO_TEST_POSTGRES_URL is set), each as a process of its own, with the versions of `VERSIONS`, which
uv installs beside this project (the first run has the installing in its time). Afterwards the rows are compared with
what the sandbox holds. The candidate `only reading` stores nothing: no other can be quicker. Wall time has the start of
the process in it, for us as for the others. Prints JSON; `--out` keeps it, with a picture.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.benchmarks.records.ours import ROOT, Kommo, sandbox
from tests.benchmarks.records.picture import draw

RIVALS = Path(__file__).with_name("rivals")
POSTGRES = os.environ.get("KOMMO_TEST_POSTGRES_URL", "")
LONGEST = 900.0
VERSIONS = {
    "dlt": ("dlt[sqlalchemy,postgres]==1.31.0",),
    "airbyte-cdk": ("airbyte-cdk==7.39.1", "sqlalchemy==2.0.51", "psycopg2-binary==2.9.12"),
    "singer": ("singer-sdk==0.54.9", "sqlalchemy==2.0.51", "psycopg2-binary==2.9.12"),
    "aioamocrm": ("aioamocrm==0.1.1", "sqlalchemy==2.0.51", "psycopg2-binary==2.9.12"),
}
"""What is measured beside us. Each has an environment of its own: their pins do not agree with one another."""


@dataclass
class Result:
    """What one candidate came to. `wall` and `cpu` in seconds, `peak_mb` of its largest process, in MB."""

    name: str
    database: str
    state: str
    wall: float = 0.0
    rows_per_second: float = 0.0
    cpu: float = 0.0
    peak_mb: float = 0.0
    requests: int = 0
    same: bool = False
    note: str = ""


CEILING = "only reading"
"""The candidate that stores nothing: what the sandbox gives out on this machine."""
Sums = dict[str, tuple[int, int, int]]


def _command(name: str, kommo: Kommo, url: str) -> str:
    """What a shell runs; the addresses come from here, and nobody else's words are in it."""
    base = f"http://127.0.0.1:{kommo.host.rpartition(':')[2]}"
    uv = "uv run --quiet --isolated --no-project"
    packages = " ".join(f"--with '{package}'" for package in VERSIONS.get(name, ()))
    access = f"{base} {kommo.host} {kommo.token}"
    if name == "ours":
        return (
            f"{sys.executable} -m tests.benchmarks.records.ours --once --keep --database '{url}' "
            f"--sandbox '{kommo.host} {kommo.token} {kommo.account_id}'"
        )
    if name == CEILING:
        return f"{sys.executable} -m tests.benchmarks.records.ceiling {access}"
    if name == "singer":
        return (
            f"{uv} {packages} python {RIVALS}/singer_tap.py {access} | "
            f"{uv} {packages} python {RIVALS}/singer_target.py '{url}'"
        )
    script = {"dlt": "dlt_reader", "airbyte-cdk": "airbyte_reader", "aioamocrm": "aioamocrm_reader"}[name]
    return f"{uv} {packages} python {RIVALS}/{script}.py {access} '{url}'"


@asynccontextmanager
async def _new_database(name: str, dialect: str, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """The address that a candidate takes, and the one by which we look into it afterwards."""
    if dialect == "sqlite":
        file = folder / f"{name}.db"
        yield (
            (f"sqlite+aiosqlite:///{file}" if name == "ours" else f"sqlite:///{file}"),
            f"sqlite+aiosqlite:///{file}",
        )
        return
    made = f"bench_{uuid.uuid4().hex[:10]}"
    server = POSTGRES.replace("postgresql+asyncpg://", "postgresql://")
    admin = await asyncpg.connect(server)
    try:
        await admin.execute(f'create database "{made}"')
        theirs = f"{server.rpartition('/')[0]}/{made}"
        if ":" not in theirs.partition("//")[2].partition("@")[0]:
            theirs = theirs.replace("@", ":none@", 1)  # some take no address without a password
        ours = theirs.replace("postgresql://", "postgresql+asyncpg://")
        yield (ours if name == "ours" else theirs), ours
    finally:
        await admin.execute(f'drop database if exists "{made}" with (force)')
        await admin.close()


async def _run(name: str, dialect: str, kommo: Kommo, folder: Path, wanted: Sums) -> Result:
    result = Result(name, dialect, "failed")
    async with _new_database(name, dialect, folder) as (url, looked_at):
        environment = os.environ | {
            "RIVAL_FOLDER": str(folder / f"{name}-{dialect}"),
            "RIVAL_SCHEMA": "main" if dialect == "sqlite" else "public",
        }
        before = await _requests(kommo)
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *("bash", "-o", "pipefail", "-c", _command(name, kommo, url)),
            cwd=ROOT,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        used = asyncio.create_task(asyncio.to_thread(_watch, process.pid))
        try:
            _, said = await asyncio.wait_for(process.communicate(), LONGEST)
        except TimeoutError:
            os.killpg(process.pid, 9)
            _, said = await process.communicate()
            result.note = f"not done after {LONGEST:.0f} s"
        result.wall = round(time.perf_counter() - began, 2)
        result.cpu, result.peak_mb = await used
        result.requests = await _requests(kommo) - before
        if process.returncode:
            result.note = result.note or said.decode(errors="replace").strip()[-400:]
            return result
        rows = sum(count for count, _, _ in wanted.values())
        if name == CEILING:
            result.state, result.same, result.note = "done", True, "stores nothing"
            result.rows_per_second = round(rows / result.wall)
            return result
        try:
            found = await _sums(looked_at, name)
        except Exception as error:  # noqa: BLE001 - whatever a candidate has left behind
            result.note = f"its rows cannot be looked at: {type(error).__name__}: {str(error)[:200]}"
            return result
        result.state, result.same = "done", found == wanted
        result.rows_per_second = round(rows / result.wall)
        result.note = "" if result.same else f"found {found}, wanted {wanted}"
    return result


def _watch(pid: int) -> tuple[float, float]:
    """Processor seconds of a process and all below it, and the most memory that they held together, in MB."""
    seconds: dict[int, float] = {}
    peak, tick = 0.0, os.sysconf("SC_CLK_TCK")
    while Path(f"/proc/{pid}").exists():
        held = 0.0
        for one in _tree(pid):
            try:
                fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
                held += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                continue
            if fields[0] == "Z":
                return round(sum(seconds.values()), 2), round(peak / 2**20, 1)
            seconds[one] = (int(fields[11]) + int(fields[12])) / tick
        peak = max(peak, held)
        time.sleep(0.05)
    return round(sum(seconds.values()), 2), round(peak / 2**20, 1)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            tasks = list(Path(f"/proc/{one}/task").iterdir())
            for task in tasks:
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


_QUERIES = {
    "ours": (
        "select count(*), sum(cast({raw} as bigint)), sum(coalesce(price, 0)) from {schema}record "
        "where entity = '{kind}' and state = 'present'"
    ),
    "singer": "select count(distinct id), sum(u), sum(coalesce(p, 0)) from "
    "(select id, max(updated_at) as u, max(price) as p from {kind} group by id) as last",
}
_PLAIN = "select count(*), sum(updated_at), sum(coalesce({price}, 0)) from {kind}"


async def _sums(url: str, name: str) -> Sums:
    """Of each kind: records, the sum of their times of change, the sum of prices."""
    engine = create_async_engine(url)
    postgres = url.startswith("postgresql")
    found: Sums = {}
    try:
        async with engine.connect() as connection:
            for kind in ("leads", "contacts"):
                price = "price" if kind == "leads" or name != "dlt" else "0"
                query = _QUERIES.get(name, _PLAIN).format(
                    kind=kind,
                    price=price,
                    schema="kommo." if postgres else "",
                    raw="raw->>'updated_at'" if postgres else "json_extract(raw, '$.updated_at')",
                )
                row = (await connection.execute(text(query))).one()
                found[kind] = (int(row[0]), int(row[1]), int(row[2]))
    finally:
        await engine.dispose()
    return found


@asynccontextmanager
async def _asking(kommo: Kommo) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Host": kommo.host, "Authorization": f"Bearer {kommo.token}"}
    address = f"http://127.0.0.1:{kommo.host.rpartition(':')[2]}"
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=30) as client:
        yield client


async def _held(kommo: Kommo) -> Sums:
    """What the sandbox gives, read page by page."""
    found: Sums = {}
    async with _asking(kommo) as client:
        for kind in ("leads", "contacts"):
            records: dict[int, dict[str, Any]] = {}
            page = 1
            while True:
                answer = await client.get(
                    f"/api/v4/{kind}", params={"limit": 250, "page": page, "order[id]": "asc"}
                )
                if answer.status_code == 204:
                    break
                records |= {one["id"]: one for one in answer.json()["_embedded"][kind]}
                page += 1
            found[kind] = (
                len(records),
                sum(one["updated_at"] for one in records.values()),
                sum(one.get("price") or 0 for one in records.values()),
            )
    return found


async def _requests(kommo: Kommo) -> int:
    async with _asking(kommo) as client:
        return len((await client.get("/_sandbox/requests")).json())


async def measure(names: Sequence[str], dialects: Sequence[str], records: int) -> list[Result]:
    """Every candidate on every database."""
    results = []
    folder = Path(tempfile.mkdtemp(prefix="kommo-rivals-"))
    try:
        async with sandbox(records, 0) as kommo:
            wanted = await _held(kommo)
            for dialect in dialects:
                for name in names:
                    results.append(await _run(name, dialect, kommo, folder, wanted))
                    sys.stderr.write(f"{json.dumps(asdict(results[-1]))}\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000, help="leads, and as many contacts")
    parser.add_argument(
        "--only", action="append", choices=["ours", CEILING, *VERSIONS], help="candidates; by default all"
    )
    parser.add_argument("--database", action="append", choices=["sqlite", "postgresql"])
    parser.add_argument("--out", type=Path, help="a folder for records.json and records.svg")
    wanted = parser.parse_args()
    dialects = wanted.database or (["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
    results = asyncio.run(measure(wanted.only or [CEILING, "ours", *VERSIONS], dialects, wanted.records))
    found = {
        "records": wanted.records,
        "results": [asdict(one) for one in results],
        "times_ours": _ratios(results),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    if wanted.out:
        wanted.out.mkdir(parents=True, exist_ok=True)
        (wanted.out / "records.json").write_text(json.dumps(found, indent=2))
        (wanted.out / "records.svg").write_text(draw([asdict(one) for one in results], wanted.records))


def _ratios(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """How many times as many rows a second we read as each of the others, by database."""
    ours = {one.database: one.rows_per_second for one in results if one.name == "ours"}
    ratios: dict[str, dict[str, float]] = {}
    for one in results:
        if one.rows_per_second and one.name != "ours" and one.database in ours:
            ratios.setdefault(one.database, {})[one.name] = round(ours[one.database] / one.rows_per_second, 2)
    return ratios


if __name__ == "__main__":
    main()
