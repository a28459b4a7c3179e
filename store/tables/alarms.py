"""What the installation as a whole has been warned of."""

from datetime import datetime
from typing import Any

from store.tables.base import StoreModel, counter_column, json_column, text_column, time_column


class FleetAlarmRow(StoreModel, table=True):
    """One thing that may be wrong with the whole installation, such as `kommo.backlog.stale`.

    `state`: `on` or `off`, since `since`. `serial` counts what was to be told of it; `told` is the serial of the last
    one that was told, at `told_at`: while it is the lesser, something is still to be told. `figures`: its grounds.
    """

    __tablename__ = "fleet_alarm"
    name: str = text_column(primary_key=True)
    state: str = text_column()
    since: datetime = time_column()
    serial: int = counter_column()
    told: int = counter_column()
    told_at: datetime | None = time_column(null=True)
    figures: Any = json_column()
