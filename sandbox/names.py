"""Names in four scripts, with emoji, for the seeded people and companies. Invented; no real person is meant."""

from random import Random

_PEOPLE: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Ann", "Joao", "Zoë", "Łukasz", "María José"),
        ("Lee", "O'Brien", "García-Núñez", "Müller", "da Silva"),
    ),
    (("Екатерина", "Иван", "Ольга", "Святослав"), ("Иванова", "Петров", "Ёлкина", "Щербаков")),
    (("محمد", "فاطمة", "ليلى", "يوسف"), ("العربي", "الحسن", "بن علي", "المصري")),
    (("伟", "太郎", "민준", "美玲"), ("王", "山田", "김", "陳")),
)
_COMPANIES = (
    "Acme Supplies",
    "ООО «Рога и Копыта»",  # noqa: RUF001 - Cyrillic is meant
    "شركة النور",
    "株式会社さくら",
    "Café del Mar 🌊",
    "Smith & Sons <Ltd>",
    "Zażółć Gęślą",
    "東方 Trading",
)
_DEALS = ("Deal with", "Сделка:", "صفقة", "商談", "🚀 Order of", "Negociación con")


def person(dice: Random, script: int | None = None) -> tuple[str, str]:
    """First and last name.

    Args:
        dice: Seeded randomness.
        script: 0 Latin, 1 Cyrillic, 2 Arabic, 3 CJK; None = any.
    """
    first, last = _PEOPLE[dice.randrange(4) if script is None else script]
    emoji = " 😀" if dice.random() < 0.06 else ""
    return dice.choice(first), dice.choice(last) + emoji


def company(dice: Random) -> str:
    """A company's name."""
    return f"{dice.choice(_COMPANIES)} {dice.randrange(1, 1000)}"


def deal(dice: Random, number: int) -> str:
    """A lead's name; now and then with line ends, quotes and tabs, which people do paste."""
    first, last = person(dice)
    odd = ' "urgent"\t' if dice.random() < 0.03 else ""
    return f"{dice.choice(_DEALS)} {first} {last}{odd} #{number}"
