"""All block types of this project: `prefect block register -m blocks.collection` makes them known to a server."""

from blocks.app import KommoApp
from blocks.connection import KommoConnection
from blocks.database import KommoDatabase

__all__ = ["KommoApp", "KommoConnection", "KommoDatabase"]
