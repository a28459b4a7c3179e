"""What Kommo tells by itself: the bodies of its webhooks, read without losing a value. Facts: kommo-api.md §6."""

from kommo.webhooks.events import Delivery, WebhookEvent
from kommo.webhooks.limits import BodyTooLargeError, Limits, UnreadableBodyError
from kommo.webhooks.parsing import is_understood, parse

__all__ = [
    "BodyTooLargeError",
    "Delivery",
    "Limits",
    "UnreadableBodyError",
    "WebhookEvent",
    "is_understood",
    "parse",
]
