"""What stood around the steady latency: the cold start, and clocks, temperature and power while it was measured."""

from __future__ import annotations

from collections.abc import Iterable

from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.machine.state import MachineState

COLD = {
    "import_seconds": "import",
    "build_seconds": "build",
    "load_seconds": "load",
    "first_run_seconds": "first run",
}


def cold_rows(record: ProfileRecord) -> list[ProfileRow]:
    """The rows of the first shape of which the cold start is known: it hardly depends on the shape."""
    first = record.rows[0] if record.rows else None
    return [r for r in record.rows if r.cold and first and (r.batch, r.size) == (first.batch, first.size)]


def cold_text(record: ProfileRecord) -> str:
    """The cold start of each runtime and precision in one sentence, in milliseconds; empty where it is not known."""
    told = []
    for row in cold_rows(record):
        cold = row.cold
        if cold is None:
            continue
        parts = [f"import {cold.import_seconds * 1e3:.0f} +"] if cold.import_seconds is not None else []
        parts += [f"build {cold.build_seconds * 1e3:.0f} +"] if cold.build_seconds is not None else []
        name = row.runtime if row.precision == "fp32" else f"{row.runtime} {row.precision}"
        told.append(" ".join([name, *parts, f"{cold.load_seconds * 1e3:.0f} + {cold.first_run_seconds * 1e3:.0f}"]))
    return f"Cold start in ms, load + first run: {', '.join(told)}." if told else ""


def conditions_text(record: ProfileRecord, *others: ProfileRecord) -> str:
    """Clocks, temperature and power before and after the rows of records of one machine; empty where none is known."""
    known = [row.conditions for made in (record, *others) for row in made.rows if row.conditions]
    states = [s for found in known for s in (found.before, found.after)]
    environment = record.environment
    parts = []
    clock = _range([s.cpu_mhz for s in states] or [environment.frequency_mhz], "MHz")
    if clock:
        parts.append(f"CPU {clock}" + (f", governor {environment.governor}" if environment.governor else ""))
    load = _range([s.load_average for s in states], "", digits=2)
    parts += [f"load {load}"] if load else []
    names = dict.fromkeys(g.name for s in states for g in s.gpus)
    parts += [_gpu(name, states) for name in names]
    if not names:
        for gpu in environment.gpus:
            found = [_range([gpu.clock], "MHz"), _range([gpu.temperature], "°C")]
            parts += [f"{gpu.name} {', '.join(filter(None, found))}"] if any(found) else []
    return f"While it was measured: {'; '.join(parts)}." if parts else ""


def row_conditions(row: ProfileRow) -> dict[str, float | str | None]:
    """Clocks and temperature of the row's machine after it ran, by column; nothing where they are not known."""
    if row.conditions is None:
        return {}
    after = row.conditions.after
    found: dict[str, float | str | None] = {"cpu_mhz": after.cpu_mhz, "load_average": after.load_average}
    if after.gpus:
        gpu = after.gpus[0]
        found |= {"gpu_mhz": gpu.sm_mhz, "gpu_celsius": gpu.temperature, "gpu_watts": gpu.power}
        found["throttled"] = ", ".join(row.conditions.throttled)
    return found


def _gpu(name: str, states: Iterable[MachineState]) -> str:
    gpus = [g for s in states for g in s.gpus if g.name == name]
    found = [
        _range([g.sm_mhz for g in gpus], "MHz"),
        _range([g.temperature for g in gpus], "°C"),
        _range([g.power for g in gpus], "W"),
    ]
    held = dict.fromkeys(why for g in gpus for why in g.throttle)
    return f"{name} {', '.join(filter(None, found))}" + (f", held down by {', '.join(held)}" if held else "")


def _range(values: Iterable[float | None], unit: str, digits: int = 0) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    low, high = (f"{v:.{digits}f}" for v in (min(known), max(known)))
    return f"{low if low == high else f'{low} to {high}'} {unit}".rstrip()
