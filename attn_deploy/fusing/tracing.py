"""How the modules of a model are connected, read from the code of `forward` by symbolic tracing, in parts if need be.

A module whose code cannot be followed (a decision on tensor values or sizes, a call that takes numbers only) is a single
step in the graph of the module around it, and its children are followed one by one. The same holds for a module with
hooks, because a hook sees the module's output and may replace it.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import io
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from attn_deploy.fusing.copying import copy_model
from attn_deploy.fusing.reach import reached_into

_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear, nn.Identity)


@dataclass(frozen=True, slots=True)
class Followed:
    """The graph of one module.

    Attributes:
        path: of the module in the model.
        root: the module, of a copy that shares the model's parameters.
        graphs: how it computes: once as it is called without optional arguments, and once with them if it has some.
    """

    path: str
    root: nn.Module
    graphs: tuple[fx.Graph, ...]


@dataclass(slots=True)
class Connections:
    """What could be followed, and the reasons for the rest.

    Attributes:
        followed: the graphs; no module call is in two of them.
        opaque_reasons: module path -> why its own code could not be followed.
        places: all paths of a module, by any of them: it may be registered several times. The first one names it.
        steps: all paths of the modules that are single steps in the graph around them though they have parts.
    """

    followed: list[Followed] = field(default_factory=list)
    opaque_reasons: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    steps: set[str] = field(default_factory=set)

    def name_of(self, part: Followed, target: object) -> str:
        """The name in the model of a module that a node of a part's graph calls or reads from."""
        path = f"{part.path}.{target}" if part.path and target else part.path or str(target)
        return self.places.get(path, [path])[0]

    def holds(self, part: Followed, path: str) -> bool:
        """Whether a part's graphs show all calls of a module: no place of it is outside, or inside a single step."""
        roots = self.places[part.path]
        return all(any(self._shown(root, place) for root in roots) for place in self.places[path])

    def _shown(self, root: str, place: str) -> bool:
        prefix = f"{root}." if root else ""
        between = (s for s in self.steps if s.startswith(prefix) and place.startswith(f"{s}.") and s != root)
        return place.startswith(prefix) and not any(between)


def follow(model: nn.Module) -> Connections:
    """Trace a model, or as much of it as can be traced; the model is left alone, and so is the state of its code."""
    scratch = copy_model(model, share_parameters=True)
    connections = Connections()
    places: dict[int, list[str]] = {}
    for path, module in scratch.named_modules(remove_duplicate=False):
        connections.places[path] = places.setdefault(id(module), [])
        connections.places[path].append(path)
    # What has hooks, and wrappers of torch.nn (DataParallel) around modules of the user.
    opaque = {id(m) for m in scratch.modules() if (m is not scratch and is_hooked(m)) or (is_step(m) and _has_parts(m))}
    seen: set[int] = set()

    def visit(module: nn.Module, path: str) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        if is_step(module) or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            descend(module, path)
            return
        graphs, why = _graphs(module, opaque)
        if graphs is None:
            before = len(opaque)
            descend(module, path)
            if len(opaque) > before:
                graphs, why = _graphs(module, opaque)
        if graphs is None:
            connections.opaque_reasons[path] = why
            opaque.add(id(module))
            for name in reached_into(module):
                _forget(connections, f"{path}.{name}" if path else name, path)
            return
        steps = [m for m in module.modules() if m is not module and id(m) in opaque]
        inside = {id(m) for step in steps for m in step.modules()}
        own = {id(m) for m in module.modules()} - inside
        connections.followed[:] = [
            f for f in connections.followed if id(f.root) not in own
        ]  # they are part of this graph now
        connections.followed.append(Followed(path, module, graphs))
        for name, inner in list(module.named_modules()):
            if id(inner) in inside:  # a single step here, perhaps because of its hooks: not looked into yet
                visit(inner, f"{path}.{name}" if path else name)

    def descend(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name)

    with _quietly():
        visit(scratch, "")
    connections.steps = {p for p, m in scratch.named_modules(remove_duplicate=False) if id(m) in opaque}
    return connections


def _forget(connections: Connections, path: str, around: str) -> None:
    """Drop what was followed inside a module whose parts are used by code that cannot be followed."""
    connections.followed[:] = [f for f in connections.followed if f.path != path and not f.path.startswith(f"{path}.")]
    connections.opaque_reasons[path] = f"the code of {around or 'the model'} takes it apart"


def is_step(module: nn.Module) -> bool:
    """Whether a module is one step of every graph: those of torch.nn, and childless subclasses of its layers."""
    if type(module).__module__.split(".")[:2] == ["torch", "nn"]:
        return not isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    return isinstance(module, _LAYERS) and not _has_parts(module)


def _has_parts(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says: hooks, or a `forward` put on the instance."""
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


class _Tracer(fx.Tracer):
    def __init__(self, opaque: set[int]) -> None:
        super().__init__(autowrap_modules=(math,))
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.opaque or is_step(m)


def _graphs(module: nn.Module, opaque: set[int]) -> tuple[tuple[fx.Graph, ...] | None, str]:
    if "forward" in vars(module):
        return None, "its forward was replaced on the instance"
    parameters = inspect.signature(module.forward).parameters.values()
    optional = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        graphs = [_Tracer(opaque).trace(module, optional)]
    except Exception as error:  # a user's code under proxies may raise anything
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    if optional:
        arguments = {k: not v if isinstance(v, bool) else v for k, v in optional.items() if v is not None}
        with contextlib.suppress(Exception):  # such calls cannot be followed: the usual one is what is kept equal
            graphs.append(_Tracer(opaque).trace(module, arguments))
    return tuple(graphs), ""


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """A user's forward runs under proxies: what it prints, warns of and draws at random is not for anybody."""
    with (
        _proxies_are_tensors(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _proxies_are_tensors() -> Iterator[None]:
    """Let `isinstance(x, Tensor)` in a user's code be true of a proxy, so that it takes the branch it would take.

    A proxy that poses as a Tensor by its ``__class__`` would do the same, but C++ code believes it too and crashes.
    """
    original = builtins.isinstance

    def answer(value: object, kinds: Any) -> bool:
        if type(value) is not fx.Proxy or sys._getframe(1).f_globals.get("__name__", "").startswith("torch."):
            return original(value, kinds)
        wanted = kinds if original(kinds, tuple) else (kinds,)
        if any(kind in (int, float, bool, torch.SymInt) for kind in wanted):
            raise fx.proxy.TraceError("it asks whether a value is a number")
        return any(original(kind, type) and issubclass(torch.Tensor, kind) for kind in wanted)

    builtins.isinstance = answer
    try:
        yield
    finally:
        builtins.isinstance = original
