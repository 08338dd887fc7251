"""Steps (b) and (d): latency and parity of networks and of the zoo in PyTorch and in ONNX Runtime on the GPU.

A unit is one `attn_deploy.profile`, whose record is kept beside the unit's own; a row that disagrees with eager in fp32 is
marked by the profile and has no number. In a rehearsal the CPU's runtimes stand in, at tiny sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from campaign.units import Settings, Unit

# In order of worth: what the time may not suffice for stands last.
NETWORKS = (
    "resnet18", "resnet50", "resnet18+se", "resnet18+cbam", "resnet18+non_local", "resnet50+se", "resnet50+cbam",
    "resnet50+non_local",
)  # fmt: skip
ZOO = (
    "se", "cbam", "eca", "coord_attention", "ghostmodule", "gc", "simam", "non_local_embedded_gaussian", "criss_cross",
    "aspp", "psp", "condconv", "involution", "deformable_conv_v2",
)  # fmt: skip
FIRST = ("fp32", "fp16", "bf16")


def units(settings: Settings) -> list[Unit]:
    """Step (b)."""
    if settings.rehearse:
        return [_unit(settings, "resnet8", 1, (16, 16), ("eager",)), _unit(settings, "se", 2, (8, 8), ("eager",))]
    made = [_unit(settings, n, b, (224, 224), ("eager", "compile"), tf32=t) for n in NETWORKS[:2] for b, t in _TURNS]
    made += [_unit(settings, n, b, (32, 32), ("eager",)) for n in (*NETWORKS[2:], *ZOO) for b in (1, 64)]
    made += [_unit(settings, n, b, (224, 224), ("eager", "compile")) for n in NETWORKS[2:] for b in (1, 64)]
    made += [_unit(settings, n, 64, (56, 56), ("eager", "compile")) for n in ZOO]
    return made


_TURNS = ((1, False), (64, False), (1, True), (64, True))


def ort_units(settings: Settings) -> list[Unit]:
    """Step (d)."""
    if settings.rehearse:
        return [_unit(settings, "resnet8", 1, (16, 16), ("eager", "ort-cpu"))]
    both = ("eager", "ort-cuda")
    return [_unit(settings, n, b, (224, 224), both, precisions=("fp32", "fp16")) for n in NETWORKS for b in (1, 64)]


def _unit(
    settings: Settings,
    model: str,
    batch: int,
    size: tuple[int, int],
    runtimes: tuple[str, ...],
    *,
    tf32: bool = False,
    precisions: tuple[str, ...] = FIRST,
) -> Unit:
    stem = model.replace("+", "-").replace(":", "-")
    name = f"{stem}-b{batch}-{size[0]}x{size[1]}{'-tf32' if tf32 else ''}"
    seconds = 4.0 + 15.0 * ("compile" in runtimes)

    def work() -> Mapping[str, Any]:
        return _profile(settings, name, model, batch, size, runtimes, tf32, precisions)

    return Unit(name, work, seconds)


def _profile(
    settings: Settings,
    name: str,
    model: str,
    batch: int,
    size: tuple[int, int],
    runtimes: tuple[str, ...],
    tf32: bool,
    precisions: tuple[str, ...],
) -> Mapping[str, Any]:
    from attn_deploy.bench.options import BenchOptions
    from attn_deploy.bench.profiler import profile

    on = "cpu" if settings.rehearse else "cuda"
    short = BenchOptions(
        min_samples=60, max_samples=240, min_seconds=0.15, warmup_seconds=0.1, max_seconds=2.0, rounds=6
    )
    tiny = dataclasses.replace(
        short, min_samples=8, max_samples=8, min_seconds=0.0, warmup_seconds=0.0, rounds=2, threads=1
    )
    record = profile(
        model,
        runtimes=runtimes,
        precisions=("fp32",) if settings.rehearse else precisions,
        batch=(batch,),
        size=size,
        cuda_graph=(False,) if settings.rehearse else (False, True),
        torch_device=on,
        tf32=tf32,
        options=tiny if settings.rehearse else short,
        executor="inline",
    )
    folder = settings.out / "profiles"
    folder.mkdir(parents=True, exist_ok=True)
    path: Path = folder / f"{'ort-' if 'ort-cuda' in runtimes or 'ort-cpu' in runtimes else ''}{name}.json"
    record.write(path)
    parts = []
    for row in record.rows:
        label = f"{row.runtime} {row.precision}{' graph' if row.cuda_graph else ''}"
        time = row.device_time or row.latency
        parts.append(f"{label} {time.p50_ms:.3f} ms" if row.status == "ok" and time else f"{label} {row.status}")
    return {"profile": path.name, "line": "; ".join(parts)}
