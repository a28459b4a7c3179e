"""The product's client, written from the OpenAPI document: `python -m deployments.product_client`.

One TypeScript file without dependencies: the types of what goes in and comes out, and a class with a method for each
door that the product calls. It is made here, and not by a package, because a generator for all of OpenAPI needs a
runtime many times the size of the client; this one knows what our own document uses, and refuses the rest.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.app import create_app

FOLDER = Path(__file__).parent / "product-client"
FILE = FOLDER / "client.ts"
_PREFIXES = ("/api/v1/orgs", "/api/v1/agents")
_ORG_HEADER = "X-Kommo-Org"
_WIDTH = 120
_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}

_HEAD = """\
// The product's client of the Kommo data plane's gateway.
// Written by `python -m deployments.product_client` from the OpenAPI document. Do not edit: change the gateway, run it.

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** What the gateway answered when it did not do what it was asked for. */
export class GatewayError extends Error {
  readonly status: number;
  /** What went wrong, as a word for programs, where there is one. */
  readonly reasonCode: string | null;
  /** Quote it to whoever runs the gateway. */
  readonly requestId: string | null;
  /** Seconds after which it may be tried again; null if trying again does not help by itself. */
  readonly retryAfter: number | null;
  readonly body: unknown;

  constructor(status: number, body: unknown, headers: Headers) {
    const told = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
    super(String(told["detail"] ?? told["error"] ?? `HTTP ${status}`));
    this.name = "GatewayError";
    this.status = status;
    this.reasonCode = typeof told["reason_code"] === "string" ? told["reason_code"] : null;
    this.requestId = headers.get("x-request-id");
    const after = Number(headers.get("retry-after") ?? Number.NaN);
    this.retryAfter = Number.isFinite(after) ? after : null;
    this.body = body;
  }
}

export interface Answer<Status extends number, Body> {
  status: Status;
  body: Body;
  headers: Headers;
}

export interface GatewayOptions {
  /** The gateway's address, such as `https://crm.example.com`. */
  url: string;
  /** A key made by `kommo keys api create`. */
  apiKey: string;
  /** The org to act for: the product's tenant. */
  org: string;
  /** How often a request is tried that the gateway was too busy for or that got no answer; all of them bear it. */
  attempts?: number;
  fetch?: typeof fetch;
}

/** Seconds for which a caller is kept waiting before a request is tried again; what asks for more is given up. */
const LONGEST_PAUSE = 30;

interface Call {
  method: string;
  path: string;
  query?: Record<string, string | number | boolean | null | undefined>;
  headers?: Record<string, string | undefined>;
  body?: unknown;
}
"""

_CLASS = """\
export class KommoGateway {
  private readonly options: GatewayOptions;

  constructor(options: GatewayOptions) {
    this.options = options;
  }

  /** The same for another org. */
  for(org: string): KommoGateway {
    return new KommoGateway({ ...this.options, org });
  }

  private async call<Result>(call: Call, good: readonly number[]): Promise<Result> {
    const url = new URL(call.path, this.options.url);
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
    }
    const headers = new Headers({ authorization: `Bearer ${this.options.apiKey}`, "x-kommo-org": this.options.org });
    for (const [name, value] of Object.entries(call.headers ?? {})) {
      if (value !== undefined) headers.set(name, value);
    }
    if (call.body !== undefined) headers.set("content-type", "application/json");
    const body = call.body === undefined ? null : JSON.stringify(call.body);
    const attempts = this.options.attempts ?? 3;
    for (let attempt = 1; ; attempt += 1) {
      let answer: Response;
      try {
        answer = await (this.options.fetch ?? fetch)(url, { method: call.method, headers, body, redirect: "manual" });
      } catch (error) {
        if (attempt >= attempts) throw error;
        await pause(attempt);
        continue;
      }
      const text = await answer.text();
      const isJson = (answer.headers.get("content-type") ?? "").includes("json");
      const told: unknown = isJson && text ? JSON.parse(text) : text || null;
      if (good.includes(answer.status)) {
        return { status: answer.status, body: told, headers: answer.headers } as Result;
      }
      const error = new GatewayError(answer.status, told, answer.headers);
      const seconds = error.retryAfter ?? attempt;
      if (![429, 503].includes(answer.status) || attempt >= attempts || seconds > LONGEST_PAUSE) throw error;
      await pause(seconds);
    }
  }
"""

_TAIL = """\
}

function pause(seconds: number): Promise<void> {
  return new Promise((done) => setTimeout(done, seconds * 1000));
}
"""


def client_source(document: Mapping[str, Any]) -> str:
    """The client for a document.

    Raises:
        ValueError: the document uses something of JSON Schema that this does not know.
    """
    methods = list(_methods(document))
    schemas = document["components"]["schemas"]
    wanted = _reached("".join(methods), schemas)
    types = [_declared(name, schemas[name]) for name in sorted(wanted)]
    return "\n".join((_HEAD, *types, _CLASS.rstrip("\n"), *methods)).rstrip("\n") + "\n" + _TAIL


def _methods(document: Mapping[str, Any]) -> Iterator[str]:
    for path, operations in document["paths"].items():
        if not path.startswith(_PREFIXES):
            continue
        for method, operation in operations.items():
            yield _method(path, method.upper(), operation)


def _method(path: str, method: str, operation: Mapping[str, Any]) -> str:
    arguments: list[str] = []
    call = [f'method: "{method}"', f"path: {_path(path)}"]
    by_place: dict[str, list[Mapping[str, Any]]] = {"path": [], "query": [], "header": []}
    for parameter in operation.get("parameters", []):
        by_place[parameter["in"]].append(parameter)
    arguments += [
        f"{_camel(one['name'])}: {_type(one['schema'])}" for one in by_place["path"] if one["name"] != "org"
    ]
    body = operation.get("requestBody")
    if body is not None:
        arguments.append(f"body: {_type(body['content']['application/json']['schema'])}")
        call.append("body")
    headers = [one for one in by_place["header"] if one["name"] != _ORG_HEADER]
    arguments += [f"{_camel(one['name'])}: string" for one in headers if one["required"]]
    options = [one for one in by_place["query"] if one["name"] != "org"]
    options += [one for one in headers if not one["required"]]
    if options:
        told = "; ".join(f"{_camel(one['name'])}?: {_optional(one['schema'])}" for one in options)
        arguments.append(f"options: {{ {told} }} = {{}}")
    if by_place["query"] and (pairs := [_pair(one) for one in options if one["in"] == "query"]):
        call.append(f"query: {{ {', '.join(pairs)} }}")
    if headers:
        pairs = [
            f'"{one["name"].lower()}": {"" if one["required"] else "options."}{_camel(one["name"])}'
            for one in headers
        ]
        call.append(f"headers: {{ {', '.join(pairs)} }}")
    return _written(operation, arguments, call)


def _written(operation: Mapping[str, Any], arguments: list[str], call: list[str]) -> str:
    good: dict[int, str] = {}
    for status, answer in operation["responses"].items():
        if int(status) < 400:
            content = answer.get("content", {}).get("application/json", {}).get("schema")
            good[int(status)] = "null" if content is None else _type(content)
    union = " | ".join(f"Answer<{status}, {body}>" for status, body in sorted(good.items()))
    description = " ".join(str(operation["description"]).split())
    statuses = ", ".join(str(status) for status in sorted(good))
    name = _camel(operation["operationId"])
    lines = [
        "",
        *_comment(description, "  "),
        *_signature(name, arguments, union),
        f"    return this.call({{ {', '.join(call)} }}, [{statuses}]);",
        "  }",
    ]
    return "\n".join(lines)


def _signature(name: str, arguments: list[str], result: str) -> list[str]:
    line = f"  {name}({', '.join(arguments)}): Promise<{result}> {{"
    if len(line) <= _WIDTH:
        return [line]
    return [f"  {name}(", *(f"    {one}," for one in arguments), f"  ): Promise<{result}> {{"]


def _comment(text: str, indent: str) -> list[str]:
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) + len(indent) + 4 > _WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    if len(lines) == 1:
        return [f"{indent}/** {lines[0]} */"]
    return [f"{indent}/**", *(f"{indent} * {line}" for line in lines), f"{indent} */"]


def _pair(parameter: Mapping[str, Any]) -> str:
    name = parameter["name"]
    return f"{name}: options.{_camel(name)}"


def _path(path: str) -> str:
    def filled(found: re.Match[str]) -> str:
        name = "this.options.org" if found[1] == "org" else _camel(found[1])
        return f"${{encodeURIComponent({name})}}"

    return f"`{re.sub(r'{(.*?)}', filled, path)}`"


def _declared(name: str, schema: Mapping[str, Any]) -> str:
    comment = _comment(str(schema.get("description", "")), "") if schema.get("description") else []
    if "enum" in schema or "properties" not in schema:
        return "\n".join((*comment, f"export type {_identifier(name)} = {_type(schema)};", ""))
    required = set(schema.get("required", []))
    lines = [*comment, f"export interface {_identifier(name)} {{"]
    for key, value in schema["properties"].items():
        if value.get("description"):
            lines += _comment(str(value["description"]), "  ")
        lines.append(f"  {key}{'' if key in required else '?'}: {_type(value)};")
    return "\n".join((*lines, "}", ""))


def _optional(schema: Mapping[str, Any]) -> str:
    """The type of something that may be left out anyway."""
    return " | ".join(part for part in _type(schema).split(" | ") if part != "null")


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _identifier(str(schema["$ref"]).rpartition("/")[2])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(part) for part in schema["anyOf"]))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        return " | ".join(f'"{value}"' for value in values)
    return _plain_type(schema) if "type" in schema else "Json"


def _plain_type(schema: Mapping[str, Any]) -> str:
    kind = schema["type"]
    if kind == "array":
        inner = _type(schema["items"])
        return f"Array<{inner}>" if "|" in inner else f"{inner}[]"
    if kind == "object":
        more = schema.get("additionalProperties", True)
        return f"Record<string, {'Json' if more is True else _type(more)}>"
    if kind not in _PLAIN:
        raise ValueError(f"The client's generator does not know the type {kind!r}.")
    return _PLAIN[kind]


def _reached(text: str, schemas: Mapping[str, Any]) -> set[str]:
    """The names of the schemas that the methods mention, and of those that these mention."""
    by_identifier = {_identifier(name): name for name in schemas}
    found: set[str] = set()
    waiting = [text]
    while waiting:
        mentioned = set(re.findall(r"\b[A-Z]\w+\b", waiting.pop())) & by_identifier.keys()
        for name in {by_identifier[one] for one in mentioned} - found:
            found.add(name)
            waiting.append(re.sub(r"/\*\*.*?\*/", "", _declared(name, schemas[name]), flags=re.DOTALL))
    return found


def _identifier(name: str) -> str:
    return re.sub(r"\W", "", name)


def _camel(name: str) -> str:
    head, *rest = re.split(r"[-_]", name)
    return head[:1].lower() + head[1:] + "".join(one[:1].upper() + one[1:] for one in rest)


def main() -> None:
    """Write the file."""
    FILE.write_text(client_source(create_app().openapi()))
    sys.stdout.write(f"{FILE}\n")


if __name__ == "__main__":
    main()
