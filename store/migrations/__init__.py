"""Alembic's environment and revisions. They are run by `store.migrate`, not by alembic's own command."""
