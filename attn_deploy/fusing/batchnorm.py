"""BatchNorm folded into the layer whose output it normalises, wherever in a model the two are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, fx, nn

from attn_deploy.fusing.tracing import Connections, Followed, follow, is_hooked
from attn_deploy.ops.folding import fold_bn_into_conv, fold_bn_into_linear

BatchNorm = nn.modules.batchnorm._BatchNorm
# Exact types: a subclass may compute anything in its forward.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVS, nn.Linear)
PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Layers after which a BatchNorm1d means the output channels at one rank only, and that rank.
_RANKS = {nn.Linear: 2, nn.Conv1d: 3, nn.ConvTranspose1d: 3}


class RankGuard(nn.Identity):
    """Stands where a BatchNorm1d was folded away, and refuses what would have been normalised along another axis.

    BatchNorm1d normalises axis 1. That is the output of a linear layer for (N, C) and of a 1-d convolution for
    (N, C, L); for (N, L, C) and (C, L) it is the length, which a folded layer knows nothing of.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, input: Tensor) -> Tensor:
        """The input itself.

        Raises:
            ValueError: if it has another rank than the folding was made for.
        """
        if input.dim() != self.rank:
            raise ValueError(
                f"a BatchNorm1d was folded away here for inputs of {self.rank} axes, got {tuple(input.shape)}, where "
                "it would normalise another axis: use the model without fusing."
            )
        return input


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What may be done with one BatchNorm: fold it into the layer at this path, or nothing for this reason."""

    layer: str = ""
    reason: str = ""


@dataclass(slots=True)
class _Graph:
    """One traced graph, with the calls of each module by the module's path."""

    part: Followed
    connections: Connections
    calls: dict[str, list[fx.Node]] = field(default_factory=lambda: defaultdict(list))
    modules: dict[str, nn.Module] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, part: Followed, graph: fx.Graph, connections: Connections) -> _Graph:
        made = cls(part, connections)
        for node in graph.nodes:
            if node.op == "call_module":
                path = made.name(node)
                made.calls[path].append(node)
                made.modules[path] = part.root.get_submodule(str(node.target))
            elif node.op == "get_attr":
                made.read.add(connections.name_of(part, str(node.target).rpartition(".")[0]))
        return made

    def name(self, node: fx.Node) -> str:
        """The name of the module that a node calls."""
        return self.connections.name_of(self.part, node.target)


def fold_batchnorms_(model: nn.Module) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Fold every BatchNorm that can be, in place.

    A BatchNorm is folded where every one of its calls normalises the output of one and the same layer, and nothing else
    sees an output of that layer: shared blocks are folded, a layer shared between several BatchNorms is not.

    Returns:
        What was done, as (path of the module around, words), and what is left, as (path of the BatchNorm, why).
    """
    folded: dict[str, int] = defaultdict(int)
    left: dict[str, str] = {}
    while any(isinstance(m, BatchNorm) for m in model.modules()):
        connections = follow(model)
        verdicts = _verdicts(connections)
        pairs = {bn: v.layer for bn, v in verdicts.items() if v.layer}
        for bn, layer in pairs.items():
            _fold_(model, layer, bn, connections)
            folded[bn.rpartition(".")[0]] += 1
        if not pairs:
            left = {bn: v.reason for bn, v in verdicts.items()}
            left |= {p: _unreached(p, connections) for p in _batchnorms(model) if p not in left}
            break
    done = [(path, f"folded {count} BatchNorm{'s' * (count > 1)}") for path, count in folded.items()]
    return done, sorted(left.items())


def _batchnorms(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, BatchNorm)]


def _verdicts(connections: Connections) -> dict[str, _Verdict]:
    verdicts: dict[str, _Verdict] = {}
    taken: dict[str, str] = {}
    for part in connections.followed:
        views = [_Graph.of(part, graph, connections) for graph in part.graphs]
        for path, module in views[0].modules.items():
            if not isinstance(module, BatchNorm):
                continue
            verdict = _judge(path, views[0])
            for other in views[1:]:  # with optional arguments given, the same must hold
                if verdict.layer and (path in other.calls or verdict.layer in other.calls):
                    again = _judge(path, other)
                    verdict = (
                        verdict if again == verdict else _Verdict(reason=f"with optional arguments, {again.reason}")
                    )
            for name in (path, verdict.layer):
                if verdict.layer and not connections.holds(part, name):
                    verdict = _Verdict(reason=f"{name} is registered where its calls cannot be followed too")
            if path in verdicts or verdict.layer in taken:
                verdict = _Verdict(reason="it is called from several places that cannot be followed together")
                verdicts.pop(taken.get(verdict.layer, ""), None)
            verdicts[path] = verdict
            if verdict.layer:
                taken[verdict.layer] = path
    return verdicts


def _judge(path: str, graph: _Graph) -> _Verdict:
    bn = graph.modules.get(path)
    if bn is None:
        return _Verdict(reason="it is not called")
    if type(bn) not in BATCH_NORMS:
        return _Verdict(reason=f"{type(bn).__name__} is a class of its own")
    bn = cast(BatchNorm, bn)
    if bn.training:
        return _Verdict(reason="it stays in training mode after eval()")
    if bn.running_mean is None:
        return _Verdict(reason="it keeps no running statistics and normalises by the batch")
    if is_hooked(bn) or path in graph.read:
        return _Verdict(reason="it has hooks" if is_hooked(bn) else "its parameters are read elsewhere too")
    layers: dict[str, list[fx.Node]] = defaultdict(list)
    for call in graph.calls[path]:
        node, reason = _source(call, graph)
        if node is None:
            return _Verdict(reason=reason)
        layers[graph.name(node)].append(node)
    if len(layers) > 1:
        return _Verdict(reason=f"it normalises the outputs of several layers: {', '.join(layers)}")
    ((layer, nodes),) = layers.items()
    reason = _unfit(layer, bn, graph)
    if not reason and len(nodes) < len(graph.calls[layer]):
        reason = f"{layer} is called elsewhere too"
    return _Verdict(reason=reason) if reason else _Verdict(layer)


def _source(call: fx.Node, graph: _Graph) -> tuple[fx.Node | None, str]:
    """The call of a layer whose output this call of a BatchNorm takes, and nobody else sees; or why there is none."""
    node: object = call
    while True:
        given = cast(fx.Node, node).all_input_nodes
        if len(given) != 1:
            return None, "it is not called with one tensor"
        node = given[0]
        module = graph.modules.get(graph.name(node)) if node.op == "call_module" else None
        if module is None or type(module) not in (*LAYERS, *PASSING, RankGuard):
            return None, f"it follows {_words(node, module)}, not a convolution or linear layer"
        if len(node.users) > 1:
            return None, f"the output of {graph.name(node)} is used elsewhere too"
        if is_hooked(module):
            return None, f"{graph.name(node)} has hooks"
        if type(module) in LAYERS:
            return node, ""
        if module.training and not isinstance(module, nn.Identity):
            return None, f"{graph.name(node)} stays in training mode after eval()"


def _unfit(path: str, bn: BatchNorm, graph: _Graph) -> str:
    layer = graph.modules[path]
    width = layer.out_features if isinstance(layer, nn.Linear) else cast(nn.Conv2d, layer).out_channels
    if width != bn.num_features:
        return f"{path} has {width} outputs, the BatchNorm {bn.num_features}"
    return "" if path not in graph.read else f"the parameters of {path} are read elsewhere too"


def _words(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__
    if node.op in ("placeholder", "get_attr"):
        return "an input of the module" if node.op == "placeholder" else "a parameter"
    return str(getattr(node.target, "__name__", node.target))


def _unreached(path: str, connections: Connections) -> str:
    around = path.rpartition(".")[0]
    while True:
        if around in connections.opaque_reasons:
            return f"the code of {around or 'the model'} cannot be followed ({connections.opaque_reasons[around]})"
        if not around:
            return "it is not called"
        around = around.rpartition(".")[0]


def _fold_(model: nn.Module, layer_path: str, bn_path: str, connections: Connections) -> None:
    layer, bn = model.get_submodule(layer_path), cast(BatchNorm, model.get_submodule(bn_path))
    rank = _RANKS.get(type(layer), 0)
    if isinstance(layer, nn.Linear):
        folded: nn.Module = fold_bn_into_linear(layer, bn)
    else:
        folded = fold_bn_into_conv(cast(nn.Conv2d, layer), bn)
    for path, module in ((layer_path, folded), (bn_path, (RankGuard(rank) if rank else nn.Identity()).eval())):
        for place in connections.places[path]:
            around, _, name = place.rpartition(".")
            model.get_submodule(around)._modules[name] = module
