"""Seeded accounts: the same seed gives the same data, byte for byte.

The first four accounts differ on purpose (fact sheet 9.13): acme is a full Kommo account, globex a bare one in
Spanish (no sources, no loss reasons, no talks: 204), romashka an amoCRM one in Russian, initech a Portuguese one
with an IP telephony and a few talks. Further accounts repeat these flavours under the names org5, org6, …
"""

import uuid
from dataclasses import dataclass
from random import Random

from sandbox import names
from sandbox.config import SandboxConfig
from sandbox.seed_fields import seed_fields
from sandbox.seed_records import seed_records
from sandbox.state import ENTITIES, FIELD_ENTITIES, LOST, WON, Account, Collection, Flavour, Record

FIRST_ID, ID_STEP = 31_234_567, 1_111
EPOCH = 1_760_000_000  # nothing seeded is younger than this


@dataclass(frozen=True)
class Style:
    """What makes an account different from the next.

    Args:
        name: Its name.
        flavour: Which documented shapes it shows.
        lang: Language of users and stage names.
        place: Country, currency, its symbol, time zone, offset.
        fields: Extra custom fields per entity.
        reasons: Whether loss reasons are switched on.
        sources: Whether the integration has sources.
        origins: Origins of its talks; none = no talks.
    """

    name: str
    flavour: Flavour
    lang: str
    place: tuple[str, str, str, str, str]
    fields: int = 0
    reasons: bool = True
    sources: bool = False
    origins: tuple[str, ...] = ()


_ORIGINS = (
    "waba", "telegram", "instagram_business", "facebook", "onlinechat", "com.wazzup24.wz", "kommo.ext.30470678",
)  # fmt: skip
STYLES = (
    Style(
        "Acme", "kommo", "en", ("NL", "EUR", "€", "Europe/Amsterdam", "+01:00"),
        fields=35, sources=True, origins=_ORIGINS,
    ),
    Style("Globex", "kommo", "es", ("ES", "EUR", "€", "Europe/Madrid", "+01:00"), reasons=False),
    Style(
        "Ромашка", "amo", "ru", ("RU", "RUB", "₽", "Europe/Moscow", "+03:00"),
        fields=5, sources=True, origins=("telegram", "com.wazzup24.wz", "amo.ext.30490163"),
    ),
    Style("Initech", "kommo", "pt", ("BR", "BRL", "R$", "America/Sao_Paulo", "-03:00"), origins=("waba",)),
)  # fmt: skip
_SUBDOMAINS = ("acme", "globex", "romashka", "initech")
_STAGES = {
    "en": ("Incoming leads", ("Initial contact", "Discussions", "Contract"), "Closed - won", "Closed - lost"),
    "es": ("Leads Entrantes", ("Contacto inicial", "Negociación"), "Logrado con éxito", "Venta Perdido"),
    "pt": ("Leads de entrada", ("Contato inicial", "Negociação"), "Fechado - ganho", "Fechado - perdido"),
    "ru": (
        "Неразобранное", ("Первичный контакт", "Принимают решение"), "Успешно реализовано", "Закрыто и не реализовано",
    ),
}  # fmt: skip
_COLORS = ("#99ccff", "#ffff99", "#ffcc66", "#ffcccc")


def subdomain_of(index: int) -> str:
    """The subdomain of the n-th account, counted from 0."""
    return _SUBDOMAINS[index] if index < len(_SUBDOMAINS) else f"org{index + 1}"


def account_name(index: int) -> str:
    """The name of the n-th account, counted from 0."""
    name = STYLES[index % len(STYLES)].name
    return name if index < len(STYLES) else f"{name} {index + 1}"


def build_account(index: int, config: SandboxConfig, top_domain: str, *, bare: bool = False) -> Account:
    """One seeded account.

    Args:
        index: Which one, counted from 0.
        config: Sizes and seed.
        top_domain: Host and port behind the subdomain.
        bare: Without the extra custom fields of its style.
    """
    small = bare and config.small
    style = STYLES[index % len(STYLES)]
    dice = Random(f"{config.seed}:{index}")  # noqa: S311 - deterministic test data
    account = Account(_profile(index, style, dice), style.flavour, top_domain)
    account.hidden = _hidden(account, style, dice)
    for name, main, archived in (
        ("Sales", True, False),
        ("Renewals", False, False),
        *(() if small else (("Old 2019", False, True),)),
    ):
        new_pipeline(account, name, style.lang, main=main, archived=archived)
    _users(account, style, dice, others=1 if small else 4)  # after the pipelines: rights name stages
    _rename_final_stages(account)
    seed_fields(account, dice, (0 if bare else style.fields) + config.fields, small=small)
    for entity in FIELD_ENTITIES:
        account.tags[entity] = Collection(2_164 if entity == "leads" else 9_164)
        if entity in ENTITIES:
            for tag, color in (("vip", None), ("Заявка с сайта", "EBEBEB"), ("⭐ 優先", None)):
                account.tags[entity].add({"id": account.tags[entity].next_id(), "name": tag, "color": color})
    if style.reasons:
        _loss_reasons(account)
    if style.sources:
        _sources(account)
    seed_records(account, config, dice, EPOCH, style.origins)
    account.profile["current_user_id"] = account.admin_id
    return account


def _profile(index: int, style: Style, dice: Random) -> Record:
    country, currency, symbol, _, _ = style.place
    return {
        "id": FIRST_ID + ID_STEP * index,
        "name": account_name(index),
        "subdomain": subdomain_of(index),
        "created_at": EPOCH - 20_000_000 + dice.randrange(1_000_000),
        "created_by": 0,
        "updated_at": EPOCH - 1_000_000,
        "updated_by": 0,
        "current_user_id": 0,
        "country": country,
        "currency": currency,
        "currency_symbol": symbol,
        "customers_mode": "disabled" if style.flavour == "kommo" else "segments",
        "is_unsorted_on": True,
        "is_loss_reason_enabled": style.reasons,
        "is_helpbot_enabled": False,
        "is_technical_account": False,
        "contact_name_display_order": 1,
    }


def _uuid(dice: Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))


def _hidden(account: Account, style: Style, dice: Random) -> Record:
    _, _, _, zone, offset = style.place
    drive = "drive-c.kommo.com" if style.flavour == "kommo" else "drive-b.amocrm.ru"
    types = [("Follow-up", "FOLLOW_UP"), ("Meeting", "MEETING"), ("Отправить договор ✍️", None)]
    return {
        "amojo_id": _uuid(dice),
        "uuid": _uuid(dice),
        "version": 16,
        "drive_url": f"https://{drive}",
        "is_api_filter_enabled": True,
        "entity_names": {"leads": {"ru": {"gender": "f"}, "en": {"singular_form": {"dative": "lead"}}}},
        "amojo_rights": {"can_direct": True, "can_create_groups": True},
        "users_groups": [
            {"id": 0, "name": "Sales", "uuid": None},
            {"id": 90_001, "name": "支援", "uuid": _uuid(dice)},
        ],
        "task_types": [
            {"id": number, "name": name, "color": None, "icon_id": None, "code": code}
            for number, (name, code) in enumerate(types, 1)
        ],
        "datetime_settings": {
            "date_pattern": "d.m.Y H:i",
            "short_date_pattern": "d.m.Y",
            "short_time_pattern": "H:i",
            "date_formant": "d.m.Y",
            "time_format": "H:i:s",
            "timezone": zone,
            "timezone_offset": offset,
        },
        "invoices_settings": {"lang": style.lang, "currency": account.profile["currency"]},
    }


def _users(account: Account, style: Style, dice: Random, *, others: int) -> None:
    first, last = names.person(dice, 1 if style.flavour == "amo" else 0)
    new_user(account, f"{first} {last}", style.lang, dice, admin=True)
    for script in range(others):
        first, last = names.person(dice, script)
        new_user(account, f"{first} {last}", style.lang, dice, admin=script == 3)
    if others > 1:
        new_user(account, "Former colleague", style.lang, dice, active=False)


def new_user(
    account: Account, name: str, lang: str, dice: Random, *, admin: bool = False, active: bool = True
) -> Record:
    """A user with rights as Kommo shows them (A all, G group, M own, D denied) [D K/users]."""
    level = "A" if admin else "M"
    rights: Record = {
        entity: dict.fromkeys(("view", "edit", "add", "delete", "export"), level) for entity in ENTITIES
    }
    rights |= {"tasks": {"edit": level, "delete": level}, "mail_access": admin, "catalog_access": True}
    if account.flavour == "kommo":
        rights["files_access"] = True
    stages = [] if admin else [(pipeline["id"], LOST) for pipeline in account.pipelines]
    rights["status_rights"] = None if admin and account.flavour == "amo" else [
        {"entity_type": "leads", "pipeline_id": pipeline_id, "status_id": status_id,
         "rights": {"view": "A", "edit": "D", "delete": "D"}}
        for pipeline_id, status_id in stages
    ]  # fmt: skip
    role = None if admin else 3_141
    rights |= {"is_admin": admin, "is_free": False, "is_active": active}
    rights |= {"group_id": None if admin else 90_001, "role_id": role}
    user_id = account.users.next_id()
    return account.users.add(
        {
            "id": user_id,
            "name": name,
            "email": f"user{user_id}@{account.subdomain}.example",
            "lang": lang,
            "rights": rights,
            "_roles": [] if admin else [{"id": role, "name": "Manager"}],
            "_groups": [] if admin else [{"id": 90_001, "name": "支援"}],
            "_uuid": _uuid(dice),
            "_amojo_id": _uuid(dice),
            "_user_rank": None,
            "_phone_number": None,
        }
    )


def new_pipeline(
    account: Account,
    name: str,
    lang: str = "en",
    *,
    main: bool = False,
    archived: bool = False,
    stages: tuple[str, ...] | None = None,
) -> Record:
    """A pipeline with its incoming stage, ordinary stages and 142/143.

    Args:
        account: Where it goes.
        name: Its name.
        lang: Language of the stage names.
        main: Whether it is the main one.
        archived: Whether it is in the archive.
        stages: Names of the ordinary stages; None = those of the language.
    """
    incoming, ordinary, won, lost = _STAGES.get(lang, _STAGES["en"])
    pipeline_id = account.pipelines.next_id()
    titles = ordinary if stages is None else stages
    made = [new_status(account, pipeline_id, incoming, 10, color="#c1c1c1", kind=1)]
    for index, title in enumerate(titles):
        made.append(new_status(account, pipeline_id, title, 20 + 10 * index, color=_COLORS[index % 4]))
    made.append(new_status(account, pipeline_id, won, 10_000, color="#CCFF66", fixed=WON))
    made.append(new_status(account, pipeline_id, lost, 11_000, color="#D5D8DB", fixed=LOST))
    return account.pipelines.add(
        {
            "id": pipeline_id,
            "name": name,
            "sort": len(account.pipelines) + 1,
            "is_main": main,
            "is_unsorted_on": True,
            "is_archive": archived,
            "_statuses": made,
        }
    )


def new_status(
    account: Account,
    pipeline_id: int,
    name: str,
    sort: int,
    *,
    color: str,
    kind: int = 0,
    fixed: int | None = None,
) -> Record:
    """A stage; `fixed` is 142 or 143, others get a fresh id. The stage is not yet put into its pipeline."""
    status_id = fixed
    if status_id is None:
        status_id, account.next_status = account.next_status, account.next_status + 4
    return {
        "id": status_id,
        "name": name,
        "sort": sort,
        "is_editable": kind == 0 and fixed is None,
        "pipeline_id": pipeline_id,
        "color": color,
        "type": kind,
    }


def _rename_final_stages(account: Account) -> None:
    second = list(account.pipelines)[1]
    titles = {WON: "Renewed 🎉", LOST: "Churned"}
    stages = [stage | {"name": titles.get(stage["id"], stage["name"])} for stage in second["_statuses"]]
    account.pipelines.change(second["id"], _statuses=stages)


def _loss_reasons(account: Account) -> None:
    for index, name in enumerate(("Too expensive", "Выбрали конкурента", "غير مهتم", "No answer 📵")):
        made = EPOCH - 5_000_000 + index
        account.loss_reasons.add(
            {
                "id": account.loss_reasons.next_id(),
                "name": name,
                "sort": 100_000 * (index + 1),
                "created_at": made,
                "updated_at": made,
            }
        )


def _sources(account: Account) -> None:
    waba = {
        "type": "whatsapp",
        "params": {"waba": True},
        "pages": [{"id": "1", "name": "Main", "link": "+31200000000"}],
    }
    pipelines = [pipeline["id"] for pipeline in account.pipelines]
    brand = "kommo" if account.flavour == "kommo" else "amo"
    for index, (name, services) in enumerate((("Sales number", [waba]), ("Landing page", []))):
        account.sources.add(
            {
                "id": account.sources.next_id(),
                "name": name,
                "pipeline_id": pipelines[index],
                "external_id": f"chat{index + 1:02d}",
                "services": services if account.flavour == "kommo" else [],
                "default": index == 0,
                "origin_code": f"{brand}.ext.30470678" if index else None,
            }
        )
