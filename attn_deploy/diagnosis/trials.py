"""What a graph is given to: an engine builder or ONNX Runtime, in a child process, since either may crash on it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx

from attn_deploy.diagnosis.record import Trial
from attn_deploy.engine.flavors import check_installed, flavor_spec
from attn_deploy.engine.options import BuildOptions, parse_targets
from attn_deploy.engine.profile import Profile
from attn_deploy.engine.remedies import remedy_for
from attn_deploy.engine.scopes import NodePlace, mentioned, module_of
from attn_deploy.errors import AttnDeployError, InvalidRequestError, WorkerError
from attn_deploy.files import scratch_folder
from attn_deploy.graph.parts import Part, Parts
from attn_deploy.inputs.samples import ramped
from attn_deploy.isolate import run_isolated
from attn_deploy.rules.rules import explain
from attn_deploy.runtimes.onnxruntime import import_onnxruntime

TARGETS = ("tensorrt-rtx", "tensorrt", "onnxruntime")
_SAME = 0.5  # of the words of the shorter message, in common


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a graph was refused.

    Attributes:
        text: the target's words, or how the process ended.
        ended: ``refused``, or without an answer: ``crashed`` or ``out of time``.
        nodes: names of the nodes that the text names, in file order.
    """

    text: str
    ended: str = "refused"
    nodes: tuple[str, ...] = ()

    def is_like(self, other: Refusal) -> bool:
        """Whether both say the same, whatever nodes they name."""
        if self.ended != other.ended or self.ended != "refused":
            return self.ended == other.ended
        ours, theirs = _words(self), _words(other)
        return len(ours & theirs) >= _SAME * max(1, min(len(ours), len(theirs)))

    def remedy(self, operators: Mapping[str, int]) -> str:
        """What is known to help: what a rule says of the cause, else what is known of the message."""
        if self.ended == "out of time":
            return "If it is slow and not stuck, give each trial more time with --timeout."
        rule = explain(self.text)
        if rule is not None and not rule.general:
            return rule.remedy
        return remedy_for(self.text, operators) or (rule.remedy if rule is not None else "")

    @property
    def reason(self) -> str:
        """The text without the advice that an error of its kind ends with."""
        return self.text.removesuffix(remedy_for(self.text)).rstrip()


class Target(Protocol):
    """Something that takes graphs."""

    name: str

    def take(self, path: Path, profile: Profile | None, timeout: float) -> None:
        """Take a file.

        Raises:
            AttnDeployError: if it is refused; `WorkerError` if the process crashed or ran out of time.
        """
        ...


class TensorRT:
    """Parses and builds; the engine is thrown away.

    Args:
        flavor: tensorrt-rtx or tensorrt.
        capabilities: as ``--target`` of a build names them; None for the usual.

    Raises:
        MissingDependencyError: if the library is not installed.
    """

    def __init__(self, flavor: str, capabilities: str | None) -> None:
        check_installed(flavor)
        self.name = flavor_spec(flavor).title
        self._flavor = flavor
        self._options = BuildOptions(targets=parse_targets(capabilities))

    def take(self, path: Path, profile: Profile | None, timeout: float) -> None:
        """Build an engine of the file."""
        arguments: dict[str, Any] = {
            "onnx": str(path),
            "onnx_sha256": "",
            "inputs": [],
            "outputs": [],
            "plan": str(path.with_suffix(".engine")),
            "flavor": self._flavor,
            "options": self._options.to_dict(),
            "profiles": [] if profile is None else [profile.to_dict()],
            "known": None,
            "log_level": 100,
        }
        run_isolated("attn_deploy.engine.worker:run", arguments, what="the build", timeout=timeout)


class OnnxRuntime:
    """Loads the graph and runs it once, at the usual shape of the profile.

    Raises:
        MissingDependencyError: if it is not installed.
    """

    name = "ONNX Runtime"

    def __init__(self) -> None:
        import_onnxruntime()

    def take(self, path: Path, profile: Profile | None, timeout: float) -> None:
        """Load the file, and run it."""
        shapes = {} if profile is None else {r.name: list(r.optimum) for r in profile.ranges}
        run_isolated(
            "attn_deploy.diagnosis.trials:load_and_run",
            {"onnx": str(path), "shapes": shapes},
            what="the run",
            timeout=timeout,
        )


def load_and_run(emit: Callable[[dict[str, Any]], None], *, onnx: str, shapes: Mapping[str, list[int]]) -> None:
    """The child's side of `OnnxRuntime`."""
    from attn_deploy.parity.graphs import graph_inputs
    from attn_deploy.runtimes.base import run_once
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    emit({"event": "loading"})
    runner = OnnxRuntimeRunner(Path(onnx), optimize=False)
    inputs = graph_inputs(_load(Path(onnx)))
    run_once(runner, {i.name: ramped(tuple(shapes.get(i.name, i.shape())), i.dtype, k) for k, i in enumerate(inputs)})


def _load(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


def target_of(text: str) -> Target:
    """The target that ``--target`` names: ``tensorrt-rtx``, ``tensorrt-rtx:sm75,sm86``, ``tensorrt`` or ``onnxruntime``.

    Raises:
        InvalidRequestError: if there is none of that name.
        MissingDependencyError: if it is not installed.
    """
    name, _, capabilities = text.strip().lower().replace("_", "-").partition(":")
    if name not in TARGETS or (capabilities and name != "tensorrt-rtx"):
        raise InvalidRequestError(
            f"the target {text!r} is unknown: choose {', '.join(TARGETS)}, or tensorrt-rtx:sm75,sm86 for named GPUs."
        )
    return OnnxRuntime() if name == "onnxruntime" else TensorRT(name, capabilities or None)


class Laboratory:
    """Gives graphs to a target, one process each, and keeps the account.

    Args:
        target: what takes them.
        timeout: seconds for each.
        progress: called with what is tried.
    """

    def __init__(self, target: Target, *, timeout: float, progress: Callable[[str], None]) -> None:
        self.target = target
        self.trials: list[Trial] = []
        self._timeout, self._progress = timeout, progress

    def attempt(self, model: onnx.ModelProto, profile: Profile | None, what: str) -> Refusal | None:
        """Try a graph; None if it is taken."""
        self._progress(f"{self.target.name}, trial {len(self.trials) + 1}: {what}, {len(model.graph.node)} nodes")
        started = time.perf_counter()
        with scratch_folder() as folder:
            path = Path(folder) / "part.onnx"
            onnx.save(model, path)
            refusal: Refusal | None = None
            try:
                self.target.take(path, profile, self._timeout)
            except AttnDeployError as error:
                if error.exit_code != 1:  # the request is at fault, or the machine, and not the graph
                    raise
                text = str(error).replace(f"{path}: ", "")
                places = tuple(NodePlace(n.name, n.op_type, module_of(n)) for n in model.graph.node)
                nodes = tuple(p.name for p in mentioned(text, places))
                refusal = Refusal(text, _how(error), nodes)
        seconds = round(time.perf_counter() - started, 3)
        self.trials.append(Trial(what, len(model.graph.node), refusal is not None, seconds))
        return refusal


def part_operators(part: Part) -> dict[str, int]:
    """Nodes by type."""
    counts: dict[str, int] = {}
    for node in part.model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def module_at(parts: Parts, index: int) -> str:
    """The module path of a node; empty if the file does not say."""
    return module_of(parts.nodes[index])


def _how(error: AttnDeployError) -> str:
    if not isinstance(error, WorkerError):
        return "refused"
    return "out of time" if "took longer than" in str(error) else "crashed"


def _words(refusal: Refusal) -> set[str]:
    text = refusal.text
    for name in refusal.nodes:
        text = text.replace(name, " ")
    text = re.sub(r"It names:.*|It does not know these operators.*", " ", text)
    return {w.lower() for w in re.findall(r"[A-Za-z]{4,}", text)} - {"node", "module", "tensorrt", "refuses", "graph"}
