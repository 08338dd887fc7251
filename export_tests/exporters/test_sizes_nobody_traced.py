"""Files that are right at every size, traced or not: steps, windows, padding, and decisions on sizes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from attn_deploy.errors import DynamicAxisError
from attn_deploy.exporters.prepare import prepare
from attn_deploy.inputs.grammar import parse_inputs
from export_tests.exporters.proven_exports import OTHER, assert_right, copies, images, made
from export_tests.exporters.user_models import sizes, stateful, values


@pytest.mark.parametrize(
    "kind",
    [
        stateful.KeepsGrid,
        values.OldNorm,
        values.Hooked,
        pytest.param(sizes.ChecksChannels, marks=pytest.mark.slow),
        pytest.param(sizes.Shifted, marks=pytest.mark.slow),
        sizes.RoundedUp,
    ],
)
def test_right_at_sizes_that_nobody_traced(kind, tmp_path):
    model = kind().eval()
    artifact = made(model, tmp_path)
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    shapes = ((1, 3, 24, 16), (3, 3, 8, 32)) if artifact.record["multiple"] else OTHER
    assert_right(artifact.path, copies(model), *images(*shapes))


@pytest.mark.parametrize("spelling", [0, 1])
def test_rounding_up_is_right_in_both_spellings(spelling, tmp_path):
    model = sizes.RoundedUp(spelling).eval()
    model.arguments = (spelling,)
    artifact = made(model, tmp_path, exporter="dynamo", dynamic=("N", "H", "W"))
    assert_right(artifact.path, copies(model), *images(*OTHER))


def test_parts_in_half_precision_keep_their_type(tmp_path):
    model = values.HalfPart().eval()
    artifact = made(model, tmp_path)
    assert artifact.record["parity"]["rtol"] == 1e-2
    assert_right(artifact.path, copies(model), *images(*OTHER), tolerance=5e-3)


@pytest.mark.slow
def test_padding_to_windows_that_are_at_most_the_map(tmp_path):
    model = sizes.WholeWindows().eval()
    artifact = made(model, tmp_path, ("1x3x32x32",), exporter="torchscript")
    assert artifact.dynamic_axes == ("N", "H", "W")
    step, least = (max(artifact.record[k].values(), default=1) for k in ("multiple", "minimum"))
    shapes = ((3, 3, 24, 40), (1, 3, 48, 16), (2, 3, 30, 44))
    assert_right(artifact.path, copies(model), *images(*(s for s in shapes if not s[2] % step and min(s[2:]) >= least)))


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_multiples_at_which_decisions_on_sizes_come_out_alike(exporter, tmp_path):
    model = sizes.TwoWays().eval()
    artifact = made(model, tmp_path, ("1x3x32x32",), exporter=exporter)
    assert artifact.dynamic_axes == ("N", "H", "W")
    assert artifact.record["multiple"] == {"H": 8, "W": 8}
    assert artifact.record["minimum"] == {"H": 16, "W": 16}
    assert_right(artifact.path, copies(model), *images((3, 3, 24, 40), (1, 3, 48, 16), (2, 3, 16, 64)))
    session = onnxruntime.InferenceSession(artifact.path)
    for shape in ((1, 3, 28, 40), (1, 3, 40, 30), (1, 3, 8, 8)):
        with pytest.raises(Exception, match="H_in_steps_of_8_from_16"):
            session.run(None, {"image": np.zeros(shape, np.float32)})


def test_steps_of_any_number_are_found():
    prepared = prepare(sizes.FreeWindow(), inputs=parse_inputs(["1x3x28x42"]))
    assert prepared.dynamic == ("N", "H", "W")
    assert prepared.inputs[0].multiple == {"H": 7, "W": 7}


def test_an_axis_asked_for_by_name_must_move(tmp_path):
    with pytest.raises(DynamicAxisError, match=r"--dynamic N,H,W|--dynamic"):
        made(values.Structured(), tmp_path, ("batch.image:1x3x8x9",), dynamic=("Q",))


def test_where_maps_are_padded_to_windows_the_faster_trace_comes_first(tmp_path):
    model = sizes.PadsToWindows().eval()
    artifact = made(model, tmp_path, ("1x3x40x48",))
    assert artifact.record["exporter"] == "torchscript"
    assert "padded to whole windows" in artifact.record["exporter_reason"]
    assert set(artifact.dynamic_axes) == {"N", "H", "W"}
    assert_right(artifact.path, copies(model), *images((1, 3, 41, 67), (3, 3, 64, 39)))


@pytest.mark.slow
def test_padding_computed_in_a_chain(tmp_path):
    """The sizes stay simple in the trace, and the file holds nothing of the claim that keeps them so."""
    model = sizes.SamePadding().eval()
    artifact = made(model, tmp_path, ("1x3x40x48",), exporter="dynamo", dynamic=("N", "H", "W"))
    assert_right(artifact.path, copies(model), *images((1, 3, 41, 67), (3, 3, 64, 39)))
    assert not any("claim" in n for n in artifact.operators)
