"""Shapes of a request against the inputs that a registry entry declares. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import TensorInput


def fit_to_expected(
    expected: Sequence[TensorInput], inputs: Sequence[TensorInput], owner: str
) -> tuple[TensorInput, ...]:
    """The expected inputs at the sizes of the request.

    Args:
        expected: what the registry entry declares.
        inputs: of the request; matched by name where all names are those expected, otherwise in order.
        owner: the model's name in messages.

    Raises:
        InvalidRequestError: if there are more or fewer, or a shape cannot be one of the expected input's.
    """
    if len(inputs) != len(expected):
        raise InvalidRequestError(
            f"{owner}: takes {len(expected)} inputs ({', '.join(i.name for i in expected)}), the request has "
            f"{len(inputs)}."
        )
    by_name = {i.name: i for i in inputs}
    same = set(by_name) == {i.name for i in expected}
    matched = [by_name[i.name] for i in expected] if same else inputs
    pairs = list(zip(expected, matched, strict=True))
    sizes: dict[str, int] = {}
    for declared, wanted in pairs:
        sizes |= _sizes(declared, wanted, owner)
    return tuple(_at_shape(declared, wanted, sizes, owner) for declared, wanted in pairs)


def _sizes(declared: TensorInput, wanted: TensorInput, owner: str) -> dict[str, int]:
    """The extents that the request gives to symbols; only where they stand alone can they be read."""
    shape = wanted.shape()
    if len(shape) != len(declared.dims):
        raise InvalidRequestError(
            f"{owner}: input {declared.name!r} has {len(declared.dims)} axes, the request has {len(shape)}."
        )
    return {d: n for d, n in zip(declared.dims, shape, strict=True) if isinstance(d, str) and d in declared.sizes}


def _at_shape(declared: TensorInput, wanted: TensorInput, sizes: Mapping[str, int], owner: str) -> TensorInput:
    shape = wanted.shape()
    fixed = replace(declared, sizes={s: sizes.get(s, n) for s, n in declared.sizes.items()}, values=wanted.values)
    if fixed.shape() != shape:
        raise InvalidRequestError(
            f"{owner}: input {declared.name!r} must be ({', '.join(map(str, declared.dims))}), got {shape}: "
            f"with these sizes it would be {fixed.shape()}."
        )
    return fixed
