"""An airbyte-cdk declarative source (the manifest of a low-code connector), and a plain loader, since the CDK has no destination.

`airbyte_reader.py BASE HOST TOKEN DATABASE`
"""

import json
import logging
import sys
from importlib.metadata import version

import sqlalchemy as sa
from airbyte_cdk.models import ConfiguredAirbyteCatalogSerializer, Type
from airbyte_cdk.sources.declarative.concurrent_declarative_source import ConcurrentDeclarativeSource
from sqlalchemy.dialects import postgresql, sqlite

base, host, token, database = sys.argv[1:]
logging.disable(logging.WARNING)


def stream(name: str) -> dict:
    return {
        "type": "DeclarativeStream",
        "name": name,
        "primary_key": "id",
        "schema_loader": {
            "type": "InlineSchemaLoader",
            "schema": {"type": "object", "properties": {}, "additionalProperties": True},
        },
        "retriever": {
            "type": "SimpleRetriever",
            "requester": {
                "type": "HttpRequester",
                "url_base": base,
                "path": f"/api/v4/{name}",
                "http_method": "GET",
                "request_headers": {"Host": host, "Authorization": f"Bearer {token}"},
                "request_parameters": {"with": "contacts", "order[id]": "asc"},
                "error_handler": {
                    "type": "DefaultErrorHandler",
                    "response_filters": [
                        {"type": "HttpResponseFilter", "http_codes": [204], "action": "IGNORE"}
                    ],
                },
            },
            "record_selector": {
                "type": "RecordSelector",
                "extractor": {"type": "DpathExtractor", "field_path": ["_embedded", name]},
            },
            "paginator": {
                "type": "DefaultPaginator",
                "page_token_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "page",
                },
                "page_size_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "limit",
                },
                "pagination_strategy": {
                    "type": "PageIncrement",
                    "page_size": 250,
                    "start_from_page": 1,
                    "inject_on_first_request": True,
                },
            },
        },
    }


manifest = {
    "version": "6.0.0",
    "type": "DeclarativeSource",
    "check": {"type": "CheckStream", "stream_names": ["leads"]},
    "streams": [stream("leads"), stream("contacts")],
    "spec": {"type": "Spec", "connection_specification": {"type": "object", "properties": {}}},
    "concurrency_level": {"type": "ConcurrencyLevel", "default_concurrency": 2},
}
catalog = ConfiguredAirbyteCatalogSerializer.load(
    {
        "streams": [
            {
                "stream": {"name": name, "json_schema": {}, "supported_sync_modes": ["full_refresh"]},
                "sync_mode": "full_refresh",
                "destination_sync_mode": "overwrite",
            }
            for name in ("leads", "contacts")
        ]
    }
)
source = ConcurrentDeclarativeSource(catalog=catalog, config={}, state=None, source_config=manifest)
engine = sa.create_engine(database)
metadata = sa.MetaData()
tables = {
    kind: sa.Table(
        kind, metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.Text),
        sa.Column("price", sa.BigInteger), sa.Column("updated_at", sa.BigInteger), sa.Column("raw", sa.Text),
    )
    for kind in ("leads", "contacts")
}  # fmt: skip
metadata.create_all(engine)
insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
pages: dict[str, list[dict]] = {kind: [] for kind in tables}
rows = 0


def save(kind: str) -> None:
    if not pages[kind]:
        return
    statement = insert(tables[kind])
    changed = {name: statement.excluded[name] for name in ("name", "price", "updated_at", "raw")}
    with engine.begin() as connection:
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed), pages[kind])
    pages[kind].clear()


for message in source.read(logging.getLogger("airbyte"), {}, catalog, None):
    if message.type is not Type.RECORD:
        continue
    kind, raw = message.record.stream, message.record.data
    pages[kind].append(
        {
            "id": raw["id"],
            "name": raw.get("name"),
            "price": raw.get("price"),
            "updated_at": raw["updated_at"],
            "raw": json.dumps(raw),
        }
    )
    rows += 1
    if len(pages[kind]) == 250:
        save(kind)
for kind in tables:
    save(kind)
print(json.dumps({"rows": rows, "version": version("airbyte-cdk")}))
