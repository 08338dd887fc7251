"""Parts of outputs with scales of their own, and choices: what one number over all would hide."""

from __future__ import annotations

import numpy as np
import pytest

from attn_deploy.parity.channels import WHOLE, channel_parts
from attn_deploy.parity.distance import agreement, number_distances
from attn_deploy.parity.tolerance import TOLERANCES


def boxes(rng: np.random.Generator, count: int = 200) -> np.ndarray:
    return np.abs(rng.standard_normal((2, 4, count))) * 200 + 100


def scores(rng: np.random.Generator, classes: int, count: int = 200) -> np.ndarray:
    """As a detector gives them: most classes are quiet, some are not."""
    logits = rng.standard_normal((2, classes, count)) + 2 * rng.standard_normal((1, classes, 1)) - 5
    return 1 / (1 + np.exp(-logits))


def cuts(*arrays: np.ndarray) -> list[int]:
    return [p.stop for p in channel_parts(list(arrays))][:-1]


@pytest.mark.parametrize("classes", [1, 2, 8, 80, 600])
def test_boxes_are_parted_from_scores(classes):
    rng = np.random.default_rng(classes)
    output = np.concatenate([boxes(rng), scores(rng, classes)], 1)
    assert cuts(output) == [4]
    assert cuts(output.transpose(0, 2, 1)) == [4], "channels last"
    assert channel_parts([output.transpose(0, 2, 1)])[0].axis == 2


def test_masks_beside_scores_do_not_hide_the_boxes():
    rng = np.random.default_rng(0)
    output = np.concatenate([boxes(rng), scores(rng, 80), rng.standard_normal((2, 32, 200))], 1)
    assert cuts(output)[0] == 4


def test_classes_of_one_kind_stay_together():
    """200 heads of scores: no quiet class becomes a part, to be measured by its own smallness."""
    parted = sum(len(channel_parts([scores(np.random.default_rng(s), 80)])) > 1 for s in range(200))
    assert parted <= 4


@pytest.mark.parametrize(
    "output",
    [
        np.random.default_rng(0).standard_normal((2, 64, 9, 11)),
        np.random.default_rng(0).standard_normal((8, 1000)) * np.logspace(-4, 4, 1000),
        np.exp(np.random.default_rng(0).standard_normal((2, 5, 8, 8)) * 4),
    ],
    ids=["features", "rank 2", "softmax"],
)
def test_other_outputs_are_one_part(output):
    if output.ndim == 4 and output.shape[1] == 5:
        output = output / output.sum(1, keepdims=True)
    assert channel_parts([output]) == (WHOLE,)


def test_what_the_graph_joins_is_parted_there():
    rng = np.random.default_rng(0)
    output = rng.random((1, 10, 50))
    assert [str(p) for p in channel_parts([output], (1, (4, 6)))] == ["channels 0 to 3", "channels 4 to 9"]


def test_an_error_is_measured_by_its_part():
    rng = np.random.default_rng(1)
    right = np.concatenate([boxes(rng), scores(rng, 8)], 1)
    wrong = right.copy()
    wrong[:, 4:] = wrong[:, 4:][:, ::-1]  # other classes
    assert np.sqrt(((wrong - right) ** 2).mean() / (right**2).mean()) < 1e-3, "one number over all sees nothing"
    for tolerance in TOLERANCES.values():
        box, score = number_distances("y", [right], [wrong], tolerance)
        assert (box.ratio, box.relative) == (0, 0)
        assert score.relative > 0.5
        assert score.ratio > 1


def test_the_same_values_are_the_same():
    right = np.random.default_rng(0).standard_normal((2, 3, 4))
    [whole] = number_distances("y", [right, np.zeros((0, 3, 4))], [right, np.zeros((0, 3, 4))], TOLERANCES["float32"])
    assert (whole.ratio, whole.relative, whole.elements) == (0, 0, 24)
    [nothing] = number_distances("y", [np.zeros((0, 3))], [np.zeros((0, 3))], TOLERANCES["float32"])
    assert nothing.elements == 0


def test_near_ties_are_told_from_wrong_choices():
    values = np.array([[1.0, 1.0001, 0.2], [3.0, 0.1, 0.2]])
    right = values.argmax(1)
    tie, wrong = np.array([0, 0]), np.array([1, 2])
    given = {"scores": [values], "axis": 1, "tolerance": TOLERANCES["float16"]}
    near = agreement("y", [right], [tie], **given)
    assert (near.same, near.ties, near.share) == (1, 1, 1.0)
    far = agreement("y", [right], [wrong], **given)
    assert (far.same, far.ties, far.share) == (1, 0, 0.5)
    assert agreement("y", [right], [tie]).share == 0.5, "without scores nothing says what a tie is"


def test_places_of_the_best_are_looked_up_along_their_axis():
    values = np.array([[0.5, 0.9, 0.9, 0.1]])
    right, got = np.array([[1, 2, 0]]), np.array([[2, 1, 3]])
    found = agreement("y", [right], [got], scores=[values], axis=-1, tolerance=TOLERANCES["float32"])
    assert (found.same, found.ties) == (0, 2)


def test_rows_are_a_set():
    right, got = np.array([[0, 1, 5], [0, 1, 7]]), np.array([[0, 1, 7], [0, 0, 2], [0, 1, 5]])
    assert agreement("y", [right], [got], rows=True).share == pytest.approx(2 / 3)
