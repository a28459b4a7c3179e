"""What processes cost: seconds of processor and the most memory, read from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Meter:
    """How a process stood at one moment.

    Attributes:
        cpu: Seconds of processor so far.
        peak: The most memory that it ever had, in MB.
    """

    cpu: float
    peak: float


def meter(pid: int) -> Meter:
    """How a process of ours stands; nothing if it is gone."""
    try:
        cpu, _ = _times(pid)
        status = Path(f"/proc/{pid}/status").read_text()
    except (OSError, IndexError):
        return Meter(0.0, 0.0)
    peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), "0")
    return Meter(cpu, round(int(peak) / 1024, 1))


def postgres_cpu() -> float | None:
    """Seconds of processor of every PostgreSQL process of this machine, those that ended among them."""
    total, seen = 0.0, False
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if (folder / "comm").read_text().strip() not in {"postgres", "postmaster"}:
                continue
            own, children = _times(int(folder.name))
        except (OSError, IndexError):
            continue
        seen = True
        total += own + children
    return total if seen else None


def _times(pid: int) -> tuple[float, float]:
    """Its own seconds, and those of its children that have ended."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, of_children, system_of_children = (int(after_name[n]) / _TICKS for n in (11, 12, 13, 14))
    return user + system, of_children + system_of_children
