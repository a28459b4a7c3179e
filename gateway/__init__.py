"""The HTTP door (FastAPI): connecting accounts by OAuth, Kommo's disable hook, how a connection stands.

It needs no Prefect server to be imported or to start. Every answer to a machine is JSON, every answer to a person is a
page of its own, and no log line holds a query string.
"""
