"""Where the credentials of an org are kept: in Prefect blocks, read and written as rarely and as cheaply as can be.

Prefect's own `load` and `save` cost 35 and 160 ms, because each registers and looks up the block type again
(prefect-facts §4). One client for all and one call each is enough here: 14 and 21 ms, which counts for a run that
refreshes thousands.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from blocks.connection import KommoConnection
from blocks.names import block_name
from tasks.errors import BlocksUnavailableError

WITHIN = 15.0
"""Seconds for one question to Prefect's server. Its own client goes on trying for a minute when the server is down and
for six when it is silent, and a new pair of tokens must not be held in memory alone for so long."""


class ConnectionBlocks(Protocol):
    """Reads and writes the connection blocks of orgs."""

    async def load(self, org: str) -> KommoConnection | None:
        """The org's block, or None if there is none.

        Raises:
            BlocksUnavailableError: it cannot be told.
        """
        ...

    async def save(self, org: str, block: KommoConnection) -> None:
        """Make or replace the org's block.

        Raises:
            BlocksUnavailableError: it may not have been saved.
        """
        ...

    async def delete(self, org: str) -> None:
        """Remove the org's block; nothing happens if there is none.

        Raises:
            BlocksUnavailableError: it may still be there.
        """
        ...


@dataclass(frozen=True)
class _Document:
    """Where a block was found."""

    id: UUID
    schema_id: UUID


class PrefectBlocks:
    """The blocks on this installation's Prefect server; use it as an async context manager."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        # One save at a time: a Prefect server on SQLite answers 503 to writes that meet, and its client then waits for
        # seconds (prefect-facts §0). One after the other they take 21 ms each, six times what Kommo's limit needs.
        self._saving = asyncio.Lock()
        self._client: PrefectClient | None = None
        self._documents: dict[str, _Document] = {}
        self._type_id: UUID | None = None
        self._schema_id: UUID | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def load(self, org: str) -> KommoConnection | None:
        """The org's block, or None if there is none."""
        try:
            client = await self._connected()
            async with asyncio.timeout(WITHIN):
                found = await client.read_block_document_by_name(
                    block_name(org), KommoConnection.get_block_type_slug(), include_secrets=True
                )
        except ObjectNotFound:
            self._documents.pop(org, None)  # somebody else removed it: the next save makes a new one
            return None
        except Exception as error:  # noqa: BLE001 - Prefect raises what its HTTP library raises
            raise _unavailable("read", error) from None
        if found.block_schema_id is not None:
            self._documents[org] = _Document(found.id, found.block_schema_id)
        return KommoConnection.model_validate(found.data)

    async def save(self, org: str, block: KommoConnection) -> None:
        """Make or replace the org's block."""
        try:
            client = await self._connected()
            # Waiting for the others' saves counts as well: they are waiting for the same server.
            async with asyncio.timeout(WITHIN), self._saving:
                await self._save(client, org, block)
        except Exception as error:  # noqa: BLE001 - Prefect raises what its HTTP library raises
            raise _unavailable("saved", error) from None

    async def _save(self, client: PrefectClient, org: str, block: KommoConnection) -> None:
        schema_id, type_id = await self._registered(client)
        data = _plain(block)
        known = self._documents.get(org)
        if known is None:
            try:
                made = await client.create_block_document(
                    BlockDocumentCreate(
                        name=block_name(org), data=data, block_schema_id=schema_id, block_type_id=type_id
                    )
                )
            except ObjectAlreadyExists:
                found = await client.read_block_document_by_name(
                    block_name(org), KommoConnection.get_block_type_slug()
                )
                known = _Document(found.id, schema_id)
            else:
                self._documents[org] = _Document(made.id, schema_id)
                return
        await client.update_block_document(
            known.id,
            BlockDocumentUpdate(block_schema_id=schema_id, data=data, merge_existing_data=False),
        )
        self._documents[org] = _Document(known.id, schema_id)

    async def put_anew(self, org: str, block: KommoConnection) -> None:
        """Make the org's block anew, in place of the one that is there.

        Whoever wants to save over the one that was there, and was held up since it read it, finds it gone.
        """
        await self.delete(org)
        await self.save(org, block)

    async def delete(self, org: str) -> None:
        """Remove the org's block; nothing happens if there is none."""
        self._documents.pop(org, None)
        try:
            client = await self._connected()
            async with asyncio.timeout(WITHIN):
                found = await client.read_block_document_by_name(
                    block_name(org), KommoConnection.get_block_type_slug()
                )
                await client.delete_block_document(found.id)
        except ObjectNotFound:
            return
        except Exception as error:  # noqa: BLE001 - Prefect raises what its HTTP library raises
            raise _unavailable("removed", error) from None

    async def _connected(self) -> PrefectClient:
        """Prefect's client. Making it may start the small server of a laptop, which takes its own time."""
        if self._client is None:
            self._client = await self._stack.enter_async_context(get_client())
        return self._client

    async def _registered(self, client: PrefectClient) -> tuple[UUID, UUID]:
        """Make this version's block type known, once."""
        if self._schema_id is None or self._type_id is None:
            await KommoConnection.aregister_type_and_schema(client=client)
            self._schema_id, self._type_id = KommoConnection._block_schema_id, KommoConnection._block_type_id
            if self._schema_id is None or self._type_id is None:
                raise RuntimeError("Prefect registered the block type without an id")
        return self._schema_id, self._type_id


def _plain(block: KommoConnection) -> dict[str, Any]:
    """The block's fields with its secrets in the clear, for the one place where they may lie so: Prefect's vault.

    What Prefect's own `model_dump` gives; that makes the block's JSON schema anew for every call, which was a third of
    a refresh.
    """
    values = {name: getattr(block, name) for name in KommoConnection.model_fields}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else to_jsonable_python(value)
        for name, value in values.items()
    }


def _unavailable(done: str, error: Exception) -> BlocksUnavailableError:
    return BlocksUnavailableError(
        f"The credentials could not be {done}: Prefect's server did not do it ({type(error).__name__}). Check that "
        "it runs and that PREFECT_API_URL and PREFECT_API_AUTH_STRING are right."
    )
