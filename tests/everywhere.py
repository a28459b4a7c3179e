"""Every place in which a secret could turn up, for the tests that look for one (T5)."""

import json
from pathlib import Path
from typing import Any

import httpx
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL


def prefect_database() -> Path:
    """The file of the database of the session's Prefect server."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    path = Path(str(url).partition(":///")[2])
    assert path.is_file()
    return path


def bytes_under(folder: Path) -> bytes:
    """Every byte of every file, write-ahead logs among them; the processes that wrote them are gone or a server."""
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def said_by_prefect(api: str) -> str:
    """All runs with their parameters, their artifacts and logs, and all block documents, as the API gives them."""
    said = []
    with httpx.Client(base_url=api, timeout=30) as client:
        for name in ("flow_runs", "task_runs", "artifacts", "logs", "block_documents"):
            page: list[Any] = [None]
            offset = 0
            while page:
                answer = client.post(f"/{name}/filter", json={"limit": 200, "offset": offset})
                answer.raise_for_status()
                page = answer.json()
                offset += len(page)
                said.append(json.dumps(page))
    return "\n".join(said)
