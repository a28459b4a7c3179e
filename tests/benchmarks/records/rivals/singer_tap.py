"""A tap on the Singer SDK, as its cookiecutter makes it: `singer_tap.py BASE HOST TOKEN` writes Singer messages."""

import sys

from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.pagination import BasePageNumberPaginator

base, host, token = sys.argv[1:4]


class Pages(BasePageNumberPaginator):
    def has_more(self, response) -> bool:
        return response.status_code == 200 and "next" in response.json().get("_links", {})


class KommoStream(RESTStream):
    url_base = base
    primary_keys = ("id",)
    schema = th.PropertiesList(
        th.Property("id", th.IntegerType), th.Property("name", th.StringType), th.Property("price", th.IntegerType),
        th.Property("updated_at", th.IntegerType), th.Property("created_at", th.IntegerType),
        th.Property("responsible_user_id", th.IntegerType), th.Property("status_id", th.IntegerType),
        th.Property("pipeline_id", th.IntegerType), th.Property("closed_at", th.IntegerType),
        th.Property("custom_fields_values", th.ArrayType(th.ObjectType(additional_properties=True))),
        th.Property("_embedded", th.ObjectType(additional_properties=True)),
    ).to_dict()  # fmt: skip

    @property
    def http_headers(self) -> dict:
        return {"Host": host, "Authorization": f"Bearer {token}"}

    def get_new_paginator(self) -> Pages:
        return Pages(start_value=1)

    def get_url_params(self, context, next_page_token) -> dict:
        return {"limit": 250, "page": next_page_token or 1, "order[id]": "asc", "with": "contacts"}

    def parse_response(self, response):
        if response.status_code == 204:
            return
        yield from response.json()["_embedded"][self.name]


class Leads(KommoStream):
    name = "leads"
    path = "/api/v4/leads"


class Contacts(KommoStream):
    name = "contacts"
    path = "/api/v4/contacts"


class TapKommo(Tap):
    name = "tap-kommo"
    config_jsonschema = th.PropertiesList().to_dict()

    def discover_streams(self) -> list:
        return [Leads(self), Contacts(self)]


TapKommo(config={}).sync_all()
