"""How an event is written down and signed for the product. Pure.

Facts: CloudEvents 1.0.2, JSON event format, structured mode; Standard Webhooks 1.0 (headers `webhook-id`,
`webhook-timestamp`, `webhook-signature`; what is signed is `id.timestamp.body`; a secret is `whsec_` and 24 to 64 bytes
in base64; several signatures stand in one header, separated by spaces, so that secrets can be replaced without a gap).
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC

from pydantic import SecretStr

from store.outbox import OutboxRecord
from store.types import dump_json
from tasks.errors import EventsSetupError

CONTENT_TYPE = "application/cloudevents+json"
PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64


class Signer:
    """Signs with one secret or several. Its repr shows none.

    Args:
        secrets: Each `whsec_` and base64; separated by spaces or commas, the newest first.

    Raises:
        EventsSetupError: There is none, or one is not of this form.
    """

    def __init__(self, secrets: SecretStr) -> None:
        given = re.split(r"[\s,]+", secrets.get_secret_value().strip())
        self._keys = [_key(one) for one in given if one]
        if not self._keys:
            raise EventsSetupError(
                "KOMMO_EVENTS_SECRET is not set, and nothing is sent unsigned. Make one: `whsec_` and 32 random bytes "
                "in base64; give it to the product as well."
            )

    def __repr__(self) -> str:
        return f"Signer({len(self._keys)} secrets)"

    def headers(self, event_id: str, seconds: int, body: bytes) -> dict[str, str]:
        """The three headers of one attempt.

        Args:
            event_id: The product deduplicates by it; the same at each attempt.
            seconds: The time of this attempt, since 1970.
            body: What is sent, byte for byte.
        """
        signed = f"{event_id}.{seconds}.".encode() + body
        return {
            "webhook-id": event_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": " ".join(f"v1,{_signature(key, signed)}" for key in self._keys),
        }


def verified(secret: SecretStr, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a request was signed with this secret: what a receiver does, but for the age of the timestamp.

    Args:
        secret: One secret.
        headers: Of the request, by names in lower case.
        body: As it came, byte for byte.
    """
    signed = f"{headers.get('webhook-id', '')}.{headers.get('webhook-timestamp', '')}.".encode() + body
    expected = f"v1,{_signature(_key(secret.get_secret_value()), signed)}".encode()
    given: Sequence[str] = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(one.encode(), expected) for one in given)


def cloud_event(event: OutboxRecord) -> bytes:
    """One event as CloudEvents JSON, the same bytes whenever it is written."""
    # An extension attribute: lower-case letters and digits only (CloudEvents 1.0.2, 3.1.1).
    more = {} if event.reference is None else {"requestid": event.reference}
    return dump_json(
        {
            "specversion": "1.0",
            "id": event.event_id,
            "source": f"/kommo/{event.org}",
            "type": event.type,
            "subject": event.subject,
            "time": event.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            **more,
            "data": event.payload,
        }
    ).encode()


def _signature(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    key = b""
    if secret.startswith(PREFIX):
        with contextlib.suppress(ValueError, binascii.Error):
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    if not _SHORTEST <= len(key) <= _LONGEST:
        # Outside the handler: the error of the layer below may repeat the secret.
        raise EventsSetupError(
            f"A secret of KOMMO_EVENTS_SECRET is not `whsec_` followed by {_SHORTEST} to {_LONGEST} bytes in base64 "
            "(Standard Webhooks). Nothing was sent."
        )
    return key
