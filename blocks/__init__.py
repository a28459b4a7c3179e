"""Prefect blocks: the credentials. They build clients, they do nothing else."""
