"""Parameters that several flows share, with the titles and choices that Prefect's form shows."""

from typing import Annotated

from pydantic import Field

from tasks.scopes import Scope

Org = Annotated[
    str,
    Field(
        title="Org",
        description="The product's tenant, as it was connected.",
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        max_length=100,
        examples=["acme"],
    ),
]
ScopeParameter = Annotated[
    Scope, Field(title="Scope", description="What to read: everything, or one part in the product's words.")
]
