"""The benchmark of public networks: its record, what counts as lost, and a slice of the networks."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from attn_deploy.inputs.grammar import parse_inputs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)


def module(name):
    """A file of the benchmarks, which import each other by name."""
    if name not in sys.modules:
        sys.path.insert(0, str(BENCHMARKS))
        try:
            importlib.import_module(name)
        finally:
            sys.path.remove(str(BENCHMARKS))
    return sys.modules[name]


records, names = module("network_records"), module("network_names")
Attempt, Row, Record = records.Attempt, records.Row, records.Record
WHOLE = ("N", "H", "W")


def right(*axes, **more):
    return Attempt("right", axes, error=0.5, seconds=2.0, load=1.0, **more)


def test_a_record_grows_and_nobody_elses_rows_change(tmp_path):
    path = tmp_path / "record.json"
    mine = Record().with_row(Row("a:one", {"ours": right(*WHOLE)})).with_row(Row("a:two", {"ours": right("N")}))
    mine.write(path)
    timed = records.Latency({"ours": 1.0, "dynamo": 2.0}, "dynamo", 0.5, 0.4, 0.6)
    theirs = (
        Record()
        .with_row(Row("a:two", {"dynamo": right("N")}, timed))
        .with_row(Row("b:three", {"ours": Attempt("refused", reason="no")}))
    )
    merged = Record.read(path).merged(theirs)
    merged.write(path)
    again = Record.read(path)
    assert again.rows["a:one"] == mine.rows["a:one"]
    assert set(again.rows["a:two"].attempts) == {"ours", "dynamo"}
    assert again.rows["a:two"].latency == timed
    assert again.rows["b:three"].attempts["ours"].reason == "no"
    assert "| `a:one` | ours | right | N H W |" in path.with_suffix(".md").read_text()
    assert Record.read(tmp_path / "none.json").rows == {}


@pytest.mark.parametrize(
    ("ours", "plain", "lost"),
    [
        (right(*WHOLE), right(*WHOLE), ""),
        (right("N"), right(*WHOLE), "H W"),
        (Attempt("refused"), right("N"), "N"),
        (Attempt("refused"), right(), "any"),
        (right("N"), Attempt("wrong", WHOLE), ""),
        (Attempt("absent"), right("N"), ""),
        (Attempt("wrong", WHOLE), right(*WHOLE), "H N W"),
    ],
)
def test_what_plain_torch_has_and_ours_lacks(ours, plain, lost):
    row = Row("net", {"ours": ours, "dynamo": plain})
    assert row.lost == (f"dynamo gives {lost}" if lost else "")
    assert ("net" in records.summary([row]).split("lacks:")[1]) == bool(lost)


def test_the_words_choose(capsys):
    chosen = module("public_networks").chosen
    assert chosen(["timm:[a-c]"])[0] == "timm:convnext_tiny"
    assert chosen(["yolo11n"]) == ["ultralytics:yolo11n"]
    assert chosen(["timm:resnet18"]) == ["timm:resnet18"]
    assert set(names.SLICE) <= set(chosen([]))
    assert len(names.SLICE) == 10
    assert len(chosen([])) >= 60


def test_the_nightly_parts_are_the_whole():
    import re

    import yaml

    flow = yaml.safe_load((BENCHMARKS.parent / ".github" / "workflows" / "public-networks.yml").read_text())
    words = flow["jobs"]["part"]["strategy"]["matrix"]["words"]
    for name in names.NETWORKS:
        assert sum(bool(re.search(w, name)) for w in words) == 1, name


def absent(name):
    package = {"smp": "segmentation_models_pytorch"}.get(name.partition(":")[0], name.partition(":")[0])
    return importlib.util.find_spec(package) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", names.SLICE)
def test_a_public_network(name, tmp_path):
    if absent(name):
        pytest.skip(f"the package of {name} is not installed")
    path = tmp_path / "record.json"
    line = [sys.executable, str(BENCHMARKS / "public_networks.py"), name, "--output", str(path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(path.read_text())["rows"][name]
    assert row["attempts"]["ours"]["outcome"] == "right"
    assert "N" in row["attempts"]["ours"]["axes"]


@pytest.mark.parametrize(("least", "step"), [(1, 1), (224, 1), (224, 32)])
def test_a_file_is_judged_at_extents_that_it_takes(least, step):
    attempts = module("network_attempts")
    made = Attempt("right", WHOLE, dict.fromkeys("HW", step), dict.fromkeys("HW", least))
    tried = [attempts._sizes(parse_inputs(["1x3x224x224"]), made, scales) for scales in attempts._SCALES]
    assert {s["N"] for s in tried} == {1, 2, 3}
    for sizes in tried:
        for symbol in "HW":
            assert sizes[symbol] >= least
            assert sizes[symbol] % step == 0
            assert sizes[symbol] != 224
    assert (min(s["H"] for s in tried) < 224) is (least == 1)
