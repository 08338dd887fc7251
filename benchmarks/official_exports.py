"""Which published formulations export wrong, and how: each restated, exported as its users do, and run at other sizes.

    python benchmarks/official_exports.py [--only coord_attention,nam] [--output RECORD.json] [--render RECORD.json]

Every formulation of `benchmarks/plain/hazards.py` is exported by both exporters of torch.onnx with moving axes, checked
by onnx.checker, and run by ONNX Runtime at the traced size and at two others, against PyTorch at the same sizes. The
zoo's module of the same maths, with the same weights, goes through `attn_deploy.export` and the same sizes. A formulation
may end the process that exports it: each is exported in a child.

Exit code 1: the zoo's own export is wrong or refused somewhere.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from plain.cases import Pair, pair_of
from plain.hazards import HAZARDS, Extent, Hazard
from plain.messages import without_paths
from torch import nn

from attn_deploy.exporters.options import ExportOptions
from attn_deploy.exporters.pipeline import export_prepared
from attn_deploy.exporters.prepare import prepare
from attn_deploy.exporters.quiet import quiet_torch
from attn_deploy.files import write_atomic
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import Arrays, dynamic_symbols, symbols_of
from attn_deploy.machine.environment import command_line, describe_environment, load_average

SCHEMA_VERSION = 1
EXPORTERS = {"dynamo": 18, "torchscript": 17}
RIGHT = 1e-4  # largest error over the largest output; those that are wrong are beyond 1e-3
RECORD = Path(__file__).resolve().parents[1] / "profiles" / "official-exports.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one export.

    Attributes:
        verdict: ``right``; ``wrong``: loads, runs, other numbers; ``static``: fixed sizes although moving ones were asked
            for, without an error; ``fails``: stops at other sizes; ``refused``: the exporter raised an error; ``crash``:
            the process died.
        error: largest difference from PyTorch over the largest output, at the sizes that ran.
        detail: the message, or the axes that stayed.
        nodes: of the file.
    """

    verdict: str
    error: float | None = None
    detail: str = ""
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One formulation, in both exporters, and the zoo's module beside it."""

    name: str
    model: str
    title: str
    cause: str
    traced: Extent
    others: tuple[Extent, ...]
    outcomes: dict[str, Outcome]
    zoo: Outcome


def run_cases(names: Sequence[str]) -> tuple[Row, ...]:
    """Every export in a child process, which is replaced when one kills it."""
    rows = []
    for name in names:
        hazard = HAZARDS[name]
        outcomes = {exporter: _in_child(name, exporter) for exporter in EXPORTERS}
        row = Row(
            name,
            hazard.case.model or name,
            hazard.title,
            hazard.cause,
            hazard.traced,
            hazard.others,
            outcomes,
            _in_child(name, "zoo"),
        )
        told = [f"{k} {o.verdict}{f' {o.error:.1e}' if o.error is not None else ''}" for k, o in outcomes.items()]
        print(name, *told, f"zoo {row.zoo.verdict}", sep="  ", file=sys.stderr, flush=True)
        rows.append(row)
    return tuple(rows)


_pool: list[ProcessPoolExecutor] = []


def _in_child(name: str, which: str) -> Outcome:
    if not _pool:
        _pool.append(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
    try:
        return _pool[0].submit(outcome_of, name, which).result()
    except BrokenProcessPool:
        _pool.pop()
        return Outcome("crash", detail="the process was killed by a signal")


def outcome_of(name: str, which: str) -> Outcome:
    """One export of one formulation, in this process: by ``dynamo`` or ``torchscript``, or the ``zoo``'s."""
    torch.set_num_threads(1)
    hazard = HAZARDS[name]
    pair = _pair(name, hazard, hazard.traced)
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        path = Path(folder, "model.onnx")
        try:
            _zoo(pair, path) if which == "zoo" else _plain(pair, path, which)
            model = onnx.load(path)
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:  # whatever an exporter raises is its answer
            return Outcome("refused", detail=_first_line(error))
        nodes = sum(n.op_type != "Constant" for n in model.graph.node)
        return _judge(name, hazard, pair, model, nodes)


def _pair(name: str, hazard: Hazard, extent: Extent) -> Pair:
    return pair_of(name, hazard.case, (hazard.channels, *extent[1:]))


def _plain(pair: Pair, path: Path, exporter: str) -> None:
    """As the documentation of torch.onnx.export says, with every axis named that can move."""
    arrays = example_arrays(pair.inputs, {"N": HAZARDS[pair.name].traced[0]})
    example = tuple(torch.from_numpy(a) for a in arrays.values())
    axes = {i.name: {a: str(d) for a, d in enumerate(i.dims) if _moves(pair, d)} for i in pair.inputs}
    options: dict[str, Any] = {"dynamic_axes": axes, "do_constant_folding": True}
    if exporter == "dynamo":
        symbols = {s: torch.export.Dim(s) for a in axes.values() for d in a.values() for s in symbols_of(d)}
        shapes = tuple({a: _dimension(d, symbols) for a, d in axes[i.name].items()} for i in pair.inputs)
        options = {"dynamic_shapes": shapes, "verbose": False}
    with quiet_torch():
        torch.onnx.export(
            pair.plain,
            example,
            path,
            dynamo=exporter == "dynamo",
            opset_version=EXPORTERS[exporter],
            input_names=[i.name for i in pair.inputs],
            **options,
        )


def _moves(pair: Pair, dim: str | int) -> bool:
    """Whether an axis is to move: its symbol does, or for a level of a pyramid the symbol that it is a multiple of."""
    moving = dynamic_symbols(pair.inputs, pair.zoo.dynamic, pair.zoo.dynamic, pair.name)
    return isinstance(dim, str) and bool(set(symbols_of(dim)) & set(moving))


def _dimension(dim: str, symbols: dict[str, Any]) -> Any:
    """A symbol, or a multiple such as ``8*H``, as torch.export takes it."""
    factor, _, symbol = dim.rpartition("*")
    return int(factor) * symbols[symbol] if factor else symbols[symbol]


def _zoo(pair: Pair, path: Path) -> None:
    export_prepared(prepare(pair.zoo), path, ExportOptions(opset=EXPORTERS["torchscript"]))


def _judge(name: str, hazard: Hazard, pair: Pair, model: onnx.ModelProto, nodes: int) -> Outcome:
    """Run the file at every size and say what it is."""
    import onnxruntime

    fixed = [
        f"{value.name}[{axis}] = {dim.dim_value}"
        for value, given in zip(model.graph.input, pair.inputs, strict=True)
        for axis, (dim, symbol) in enumerate(zip(value.type.tensor_type.shape.dim, given.dims, strict=True))
        if _moves(pair, symbol) and not dim.dim_param
    ]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    inputs = [i.name for i in session.get_inputs()]
    worst = 0.0
    for extent in (hazard.traced, *hazard.others):
        arrays, expected = _expected(name, hazard, pair, extent)
        try:
            got = session.run(None, dict(zip(inputs, arrays.values(), strict=True)))
        except Exception as error:
            if fixed:
                return Outcome("static", worst, ", ".join(fixed), nodes)
            return Outcome("fails", worst, f"at {_size(extent)}: {_first_line(error)}", nodes)
        for right, value in zip(expected, got, strict=True):
            if right.shape != value.shape:
                return Outcome("wrong", None, f"shape {value.shape} instead of {right.shape} at {_size(extent)}", nodes)
            scale = max(1e-9, float(np.abs(right).max()))
            worst = max(worst, float(np.abs(right - value).max()) / scale)
    return Outcome("right" if worst < RIGHT else "wrong", worst, "", nodes)


def _expected(name: str, hazard: Hazard, pair: Pair, extent: Extent) -> tuple[Arrays, list[np.ndarray]]:
    """Inputs and PyTorch's outputs; a formulation that is built for its size is built anew with the same weights."""
    other = _pair(name, hazard, extent)
    module: nn.Module = other.plain
    module.load_state_dict(pair.plain.state_dict())
    arrays = example_arrays(other.inputs, {"N": extent[0]})
    with torch.no_grad():
        outputs = module(*[torch.from_numpy(a) for a in arrays.values()])
    return arrays, [o.numpy() for o in (outputs if isinstance(outputs, (tuple, list)) else [outputs])]


def _size(extent: Extent) -> str:
    return "x".join(map(str, extent))


def _first_line(error: BaseException) -> str:
    """The telling line of a message, without the paths of this machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if "Error" in line or "rror:" in line), lines[0] if lines else "")
    return without_paths(f"{type(error).__name__}: {text}")[:220]


def as_json(rows: Sequence[Row]) -> str:
    """The record."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "environment": asdict(describe_environment()),
        "argv": list(command_line()),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_after": load_average(),
        "exporters": EXPORTERS,
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def as_text(data: dict[str, Any]) -> str:
    """The record as a table."""
    lines = [f"{'formulation':28} {'torch.export':26} {'TorchScript':26} zoo"]
    for row in data["rows"]:
        cells = [_cell(row["outcomes"][e]) for e in EXPORTERS]
        lines.append(f"{row['name']:28} {cells[0]:26} {cells[1]:26} {_cell(row['zoo'])}")
    return "\n".join(lines)


def _cell(outcome: dict[str, Any]) -> str:
    error = outcome["error"]
    return outcome["verdict"] + (f" ({error:.1e})" if error is not None and outcome["verdict"] != "fails" else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--output", type=Path, help="the record; by default the committed one, for a full run only")
    parser.add_argument(
        "--render", type=Path, metavar="RECORD", help="print a record made earlier; nothing is exported"
    )
    given = parser.parse_args()
    if given.render:
        data = json.loads(given.render.read_text(encoding="utf-8"))
    else:
        names = given.only.split(",") if given.only else list(HAZARDS)
        unknown = [n for n in names if n not in HAZARDS]
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(HAZARDS)}")
        text = as_json(run_cases(names))
        output = given.output or (None if given.only else RECORD)
        if output:
            write_atomic(output, text)
        data = json.loads(text)
    print(as_text(data))
    return 0 if all(row["zoo"]["verdict"] == "right" for row in data["rows"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
