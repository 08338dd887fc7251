"""What no constructor of the zoo can use is refused before anything is made: a ValueError that names the argument."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from attn_deploy import create
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.resolve import catalog
from attn_deploy.resolve.resolve import resolve
from export_tests.helpers import as_tuple

ZOO = [s for s in catalog.import_all() if s.family != "backbone"]
BAD_TYPES = {
    "bool": ["yes", 2],
    "int": [2.5, "x", True],
    "float": [math.nan, math.inf, "x", True],
    "str": [3, ("x",)],
    "Sequence[int]": [3, "x", (1.5,)],
}
BAD_VALUES = {
    "int": [0, -1],
    "float": [-1.0, 0.0],
    "str": ["nonsense", ""],
    "Sequence[int]": [(), (0,), (-1, 2)],
}


@pytest.mark.parametrize("spec", ZOO, ids=lambda s: s.name)
def test_bad_arguments_are_refused_by_name(spec):
    model = resolve(spec.name)
    inputs = [torch.from_numpy(a) for a in example_arrays(model.inputs, None, 0).values()]
    for name, parameter in inspect.signature(type(model.module)).parameters.items():
        kind = str(parameter.annotation).removesuffix(" | None")
        for value in BAD_TYPES.get(kind, []):
            with pytest.raises(ValueError, match=rf"\b{name}\b"):
                create(spec.name, **{name: value})
        for value in BAD_VALUES.get(kind, []):
            try:
                module = create(spec.name, **{name: value}).eval()
                with torch.no_grad():
                    outputs = as_tuple(module(*inputs))
            except ValueError:  # at the latest where the maps do not fit what it was made for
                continue
            assert all(torch.isfinite(y).all() for y in outputs), (name, value)
