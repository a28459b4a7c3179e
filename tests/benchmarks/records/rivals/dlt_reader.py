"""dlt's `rest_api` source, as its documentation has it: a paginator of pages, merge by the primary key, two resources at a time.

`dlt_reader.py BASE HOST TOKEN DATABASE`; custom fields stay one JSON column (else dlt makes a table of each list in them, which
is more work than anybody else here does).
"""

import json
import os
import sys

base, host, token, database = sys.argv[1:]
os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR", "EXTRACT__WORKERS": "2"}

import dlt
from dlt.sources.helpers.rest_client.paginators import PageNumberPaginator
from dlt.sources.rest_api import rest_api_source


def resource(name: str) -> dict:
    return {
        "name": name,
        "primary_key": "id",
        "write_disposition": "merge",
        "max_table_nesting": 0,
        "parallelized": True,
        "endpoint": {
            "path": f"api/v4/{name}",
            "params": {"limit": 250, "order[id]": "asc", "with": "contacts"},
            "data_selector": f"_embedded.{name}",
            "paginator": PageNumberPaginator(
                base_page=1, page_param="page", total_path=None, stop_after_empty_page=True
            ),
            "response_actions": [{"status_code": 204, "action": "ignore"}],
        },
    }


source = rest_api_source(
    {
        "client": {"base_url": base, "headers": {"Host": host, "Authorization": f"Bearer {token}"}},
        "resources": [resource("leads"), resource("contacts")],
    }
)
if database.startswith("sqlite"):
    destination = dlt.destinations.sqlalchemy(database)
else:
    destination = dlt.destinations.postgres(database)
folder = os.environ["RIVAL_FOLDER"]
pipeline = dlt.pipeline(
    "kommo", destination=destination, dataset_name=os.environ["RIVAL_SCHEMA"], pipelines_dir=folder
)
pipeline.run(source)
counts = pipeline.last_trace.last_normalize_info.row_counts
print(json.dumps({"rows": counts.get("leads", 0) + counts.get("contacts", 0), "version": dlt.__version__}))
