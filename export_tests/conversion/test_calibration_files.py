"""What a calibration file holds is used as it is, or refused by name, type and shape: nothing is converted silently."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.conversion.calibration import read_calibration
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.grammar import parse_inputs

IMAGES = np.random.default_rng(0).random((8, 3, 4, 4), np.float32)
FLOAT, BYTE, FLAG = (parse_inputs([f"x:1x3x4x4:{t}"]) for t in ("float32", "uint8", "bool"))


def read(tmp_path, inputs=FLOAT, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return read_calibration(tmp_path / "data.npz", inputs, ("N",))


@pytest.mark.parametrize(
    ("inputs", "array"),
    [
        (FLOAT, IMAGES),
        (FLOAT, IMAGES.astype(np.float64)),
        (FLOAT, (255 * IMAGES).astype(np.uint8)),
        (BYTE, (255 * IMAGES).astype(np.int64)),
        (FLAG, IMAGES > 0.5),
    ],
)
def test_numbers_of_a_kind_become_the_graphs(inputs, array, tmp_path):
    data = read(tmp_path, inputs, x=array)
    assert {b["x"].dtype for b in data.batches} == {np.dtype(inputs[0].dtype)}


KINDS = {
    "complex": IMAGES.astype(np.complex64),
    "datetime": np.zeros(IMAGES.shape, "datetime64[s]"),
    "structured": np.zeros(IMAGES.shape, [("a", "f4"), ("b", "i4")]),
    "bool": IMAGES > 0.5,
    "text": IMAGES.astype(str),
    "bytes": IMAGES.astype("S"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_is_refused_by_name_type_and_shape(kind, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"'x' is .* of shape \(8, 3, 4, 4\)"):
        read(tmp_path, x=KINDS[kind])


@pytest.mark.parametrize(
    ("inputs", "array"),
    [
        (BYTE, IMAGES),
        (FLAG, IMAGES),
        (BYTE, (300 * IMAGES).astype(np.int32) + 256),
        (FLOAT, IMAGES.astype(np.float64) * 1e300),
    ],
)
def test_values_that_the_type_of_the_graph_cannot_hold_are_refused(inputs, array, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"'x' is (float|int)"):
        read(tmp_path, inputs, x=array)


@pytest.mark.parametrize(
    "labels",
    [
        np.full(8, np.nan),
        np.zeros(8, np.complex64),
        np.zeros((8, 2), np.int64),
        np.zeros((), np.int64),
        np.array(["cat"] * 8),
        np.zeros(8, bool),
        np.full(8, -1),
    ],
    ids=str,
)
def test_labels_are_one_whole_number_for_each_sample(labels, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"'labels' is .* of shape"):
        read(tmp_path, x=IMAGES, labels=labels)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00", b"text"])
def test_a_file_that_is_no_archive_of_arrays_is_refused(content, tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"data\.npz"):
        read_calibration(path, FLOAT, ("N",))
