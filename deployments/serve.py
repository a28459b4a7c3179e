"""The old name of `kommo serve`: `python -m deployments.serve`."""

import asyncio

from deployments.cli.serve import serve

if __name__ == "__main__":
    asyncio.run(serve())
