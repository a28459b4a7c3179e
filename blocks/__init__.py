"""Prefect blocks: the credentials. They build clients, they do nothing else.

This module imports nothing, so that `blocks.settings` can be read before Prefect is; all block types together are in
`blocks.collection`.
"""
