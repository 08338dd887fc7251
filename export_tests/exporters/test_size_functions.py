"""Expressions in sizes as functions of Python give what sympy gives."""

from __future__ import annotations

import pytest
import sympy
from torch.utils._sympy.functions import CeilDiv, FloorDiv, IntTrueDiv, Max, Min, Mod, PythonMod

from attn_deploy.exporters.size_functions import value_at

H, W = sympy.symbols("s77 s27", integer=True, positive=True)


@pytest.mark.parametrize(
    "expression",
    [
        sympy.Eq(Mod(H, 7), 2),
        sympy.Ne(FloorDiv(H - 1, 4) * W, 10),
        Max(3, W) <= H,
        sympy.Or(sympy.Eq(PythonMod(H, W), 4), H > 10),
        sympy.Eq(Min(H, W), CeilDiv(H, 4)),
        4 * H**2 + FloorDiv(W, 2),
        IntTrueDiv(H, 4),
        sympy.Integer(3),
    ],
)
def test_as_sympy_has_it(expression):
    symbols = tuple(sorted(expression.free_symbols, key=str))
    for numbers in ({H: 9, W: 5}, {H: 16, W: 4}, {H: 1, W: 7}):
        assert value_at(expression, symbols, [numbers[s] for s in symbols]) == expression.subs(numbers)


def test_what_has_no_value_or_no_form():
    with pytest.raises(ArithmeticError):
        value_at(FloorDiv(H, W), (H, W), (3, 0))
    with pytest.raises(NotImplementedError):
        value_at(H * W, (H,), (3,))
