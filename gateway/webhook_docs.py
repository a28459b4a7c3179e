"""What the OpenAPI document says of the doors for webhooks, which are not FastAPI's own."""

from collections.abc import Mapping
from typing import Any

from gateway.answers import UNAVAILABLE, problems, seed_errors
from gateway.webhooks import KEY_DOOR, SIGNED_DOOR

_Answers = Mapping[int | str, Mapping[str, Any]]
_TAGS = ["Kommo's calls"]
_TAKEN: dict[str, Any] = {
    "description": "It is on the disk.",
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/Received"},
            "example": {"received": True},
        }
    },
}
_TAKEN_FROM_KOMMO = {"description": "It is on the disk. The answer is empty: Kommo looks at the status only."}
_RETRY = {"Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}}
_FORM_EXAMPLE = "account%5Bid%5D=31234567&leads%5Bupdate%5D%5B0%5D%5Bid%5D=15318175"
_JSON_EXAMPLE = {"account": {"id": 31234567}, "leads": {"update": [{"id": "15318175"}]}}
_KEY_ERRORS = problems(
    other=(
        400,
        "The body is of another account.",
        "The body is not of the account that this address is for.",
    ),
    unknown=(404, "No such key, or it was revoked.", "Not Found"),
    slow=(408, "The body did not come.", "The body took too long to come."),
    large=(413, "The body is larger than 1 MiB.", "The body is too large."),
    kind=(
        415,
        "The body is of another kind, or compressed.",
        "The body must be a form or JSON, and not compressed.",
    ),
    busy=(
        503,
        "It could not be written in time; or too many came at once, then without a body.",
        UNAVAILABLE,
    ),
)
_SIGNED_ERRORS = seed_errors(
    forged=(401, "The signature does not fit, or no secret is set.", ["Invalid signature"]),
    slow=(408, "The body did not come.", ["The body took too long to come."]),
    large=(413, "The body is larger than 1 MiB.", ["The body is too large."]),
    kind=(
        415,
        "The body is of another kind, or compressed.",
        ["The body must be a form or JSON, and not compressed."],
    ),
    busy=(
        503,
        "It could not be written in time; or too many came at once, then without a body.",
        [UNAVAILABLE],
    ),
)


def webhook_paths(seed: _Answers, plain: _Answers) -> dict[str, Any]:
    """The paths of both doors.

    Args:
        seed: What every door answers with a body `{"error": …}`.
        plain: What every other door answers.
    """
    schema = {"type": "object", "additionalProperties": True}
    form = {
        "schema": {"type": "string", "description": "A form with PHP's brackets."},
        "example": _FORM_EXAMPLE,
    }
    told = {"schema": schema, "example": _JSON_EXAMPLE}
    return {
        KEY_DOOR: {
            "post": {
                "tags": _TAGS,
                "summary": "Take in a webhook of Kommo's",
                "description": "Kommo's own webhooks, which are not signed: the key in the path says whose they are. "
                "Answered once the bytes and the events are on the disk; a repetition is kept and flagged, and a body "
                "that cannot be read is kept as well.",
                "operationId": "take_webhook",
                "parameters": [
                    {
                        "name": "hook_key",
                        "in": "path",
                        "required": True,
                        "description": "The key that was made when the account was subscribed.",
                        "schema": {"type": "string", "title": "Hook Key"},
                    }
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/x-www-form-urlencoded": form, "application/json": told},
                },
                "responses": {"200": _TAKEN_FROM_KOMMO} | _by_text(plain) | _by_text(_KEY_ERRORS),
            }
        },
        SIGNED_DOOR: {
            "post": {
                "tags": _TAGS,
                "summary": "Take in a webhook that the product forwards",
                "description": "What the product got from Kommo and signed. The orgs are those that are connected to "
                "the account that the body names; without one it is kept, and nothing comes of it.",
                "operationId": "take_signed_webhook",
                "parameters": [
                    {
                        "name": "X-Signature",
                        "in": "header",
                        "required": True,
                        "description": "hex HMAC-SHA256 of the body's bytes with the webhook secret.",
                        "schema": {"type": "string", "title": "X-Signature"},
                    }
                ],
                "requestBody": {"required": True, "content": {"application/json": told}},
                "responses": {"200": _TAKEN} | _by_text(seed) | _by_text(_SIGNED_ERRORS),
            }
        },
    }


def _by_text(answers: _Answers) -> dict[str, Any]:
    """Answers as the document has them: FastAPI would have put the schema where `model` is."""
    found: dict[str, Any] = {}
    for status, told in answers.items():
        answer = {name: value for name, value in told.items() if name != "model"}
        if "model" in told:
            schema = {"$ref": f"#/components/schemas/{told['model'].__name__}"}
            content = answer["content"]["application/json"]
            answer["content"] = {"application/json": {"schema": schema} | content}
        found[str(status)] = answer | ({"headers": _RETRY} if status == 503 else {})
    return found
