"""The stories: read one and know what happens."""

from kommo import tracing
from tasks.logs import flow_run, log_json, wants_json

if wants_json():  # every process that runs a flow imports this before anything else of ours
    from prefect.logging.configuration import setup_logging

    setup_logging()  # Prefect's first: what it sets up later only adjusts levels
    log_json()

tracing.begin("kommo-flows", at_work=flow_run)
