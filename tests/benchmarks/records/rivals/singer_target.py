"""A target on the Singer SDK's own SQL sink: `singer_target.py DATABASE` reads Singer messages. It only adds rows."""

import json
import sys
from contextlib import contextmanager

from singer_sdk import typing as th
from singer_sdk.sql import SQLConnector, SQLSink, SQLTarget


class Connector(SQLConnector):
    allow_temp_tables = False
    allow_column_alter = False

    def get_sqlalchemy_url(self, config) -> str:
        return config["url"]

    @contextmanager
    def _connect(self):
        """The SDK's asks for a cursor on the server, with which psycopg2 cannot insert."""
        with self._engine.connect() as connection:
            yield connection


class Sink(SQLSink):
    connector_class = Connector
    max_size = 1000

    def preprocess_record(self, record, context) -> dict:
        """The SDK's own sink leaves lists and objects to each target."""
        return {
            name: json.dumps(value) if isinstance(value, list | dict) else value
            for name, value in record.items()
        }

    @property
    def schema_name(self):
        return None


class Target(SQLTarget):
    name = "target-sql"
    config_jsonschema = th.PropertiesList(th.Property("url", th.StringType)).to_dict()
    default_sink_class = Sink


Target(config={"url": sys.argv[1]}).listen(sys.stdin)
