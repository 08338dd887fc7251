"""Exports of small models, and the test of a file against a model that nothing has run before."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch

from attn_deploy.exporters.pipeline import export
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.runtimes.eager import flatten_outputs

IMAGE = ("1x3x16x20",)
OTHER = ((1, 3, 24, 13), (3, 3, 9, 33))


def made(model, folder, inputs=IMAGE, **options):
    return export(model, folder / "m.onnx", inputs=parse_inputs(inputs), simplify=False, **options)


def assert_right(path, fresh, *cases, tolerance=1e-4):
    """The file against a model that nothing has run before, at sizes and values of the test's own."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    for tensors in cases:
        with torch.no_grad():
            expected = flatten_outputs(fresh()(*(t.clone() for t in tensors)))
        got = session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})
        for right, output in zip(expected, got, strict=True):
            np.testing.assert_allclose(output, right.numpy(), rtol=tolerance, atol=tolerance)


def copies(model):
    """Fresh models with the same weights."""

    def fresh():
        twin = type(model)(*getattr(model, "arguments", ()))
        twin.load_state_dict(model.state_dict())
        return twin.eval()

    return fresh


def images(*shapes):
    return [(torch.randn(*s),) for s in shapes]
