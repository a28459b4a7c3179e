"""Logs as JSON lines, with the standard library's logging: one object for each line, by which a delivery is followed.

Fields: `time`, `level`, `logger`, `message`, and where they are known `request_id`, `org`, `delivery`, `event`, `run`
(Prefect's flow run). Of an exception its type and its place are written, never its text: nobody knows what that holds.
docs/logs.md says how to use them.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from store.reference import current_reference

SETTING: Final = "KOMMO_LOG_FORMAT"
OWN: Final = ("gateway", "flows", "tasks", "store", "kommo")
# Prefect looks for its handlers by name when it adjusts levels, and sets all up anew if one of them is gone.
_REPLACED: list[logging.Handler] = []
_FIELDS: Final = ("request_id", "org", "delivery", "event", "run")


def followed(org: str, reference: str | None, **more: str | None) -> Mapping[str, str | None]:
    """What a log line says beside its text (`extra`): whose it is, and the request that it comes of.

    Args:
        org: The product's tenant.
        reference: The id of the request.
        **more: `delivery` or `event`, by their ids.
    """
    return {"org": org, "request_id": reference, **more}


class JsonLines(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _FIELDS:
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if "request_id" not in line and (reference := current_reference()) is not None:
            line["request_id"] = reference
        if "run" not in line and (run := flow_run()) is not None:
            line["run"] = run
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            if (trace := record.exc_info[2]) is not None:
                while trace.tb_next is not None:
                    trace = trace.tb_next
                line["at"] = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        return json.dumps(line, ensure_ascii=False, default=str)


def wants_json(default: str = "text") -> bool:
    """Whether this process is to log JSON lines: what KOMMO_LOG_FORMAT says, or `default`.

    Args:
        default: `json` or `text`.
    """
    return os.environ.get(SETTING, default).strip().lower() == "json"


def log_json() -> None:
    """Let this process log JSON lines to standard error: our own loggers, and Prefect's console."""
    ours = logging.StreamHandler()
    ours.setFormatter(JsonLines())
    for name in OWN:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [ours], False
        logger.setLevel(logging.INFO)
    for found in [logging.root, *logging.root.manager.loggerDict.values()]:
        if isinstance(found, logging.Logger):
            # Only what goes to the console; what goes to Prefect's API stays.
            consoles = [one for one in found.handlers if type(one).__name__ == "PrefectConsoleHandler"]
            if consoles:
                _REPLACED.extend(consoles)
                found.handlers = [ours, *(one for one in found.handlers if one not in consoles)]


def flow_run() -> str | None:
    """Prefect's id of the flow run at work here. Prefect is not imported for it."""
    context = sys.modules.get("prefect.context")
    if context is None:
        return None
    run = context.FlowRunContext.get() or context.TaskRunContext.get()
    if run is None:
        return None
    found = getattr(run, "flow_run", None)
    return str(found.id) if found is not None else str(run.task_run.flow_run_id)
