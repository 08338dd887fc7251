"""State that a model keeps outside its modules: seen whatever its type is, and put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attn_deploy import export
from attn_deploy.errors import ExportError
from attn_deploy.exporters.outside import Outside
from attn_deploy.inputs.grammar import parse_inputs


class Keeper(nn.Module):
    array_rows = [np.zeros(3)]
    tensors = {"a": torch.ones(3), "b": torch.ones(3)}
    pair = (np.zeros(2), 1.0)
    long = list(range(5000))
    names = {"x"}
    ratio = 1.0

    def forward(self, x):
        return x * 2


NEW = {
    "array_rows": lambda: Keeper.array_rows.__setitem__(0, np.ones(4)),
    "tensors": lambda: Keeper.tensors.__setitem__("a", torch.zeros(3)),
    "pair": lambda: setattr(Keeper, "pair", (np.ones(2), 1.0)),
    "long": lambda: setattr(Keeper, "long", [1]),
    "names": lambda: Keeper.names.add("y"),
    "ratio": lambda: setattr(Keeper, "ratio", 2.0),
    "more": lambda: setattr(Keeper, "more", torch.ones(2)),
}


@pytest.mark.parametrize("name", NEW)
def test_values_of_any_type_are_seen_and_put_back(name):
    before = {k: v.copy() if isinstance(v, (list, dict, set)) else v for k, v in vars(Keeper).items()}
    outside = Outside(Keeper())
    assert outside.changes() == []
    NEW[name]()
    assert outside.changes() == [f"Keeper.{name}"]
    outside.restore()
    assert outside.changes() == []
    now = vars(Keeper)
    assert now.keys() == before.keys()
    assert all(now["tensors"][k] is v for k, v in before["tensors"].items())
    assert now["array_rows"][0] is before["array_rows"][0]
    assert (now["names"], now["ratio"], now["pair"]) == (before["names"], before["ratio"], before["pair"])


class Renews(nn.Module):
    """Right at every size: what it keeps is made anew in each run."""

    grids = {"last": torch.ones(1, 1)}

    def forward(self, x):
        type(self).grids["last"] = torch.ones(x.shape[2], x.shape[3])
        return x * type(self).grids["last"]


class Stale(nn.Module):
    """Wrong at every size but the first."""

    kept = [np.zeros(1)]

    def forward(self, x):
        if self.kept[0].size == 1:
            self.kept[0] = np.full(2, float(x.shape[2]))
        return x * float(self.kept[0][0])


def test_arrays_in_the_place_of_arrays_are_no_bug_of_ours(tmp_path):
    path = tmp_path / "m.onnx"
    artifact = export(Renews(), path, inputs=parse_inputs(["1x3x32x32"]))
    assert artifact.dynamic_axes == ("N", "H", "W")
    with pytest.raises(ExportError, match=r"'Stale\.kept', outside the model's own state"):
        export(Stale(), tmp_path / "s.onnx", inputs=parse_inputs(["1x3x32x32"]))
    assert Stale.kept[0].size == 1
