"""Which output axes move with which input axes, and of what the sizes must be multiples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from attn_deploy.inputs.samples import verification_sizes
from attn_deploy.inputs.tensors import TensorInput

Run = Callable[[Sequence[TensorInput], Mapping[str, int] | None], list[Tensor]]
_STEPS = (2, 4, 8, 16, 32, 64)


def output_dims(
    inputs: Sequence[TensorInput],
    dynamic: Sequence[str],
    names: Sequence[str],
    traced: Sequence[Tensor],
    run: Run,
) -> tuple[tuple[int | str, ...], ...]:
    """For each output its dims as integers, symbols and expressions of them, from runs at other sizes.

    Raises:
        ExportError: what ``run`` raises at a size that the model does not take.
    """
    observed: list[tuple[Mapping[str, int], list[tuple[int, ...]]]] = [
        (inputs[0].sizes, [tuple(t.shape) for t in traced])
    ]
    for sizes in verification_sizes(inputs, dynamic):
        outputs = run(inputs, sizes)
        observed.append(({**inputs[0].sizes, **sizes}, [tuple(t.shape) for t in outputs]))
    result = []
    for index, tensor in enumerate(traced):
        dims: list[int | str] = []
        for axis in range(tensor.dim()):
            extents = [shapes[index][axis] for _, shapes in observed]
            fallback = f"{names[index]}_{axis}"
            dims.append(
                extents[0] if len(set(extents)) == 1 else _expression([s for s, _ in observed], extents, fallback)
            )
        result.append(tuple(dims))
    return tuple(result)


def with_multiples(
    inputs: Sequence[TensorInput], dynamic: Sequence[str], runs: Callable[[Sequence[TensorInput]], bool]
) -> tuple[TensorInput, ...] | None:
    """The inputs with the least step of the moving axes other than the batch at which the model runs, None if none does.

    A network that halves a map and doubles it again takes only sizes that divide evenly.

    Args:
        inputs: the inputs; the traced sizes are known to run.
        dynamic: symbols that move.
        runs: whether the model runs at the verification sizes of the inputs it is given.
    """
    moving = [s for s in dynamic if not s.startswith("N")]
    sizes = inputs[0].sizes
    for step in _STEPS:
        if not moving or any(sizes[s] % step for s in moving):
            return None
        stepped = tuple(replace(i, multiple={**i.multiple, **dict.fromkeys(moving, step)}) for i in inputs)
        if runs(stepped):
            return stepped
    return None


def _expression(sizes: Sequence[Mapping[str, int]], extents: Sequence[int], fallback: str) -> str:
    """The simplest of n, k*n, n//k and ceil(n/k) over the symbols that gives all observed extents."""
    symbols = list(sizes[0])
    for symbol in symbols:
        if all(s[symbol] == e for s, e in zip(sizes, extents, strict=True)):
            return symbol
    pairs = list(zip(sizes, extents, strict=True))
    for k in (2, 4, 8, 16, 32, 3):
        for symbol in symbols:
            if all(k * s[symbol] == e for s, e in pairs):
                return f"{k}*{symbol}"
            if all(s[symbol] // k == e for s, e in pairs):
                return f"{symbol}//{k}"
            if all(-(-s[symbol] // k) == e for s, e in pairs):
                return f"({symbol} + {k - 1})//{k}"
    return fallback
