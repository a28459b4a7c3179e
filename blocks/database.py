"""`KommoDatabase`: where the project's own tables live. Never the database of Prefect itself (prefect-facts §10.3)."""

from contextlib import AbstractAsyncContextManager
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr

from blocks.settings import Settings
from store.database import Database


class KommoDatabase(Block):
    """The database of the project's own tables: PostgreSQL, or a SQLite file.

    Example:
        Load the database that an installation uses:
        ```python
        from blocks.database import KommoDatabase

        database = KommoDatabase.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str] = "Kommo Database"
    _block_type_slug: ClassVar[str] = "kommo-database"
    _logo_url: ClassVar[HttpUrl] = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/fb3f4debabcda1c5a3aeea4f5b3f94c28845e23e-250x250.png"
    )
    _documentation_url: ClassVar[HttpUrl] = HttpUrl(
        "https://docs.sqlalchemy.org/en/20/core/engines.html#database-urls"
    )
    model_config = ConfigDict(hide_input_in_errors=True)

    url: SecretStr = Field(
        default=SecretStr(""),
        title="URL",
        description="postgresql://user:password@host/name or sqlite:///path; empty means the embedded file.",
    )
    schema_name: str = Field(
        default="kommo", title="Schema", description="PostgreSQL schema that holds the tables."
    )

    def get_database(self, settings: Settings | None = None) -> AbstractAsyncContextManager[Database]:
        """The database, to be opened by `async with`."""
        settings = settings or Settings()
        url = self.url.get_secret_value() or settings.embedded_database_url
        return Database.open(url, schema=self.schema_name)
