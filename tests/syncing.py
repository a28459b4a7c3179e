"""What tests of whole syncs share: connecting an org to a sandbox, comparing the store with what the sandbox holds."""

from typing import Any

from pydantic import SecretStr

from blocks.settings import Settings
from sandbox import AccountAccess, LimitSettings, Sandbox, SandboxConfig
from store.snapshots import read_snapshot
from tasks.connect import connect_with_token
from tasks.installation import open_database

UNTHROTTLED = LimitSettings(per_ip=0, per_account=0)
KINDS_SHOWN = (
    "account",
    "task_types",
    "pipelines",
    "channels",
    "lead_fields",
    "contact_fields",
    "company_fields",
    "users",
    "loss_reasons",
)


def quiet_config(**options: Any) -> SandboxConfig:
    """A sandbox that does not throttle."""
    return SandboxConfig(limits=UNTHROTTLED, **options)


async def connect(org: str, account: AccountAccess, settings: Settings, *, token: str | None = None) -> None:
    """Connect an org to one of a sandbox's accounts."""
    await connect_with_token(org, account.host, SecretStr(token or account.admin_token), settings)


async def stored(org: str, settings: Settings, *, raw: bool = False) -> dict[str, list[dict[str, Any]]]:
    """All current snapshots of an org."""
    async with open_database(settings) as database:
        return {kind: (await read_snapshot(database, org, kind, raw=raw)).items for kind in KINDS_SHOWN}


def held(sandbox: Sandbox, subdomain: str) -> dict[str, list[dict[str, Any]]]:
    """What the sandbox holds, in the words of our answers; worked out from its state, not from its API."""
    account = sandbox.account(subdomain)
    return {
        "account": [{"id": account.id, "name": account.profile["name"], "subdomain": subdomain}],
        "task_types": [
            {"id": t["id"], "name": t["name"], "code": t["code"]} for t in account.hidden["task_types"]
        ],
        "pipelines": [
            {
                **{
                    key: pipeline[key]
                    for key in ("id", "name", "sort", "is_main", "is_archive", "is_unsorted_on")
                },
                "statuses": [
                    {
                        "pipeline_id": pipeline["id"],
                        **{
                            key: status[key] for key in ("id", "name", "sort", "color", "type", "is_editable")
                        },
                    }
                    for status in account.statuses(pipeline["id"])
                ],
            }
            for pipeline in account.pipelines
        ],
        **{
            kind: [
                {
                    **{key: field[key] for key in ("id", "name", "type", "code", "sort")},
                    "is_system": field["is_predefined"] or not field["is_deletable"],
                    "enums": [
                        {
                            "field_id": field["id"],
                            "id": enum["id"],
                            "value": enum["value"],
                            "sort": enum["sort"],
                        }
                        for enum in field["enums"] or []
                    ],
                }
                for field in account.fields[entity]
            ]
            for kind, entity in (
                ("lead_fields", "leads"),
                ("contact_fields", "contacts"),
                ("company_fields", "companies"),
            )
        },
        "users": [
            {
                **{key: user[key] for key in ("id", "name", "email")},
                **{key: user["rights"][key] for key in ("is_admin", "is_active", "is_free")},
            }
            for user in account.users
        ],
        "loss_reasons": [{key: r[key] for key in ("id", "name", "sort")} for r in account.loss_reasons],
    }


def only(wanted: Any, found: Any) -> Any:
    """`found` with just the keys that `wanted` has, in the same order of items: for comparing."""
    if isinstance(wanted, list) and isinstance(found, list):
        by_id = sorted(found, key=lambda item: str(item["id"]))
        return [
            only(w, f) for w, f in zip(sorted(wanted, key=lambda item: str(item["id"])), by_id, strict=True)
        ]
    if isinstance(wanted, dict):
        return {key: only(value, found[key]) for key, value in wanted.items()}
    return found


def by_id(items: Any) -> Any:
    """Sorted by id, all the way down."""
    if isinstance(items, list):
        return [by_id(item) for item in sorted(items, key=lambda item: str(item["id"]))]
    if isinstance(items, dict):
        return {key: by_id(value) if isinstance(value, list) else value for key, value in items.items()}
    return items


def assert_stored_is_held(stored_kinds: dict[str, Any], sandbox: Sandbox, subdomain: str) -> None:
    """Every kind: the same items, and each of the keys compared has the same value."""
    for kind, wanted in held(sandbox, subdomain).items():
        assert only(wanted, stored_kinds[kind]) == by_id(wanted), kind
