"""`kommo keys rotate`: new keys for the journal of tokens."""

from deployments.cli.output import print_json, say


async def rotate(*, drop_old: bool = False, json: bool = False) -> None:
    """Put a new sealing key in front and seal every token of the journal with it.

    The keys are kept in the Kommo App block. Old keys stay behind the new one, so that processes which have not loaded
    the block again can still read; drop them with a second run once all have been restarted.

    Args:
        drop_old: Forget all keys but the newest, after sealing everything with it, instead of making a new one.
        json: Print what was done as JSON.
    """
    from blocks.settings import Settings
    from tasks.keys import rotate_keys

    done = await rotate_keys(Settings(), drop_old=drop_old)
    if json:
        print_json(done)
        return
    say(f"Tokens sealed anew: {done.resealed}. Keys in the block: {done.keys}.")
    if done.unreadable:
        say(f"{done.unreadable} could not be opened with any key and were left as they are.", style="yellow")
    say("Restart the workers and the gateway; then run it again with --drop-old.")
