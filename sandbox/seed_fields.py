"""Seeded custom field definitions: one of every type where Kommo allows it, the standard fields, and extra ones.

Types and where they may stand: fact sheet 3.4.
"""

from random import Random

from sandbox.state import Account, Collection, Record

_EVERYWHERE = ("text", "textarea", "url", "streetaddress", "numeric", "checkbox", "select", "radiobutton")
_FEW = ("text", "select")
_PEOPLE_AND_LEADS = (
    "multiselect",
    "date",
    "date_time",
    "file",
    "monetary",
    "birthday",
    "smart_address",
    "legal_entity",
)
_TRACKING = (
    "UTM_CONTENT", "UTM_MEDIUM", "UTM_CAMPAIGN", "UTM_SOURCE", "UTM_TERM", "UTM_REFERRER",
    "REFERRER", "GCLIENTID", "GCLID", "FBCLID",
)  # fmt: skip
_WITH_ENUMS = {"select", "radiobutton", "multiselect", "multitext"}
_PHONE = ("WORK", "WORKDD", "MOB", "FAX", "HOME", "OTHER")
_EMAIL = ("WORK", "PRIV", "OTHER")
_CHOICES = (("New", None), ("VIP", "vip"), ("Постоянный", None), ("عميل دائم", None), ("常連 ⭐", None))
_FIRST_FIELD = {"leads": 1_016_236, "contacts": 771_902, "companies": 781_902, "customers": 791_902}
_ADDRESS_PARTS = ("address_line_1", "address_line_2", "city", "state", "zip", "country")


def definition(account: Account, entity: str, name: str, kind: str, **more: object) -> Record:
    """A new field with every key that Kommo shows, held by the account.

    Args:
        account: Where it goes.
        entity: leads, contacts, companies, customers.
        name: Its name.
        kind: Its type.
        more: Keys that differ from the defaults.
    """
    fields = account.fields[entity]
    record: Record = {
        "id": fields.next_id(),
        "name": name,
        "type": kind,
        "account_id": account.id,
        "code": None,
        "sort": 500 + len(fields),
        "is_api_only": False,
        "enums": None,
        "group_id": None,
        "required_statuses": [],
        "is_deletable": True,
        "is_predefined": False,
        "entity_type": entity,
        "tracking_callback": None,
        "remind": None,
        "triggers": [],
        "currency": account.profile["currency"] if kind == "monetary" else None,
        "hidden_statuses": [],
        "chained_lists": None,
    }
    if entity == "leads":
        record["is_computed"] = False
    if kind == "smart_address":
        more = {
            "enums": [
                {"id": n, "value": part, "sort": n, "code": part} for n, part in enumerate(_ADDRESS_PARTS, 1)
            ]
        } | more
    return fields.add(record | more)


def enums(account: Account, choices: tuple[tuple[str, str | None], ...]) -> list[Record]:
    """Fresh enums in their order."""
    made: list[Record] = []
    for index, (value, code) in enumerate(choices):
        made.append({"id": account.next_enum, "value": value, "sort": 500 + 10 * index, "code": code})
        account.next_enum += 2
    return made


def _plain_enums(account: Account, values: tuple[str, ...]) -> list[Record]:
    """Enums of PHONE and EMAIL: they have no `code` key."""
    return [
        {key: kept for key, kept in enum.items() if key != "code"} | {"sort": 2 * index}
        for index, enum in enumerate(enums(account, tuple((value, None) for value in values)), 1)
    ]


def _standard(account: Account, entity: str) -> None:
    fixed = {"is_deletable": False, "is_predefined": True}
    if entity == "leads":
        for code in _TRACKING:
            definition(
                account, entity, code.lower(), "tracking_data", code=code, group_id="statistic", **fixed
            )
        return
    if entity == "contacts":
        definition(
            account, entity, _say(account, "Position", "Должность"), "text", code="POSITION", sort=2, **fixed
        )
    phone, email = _plain_enums(account, _PHONE), _plain_enums(account, _EMAIL)
    definition(
        account,
        entity,
        _say(account, "Phone", "Телефон"),
        "multitext",
        code="PHONE",
        sort=4,
        enums=phone,
        **fixed,
    )
    definition(account, entity, "Email", "multitext", code="EMAIL", sort=6, enums=email, **fixed)
    if entity == "companies":
        definition(account, entity, _say(account, "Web", "Сайт"), "url", code="WEB", sort=8, **fixed)
        definition(
            account, entity, _say(account, "Address", "Адрес"), "textarea", code="ADDRESS", sort=10, **fixed
        )


def _say(account: Account, english: str, russian: str) -> str:
    return russian if account.flavour == "amo" else english


def seed_fields(account: Account, dice: Random, extra: int, *, small: bool = False) -> None:
    """Fill an account's definitions.

    Args:
        account: Its pipelines must be there already.
        dice: Seeded randomness.
        extra: Further text, number and choice fields per entity.
        small: Two types only, and nothing that clients trip over.
    """
    for entity, first_id in _FIRST_FIELD.items():
        account.fields[entity] = Collection(first_id)
        _standard(account, entity)
        kinds = _EVERYWHERE + (_PEOPLE_AND_LEADS if entity != "customers" else ("multiselect", "date"))
        if small:
            kinds = _FEW
        elif entity == "leads":
            kinds = (*kinds, "chained_list")
        elif entity == "companies":
            kinds = (*kinds, "org_legal_name")
        for kind in kinds:
            name = _say(account, f"Example {kind}", f"Пример {kind}")
            choices = enums(account, _CHOICES) if kind in _WITH_ENUMS else None
            definition(account, entity, name, kind, **({"enums": choices} if choices else {}))
        if not small:
            _specials(account, entity)
        for index in range(extra):
            kind = ("text", "numeric", "select", "date", "checkbox")[index % 5]
            choices = enums(account, _CHOICES[: dice.randrange(2, 6)]) if kind == "select" else None
            definition(account, entity, f"Extra {index + 1}", kind, **({"enums": choices} if choices else {}))


def _specials(account: Account, entity: str) -> None:
    """Fields that clients trip over: required at a stage, only for the API, right-to-left and emoji names."""
    definition(account, entity, "External ID", "text", is_api_only=True, code="EXTERNAL_ID")
    definition(account, entity, "ملاحظات داخلية 📝", "textarea")
    if entity == "leads":
        pipeline = account.main_pipeline()
        stage = account.statuses(pipeline["id"])[1]
        needed = [{"status_id": stage["id"], "pipeline_id": pipeline["id"]}]
        definition(account, entity, "Budget 💶", "numeric", required_statuses=needed)
        definition(account, entity, "Margin (computed)", "numeric", is_computed=True)
