"""A model that takes images as a camera gives them and answers as a program wants it: pre- and post-processing around it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.exporters.answer_forms import box_answers, class_answers
from attn_deploy.exporters.answers import Answers, parse_postprocess
from attn_deploy.exporters.pixel_forms import from_pixels
from attn_deploy.exporters.pixels import Pixels, parse_preprocess
from attn_deploy.graph.heads import Output, Reading
from attn_deploy.inputs.samples import PIXELS
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.runtimes.eager import flatten_outputs

_FORM = "attn_deploy_form"  # attribute of a model with answers
BEHIND = "attn_deploy_scores"  # name of the extra output of the reference: the scores behind a choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What stands around a model in its file.

    Attributes:
        pixels: what is done to images; None for nothing.
        answers: what is made of the outputs; None for nothing.
        input_names, output_names: of the file; empty for those of forward's parameters and of the outputs.
    """

    pixels: Pixels | None = None
    answers: Answers | None = None
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()


def parse_serving(
    preprocess: str | None, postprocess: str | None, input_names: Sequence[str], output_names: Sequence[str]
) -> Serving:
    """What the four options say.

    Raises:
        InvalidRequestError: if one cannot be read, or a name is given twice.
    """
    for option, names in (("--input-names", input_names), ("--output-names", output_names)):
        if len(set(names)) < len(names) or not all(n.strip() for n in names):
            raise InvalidRequestError(f"{option} {','.join(names)!r}: each needs a name of its own.")
    shared = set(input_names) & set(output_names)
    if shared:
        raise InvalidRequestError(
            f"--input-names and --output-names both hold {min(shared)!r}; a graph needs two names."
        )
    return Serving(
        pixels=None if preprocess is None else parse_preprocess(preprocess),
        answers=None if postprocess is None else parse_postprocess(postprocess),
        input_names=tuple(input_names),
        output_names=tuple(output_names),
    )


def named_inputs(
    module: nn.Module, inputs: Sequence[TensorInput], names: Sequence[str], owner: str
) -> tuple[TensorInput, ...]:
    """The inputs under the names that were given, or those without a name under those of forward's parameters.

    Raises:
        InvalidRequestError: if there are more or fewer names than inputs.
    """
    if names:
        if len(names) != len(inputs):
            raise InvalidRequestError(
                f"{owner}: --input-names gives {len(names)} names, and the model has {len(inputs)} inputs "
                f"({', '.join(i.name for i in inputs)})."
            )
        return tuple(replace(i, name=n) for i, n in zip(inputs, names, strict=True))
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # code that is not Python's
        return tuple(inputs)
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {i.name for i in inputs if i.named}
    named = []
    for index, tensor in enumerate(inputs):
        own = plain[index] if index < len(plain) else ""
        free = bool(own) and not tensor.named and own not in taken
        named.append(replace(tensor, name=own) if free else tensor)
    return tuple(named) if len({i.name for i in named}) == len(named) else tuple(inputs)


def with_images(
    module: nn.Module, inputs: Sequence[TensorInput], pixels: Pixels, owner: str
) -> tuple[nn.Module, tuple[TensorInput, ...], tuple[str, ...]]:
    """A shallow copy of a model that takes images, its input, and the axes that move although the model's do not.

    Raises:
        InvalidRequestError: if the model does not take one map of floating-point numbers, or of other channels.
    """
    shapes = ", ".join(f"{i.name} {'x'.join(map(str, i.dims))}" for i in inputs)
    if len(inputs) != 1 or len(inputs[0].dims) != 4 or inputs[0].dtype not in ("float32", "float16"):
        raise InvalidRequestError(
            f"{owner}: --preprocess is for a model with one input of N x C x H x W; this one takes {shapes}."
        )
    image = inputs[0]
    batch, channels, *map_size = image.dims
    count = image.shape()[1]
    widths = {len(v) for v in (pixels.mean, pixels.std)} - {1}
    if isinstance(channels, str) or any(w != count for w in widths) or (pixels.color == "bgr" and count != 3):
        raise InvalidRequestError(
            f"{owner}: --preprocess {pixels} is for images of {max(widths, default=3)} channels, and the model takes {count}."
        )
    sizes, minimum, multiple = dict(image.sizes), dict(image.minimum), dict(image.multiple)
    moving: tuple[str, ...] = ()
    if pixels.size is not None:
        for dim, extent in zip(map_size, pixels.size, strict=True):
            _check_extent(image, dim, extent, owner, pixels)
        low, high = pixels.size
        map_size, moving = ["H", "W"], ("H", "W")
        sizes = {s: n for s, n in sizes.items() if s[0] not in "HW"} | {
            "H": low + low // 4 + 1,
            "W": high + high // 2 + 1,
        }
        minimum = {s: n for s, n in minimum.items() if s in sizes and s not in moving}
        multiple = {s: n for s, n in multiple.items() if s in sizes and s not in moving}
    dims = (batch, *map_size, channels) if pixels.layout == "nhwc" else (batch, channels, *map_size)
    new = replace(
        image,
        dims=dims,
        dtype=pixels.dtype,
        sizes=sizes,
        minimum=minimum,
        multiple=multiple,
        assumed=False,
        bound=PIXELS,
    )

    def called(own: nn.Module, forward: Any, tensors: tuple[Tensor, ...]) -> Any:
        return forward(own, from_pixels(tensors[0], pixels, _type_of(own)))

    return _around(module, called), (new,), moving


def with_answers(module: nn.Module, answers: Answers) -> nn.Module:
    """A shallow copy of a model that gives answers, in the form that `with_form` may change."""

    def called(own: nn.Module, forward: Any, tensors: tuple[Tensor, ...]) -> Any:
        outputs = flatten_outputs(forward(own, *tensors))
        form = vars(own).get(_FORM, "")
        if answers.choice == "nms":
            return tuple(outputs) if form == "scores" else box_answers(outputs, answers)
        results = class_answers(outputs[0], answers)
        if form == "scores":
            return results[-1]
        return results if form == "behind" or len(results) == 1 else results[:-1]

    return _around(module, called)


def with_form(module: nn.Module, form: str) -> nn.Module:
    """A shallow copy of a model with answers that gives something else.

    Args:
        module: as `with_answers` gives it, or a copy of that.
        form: ``behind``: the answers, and after them the scores that a choice was made by; ``scores``: these alone, or the
            boxes and scores of a detector as they are.
    """
    twin = copy.copy(module)
    vars(twin)[_FORM] = form
    return twin


def reading_of(answers: Answers, outputs: Sequence[str]) -> Reading | None:
    """How the choices among the outputs are compared: near ties of the scores behind them count as equal."""
    if answers.choice not in ("argmax", "topk"):
        return None
    last = outputs[-1]
    kinds = {n: Output(n, choice=n == last, scores=BEHIND if n == last else "", axis=1) for n in outputs}
    return Reading(kinds, {last: BEHIND})


def _check_extent(image: TensorInput, dim: int | str, extent: int, owner: str, pixels: Pixels) -> None:
    if isinstance(dim, int) and dim != extent:
        takes = "x".join(map(str, image.dims))
        raise InvalidRequestError(f"{owner}: --preprocess {pixels} gives another size than the model takes, {takes}.")
    if isinstance(dim, str) and (extent < image.minimum.get(dim, 1) or extent % image.multiple.get(dim, 1)):
        raise InvalidRequestError(
            f"{owner}: --preprocess {pixels}: the model takes sizes from {image.minimum.get(dim, 1)} on that are multiples "
            f"of {image.multiple.get(dim, 1)}."
        )


def _type_of(module: nn.Module) -> torch.dtype:
    """The floating-point type that a model computes in."""
    own = (t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point())
    return next(own, torch.float32)


def _around(module: nn.Module, called: Any) -> nn.Module:
    """A shallow copy with another forward; same class name, same module paths, same parameters."""
    wrapped = copy.copy(module)
    cls: Any = type(module)
    own = vars(wrapped).pop("forward", None)  # one that was put on the instance
    inner = (lambda _, *tensors: own(*tensors)) if own is not None else cls.forward

    def forward(self: nn.Module, *tensors: Tensor) -> Any:
        return called(self, inner, tensors)

    space: Mapping[str, Any] = {"forward": forward, "__module__": cls.__module__, "__doc__": cls.__doc__}
    wrapped.__class__ = type(cls.__name__, (cls,), dict(space))
    return wrapped
