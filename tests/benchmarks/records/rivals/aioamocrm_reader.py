"""aioamocrm and plain SQLAlchemy, as a good engineer writes it by hand: one page, one upsert of 250 rows.

`aioamocrm_reader.py BASE HOST TOKEN DATABASE`
"""

import asyncio
import json
import sys
from importlib.metadata import version

import httpx
import sqlalchemy as sa
from aioamocrm import AmoCRMClient, LongLivedToken
from sqlalchemy.dialects import postgresql, sqlite

base, host, token, database = sys.argv[1:]
metadata = sa.MetaData()
TABLES = {
    kind: sa.Table(
        kind,
        metadata,
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.Text),
        sa.Column("price", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger),
        sa.Column("raw", sa.JSON),
    )
    for kind in ("leads", "contacts")
}


class ToLoopback(httpx.AsyncHTTPTransport):
    """The sandbox's names are no names of the net."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(host="127.0.0.1")
        return await super().handle_async_request(request)


async def main() -> None:
    engine = sa.create_engine(database)
    metadata.create_all(engine)
    insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
    rows = 0
    async with (
        httpx.AsyncClient(transport=ToLoopback(), timeout=30) as http,
        AmoCRMClient(
            auth=LongLivedToken(token), base_url=f"http://{host}", http=http, rate_limit=None
        ) as amo,
    ):
        for kind, table in TABLES.items():
            page: list[dict] = []

            def save() -> None:
                if not page:
                    return
                statement = insert(table)
                changed = {name: statement.excluded[name] for name in ("name", "price", "updated_at", "raw")}
                with engine.begin() as connection:
                    connection.execute(
                        statement.on_conflict_do_update(index_elements=["id"], set_=changed), page
                    )
                page.clear()

            async for one in getattr(amo, kind).iterate(
                with_=["contacts"] if kind == "leads" else None, limit=250
            ):
                raw = one.model_dump(mode="json") if hasattr(one, "model_dump") else dict(one)
                page.append(
                    {
                        "id": raw["id"],
                        "name": raw.get("name"),
                        "price": raw.get("price"),
                        "updated_at": int(one.updated_at.timestamp())
                        if hasattr(one.updated_at, "timestamp")
                        else one.updated_at,
                        "raw": raw,
                    }
                )
                rows += 1
                if len(page) == 250:
                    save()
            save()
    print(json.dumps({"rows": rows, "version": version("aioamocrm")}))


asyncio.run(main())
