"""The catalogue made ready for a Prefect server: which deployments, of which pool and queue, with which shards.

A plan is plain data. `deployments.apply` brings a server to it and says what differs; `deployments.prefect_yaml` writes
it down for `prefect deploy`; `kommo serve` runs it in one process.
"""

import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from importlib.metadata import version
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.utilities.callables import parameter_schema
from pydantic.fields import FieldInfo

from deployments.catalogue import (
    BULK_BESIDE_THE_SHARDS,
    CATALOGUE,
    POOL,
    TAG,
    URGENT_AT_A_TIME,
    Entry,
    Queue,
)

PACKAGE = "kommo-data-plane"


class PoolType(StrEnum):
    """What the pool's workers make of a run."""

    PROCESS = "process"
    DOCKER = "docker"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class Planned:
    """One deployment as the server should have it."""

    entry: Entry
    name: str
    cron: str | None
    active: bool
    parameters: Mapping[str, object]

    @cached_property
    def flow(self) -> Flow[..., Any]:
        """The flow itself."""
        return load_flow(self.entry)

    @property
    def full_name(self) -> str:
        """`flow/deployment`, as callers name it."""
        return f"{self.flow.name}/{self.name}"

    @property
    def tags(self) -> list[str]:
        """Sorted, as they are compared."""
        return sorted({TAG, *self.entry.tags})

    @property
    def concurrency_options(self) -> ConcurrencyOptions | None:
        """What becomes of a run too many."""
        if self.entry.limit is None:
            return None
        return ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)

    @property
    def schema(self) -> dict[str, Any]:
        """What its parameters may be: Prefect's form, with our titles, and closed.

        Prefect takes a parameter's name for its title, and its line in the docstring for its description. And a
        parameter that the flow does not have is to be refused at once: a run made with it would only die.
        """
        schema = parameter_schema(self.flow).model_dump(exclude_unset=True)
        signature = inspect.signature(self.flow.fn, eval_str=True)
        properties = {
            name: {**shown, **_described(name, shown, signature.parameters[name].annotation)}
            for name, shown in schema["properties"].items()
        }
        return {**schema, "properties": properties, "additionalProperties": False}


def _described(name: str, shown: Mapping[str, Any], annotation: Any) -> dict[str, Any]:  # noqa: ANN401 - any type
    field_info = FieldInfo.from_annotation(annotation)
    described: dict[str, Any] = {
        "title": field_info.title or name.replace("_", " ").capitalize(),
        "description": field_info.description or _sentence(shown.get("description", "")),
    }
    return described | ({"examples": field_info.examples} if field_info.examples else {})


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Plan:
    """All deployments, the pool they belong to, and how many runs each of its queues may have at a time.

    `pool` is None where one process serves them all (`kommo serve`).
    """

    deployments: tuple[Planned, ...]
    pool: str | None = None
    pool_type: PoolType = PoolType.PROCESS
    image: str | None = None
    limits: Mapping[Queue, int] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Of this program; deployments carry it."""
        return version(PACKAGE)

    @property
    def job_variables(self) -> dict[str, Any]:
        """What each run's job is told beside the pool's own template."""
        return {} if self.image is None else {"image": self.image}


def load_flow(entry: Entry) -> Flow[..., Any]:
    """The flow of an entry."""
    module, _, name = entry.entrypoint.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Flow):
        raise TypeError(f"{entry.entrypoint} is not a flow.")
    return found


def takes_shard(entry: Entry) -> bool:
    """Whether its flow can be told to do a part of the orgs only."""
    return "shard" in inspect.signature(load_flow(entry).fn).parameters


def make_plan(
    *,
    pool: str | None = POOL,
    pool_type: PoolType = PoolType.PROCESS,
    image: str | None = None,
    shards: int = 1,
    hourly: bool = False,
    catalogue: Iterable[Entry] = CATALOGUE,
) -> Plan:
    """Plan all deployments.

    Args:
        pool: the work pool they belong to; None for one process that serves them all.
        pool_type: what its workers make of a run.
        image: the image that a run is executed in, for workers of containers.
        shards: into how many parts the orgs are divided. Above 1 each scheduled flow that takes `shard` has a
            deployment per part; the one of the plain name then has no schedule, and stays for whoever asks for it by
            that name.
        hourly: whether the hourly syncs are on.
        catalogue: what there is.
    """
    if shards < 1:
        raise ValueError("There is one shard at least.")
    entries = list(catalogue)
    planned = [one for entry in entries for one in _of_entry(entry, shards, hourly=hourly)]
    return Plan(tuple(planned), pool, pool_type, image, _queue_limits(planned, shards) if pool else {})


def _of_entry(entry: Entry, shards: int, *, hourly: bool) -> Iterable[Planned]:
    active = entry.active or (entry.hourly and hourly)
    whole = Planned(entry, entry.name, entry.cron, active, entry.parameters)
    if shards == 1 or entry.cron is None or not takes_shard(entry):
        yield whole
        return
    yield replace(whole, cron=None, active=False)
    for number in range(1, shards + 1):
        yield replace(
            whole,
            name=f"{entry.name}-{number}-of-{shards}",
            parameters={**entry.parameters, "shard": f"{number}/{shards}"},
        )


def _queue_limits(planned: Iterable[Planned], shards: int) -> dict[Queue, int]:
    """So that nothing steady waits for anything else, and neither of the others takes the whole machine."""
    steady = sum(one.entry.limit or 1 for one in planned if one.entry.queue is Queue.STEADY)
    return {
        Queue.URGENT: URGENT_AT_A_TIME,
        Queue.STEADY: steady,
        Queue.BULK: shards + BULK_BESIDE_THE_SHARDS,
    }
