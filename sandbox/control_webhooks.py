"""The part of the control API that is about webhooks and about many changes at once (see `sandbox.control`)."""

import asyncio
import time
from dataclasses import asdict, fields
from random import Random
from typing import Any

from sandbox import editing
from sandbox.changes_records import call_of, delete_record, restore_record, someone
from sandbox.config import WebhookSettings
from sandbox.control_oauth import Action, card_of, cards_of
from sandbox.state import Account, Record
from sandbox.webhooks_body import account_block, encoded
from sandbox.world import World

_SLICE = 0.01  # seconds of work after which others have their turn
_KINDS = ("update", "status", "responsible", "edit", "add", "delete", "restore")
_STAGE_KEYS = ("id", "status_id", "pipeline_id", "old_status_id", "old_pipeline_id")


class WebhookControl:
    """Actions on webhooks.

    Args:
        world: What they steer.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._background: set[asyncio.Task[Record]] = set()
        self.actions: dict[tuple[str, str], Action] = {
            ("GET", "webhooks"): self._shown,
            ("DELETE", "webhooks"): self._clear,
            ("GET", "webhooks/settings"): lambda _: asdict(world.webhooks.settings),
            ("POST", "webhooks/settings"): self._configure,
            ("POST", "webhooks/settle"): self._settle,
            ("POST", "webhooks/advance"): self._advance,
            ("POST", "webhooks/send"): self._send,
            ("POST", "webhooks/stage"): self._stage,
            ("POST", "load"): self._load,
        }

    def _shown(self, body: Record) -> Record:
        webhooks = self._world.webhooks
        card = card_of(self._world, body) if "account" in body else None
        accounts = [self._world.accounts.built(card)] if card else self._world.accounts.seen()
        hooks = [
            hook | {"account": account.subdomain, "bad_answers": webhooks.bad_answers(account, hook["id"])}
            for account in accounts
            for hook in account.webhooks
        ]
        chosen = webhooks.log.chosen(
            card.id if card else None,
            body.get("state"),
            int(body.get("limit", 1_000)),
            int(body.get("after", 0)),
        )
        return {
            "now": self._world.clock(),
            "counts": webhooks.log.counts(),
            "settled": webhooks.is_settled(),
            "hooks": hooks,
            "deliveries": chosen,
        }

    def _clear(self, _: Record) -> Record:
        if not self._world.webhooks.is_idle():
            raise ValueError("webhooks are waiting or under way; their log cannot be cleared")
        self._world.webhooks.log.deliveries.clear()
        return {"ok": True}

    def _configure(self, body: Record) -> Record:
        unknown = body.keys() - {known.name for known in fields(WebhookSettings)}
        if unknown:
            raise ValueError(f"no such settings: {', '.join(sorted(unknown))}")
        self._world.webhooks.configure(**body)
        return asdict(self._world.webhooks.settings)

    async def _settle(self, body: Record) -> Record:
        settled = await self._world.webhooks.settle(float(body.get("seconds", 30)))
        return {"settled": settled, "counts": self._world.webhooks.log.counts()}

    async def _advance(self, body: Record) -> Record:
        await self._world.webhooks.advance(float(body["seconds"]))
        return {"now": self._world.clock(), "counts": self._world.webhooks.log.counts()}

    def _hooked(self, account: Account, body: Record) -> list[str]:
        if "destination" in body:
            return [str(body["destination"])]
        return [hook["destination"] for hook in account.webhooks if not hook["disabled"]]

    def _send(self, body: Record) -> Record:
        """A body put together by hand: nested (encoded here, with the account) or raw text."""
        account, webhooks = self._world.accounts.built(card_of(self._world, body)), self._world.webhooks
        if "raw" in body:
            raw = str(body["raw"]).encode("utf-8", "surrogatepass")
        else:
            block = {"account": account_block(account, webhooks.settings)} if body.get("block", True) else {}
            raw = encoded(block | body["nested"], webhooks.settings)
        sent = [
            webhooks.send(account, destination, raw, "by hand", repeats=bool(body.get("repeats", True)))
            for destination in self._hooked(account, body)
        ]
        return {"numbers": [known.number for known in sent]}

    def _stage(self, body: Record) -> Record:
        """The automation of a stage (digital pipeline): ids only, no link of the account; amoCRM sends it once [D]."""
        account, webhooks = self._world.accounts.built(card_of(self._world, body)), self._world.webhooks
        lead = account.entities["leads"].get(int(body["lead_id"]))
        if lead is None:
            raise LookupError(f"no lead {body['lead_id']}")
        action = str(body.get("action", "add"))
        content = {key: (lead | body)[key] for key in _STAGE_KEYS if key in lead | body}
        nested = {
            "leads": {action: [content]},
            "account": {"id": account.id, "subdomain": account.subdomain},
        }
        sent = [
            webhooks.send(
                account,
                destination,
                encoded(nested, webhooks.settings),
                "stage",
                repeats=account.flavour == "kommo",
            )
            for destination in self._hooked(account, body)
        ]
        return {"numbers": [known.number for known in sent]}

    async def _load(self, body: Record) -> Record:
        """Very many changes: now, or at a rate; with `background` the answer does not wait for the end."""
        work = self._changes(body)
        if not body.get("background"):
            return await work
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return {"started": True}

    async def _changes(self, body: Record) -> Record:
        count, rate = int(body["changes"]), float(body.get("rate", 0))
        entity, kinds = str(body.get("entity", "leads")), list(body.get("kinds", ["update"]))
        if not set(kinds) <= set(_KINDS):
            raise ValueError(f"kinds are {', '.join(_KINDS)}")
        accounts = [
            self._world.accounts.built(card) for card in cards_of(self._world, body.get("accounts", 1))
        ]
        dice = Random(int(body.get("seed", 1)))  # noqa: S311 - which record changes how
        most = int(body["records"]) if "records" in body else None
        writers = [
            _Writer(self._world, account, entity, dice, most=most, user_id=body.get("user_id"))
            for account in accounts
        ]
        begun = turn = time.perf_counter()
        for number in range(count):
            writers[number % len(writers)].change(kinds[(number // len(writers)) % len(kinds)], number)
            behind = begun + (number + 1) / rate - time.perf_counter() if rate else 0.0
            if behind > 0 or time.perf_counter() - turn > _SLICE:
                await asyncio.sleep(max(behind, 0))
                turn = time.perf_counter()
        return {"changes": count, "seconds": time.perf_counter() - begun}


class _Writer:
    """Changes the records of one account, one after the other.

    Args:
        world: The state.
        account: Where.
        entity: leads, contacts or companies.
        dice: Chance.
        most: So many different records at most; None = all.
        user_id: Who does it.
    """

    def __init__(
        self,
        world: World,
        account: Account,
        entity: str,
        dice: Random,
        *,
        most: int | None,
        user_id: int | None,
    ) -> None:
        user = someone(account, user_id)
        self._call = call_of(world, account, user, method="PATCH", path=entity)
        self._entity, self._dice = entity, dice
        self._ids = [record["id"] for record in account.entities[entity] if not record["is_deleted"]][:most]
        self._binned: list[int] = []
        self._users = [known["id"] for known in account.users]
        self._next = 0

    def change(self, kind: str, number: int) -> None:
        """One change; where none of that kind is possible, a new record."""
        call, entity = self._call, self._entity
        if kind == "restore" and self._binned:
            record_id = self._binned.pop()
            restore_record(call.world, call.account, entity=entity, id=record_id, user_id=call.user_id)
            self._ids.append(record_id)
        elif kind in {"add", "restore"} or not self._ids:
            self._ids.append(editing.insert(call, entity, {"name": f"New {number}"})["id"])
        elif kind == "delete":
            record_id = self._ids.pop(self._next % len(self._ids))
            delete_record(call.world, call.account, entity=entity, id=record_id, user_id=call.user_id)
            self._binned.append(record_id)
        else:
            held = call.account.entities[entity].get(self._ids[self._next % len(self._ids)])
            self._next += 1
            if held is not None:
                editing.update(call, entity, held, self._values(kind, held, number))

    def _values(self, kind: str, held: Record, number: int) -> dict[str, Any]:
        values: dict[str, Any] = {"name": f"{held['name'].partition(' · ')[0]} · {number}"}
        if kind in {"status", "edit"} and self._entity == "leads":
            stages = self._call.account.statuses(held["pipeline_id"])
            open_stages = [
                stage["id"] for stage in stages if stage["id"] != held["status_id"] and stage["type"] == 0
            ]
            if open_stages:
                values["status_id"] = self._dice.choice(open_stages)
        if kind in {"responsible", "edit"}:
            others = [known for known in self._users if known != held["responsible_user_id"]]
            if others:
                values["responsible_user_id"] = self._dice.choice(others)
        return values
