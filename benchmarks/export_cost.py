"""What a proven export costs beside the plain one, and a refusal: processor time and peak memory, in fresh processes.

    python benchmarks/export_cost.py [WORDS ...] [--repeats 3] [--output record.json] [--large] [--refusals]

Ours is ``attn_deploy.export(NAME, path)``: defaults, verification included. Plain is ``torch.onnx.export(dynamo=True)`` of
the same model with the axes that ours moves. Each run is a process of its own, the two in turn; the start of Python and the
imports count on both sides. Processor time is that of the process and of every child that it waited for. Memory is the
largest sum of resident pages over the process and its children, looked at every 10 ms; pages of libraries that several of
them share count once for each.

With ``--refusals`` networks of one size are asked for N, H and W instead, which ends in an error that says what moves; the
plain export beside it is that of N.

The claim is at most 1.5 times the processor time (geometric mean of the networks' least times) and at most 1.5 times the
memory (of each network); a refusal takes at most 3 times the plain export's processor time (of each network). Exits with 1 if
it does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from attn_deploy.files import write_atomic
from attn_deploy.machine.environment import command_line, describe_environment, load_average

NETWORKS = (
    "timm:resnet50",
    "timm:convnext_tiny",
    "timm:vit_small_patch16_224",
    "timm:vit_base_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:efficientnet_b3",
    "timm:regnety_032",
    "timm:mobilenetv4_conv_large",
    "timm:pvt_v2_b2",
    "timm:repvgg_b0",
)
LARGE = ("timm:vit_large_patch16_224",)
REFUSED = (
    "timm:vit_base_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "timm:coatnet_0_rw_224",
    "timm:pit_b_224",
    "timm:visformer_small",
    "timm:tiny_vit_11m_224",
)
CPU_LIMIT = MEMORY_LIMIT = 1.5
REFUSAL_LIMIT = 3.0
_INTERVAL = 0.01  # seconds between two looks at the memory
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """One export.

    Attributes:
        cpu_s, wall_s: processor time, children included, and time on the wall.
        peak_mb: the largest sum of resident memory, children included.
        axes: that move in the file; of a refusal its words.
        failure: what was said if there is no file.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    axes: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One network: the runs of both sides in order."""

    name: str
    parameters: int
    ours: tuple[Cost, ...]
    plain: tuple[Cost, ...]

    @property
    def cpu_ratio(self) -> float:
        """Of the least processor times."""
        return min(c.cpu_s for c in self.ours) / min(c.cpu_s for c in self.plain)

    @property
    def memory_ratio(self) -> float:
        """Of the least peaks."""
        return min(c.peak_mb for c in self.ours) / min(c.peak_mb for c in self.plain)


def ours(name: str, path: Path, axes: str) -> str:
    """Export and prove; the axes that move."""
    from attn_deploy import export

    artifact = export(name, path, dynamic=axes.split(",") if axes else None)
    return ",".join(artifact.dynamic_axes)


def refusal(name: str, path: Path, axes: str) -> str:
    """Ask for axes that cannot all move; the error."""
    from attn_deploy import export
    from attn_deploy.errors import DynamicAxisError

    try:
        artifact = export(name, path, dynamic=axes.split(","))
    except DynamicAxisError as error:
        return str(error)
    raise SystemExit(f"{name} was exported with {', '.join(artifact.dynamic_axes)}, and is no case of a refusal.")


def plain(name: str, path: Path, axes: str) -> str:
    """The same model by torch alone."""
    import timm
    import torch

    package, _, base = name.partition(":")
    if package != "timm":
        raise SystemExit(f"{name}: the plain side makes models of timm only.")
    model = timm.create_model(base).eval()
    _, height, width = model.pretrained_cfg.get("test_input_size") or model.pretrained_cfg["input_size"]
    moving = {axis: torch.export.Dim.DYNAMIC for axis, s in ((0, "N"), (2, "H"), (3, "W")) if s in axes.split(",")}
    shapes = (moving,) if moving else None
    torch.onnx.export(
        model, (torch.randn(2, 3, height, width),), path, dynamo=True, dynamic_shapes=shapes, opset_version=20
    )
    return axes


def measured(side: str, name: str, axes: str, timeout: float) -> Cost:
    """One side in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        words = [sys.executable, __file__, "--one", side, name, "--axes", axes, "--folder", folder]
        output = Path(folder, "said")
        with output.open("wb") as log:
            started = time.perf_counter()
            child = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
            peak = [0]
            over = threading.Event()
            watcher = threading.Thread(target=_watch, args=(child.pid, peak, over), daemon=True)
            watcher.start()
            killer = threading.Timer(timeout, child.kill)
            killer.start()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            killer.cancel()
            wall = time.perf_counter() - started
            over.set()
            watcher.join()
        said = output.read_text(errors="replace").strip().splitlines()
        last = said[-1] if said else ""
        failure = "" if child.returncode == 0 else (last or f"exit code {child.returncode}")
        return Cost(
            round(usage.ru_utime + usage.ru_stime, 2),
            round(wall, 2),
            round(peak[0] / 1e6, 1),
            last.removeprefix("axes ") if last.startswith("axes ") else "",
            failure[:300],
        )


def _watch(process: int, peak: list[int], over: threading.Event) -> None:
    while not over.wait(_INTERVAL):
        peak[0] = max(peak[0], sum(_resident(p)[1] for p in _tree(process)))


def _tree(process: int) -> list[int]:
    """A process and everything below it that has memory of its own: until a child runs its program, it has its parent's."""
    family = [process]
    for member in family:
        try:
            for task in Path(f"/proc/{member}/task").iterdir():
                text = (task / "children").read_text()
                family += [int(word) for word in text.split() if _resident(int(word)) != _resident(member)]
        except OSError:
            continue
    return family


def _resident(process: int) -> tuple[int, int]:
    """The bytes of a process's addresses, and of those that are resident."""
    try:
        whole, resident = Path(f"/proc/{process}/statm").read_text().split()[:2]
    except (OSError, ValueError):
        return 0, 0
    return int(whole) * _PAGE, int(resident) * _PAGE


def row_of(name: str, repeats: int, timeout: float, *, refused: bool = False) -> Row:
    """Both sides in turn; ``refused``: ours is asked for what it refuses."""
    side = "refusal" if refused else "ours"
    sides: dict[str, list[Cost]] = {side: [], "plain": []}
    axes = "N" if refused else ""
    for _ in range(repeats):
        for word, costs in sides.items():
            cost = measured(word, name, {"refusal": "N,H,W", "ours": ""}.get(word, axes), timeout)
            axes = axes if refused else cost.axes or axes
            costs.append(cost)
            text = f"{name} {word}: {cost.cpu_s:.1f} s, {cost.peak_mb:.0f} MB {cost.failure}"
            print(text, file=sys.stderr, flush=True)
    import timm
    import torch

    with torch.device("meta"):
        count = sum(p.numel() for p in timm.create_model(name.partition(":")[2]).parameters())
    return Row(name, count, tuple(sides[side]), tuple(sides["plain"]))


def table(rows: Sequence[Row]) -> str:
    """A line for each network, and the geometric mean."""
    lines = [
        "| network | parameters, M | axes | ours, s | plain, s | ratio | ours, MB | plain, MB | ratio |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        best = [min(c.cpu_s for c in r.ours), min(c.cpu_s for c in r.plain)]
        peak = [min(c.peak_mb for c in r.ours), min(c.peak_mb for c in r.plain)]
        failed = next((c.failure for c in (*r.ours, *r.plain) if c.failure), "")
        lines.append(
            f"| {r.name} | {r.parameters / 1e6:.1f} | {r.ours[0].axes or failed[:60]} | {best[0]:.1f} | {best[1]:.1f} | "
            f"{r.cpu_ratio:.2f} | {peak[0]:.0f} | {peak[1]:.0f} | {r.memory_ratio:.2f} |"
        )
    cpu, memory = (geometric_mean([getattr(r, f) for r in rows]) for f in ("cpu_ratio", "memory_ratio"))
    lines.append(f"| geometric mean | | | | | {cpu:.2f} | | | {memory:.2f} |")
    return "\n".join(lines)


def refusal_table(rows: Sequence[Row]) -> str:
    """A line for each network that was asked for N, H and W."""
    lines = ["| network | parameters, M | refusal, s | plain with N, s | ratio |", "|---|---:|---:|---:|---:|"]
    for r in rows:
        best = [min(c.cpu_s for c in r.ours), min(c.cpu_s for c in r.plain)]
        failed = next((f" ({c.failure[:60]})" for c in (*r.ours, *r.plain) if c.failure), "")
        times = f"{best[0]:.1f} | {best[1]:.1f} | {r.cpu_ratio:.2f}"
        lines.append(f"| {r.name}{failed} | {r.parameters / 1e6:.1f} | {times} |")
    return "\n".join(lines)


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> int:
    """Measure, print the table, and keep the record."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("words", nargs="*", help="only networks whose names hold one of these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--large", action="store_true", help="with ViT-L, 1.2 GB of weights, once")
    parser.add_argument("--refusals", action="store_true", help="what a refusal costs, in place of an export")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "NAME"), help=argparse.SUPPRESS)
    parser.add_argument("--axes", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        side, name = options.one
        axes = {"ours": ours, "plain": plain, "refusal": refusal}[side](
            name, options.folder / "model.onnx", options.axes
        )
        print(f"axes {axes}")
        return 0
    every = REFUSED if options.refusals else (*NETWORKS, *LARGE) if options.large else NETWORKS
    names = [n for n in every if not options.words or any(w in n for w in options.words)]
    if not names:
        raise SystemExit(f"No network's name holds {' or '.join(options.words)}; there are {', '.join(every)}.")
    before = describe_environment()
    rows = [row_of(n, 1 if n in LARGE else options.repeats, options.timeout, refused=options.refusals) for n in names]
    shown = refusal_table(rows) if options.refusals else table(rows)
    print(shown)
    print(f"load {before.load_average} at the start and {load_average()} at the end on {before.usable_cores} cores")
    if options.output is not None:
        data = {
            "schema_version": 1,
            "title": f"What a {'refusal' if options.refusals else 'proven export'} costs beside torch.onnx.export(dynamo=True)",
            "environment": asdict(before),
            "argv": command_line(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "load_after": load_average(),
            "rows": [asdict(r) for r in rows],
        }
        write_atomic(options.output, json.dumps(data, indent=1) + "\n")
        write_atomic(options.output.with_suffix(".md"), shown + "\n")
    return int(not _holds(rows, refused=options.refusals))


def _holds(rows: Sequence[Row], *, refused: bool) -> bool:
    """Whether what is claimed is so."""
    if any(c.failure for r in rows for c in (*r.ours, *r.plain)):
        return False
    if refused:
        return all(r.cpu_ratio <= REFUSAL_LIMIT for r in rows)
    dear = geometric_mean([r.cpu_ratio for r in rows]) > CPU_LIMIT
    return not dear and all(r.memory_ratio <= MEMORY_LIMIT for r in rows)


if __name__ == "__main__":
    raise SystemExit(main())
