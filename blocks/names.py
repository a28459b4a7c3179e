"""What blocks are called. Imports nothing, so that a name can be checked before Prefect is there."""

import re

_ORG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_BLOCK_PREFIX = "org-"


def block_name(org: str) -> str:
    """Name of the connection block of an org.

    Args:
        org: the product's tenant id: lower-case letters, digits and dashes, at most 100 characters.

    Raises:
        ValueError: the org cannot be a block name.
    """
    if len(org) > 100 or not _ORG.fullmatch(org):
        raise ValueError(
            "An org is written in lower-case letters, digits and single dashes (at most 100 characters), "
            "as in 'acme' or 'acme-eu-2'."
        )
    return f"{_BLOCK_PREFIX}{org}"
