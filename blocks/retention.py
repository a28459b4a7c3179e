"""How long things are kept: settings with defaults, each with its reason; all begin with `KOMMO_RETENTION_`."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_FOR_EVER = "0 is for ever."


def _days(default: int, reason: str, *, least: int = 1) -> Any:  # noqa: ANN401 - stands for an int, as pydantic's Field does
    return Field(
        default=default,
        ge=0,
        le=36_500,
        description=f"{reason} {_FOR_EVER}",
        json_schema_extra={"least": least},
    )


class RetentionSettings(BaseSettings):
    """Days after which what has been done with goes; 0 is for ever."""

    model_config = SettingsConfigDict(
        env_prefix="KOMMO_RETENTION_", extra="ignore", hide_input_in_errors=True
    )

    deliveries_days: int = _days(
        14, "Raw webhooks, all of whose events are worked off: their bytes only prove what was said."
    )
    events_days: int = _days(
        30,
        "Events that are done, and duplicates. By them a repeated delivery is known; Kommo repeats for 1.5 hours, a "
        "product that forwards from its own queue perhaps for days.",
        least=7,
    )
    dead_letters_days: int = _days(
        0,
        "What was given up: dead events, deliveries that cannot be read, events the product never took. Nobody has "
        "done anything with them, so none goes by itself.",
    )
    told_days: int = _days(30, "Events that the product has taken: so far back they can be told again.")
    actions_days: int = _days(
        365,
        "Actions that have ended, and their idempotency keys: so long the same key gives the same answer.",
    )
    runs_days: int = _days(
        400,
        "Sync runs, their snapshots, and versions that no kept snapshot shows: more than a year, so that a year can be "
        "compared with the one before.",
    )
    record_versions_days: int = _days(
        400,
        "What records were before, where their history is kept: more than a year, so that a year can be compared with "
        "the one before.",
    )
    tokens_days: int = _days(
        100,
        "Used-up token pairs, sealed: no refresh token lives longer than three months, so none is of use by then.",
        least=92,
    )
    consents_days: int = _days(1, "Consents that were begun: a state is good for 15 minutes.")
    completeness_days: int = _days(
        400, "Figures of how complete webhooks were; the newest 200 of each org stay at any age."
    )
    audit_days: int = _days(
        1095, "What was done to connections and by whom: kept longest, for whoever asks years later."
    )
    orgs: Mapping[str, Mapping[str, Annotated[int, Field(ge=0, le=36_500)]]] = Field(
        default_factory=dict,
        description='Orgs with ages of their own, as JSON: {"acme": {"deliveries": 3}}.',
    )

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        least = {
            name.removesuffix("_days"): int(field.json_schema_extra["least"])  # type: ignore[arg-type]  # each `_days` has one
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict)
        }
        for whose, ages in (("", self.days), *self.orgs.items()):
            for name, days in ages.items():
                if name not in least:
                    raise ValueError(
                        f"There is no age called {name[:40]!r}. The ages are {', '.join(sorted(least))}."
                    )
                if 0 < days < least[name]:
                    org = f" of {whose[:64]}" if whose else ""
                    raise ValueError(
                        f"{name}{org} must be kept for at least {least[name]} days, or for ever (0): what is younger "
                        "is still needed."
                    )
        return self

    @property
    def days(self) -> dict[str, int]:
        """The ages by the names that the rules know them by."""
        return {
            name.removesuffix("_days"): getattr(self, name)
            for name in type(self).model_fields
            if name.endswith("_days")
        }
