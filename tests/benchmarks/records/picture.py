"""The results as a picture: bars of rows a second, in SVG, with what else was measured beside them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_BAR, _GAP, _LEFT, _WIDE = 22, 8, 150, 460


def draw(results: Sequence[Mapping[str, Any]], records: int) -> str:
    """An SVG.

    Args:
        results: what each candidate came to on each database.
        records: how many leads, and as many contacts.
    """
    most = max((one["rows_per_second"] for one in results), default=1) or 1
    lines, y = [], 64
    for database in dict.fromkeys(one["database"] for one in results):
        lines.append(f'<text x="12" y="{y}" font-weight="bold">{escape(database)}</text>')
        y += 12
        for one in (one for one in results if one["database"] == database):
            long = round(_WIDE * one["rows_per_second"] / most)
            colour = "#1f6feb" if one["name"] == "ours" else "#8b949e"
            told = (
                f"{one['rows_per_second']:,.0f} rows/s · {one['cpu']:.0f} s CPU · {one['peak_mb']:.0f} MB · "
                f"{one['requests']} requests{'' if one['same'] else ' · NOT the same rows'}"
                if one["state"] == "done"
                else f"failed: {one['note'][:60]}"
            )
            lines += [
                f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(one["name"])}</text>',
                f'<rect x="{_LEFT}" y="{y}" width="{max(long, 1)}" height="{_BAR}" fill="{colour}"/>',
                f'<text x="{_LEFT + long + 8}" y="{y + 15}" fill="#57606a">{escape(told)}</text>',
            ]
            y += _BAR + _GAP
        y += 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1080" height="{y}" font-family="sans-serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="12" y="28" font-size="17">Reading {records:,} leads and {records:,} contacts, unthrottled</text>'
        f"{''.join(lines)}</svg>\n"
    )
