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
    """The rows of the first shape of which the cold start is measured: it hardly depends on the shape."""
    first = record.rows[0] if record.rows else None
    return [r for r in record.rows if r.cold and first and (r.batch, r.size) == (first.batch, first.size)]


def cold_text(record: ProfileRecord) -> str:
    """The cold start of each runtime and precision in one sentence, in milliseconds; empty where it is not measured."""
    starts = []
    for row in cold_rows(record):
        cold = row.cold
        if cold is None:
            continue
        parts = [f"import {cold.import_seconds * 1e3:.0f} +"] if cold.import_seconds is not None else []
        parts += [f"build {cold.build_seconds * 1e3:.0f} +"] if cold.build_seconds is not None else []
        name = row.runtime if row.precision == "fp32" else f"{row.runtime} {row.precision}"
        starts.append(" ".join([name, *parts, f"{cold.load_seconds * 1e3:.0f} + {cold.first_run_seconds * 1e3:.0f}"]))
    return f"Cold start in ms, load + first run: {', '.join(starts)}." if starts else ""


def conditions_text(record: ProfileRecord, *others: ProfileRecord) -> str:
    """Clocks, temperature and power before and after the rows of records of one machine; empty where none is measured."""
    measured = [row.conditions for one in (record, *others) for row in one.rows if row.conditions]
    states = [s for c in measured for s in (c.before, c.after)]
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
            ranges = [_range([gpu.clock], "MHz"), _range([gpu.temperature], "°C")]
            parts += [f"{gpu.name} {', '.join(filter(None, ranges))}"] if any(ranges) else []
    return f"While it was measured: {'; '.join(parts)}." if parts else ""


def row_conditions(row: ProfileRow) -> dict[str, float | str | None]:
    """Clocks and temperature of the row's machine after it ran, by column; nothing where they are not measured."""
    if row.conditions is None:
        return {}
    after = row.conditions.after
    values: dict[str, float | str | None] = {"cpu_mhz": after.cpu_mhz, "load_average": after.load_average}
    if after.gpus:
        gpu = after.gpus[0]
        values |= {"gpu_mhz": gpu.sm_mhz, "gpu_celsius": gpu.temperature, "gpu_watts": gpu.power}
        values["throttled"] = ", ".join(row.conditions.throttled)
    return values


def _gpu(name: str, states: Iterable[MachineState]) -> str:
    gpus = [g for s in states for g in s.gpus if g.name == name]
    ranges = [
        _range([g.sm_mhz for g in gpus], "MHz"),
        _range([g.temperature for g in gpus], "°C"),
        _range([g.power for g in gpus], "W"),
    ]
    held = dict.fromkeys(why for g in gpus for why in g.throttle)
    return f"{name} {', '.join(filter(None, ranges))}" + (f", held down by {', '.join(held)}" if held else "")


def _range(values: Iterable[float | None], unit: str, digits: int = 0) -> str:
    measured = [v for v in values if v is not None]
    if not measured:
        return ""
    low, high = (f"{v:.{digits}f}" for v in (min(measured), max(measured)))
    return f"{low if low == high else f'{low} to {high}'} {unit}".rstrip()
