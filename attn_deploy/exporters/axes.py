"""Which output axes move with which input axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Shapes = Sequence[tuple[int, ...]]


def output_dims(
    observed: Sequence[tuple[Mapping[str, int], Shapes]], names: Sequence[str]
) -> tuple[tuple[int | str, ...], ...]:
    """For each output its dims as integers, symbols and expressions of them.

    Args:
        observed: the sizes of each run with the shapes of its outputs; the traced run first.
        names: output names.
    """
    result = []
    for index, shape in enumerate(observed[0][1]):
        dims: list[int | str] = []
        for axis in range(len(shape)):
            extents = [shapes[index][axis] for _, shapes in observed]
            fallback = f"{names[index]}_{axis}"
            dims.append(
                extents[0] if len(set(extents)) == 1 else _expression([s for s, _ in observed], extents, fallback)
            )
        result.append(tuple(dims))
    return tuple(result)


def _expression(sizes: Sequence[Mapping[str, int]], extents: Sequence[int], fallback: str) -> str:
    """The simplest of n, k*n, n//k and ceil(n/k) over the symbols that gives all observed extents."""
    symbols = list(sizes[0])
    for symbol in symbols:
        if all(s[symbol] == e for s, e in zip(sizes, extents, strict=True)):
            return symbol
    pairs = list(zip(sizes, extents, strict=True))
    for k in (2, 4, 8, 16, 32, 3, 7, 14):
        for symbol in symbols:
            if all(k * s[symbol] == e for s, e in pairs):
                return f"{k}*{symbol}"
            if all(s[symbol] // k == e for s, e in pairs):
                return f"{symbol}//{k}"
            if all(-(-s[symbol] // k) == e for s, e in pairs):
                return f"({symbol} + {k - 1})//{k}"
    return fallback
