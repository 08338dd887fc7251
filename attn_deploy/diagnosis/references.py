"""What is right: another graph, tensor by tensor, or the model in eager mode, module by module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attn_deploy.diagnosis.checkpoints import Checkpoint, at_tensors, checkpoints
from attn_deploy.graph.parts import Parts
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.parity.given import GivenInputs
from attn_deploy.parity.graphs import runnable_inputs
from attn_deploy.parity.rounding import Rounding
from attn_deploy.runtimes.base import Runner, run_once
from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    from attn_deploy.exporters.prepared import PreparedModel

Array = NDArray[Any]


class Reference(Protocol):
    """What a graph is compared with.

    Attributes:
        name: for reports.
        runner: runs the whole, for its outputs.
        rounding: how to learn what it rounds, where that can be known.
        inputs: the inputs, with the sizes at which it runs.
        dynamic: the symbols that move.
        classes: class names by module path, as far as known.
    """

    name: str
    runner: Runner
    rounding: Rounding | None
    inputs: tuple[TensorInput, ...]
    dynamic: tuple[str, ...]
    classes: Mapping[str, str]

    def matched(self, candidate: Parts) -> tuple[tuple[Checkpoint, str], ...]:
        """Checkpoints of a candidate, each with the name that `values` knows it under."""
        ...

    def inside(self, candidate: Parts, nodes: Sequence[int]) -> tuple[tuple[Checkpoint, str], ...]:
        """As `matched`, at every tensor that some nodes make."""
        ...

    def values(self, names: Sequence[str], inputs: Arrays) -> Mapping[str, Array]:
        """The tensors of these names; those that could not be had are left out."""
        ...

    def weights(self) -> Mapping[str, Array]:
        """The weights by name."""
        ...

    def doubt(self, inputs: Arrays) -> float:
        """How far the tensors inside are known to be from belonging to the outputs; 0 if they do."""
        ...


class GraphReference:
    """Another graph, in ONNX Runtime without optimisations.

    Args:
        parts: the graph.
        name: for reports.
        given: shapes and samples of the user's, in place of those at which the graph runs.
    """

    def __init__(self, parts: Parts, name: str, given: GivenInputs | None = None) -> None:
        self.name = name
        self._parts = parts
        self.runner: Runner = OnnxRuntimeRunner(parts.model.SerializeToString(), optimize=False)
        self.rounding: Rounding | None = None
        self.inputs, self.dynamic = runnable_inputs(parts.model, self.runner, given or GivenInputs())
        self.classes: Mapping[str, str] = {}

    def matched(self, candidate: Parts) -> tuple[tuple[Checkpoint, str], ...]:
        """By the names of the tensors; where a graph was written anew, by the modules that they leave."""
        ours = checkpoints(self._parts)
        by_exit = {e: c.tensor for c in ours for e in c.exits}
        known = {c.tensor for c in ours}
        # The boundaries of the reference, since a conversion may have put casts behind its own.
        shared = at_tensors(candidate, [c.tensor for c in ours])
        pairs = {c.tensor: (c, c.tensor) for c in shared}
        taken = {k for _, k in pairs.values()}
        for point in checkpoints(candidate):
            if point.tensor in pairs or point.tensor in known:
                continue
            key = next((by_exit[e] for e in point.exits if e in by_exit), None)
            if key is not None and key not in taken:
                pairs[point.tensor] = (point, key)
                taken.add(key)
        for mine, theirs in zip(self._parts.outputs, candidate.outputs, strict=False):
            for point in at_tensors(candidate, [theirs]):
                pairs.setdefault(theirs, (point, mine))
        return tuple(sorted(pairs.values(), key=lambda p: p[0].node))

    def inside(self, candidate: Parts, nodes: Sequence[int]) -> tuple[tuple[Checkpoint, str], ...]:
        """Tensors of the same name in both graphs."""
        names = [o for i in nodes for o in candidate.nodes[i].output if o in self._parts.maker]
        return tuple((c, c.tensor) for c in at_tensors(candidate, names))

    def values(self, names: Sequence[str], inputs: Arrays) -> Mapping[str, Array]:
        """The tensors of these names."""
        made = [n for n in names if n in self._parts.maker]
        runner = OnnxRuntimeRunner(self._parts.up_to(made).SerializeToString(), optimize=False)
        return run_once(runner, inputs)

    def weights(self) -> Mapping[str, Array]:
        """The initializers."""
        return _weights(self._parts)

    def doubt(self, inputs: Arrays) -> float:
        """None: it is one graph."""
        return 0.0


class EagerModules:
    """The model in eager mode, its modules looked at through forward hooks.

    Args:
        prepared: the model as it was exported; the copy that was traced is looked into, so that paths agree.
    """

    def __init__(self, prepared: PreparedModel) -> None:
        reference = prepared.reference
        self.name = "PyTorch in eager mode"
        self.runner: Runner = reference.runner
        self.rounding: Rounding | None = reference.rounding
        self.inputs, self.dynamic = prepared.inputs, prepared.dynamic
        self._prepared = prepared
        self._outputs = prepared.outputs
        self.classes: Mapping[str, str] = {p: type(m).__name__ for p, m in prepared.module.named_modules() if p}
        self._counts: dict[str, int] | None = None

    def matched(self, candidate: Parts) -> tuple[tuple[Checkpoint, str], ...]:
        """By the modules that tensors leave, where a module gives as many in eager mode."""
        if self._counts is None:
            from attn_deploy.inputs.samples import example_arrays

            left = self._run(list(self.classes), example_arrays(self.inputs))
            self._counts = {m: len(tensors) for m, tensors in left.items()}
        pairs = []
        for point in checkpoints(candidate):
            if point.tensor in candidate.outputs:
                pairs.append((point, f"{candidate.outputs.index(point.tensor)}@"))
                continue
            fitting = next((e for e in point.exits if self._counts.get(e.module) == e.count), None)
            if fitting is not None:
                pairs.append((point, f"{fitting.index}@{fitting.module}"))
        return tuple(pairs)

    def inside(self, candidate: Parts, nodes: Sequence[int]) -> tuple[tuple[Checkpoint, str], ...]:
        """Nothing: hooks see modules, not operators."""
        return ()

    def values(self, names: Sequence[str], inputs: Arrays) -> Mapping[str, Array]:
        """The tensors that leave modules, as ``index@path``; the model's own results as ``index@``."""
        wanted = [(n, int(n.partition("@")[0]), n.partition("@")[2]) for n in names]
        tensors = self._run([m for _, _, m in wanted if m], inputs)
        if any(not m for _, _, m in wanted):
            tensors[""] = list(run_once(self.runner, inputs).values())
        return {n: tensors[m][k] for n, k, m in wanted if k < len(tensors.get(m, ()))}

    def weights(self) -> Mapping[str, Array]:
        """Parameters and buffers."""
        return {n: t.detach().cpu().numpy() for n, t in self._prepared.module.state_dict().items()}

    def doubt(self, inputs: Arrays) -> float:
        """The largest difference at the outputs between the copy that was traced (fused, rewritten) and the model."""
        meant = list(run_once(self.runner, inputs).values())
        apart = (float(np.abs(a - b).max(initial=0.0)) for a, b in zip(self._run([""], inputs)[""], meant, strict=True))
        return max(apart, default=0.0)

    def _run(self, modules: Sequence[str], inputs: Arrays) -> dict[str, list[Array]]:
        import torch

        from attn_deploy.runtimes.eager import flatten_outputs

        collected: dict[str, list[Array]] = {}

        def keep(path: str) -> Callable[[Any, Any, Any], None]:
            def hook(_module: Any, _inputs: Any, outputs: Any) -> None:
                collected.setdefault(path, []).extend(np.array(t.detach().numpy()) for t in flatten_outputs(outputs))

            return hook

        module = self._prepared.fresh_module()
        hooks = [module.get_submodule(m).register_forward_hook(keep(m)) for m in dict.fromkeys(modules)]
        try:
            with torch.inference_mode():
                module(*(torch.tensor(a) for a in inputs.values()))
        finally:
            for hook in hooks:
                hook.remove()
        return collected


def _weights(parts: Parts) -> dict[str, Array]:
    import onnx.numpy_helper

    return {n: onnx.numpy_helper.to_array(t) for n, t in parts.weights.items()}
