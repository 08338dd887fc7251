"""`attn_deploy.insert`: modules of the zoo in the networks that people already train, by the paths of their modules."""

from __future__ import annotations

import copy
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attn_deploy import registry
from attn_deploy.backbones.slots import SlotPlace
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.registry import ModelSpec
from attn_deploy.resolve.filler import ModuleFiller
from attn_deploy.resolve.instantiate import instantiate
from attn_deploy.resolve.names import module_and_arguments

CHILD = "inserted"  # under this name a module stands in the one that it was put behind
_SIDES = (64, 224, 32, 256, 512)  # tried where nobody says what a network takes


@dataclass(frozen=True, slots=True)
class Insertion:
    """One module in its place.

    Attributes:
        path: of the module that it was put behind, or in place of.
        name: of the zoo module.
        shape: of the map that goes through it, at the sizes of the run that found it.
        replaced: whether it took the place of what was there.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    replaced: bool = False

    def __str__(self) -> str:
        where = "in place of" if self.replaced else "behind"
        return f"{self.name} {where} {self.path}, {self.shape[1]} channels, {self.shape[2]}x{self.shape[3]}"


@dataclass(frozen=True, slots=True)
class Inserted:
    """A copy of a network with modules put into it.

    Attributes:
        model: the copy; state dicts of the network load into it, and the new modules then keep their values.
        places: what stands where.
    """

    model: nn.Module
    places: tuple[Insertion, ...]


def insert(
    model: nn.Module,
    modules: Mapping[str, str],
    *,
    inputs: Sequence[TensorInput] | str | None = None,
    replace: bool = False,
) -> Inserted:
    """Put modules of the zoo into a copy of a network.

    ``insert(net, {"layer3.*": "cbam", "neck.1": "coord_attention:reduction=16"})``: the channels of each place are found by
    one run.

    Args:
        model: any network; it is left alone.
        modules: by the path of a module, what stands behind it. In a path ``*`` is one step, ``**`` any number.
        inputs: what the network takes, as text such as ``1x3x224x224`` or as `parse_inputs` gives it; by default an image
            with as many channels as its first convolution takes.
        replace: put the modules in the place of those that are named; what those held is then in no state dict.

    Raises:
        UnknownModelError: if there is no such module.
        InvalidRequestError: if a path is of no module, what stands there gives no map, or the zoo module does not fit; or
            if the network does not run.
    """
    network = copy.deepcopy(model)
    modes = [(m, m.training) for m in network.modules()]
    chosen = _chosen(network, modules)
    maps = _maps(network, list(chosen), inputs)
    places = []
    for path, text in chosen.items():
        name, arguments = module_and_arguments(text)
        spec = registry.get(name)
        taken, given = maps[path]
        source, target = (taken, given) if replace else (given, given)
        new = _made(spec, arguments, path, source, target)
        if replace:
            _put(network, path, new)
        else:
            _put_behind(network.get_submodule(path), new, path)
        places.append(Insertion(path, spec.name, tuple(target.shape), replace))
        modes += [(m, model.training) for m in new.modules()]
    if not replace:
        _check_calls(network, list(chosen), inputs)
    for module, mode in modes:
        module.training = mode
    return Inserted(network, tuple(places))


def is_inserted(key: str) -> bool:
    """Whether a key of a state dict is of a module that was put behind another."""
    return f".{CHILD}." in f".{key}"


def _chosen(network: nn.Module, modules: Mapping[str, str]) -> dict[str, str]:
    """What stands at each path, in the order of the network."""
    paths = [p for p, _ in network.named_modules() if p]
    by_path: dict[str, str] = {}
    if not modules:
        raise InvalidRequestError("nothing to insert: give a module for a path, as {'layer3': 'cbam'}.")
    for pattern, text in modules.items():
        rule = re.compile(re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^.]+"))
        matches = [p for p in paths if rule.fullmatch(p)]
        if not matches:
            near = difflib.get_close_matches(pattern.replace("*", ""), paths, n=3, cutoff=0.4)
            shown = near or [p for p in paths if "." not in p][:8]
            raise InvalidRequestError(
                f"{type(network).__name__} has no module {pattern!r}; it has {', '.join(shown) or 'none'}"
                f"{' among others' if len(paths) > len(shown) else ''}."
            )
        for path in matches:
            if path in by_path:
                raise InvalidRequestError(f"two patterns name the module {path!r}; let one of them name it.")
            by_path[path] = text
    return {p: by_path[p] for p in paths if p in by_path}


def _maps(
    network: nn.Module, paths: Sequence[str], inputs: Sequence[TensorInput] | str | None
) -> dict[str, tuple[Any, Any]]:
    """The first input and the output of each module in one run."""
    seen: dict[str, tuple[Any, Any]] = {}
    handles = []
    for path in paths:

        def note(_: nn.Module, taken: tuple[Any, ...], given: Any, path: str = path) -> None:
            seen[path] = (taken[0] if taken else None, given)

        handles.append(network.get_submodule(path).register_forward_hook(note))
    try:
        image = _run(network.eval(), inputs)
    finally:
        for handle in handles:
            handle.remove()
    for path in paths:
        if path not in seen:
            raise InvalidRequestError(f"the module {path!r} is not called when the network runs; name another.")
        given = seen[path][1]
        if not isinstance(given, Tensor) or given.dim() != 4:
            what = f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
            raise InvalidRequestError(
                f"the module {path!r} gives {what}, and a module of the zoo takes one map N x C x H x W; name another."
            )
        if _is_channels_last(tuple(given.shape), image):
            raise InvalidRequestError(
                f"the module {path!r} gives a map {tuple(given.shape)} with its channels last, and a module of the zoo takes "
                "N x C x H x W; name a module before or behind the part that works so."
            )
    return seen


def _is_channels_last(shape: tuple[int, ...], image: tuple[int, int] | None) -> bool:
    """Whether the proportions of the image are in the middle axes of a map and not in its last two."""
    if image is None or shape[3] == 1:
        return False
    high, wide = image

    def alike(rows: int, columns: int) -> bool:
        return abs(rows * wide - columns * high) <= max(high, wide)  # a row or column more or less is rounding

    return alike(shape[1], shape[2]) and not alike(shape[2], shape[3])


def _run(network: nn.Module, inputs: Sequence[TensorInput] | str | None) -> tuple[int, int] | None:
    """Run the network once.

    Returns:
        Height and width of the first image that it took.

    Raises:
        InvalidRequestError: if it does not run.
    """
    candidates = (
        _guesses(network) if inputs is None else [parse_inputs([inputs]) if isinstance(inputs, str) else inputs]
    )
    error: Exception | None = None
    for candidate in candidates:
        arrays = list(example_arrays(candidate).values())
        try:
            with torch.no_grad():
                network(*map(torch.from_numpy, arrays))
        except Exception as caught:  # a network fails in any way
            error = error or caught
        else:
            return next(((a.shape[2], a.shape[3]) for a in arrays if a.ndim == 4), None)
    shapes = ", ".join("x".join(map(str, i.shape())) for i in candidates[0])
    raise InvalidRequestError(
        f"{type(network).__name__} does not run on {shapes}: {type(error).__name__}: {' '.join(str(error).split())[:200]}. "
        "Say what it takes: inputs='1x3x224x224'."
    ) from error


def _guesses(network: nn.Module) -> list[Sequence[TensorInput]]:
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    return [parse_inputs([f"2x{channels}x{side}x{side}"]) for side in _SIDES]


def _made(spec: ModelSpec, arguments: Mapping[str, Any], path: str, source: Any, target: Tensor) -> nn.Module:
    """The module for a place, tried on the map that is there."""
    filler = ModuleFiller(spec, arguments, instantiate)
    if not isinstance(source, Tensor) or source.dim() != 4:
        raise InvalidRequestError(f"the module {path!r} does not take one map N x C x H x W; it cannot be replaced.")
    stride = max(1, round(source.shape[2] / target.shape[2]))
    module = filler.make(SlotPlace(filler.kind, source.shape[1], target.shape[1], stride))
    if module is None:
        raise InvalidRequestError(
            f"{spec.name!r} cannot stand at {path!r}: it does not turn {source.shape[1]} channels into {target.shape[1]} "
            f"with a stride of {stride}."
        )
    try:
        with torch.no_grad():
            output = module(source)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise InvalidRequestError(
            f"{spec.name!r} cannot stand at {path!r}, on {tuple(source.shape)}: {text}"
        ) from error
    if output.shape != target.shape:
        raise InvalidRequestError(
            f"{spec.name!r} cannot stand at {path!r}: it turns {tuple(source.shape)} into {tuple(output.shape)}, and "
            f"{tuple(target.shape)} is needed there."
        )
    return module


def _check_calls(network: nn.Module, paths: Sequence[str], inputs: Sequence[TensorInput] | str | None) -> None:
    """Refuse a place whose module goes through its children itself, and so twice through what was inserted.

    Raises:
        InvalidRequestError: naming it.
    """
    calls: Counter[str] = Counter()
    handles = []
    for path in [p for host in paths for p in (host, f"{host}.{CHILD}")]:

        def count(*_: Any, path: str = path) -> None:
            calls[path] += 1

        handles.append(network.get_submodule(path).register_forward_hook(count))
    try:
        _run(network.eval(), inputs)
    finally:
        for handle in handles:
            handle.remove()
    for path in paths:
        if calls[path] != calls[f"{path}.{CHILD}"]:
            raise InvalidRequestError(
                f"the module {path!r} calls its children by itself, so nothing can be put behind it; name the last of them."
            )


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _put_behind(host: nn.Module, module: nn.Module, path: str) -> None:
    """Let a module's output go through another; the host keeps its class name, its path and its keys."""
    if hasattr(host, CHILD):
        raise InvalidRequestError(f"the module {path!r} has an attribute {CHILD!r} already; name another.")
    cls: Any = type(host)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, CHILD)(cls.forward(self, *args, **kwargs))

    def load(self: Any, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        own = f"{prefix}{CHILD}."
        if not any(k.startswith(own) for k in state_dict):  # of a network from before: what was inserted stays as it is
            state_dict.update({own + k: v for k, v in getattr(self, CHILD).state_dict().items()})
        cls._load_from_state_dict(self, state_dict, prefix, *args)

    space: dict[str, Any] = {"_load_from_state_dict": load, "__module__": cls.__module__, "__doc__": cls.__doc__}
    if cls.forward is not nn.Sequential.forward:  # which goes through all its children, this one too
        space["forward"] = forward
    host.__class__ = type(cls.__name__, (cls,), space)
    host.add_module(CHILD, module)


# Timm hands these to every attention layer of its own.
_TIMM = frozenset({"act_layer", "gate_layer", "norm_layer", "rd_ratio", "rd_channels", "rd_divisor", "device", "dtype"})


@dataclass(frozen=True, slots=True)
class ZooLayer:
    """A callable of channels that makes a zoo module; what timm's ``attn_layer`` and ``block_args`` take.

    Attributes:
        name: of the module; ``arguments`` beside its channels.
    """

    name: str
    arguments: Mapping[str, Any]

    def __call__(self, channels: int, **settings: Any) -> nn.Module:
        """The module for so many channels.

        Args:
            channels: of the map.
            **settings: over the arguments; those that timm hands to its own layers, such as ``act_layer``, are left out.

        Raises:
            InvalidRequestError: if the module cannot be made.
        """
        own = {k: v for k, v in settings.items() if k not in _TIMM}
        filler = ModuleFiller(registry.get(self.name), {**self.arguments, **own}, instantiate)
        module = filler.make(SlotPlace(filler.kind, channels, channels))
        if module is None:
            raise InvalidRequestError(f"{self.name!r} cannot be made for {channels} channels.")
        return module.train()


def as_layer(text: str) -> ZooLayer:
    """A zoo module as a layer of other people's networks: ``as_layer("eca")``, ``as_layer("se:reduction=8")``.

    Raises:
        UnknownModelError: if there is no such module.
        InvalidRequestError: if it takes no channel count, or an argument cannot be used.
    """
    name, arguments = module_and_arguments(text)
    spec = registry.get(name)
    ModuleFiller(spec, arguments, instantiate)
    return ZooLayer(spec.name, arguments)
