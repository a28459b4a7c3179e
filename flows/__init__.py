"""The stories: read one and know what happens."""

from tasks.logs import log_json, wants_json

if wants_json():  # every process that runs a flow imports this before anything else of ours
    log_json()
