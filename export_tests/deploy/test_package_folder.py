"""The folder that a package goes to."""

from __future__ import annotations

import onnx
import pytest

from attn_deploy.deploy.package.make import package
from attn_deploy.errors import InvalidRequestError

RELU = '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu (x) }'


def test_a_folder_that_something_else_filled_meanwhile_is_left_alone(tmp_path):
    model, folder = tmp_path / "m.onnx", tmp_path / "package"
    onnx.save(onnx.parser.parse_model(RELU), model)

    def fill(step: str) -> None:
        if step == "writing clients and configuration":
            folder.mkdir()
            (folder / "theirs").write_text("kept")

    with pytest.raises(InvalidRequestError, match="was filled by something else while this package was made"):
        package(model, folder, progress=fill)
    assert [p.name for p in folder.iterdir()] == ["theirs"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "package"]
