"""Records may hold anything: no text of one becomes markup in a page or in Markdown."""

from __future__ import annotations

import ast
import dataclasses
import html as entities
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.comparison.collection import named_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.deploy.package.evidence import evidence_html
from attn_deploy.diagnosis.record import Diagnosis, Fault, Step, Trial
from attn_deploy.pages.page import Html, html, joined, page
from attn_deploy.report.accuracy_page import accuracy_html
from attn_deploy.report.diagnosis_page import diagnosis_html
from attn_deploy.report.matrix.html import matrix_html
from attn_deploy.report.matrix.tables import matrix_markdown
from attn_deploy.report.profile.html import profile_html
from attn_deploy.report.profile.tables import profile_markdown
from attn_deploy.report.train_table import table_html, table_markdown
from attn_deploy.runtimes.base import RuntimeInfo
from attn_deploy.training.deployed import Deployed
from attn_deploy.training.recipe import Recipe
from attn_deploy.training.summary import TableRow, TableSummary
from export_tests.bench.profile_records import full, layer_report
from export_tests.matrix.matrix_records import mixed_record

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
MARKUP = "</script></title></td>'\"><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">|"
# Words that the reports compute with; a record that holds others is refused when it is read.
FIXED = {
    "status",
    "verdict",
    "exporters",
    "precisions",
    "runtimes",
    "executor",
    "runtime",
    "precision",
    "bound",
    "exporter",
    "dynamic",
    "baseline",
    "name:check",
    "question",
    "created",
}


def tainted(value: Any, field: str = "") -> Any:
    """The same with markup behind every text."""
    if isinstance(value, str):
        return value if field in FIXED else value + MARKUP
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = {"name": "name:check"} if type(value).__name__ == "Check" else {}
        changes = {
            f.name: tainted(getattr(value, f.name), known.get(f.name, f.name)) for f in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    if isinstance(value, Mapping):
        return {k: tainted(v, str(k)) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(tainted(v, field) for v in value)
    return value


def table() -> TableSummary:
    def deployed(ms: float) -> Deployed:
        return Deployed("fp32", 60, 59, 60, ms, ms * 0.9, ms * 1.1, 0.5, "0")

    rows = tuple(
        TableRow(module=m, model=f"resnet8+{m}", top1=(t,), mean=t, parameters=9, macs=9, seconds=3.0, device="cpu",
                 fp32=deployed(ms), on_front=m == "se")
        for m, t, ms in (("none", 0.9, 1.0), ("se", 0.91, 1.2), ("eca", 0.89, 1.3))
    )  # fmt: skip
    refused = TableRow(module="psp", model="resnet8+psp", reason="does not fit")
    plan = {"backbone": "resnet8", "source": "digits", "seeds": 1, "recipe": asdict(Recipe(epochs=2, batch=8))}
    return TableSummary(plan=plan, rows=(*rows, refused), environments=("a machine",), busy=2.0)


def profiles(names: tuple[str, ...], *, taint: bool):
    runs = [(Path(f"{n}.json"), full(n, seed=i), (layer_report(n),)) for i, n in enumerate(names)]
    if taint:
        runs = [(p, tainted(r), tainted(layers)) for p, r, layers in runs]
    return overview(named_runs(runs))


def diagnosis() -> Diagnosis:
    steps = [
        Step(f"blocks.{k}", "Block", f"t{k}", "Conv", ratio and ratio / 10, 1e-3, ratio, ratio is not None, None)
        for k, ratio in enumerate((1e-9, 0.02, 0.5, 40.0, None))
    ]
    fault = Fault(
        "numbers",
        "blocks.3",
        "Block",
        "Exp",
        "node_exp",
        "off by 40 times",
        "scale first",
        {"Exp": 1},
        True,
        "part.onnx",
    )
    refused = Fault("build", "mixer", "Mixer", "DFT", "node_dft", "refuses the graph")
    return Diagnosis(
        "net.py:Net", "fp16", "tensorrt-rtx", "eager", 90, refused, fault, {"x": (1, 3, 8, 8)}, {"rtol": 1e-3, "atol": 1e-3},
        tuple(steps), (Trial("the whole graph", 90, True, 1.5),), notes=("one note",), seconds=2.0, attn_deploy="0.1.0",
    )  # fmt: skip


def accuracy() -> AccuracyResult:
    note = {
        "name": "digits",
        "classes": ["one", "two", "three"],
        "source": "digits",
        "split": "test",
        "sha256": "0" * 64,
    }
    info = RuntimeInfo(runtime="ort-cpu", version="onnxruntime 1.31", provider="CPU", precision="fp32", threads=1)
    labels, answers = (0, 1, 2, 1, 2, 2), (0, 1, 1, 1, 2, 2)
    reference = AccuracyResult("net", info, note, labels, labels, 6, 0.5)
    result = AccuracyResult("net.onnx", info, note, labels, answers, 6, 0.5)
    return dataclasses.replace(result, agreement=result.compared_with(reference))


MANIFEST = {
    "name": "net", "golden": 3, "reference": "PyTorch eager", "runtime": "onnxruntime 1.31", "opset": 20, "precision": "fp32",
    "inputs": [{"name": "image", "dtype": "float32", "shape": ["N", 3]}], "outputs": [], "preprocess": {"layout": "nhwc"},
    "postprocess": None, "versions": {"torch": "2.13"}, "history": [{"step": "export", "opset": 20}],
    "latency": [["ort-cpu fp32 b1", "0.123", "0.120 to 0.130", "ok"]], "accuracy": [["ort-cpu", "digits test", "98.1%", "360"]],
    "engines": [], "files": {"model.onnx": {"size": 9000, "sha256": "0" * 64}},
    "record": {"model": "net", "parity": {"max_abs_error": 1e-6, "rtol": 1e-4, "atol": 1e-5, "cases": 5,
                                          "candidate": "onnxruntime", "reference": "eager"}},
}  # fmt: skip
PAGES = {
    "profile": lambda taint: profile_html(profiles(("se",), taint=taint)),
    "several": lambda taint: profile_html(profiles(("se", "eca"), taint=taint)),
    "zoo": lambda taint: profile_html(profiles(tuple(f"net{i}" for i in range(12)), taint=taint)),
    "matrix": lambda taint: matrix_html(tainted(mixed_record()) if taint else mixed_record()),
    "train table": lambda taint: table_html(tainted(table()) if taint else table()),
    "diagnosis": lambda taint: diagnosis_html(tainted(diagnosis()) if taint else diagnosis()),
    "accuracy": lambda taint: accuracy_html([tainted(accuracy()) if taint else accuracy()]),
    "evidence": lambda taint: evidence_html(tainted(MANIFEST) if taint else MANIFEST),
}
TEXTS = {
    "profile": lambda taint: profile_markdown(profiles(("se",), taint=taint)),
    "zoo": lambda taint: profile_markdown(profiles(tuple(f"net{i}" for i in range(12)), taint=taint)),
    "matrix": lambda taint: matrix_markdown(tainted(mixed_record()) if taint else mixed_record()),
    "train table": lambda taint: table_markdown(tainted(table()) if taint else table()),
}


def opened(folder: Path, text: str) -> str:
    """The page as Chromium has it after its scripts ran."""
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    return subprocess.run([str(BROWSER), *flags], capture_output=True, text=True, timeout=180, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("name", PAGES)
def test_no_text_of_a_record_becomes_markup_in_a_page(name, tmp_path):
    text = PAGES[name](True)
    assert MARKUP[:9] not in text.replace("</script>\n", ""), "only the page's own scripts end"
    dom = opened(tmp_path, text)
    shown = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert not re.search(r"<title>hit", dom)
    assert "<img" not in shown
    assert "document.title='hit'" in entities.unescape(shown), "the texts are there, as texts"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_what_gets_into_a_page_all_the_same_does_not_run(tmp_path):
    """The policy is the second lock: markup that somebody forgot to escape, and it does nothing."""
    forgotten = Html(f"<p>{MARKUP}</p>")
    dom = opened(tmp_path, page("title", forgotten, scripts=["document.body.dataset.own = 'ran';"]))
    assert 'data-own="ran"' in dom
    assert "<title>hit" not in dom
    unlocked = page("title", forgotten).replace("Content-Security-Policy", "Nothing")
    assert "<title>hit" in opened(tmp_path, unlocked), "without the policy it would have run"


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_of_a_record_becomes_markup_in_markdown(name):
    text = TEXTS[name](True)
    assert "document.title" in text
    assert not re.search(r"<(?!/?(details|summary)>)", text)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert tables
    for lines in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}
        assert len(columns) == 1, "a table keeps its columns"


def test_markup_is_made_by_templates_alone():
    assert html("<b>{}</b>", "<i>") == "<b>&lt;i&gt;</b>"
    assert html('<a title="{}">{:.2f}</a>', '"', 1.5) == '<a title="&quot;">1.50</a>'
    assert html("{}{}", Html("<i>"), html("{!r}", "'")) == "<i>&quot;&#x27;&quot;"
    with pytest.raises(TypeError, match="no markup"):
        joined([html("<b></b>"), "<i>"])  # type: ignore[list-item]
    house = Path(__file__).parents[2] / "attn_deploy"
    for path in (p for room in ("pages", "report", "deploy") for p in (house / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts = [v.value for v in node.values if isinstance(v, ast.Constant)]
                markup = [
                    t
                    for t in texts
                    if re.search(r"</?[a-z]+[ >]", str(t)) and not re.search("details|summary|<br>", str(t))
                ]
                assert not markup, f"{path.name}:{node.lineno} makes markup without html()"
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("html", "Html") and node.args:
                assert not isinstance(node.args[0], ast.JoinedStr), (
                    f"{path.name}:{node.lineno}: the template is a constant"
                )


def test_data_cannot_end_their_element():
    text = page("t", html("<p></p>"), data={"data": {"x": MARKUP}})
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(found[1]) == {"x": MARKUP}
