"""Names of classes: one too few, and every answer has another's name."""

from __future__ import annotations

import onnx
import pytest

from attn_deploy.deploy.package.labels import class_count, read_labels
from attn_deploy.errors import InvalidRequestError

SCORES = '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, 8, 8] x, float[3, 10] w) => '
ROW = f"{SCORES}(float[N, 10] y) {{ m = GlobalAveragePool (x) f = Flatten (m) y = MatMul (f, w) }}"
BEST = (
    f"{SCORES}(int64[N] class_id) {{ m = GlobalAveragePool (x) f = Flatten (m) s = MatMul (f, w) "
    "class_id = ArgMax <axis: int = 1, keepdims: int = 0> (s) }"
)
FIVE = (
    f"{SCORES}(float[N, 5] scores, int64[N, 5] class_ids) {{ m = GlobalAveragePool (x) f = Flatten (m) "
    "s = MatMul (f, w) p = Softmax (s) k = Constant <value_ints: ints = [5]> () scores, class_ids = TopK (p, k) }"
)
MAP = f"{SCORES}(float[N, 3, 8, 8] y) {{ y = Relu (x) }}"
PAIR = f"{SCORES}(float[N, 10] y, float[N, 3] z) {{ m = GlobalAveragePool (x) z = Flatten (m) y = MatMul (z, w) }}"


@pytest.mark.parametrize(
    ("text", "choice", "count"),
    [
        (ROW, None, 10),
        (ROW.replace("float[N, 10] y", "float[N, 1] y"), None, 2),
        (ROW.replace("float[N, 10] y", "float[N, C] y"), None, None),
        (BEST, "argmax", 10),
        (FIVE, "topk", 10),
        (BEST, None, None),  # nobody says that it chooses a class
        (FIVE, None, None),
        (MAP, None, None),
        (PAIR, None, None),
    ],
)
def test_a_graph_tells_its_classes_where_it_is_certain(text, choice, count):
    record = {} if choice is None else {"postprocess": {"choice": choice}}
    assert class_count(onnx.parser.parse_model(text), record) == count


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no name"),
        (b"\n \n", "holds no name"),
        (b"ant\n\nbee\n", "line 2 is blank"),
        (b"ant\nbee\0cat\n", "line 2 is no name"),
        (b"ant\nbee\n", "has 2 names, and the model has 3 classes"),
        (b"ant\nbee\ncat\ndog\n", "has 4 names, and the model has 3 classes"),
        (b"caf\xe9\n", "cannot be read as text"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(content, message, tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=rf"--labels .*classes\.txt.* {message}"):
        read_labels(path, 3)


def test_labels_are_lines(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfant\r\n bee \r\ncaf\xc3\xa9\r\n\r\n")  # as an editor on Windows saves them
    assert read_labels(path, 3) == read_labels(path, None) == ("ant", "bee", "caf\xe9")
