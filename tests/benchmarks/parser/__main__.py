"""How fast webhooks are read, beside the standard library: `python -m tests.benchmarks.parser [--json]`.

Real bodies from the samples, those of the documentation in Kommo's encoding. The whole of `parse` is measured: nested
values, events, times and unique keys; `parse_qsl`, which only splits and decodes, is measured on the same bodies, in
turns. What counts is the time that this process has the processor; the bar is compared with the best round, because
other work on the machine can only make a round slower.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

from kommo.webhooks import Limits, parse
from tests.webhooks.encoding import encode

BAR = 200_000
"""Fields a second [design.md §7]."""
ROUNDS = 9
SECONDS = 0.3
FORM = "application/x-www-form-urlencoded"
SAMPLES = Path(__file__).parents[2] / "samples"
ACCOUNT = {"subdomain": "acme", "id": "31234567", "_links": {"self": "https://acme.kommo.com"}}


def bodies() -> list[bytes]:
    """Every sample as Kommo sends it."""
    raw = [path.read_bytes() for path in sorted(SAMPLES.glob("wh_*_raw.txt"))]
    documented = [
        encode({"account": ACCOUNT, **json.loads(path.read_text())})
        for path in sorted(SAMPLES.glob("wh_*.json"))
        if "headers" not in path.name
    ]
    return raw + documented


def many_leads(fields: int) -> bytes:
    """One body of about as many fields, all in leads with custom fields and names in Greek."""
    lead = json.loads((SAMPLES / "wh_leads_update_doc.json").read_text())["leads"]["update"][0]
    lead["name"] = "Ελληνικά & Ωμέγα"
    each = encode({"leads": {"update": [lead]}}).count(b"&") + 1
    return encode({"account": ACCOUNT, "leads": {"update": [lead] * (fields // each)}})


def fields_per_second(read: Callable[[bytes], object], given: list[bytes]) -> float:
    """One measurement of about `SECONDS`."""
    fields = sum(body.count(b"&") + 1 for body in given)
    done, started = 0, time.process_time()
    while (spent := time.process_time() - started) < SECONDS or not done:
        for body in given:
            read(body)
        done += fields
    return done / spent


def compared(given: list[bytes], limits: Limits) -> dict[str, float]:
    """Rates measured in turns, and the median of the ratio of neighbours."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        ours.append(fields_per_second(lambda body: parse(body, FORM, limits=limits), given))
        theirs.append(fields_per_second(lambda body: parse_qsl(body.decode(), keep_blank_values=True), given))
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        "best": round(max(ours)),
        "median": round(statistics.median(ours)),
        "lowest": round(min(ours)),
        "parse_qsl_best": round(max(theirs)),
        "ratio": round(statistics.median(ratios), 2),
    }


def main() -> int:
    """Measure, print, and say whether the bar is reached."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="print JSON")
    as_json = arguments.parse_args().json
    wide = Limits(bytes=1 << 28, fields=1 << 24)
    results = {
        "samples": compared(bodies(), wide),
        "one body of 10 000 fields": compared([many_leads(10_000)], wide),
        "one body of 19 000 fields": compared([many_leads(19_000)], wide),
    }
    reached = all(result["best"] >= BAR for result in results.values())
    if as_json:
        print(json.dumps({"bar": BAR, "reached": reached, "results": results}, indent=1))
    else:
        for name, result in results.items():
            print(
                f"{name:26} {result['best']:>9,} fields/s (median {result['median']:,}, lowest {result['lowest']:,}), "
                f"{result['ratio']} x parse_qsl (best {result['parse_qsl_best']:,})"
            )
        print(f"bar: {BAR:,} fields/s: {'reached' if reached else 'MISSED'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
