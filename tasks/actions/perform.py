"""Have actions performed: journal, send, settle, and answer with how they stand."""

from collections.abc import Sequence

from store.actions import ActionRecord
from tasks.actions.session import ActionSession
from tasks.actions.wishes import AnyWish


async def perform(session: ActionSession, org: str, wish: AnyWish, idempotency_key: str) -> ActionRecord:
    """Have one action performed, and wait for its outcome.

    The same key and the same request give the same action, however often and by how many at once it is asked for.

    Returns:
        The action; mostly `confirmed` or `failed`. One that could not be brought to an end within
        `session.options.patience` seconds is `intended` (not sent yet) or `sent` (being looked up), with the reason;
        it is worked on further by `settle-actions`.

    Raises:
        InvalidActionError: it does not fit the org's CRM; nothing was journalled or sent.
        IdempotencyConflictError: the key belongs to another request.
        NotConnectedError: the org has no connection.
        NoSnapshotError: there is nothing to check it against: the org was never synced.
        StoreError: the database does not answer.
    """
    raise NotImplementedError


async def perform_many(
    session: ActionSession, org: str, wishes: Sequence[tuple[AnyWish, str]]
) -> list[ActionRecord]:
    """Have many actions of one org performed, in arrays of at most 50 where Kommo takes them.

    Args:
        session: What to work with.
        org: The product's tenant.
        wishes: What is asked for, each with its idempotency key.

    Returns:
        The actions in the order of the wishes, each with its own outcome. One that does not fit the org's CRM is
        `failed` with the reason code `invalid`, and the others go on.

    Raises:
        IdempotencyConflictError: a key belongs to another request, or stands twice here for different ones.
        NotConnectedError: the org has no connection.
    """
    raise NotImplementedError
