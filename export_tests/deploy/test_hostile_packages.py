"""Packages from elsewhere: nothing passes that was not compared, and no path leads out of the folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_deploy.deploy.package.check import verify_package
from attn_deploy.deploy.package.evidence import evidence_html, evidence_markdown
from attn_deploy.deploy.package.make import package
from attn_deploy.deploy.package.request import PackageRequest, served_name
from attn_deploy.deploy.package.triton import ServedTensor, TritonModel, config_text
from attn_deploy.errors import AttnDeployError, GraphError, InvalidRequestError
from attn_deploy.report.package import package_check_text
from export_tests.reading.fields import GONE, VALUES, damaged, path_of, places


def graph(path: Path) -> Path:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = ([value("x", TensorProto.FLOAT, ("N", 4))], [value("y", TensorProto.FLOAT, ("N", 3))])
    weights = [numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    package(graph(folder / "m.onnx"), folder / "pkg")
    return folder / "pkg"


@pytest.fixture
def pkg(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "pkg"))


def sealed(folder: Path, change) -> None:
    """Change the manifest as its maker could: with the hashes of what is there, and a new seal."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    data.pop("seal")
    data = change(data) or data
    for name, facts in data["files"].items() if isinstance(data.get("files"), dict) else ():
        if isinstance(facts, dict) and (folder / name).is_file():
            facts["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    seal = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**data, "seal": seal}))


def test_a_sound_package_passes_and_can_be_sealed_again(pkg):
    sealed(pkg, lambda d: None)
    assert verify_package(pkg).passed


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("files", [], "files must name each file"),
        ("files", {"model.onnx": 3}, "files must name each file"),
        ("tolerance", {}, "tolerance"),
        ("tolerance", {"rtol": 1e30, "atol": 0.1, "floor": 1, "agreement": 1}, "nothing can be judged"),
        ("tolerance", {"rtol": float("nan"), "atol": 0.1, "floor": 1, "agreement": 1}, "nothing can be judged"),
        ("tolerance", {"rtol": 0.1, "atol": 0.1, "floor": 1, "agreement": 0}, "nothing can be judged"),
        ("tolerance", {"rtol": True, "atol": 0.1, "floor": 1, "agreement": 1}, "nothing can be judged"),
        ("engines", {}, "engines must name"),
        ("engines", [{"file": "../x.engine", "flavor": "x", "version": "1", "tolerance": {}}], "engines must name"),
        ("runtime", 3, "runtime must be text"),
        ("golden", 0, "golden must be"),
        ("golden", "3", "golden must be"),
        ("golden", 7, "the manifest says 7"),
    ],
)
def test_a_manifest_is_typed(key, value, words, pkg):
    sealed(pkg, lambda d: d.update({key: value}))
    with pytest.raises(AttnDeployError, match=words):
        verify_package(pkg)


# Fields that the check reads: with another value there it must say something, or have judged by it.
JUDGED = ("files", "tolerance", "golden", "runtime", "engines")


def manifest_faults(pkg, step=1):
    """What a manifest with one other value does to the check of its package, other than a refusal or an answer.

    Of all values every so many, drawn by their names.
    """
    before = (pkg / "manifest.json").read_bytes()
    sound = {k: v for k, v in json.loads(before).items() if k != "seal"}
    damages = [(p, w) for p in places(sound) for w, v in VALUES.items() if v is not GONE or isinstance(p[-1], str)]
    for place, word in damages:
        if zlib.crc32(f"{path_of(place)} {word}".encode()) % step:
            continue
        sealed(pkg, lambda d, place=place, word=word: damaged(d, place, VALUES[word]))
        where = f"{path_of(place)} {word}"
        try:
            check = verify_package(pkg)
        except AttnDeployError as error:
            if place[0] not in JUDGED:
                yield f"{where}: refused for what is not read: {error}"
            continue
        except Exception as error:
            yield f"{where}: {type(error).__name__}: {error}"
            continue
        finally:
            (pkg / "manifest.json").write_bytes(before)
        if not package_check_text(check):
            yield f"{where}: nothing is said"


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_manifest_with_another_value_is_refused_or_judged_by(pkg, step):
    assert not list(manifest_faults(pkg, step))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "C:/x", "..\\secret"])
def test_a_manifest_names_files_of_the_folder(name, pkg):
    (pkg.parent / "secret").write_bytes(b"secret")
    sealed(pkg, lambda d: d["files"].update({name: {"sha256": hashlib.sha256(b"secret").hexdigest(), "size": 6}}))
    with pytest.raises(AttnDeployError, match="is not in the folder"):
        verify_package(pkg)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "verify.py"])
def test_what_is_run_has_a_hash(name, pkg):
    sealed(pkg, lambda d: d["files"].pop(name) and None)
    with pytest.raises(AttnDeployError, match=f"no hash of {name}"):
        verify_package(pkg)


def test_what_was_added_or_leads_elsewhere_is_named(pkg):
    (pkg / "client" / "sitecustomize.py").write_text("raise SystemExit")
    elsewhere = pkg.parent / "infer.py"
    (pkg / "client" / "infer.py").rename(elsewhere)
    (pkg / "client" / "infer.py").symlink_to(elsewhere)
    problems = verify_package(pkg).problems
    assert problems == ("client/infer.py is a link to elsewhere", "client/sitecustomize.py is not in the manifest")


@pytest.mark.parametrize("target", ["model.onnx", "/dev/zero", "/nowhere"])
def test_a_link_is_never_followed(target, pkg):
    (pkg / "golden.npz").unlink()
    (pkg / "golden.npz").symlink_to("golden.npz" if target == "model.onnx" else target)
    assert verify_package(pkg).problems[0] == "golden.npz is a link to elsewhere"


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"x": np.zeros(3)},
        {"a/b/c": np.zeros(3)},
        {"0/input/x": np.zeros((1, 4), np.float32)},
        {"0/output/y": np.zeros((1, 3), np.float32)},
    ],
    ids=["none", "name", "number", "no output", "no input"],
)
def test_golden_inputs_are_whole(arrays, pkg):
    np.savez(pkg / "golden.npz", **arrays)
    sealed(pkg, lambda d: d.update(golden=1))
    with pytest.raises(AttnDeployError, match=r"golden\.npz (is damaged|holds)"):
        verify_package(pkg)


@pytest.mark.parametrize(
    "outputs", [np.zeros((0, 3), np.float32), np.zeros((1, 3), "U3"), np.full((1, 3), np.nan, np.float32)]
)
def test_nothing_compared_is_no_proof(outputs, pkg):
    inputs = np.ones((len(outputs), 4), np.float32)
    np.savez(pkg / "golden.npz", **{"0/input/x": inputs, "0/output/y": outputs})
    sealed(pkg, lambda d: d.update(golden=1))
    assert not verify_package(pkg).passed


def test_the_graph_is_bounded_before_it_runs(pkg):
    model = onnx.load(pkg / "model.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**12]), "s"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["s"], ["huge"]))
    onnx.save(model, pkg / "model.onnx")
    sealed(pkg, lambda d: None)
    with pytest.raises(GraphError, match="1,000,000,000,000 elements"):
        verify_package(pkg)


MARKUP = "<script>alert(1)</script> \\[x\\](http://evil) | `y` *z*"


def test_texts_stay_texts_in_the_pages_of_evidence(pkg):
    manifest = json.loads((pkg / "manifest.json").read_text())
    manifest |= {"name": MARKUP, "reference": MARKUP, "history": [{"step": MARKUP, MARKUP: MARKUP}]}
    manifest |= {
        "accuracy": [[MARKUP] * 4],
        "latency": [[MARKUP] * 4],
        "record": {"model": MARKUP, "parity": {"a": MARKUP}},
    }
    page, text = evidence_html(manifest), evidence_markdown(manifest)
    assert "<script" not in page
    assert "Content-Security-Policy" in page
    assert "<script" not in text
    assert "](http" not in text.replace("\\]", "")
    assert all(line.count(" | ") <= 3 for line in text.splitlines())


@pytest.mark.parametrize("name", ["../x", "..", ".", "a/b", "a\nb", "", 'a"b', "-x"])
def test_names_on_a_server_are_no_paths(name):
    with pytest.raises(InvalidRequestError, match="cannot be the name of a folder on a server"):
        PackageRequest(name=name)
    assert PackageRequest(name=served_name(name)).name


def test_names_of_tensors_cannot_end_a_string_of_the_configuration():
    name = 'x" } evil { "\\\n'
    tensors = (ServedTensor(name, "float32", ("N", 4)),)
    text = config_text(TritonModel(name="m", backend="onnxruntime", inputs=tensors, outputs=tensors))
    assert 'name: "x\\" } evil { \\"\\\\\\012"' in text


@pytest.mark.parametrize(
    ("option", "data", "words"),
    [
        ("profile", {"rows": [{"runtime": 3}]}, r"--profile .* rows\[0\]"),
        (
            "profile",
            {"rows": [{"runtime": "x", "precision": "fp32", "batch": 1, "status": "GOOD"}]},
            r"rows\[0\]\.status",
        ),
        ("profile", [], "--profile"),
        ("accuracy", {"labels": [1, 2], "predictions": [1]}, "as many as labels"),
        ("accuracy", {"labels": [], "predictions": []}, "as many as labels"),
        ("accuracy", {"labels": "ab", "predictions": [1]}, "labels"),
    ],
)
def test_records_that_are_taken_over_are_typed(option, data, words, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(data))
    request = PackageRequest(**{option: path if option == "profile" else (path,)})
    with pytest.raises(InvalidRequestError, match=words):
        package(graph(tmp_path / "m.onnx"), tmp_path / "pkg", request=request)
    assert not (tmp_path / "pkg").exists()
