"""Reports over so many models that they are an overview: means, a line for each model, details on request."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from attn_deploy.comparison.collection import named_runs
from attn_deploy.comparison.overview import MANY, overview
from attn_deploy.report.profile.html import plotly_script, profile_html
from attn_deploy.report.profile.tables import profile_markdown
from attn_deploy.report.profile.text import known_text
from export_tests.bench.profile_records import failed, record, row
from export_tests.pages.with_script import with_script
from export_tests.report.test_profile_report import chromium, in_a_browser

OTHER = (33, 45)  # of a model that takes no other size
RUNTIMES = (("compile", "fp32"), ("ort-cpu", "fp32"), ("ort-cpu", "int8"))


def zoo(count):
    made = []
    for number in range(count):
        size = OTHER if number == 3 else (32, 32)
        rows = []
        for batch in (1, 8):
            time = (0.2 + 0.1 * number) * batch
            rows.append(row("eager", time, batch=batch, size=size, seed=number))
            for index, (runtime, precision) in enumerate(RUNTIMES):
                if number in (5, 6) and precision == "int8":
                    rows.append(
                        failed(runtime, f"net{number:02}: no | kernel", batch=batch, precision=precision, size=size)
                    )
                    continue
                speed = 0.7 + 0.02 * number + 0.6 * index
                seed = 100 * index + 10 * number + batch
                rows.append(row(runtime, time / speed, batch=batch, precision=precision, size=size, seed=seed))
        made.append(record(*rows, name=f"net{number:02}"))
    return overview(named_runs([(Path(f"{r.name}.json"), r, ()) for r in made]))


@pytest.fixture(scope="module")
def found():
    return zoo(MANY + 4)


def by_cell(found):
    return {(found.runs[e.run].record.name, e.row.runtime, e.row.precision, e.row.batch): e.row for e in found.entries}


def test_a_model_of_another_size_counts_in_the_means_over_all(found):
    means = {(m.runtime, m.precision, m.batch): m.models for m in found.means}
    assert means == {(r, p, b): MANY + 4 - 2 * (p == "int8") for r, p in RUNTIMES for b in (1, 8)}


def test_markdown_has_a_line_for_each_model_and_folds_the_rows(found):
    text = profile_markdown(found)
    shown, folded = text.split("<details>", 1)
    lines = [line for line in shown.splitlines() if line.startswith("| net")]
    heads = next(line for line in shown.splitlines() if line.startswith("| model")).strip("| ").split(" | ")
    assert len(lines) == len(found.runs)
    rows = by_cell(found)
    for line in lines:
        cells = dict(zip(heads, line.strip("| ").split(" | "), strict=True))
        for batch in (1, 8):
            eager = rows[cells["model"], "eager", "fp32", batch]
            assert float(cells[f"b{batch} eager fp32 ms"]) == pytest.approx(eager.latency.p50_ms, rel=5e-3)
            for runtime, precision in RUNTIMES:
                made = rows[cells["model"], runtime, precision, batch]
                told = f"{made.speedup.speedup:.2f}x" if made.speedup else made.status
                assert cells[f"b{batch} {runtime} {precision}"] == told
    for mean in found.means:
        interval = f"{mean.interval.low:.2f} - {mean.interval.high:.2f}"
        assert f"| {mean.runtime} | {mean.precision} | {mean.batch} | {mean.mean:.2f}x | {interval} |" in shown
    assert "While it was measured: CPU 2445 MHz." in text
    assert shown.count("no \\| kernel") == 1, "a reason is told once, whatever model it names"
    assert "net05: ort-cpu int8 b1 32x32 and 3 more" in shown
    assert len([x for x in folded.splitlines() if x.startswith("| net")]) == sum(
        e.row.status == "ok" for e in found.entries
    )


def test_the_terminal_has_a_line_for_each_model(found):
    text = known_text(found)
    lines = [line.split() for line in text.splitlines() if re.match(r"net\d\d +\d+x\d+ ", line)]
    assert len(lines) == len(found.runs)
    rows = by_cell(found)
    for name, _, eager, compiled, *_ in lines:
        assert float(eager) == pytest.approx(rows[name, "eager", "fp32", 1].latency.p50_ms, rel=5e-3)
        assert compiled == f"{rows[name, 'compile', 'fp32', 1].speedup.speedup:.2f}x"
    assert "geometric mean over" in text
    assert len(text.splitlines()) < len(found.runs) + 15


def test_few_records_keep_their_sections():
    few = zoo(MANY)
    assert 'id="models"' not in profile_html(few)
    assert sum(line.startswith("## ") for line in profile_markdown(few).splitlines()) == MANY


READ = """<script>{
const read = Object.fromEntries([...document.querySelectorAll(".chart")].filter(c => c.data).map(c => [c.id,
  c.data.map(t => ({name: t.name, y: [...t.y], models: t.customdata && [...t.customdata]}))]));
const lines = () => [...document.querySelectorAll("#models tbody tr")].filter(r => !r.hidden)
  .map(r => [...r.cells].map(c => c.dataset.v ?? c.textContent));
const all = lines();
document.querySelectorAll("#models th button")[4].click();
const sorted = lines().map(l => l[0]);
const box = document.getElementById("wanted");
box.value = "net07 net11"; box.dispatchEvent(new Event("input"));
const some = lines().map(l => l[0]);
document.querySelector("#models tr[data-run='7'] button").click();
const open = [...document.querySelectorAll("section.run")].filter(s => !s.hidden).map(s => s.dataset.run);
const drawn = [...document.querySelectorAll(".chart")].filter(c => c.data).map(c => c.id);
document.body.append(Object.assign(document.createElement("pre"), {id: "read", textContent: JSON.stringify({read, all,
  sorted, some, open, drawn, hash: location.hash, wide: document.documentElement.scrollWidth - innerWidth})}));
}</script></body>"""


@in_a_browser
def test_the_page_shows_each_model_with_the_numbers_of_its_record(tmp_path, found):
    page = profile_html(found)
    assert len(page) - len(plotly_script()) < 30_000 * len(found.runs)
    dom = chromium(tmp_path, with_script(page, READ), "--dump-dom", size="500,900")
    read = json.loads(html.unescape(re.search(r'<pre id="read">(.*?)</pre>', dom, re.DOTALL)[1]))
    rows = by_cell(found)
    series = [("eager", "fp32"), *RUNTIMES]
    assert len(read["all"]) == len(found.runs)
    for name, size, *cells in read["all"]:
        assert size == ("33x45" if name == "net03" else "32x32")
        for (batch, (runtime, precision)), shown in zip([(b, s) for b in (1, 8) for s in series], cells, strict=True):
            made = rows[name, runtime, precision, batch]
            if made.latency is None:
                assert shown == "failed"
            else:
                assert float(shown) == (made.speedup.speedup if made.speedup else made.latency.p50_ms)
    assert set(read["read"]) == {"curves-1", "curves-8"}, "the details of a model are drawn when it is opened"
    for trace in read["read"]["curves-8"]:
        runtime, precision = trace["name"].split()
        assert trace["y"] == sorted(trace["y"])
        assert trace["y"] == [rows[m, runtime, precision, 8].speedup.speedup for m in trace["models"]]
    fastest = sorted(
        (m for m, r, p, b in rows if (r, p, b) == ("ort-cpu", "fp32", 1)),
        key=lambda m: rows[m, "ort-cpu", "fp32", 1].speedup.speedup,
    )
    assert read["sorted"] == fastest
    assert sorted(read["some"]) == ["net07", "net11"]
    assert read["open"] == ["7"]
    assert read["hash"] == "#run-7"
    assert {"rounds-7", "batches-7"} <= set(read["drawn"])
    assert not [c for c in read["drawn"] if c.endswith("-8") and not c.startswith("curves")]
    assert read["wide"] <= 0, "nothing stands over the edge of a narrow screen"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_narrow_terminal_leaves_out_columns_and_cuts_no_number(width):
    rows = [
        row("eager", 1.0),
        row("tensorrt", 0.2, precision="fp16"),
        row("tensorrt", 0.1, precision="fp16", cuda_graph=True),
    ]
    report = overview(named_runs([(Path("r.json"), record(*rows, name="resnet18+se"), ())]))
    text = known_text(report, width)
    table = [line for line in text.splitlines() if line.startswith(("runtime", "eager", "tensorrt"))][:4]
    assert max(map(len, table)) <= width
    assert sum("tensorrt graph" in line for line in table) == 1, "captured graphs are told apart"
    assert "precision" in table[0]
    assert "p50 ms" in table[0]
    whole = [line for line in known_text(report).splitlines() if line.startswith("runtime")]
    assert ("left out at" in text) is (len(whole[0]) > width)
