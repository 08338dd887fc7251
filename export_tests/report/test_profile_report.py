"""Reports over profile records: files, the page in a real browser, and what is refused."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from attn_deploy.bench.evidence import Conditions
from attn_deploy.bench.latency import ColdStart
from attn_deploy.bench.layers import write_layers
from attn_deploy.cli import app
from attn_deploy.comparison.collection import named_runs, read_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.errors import InvalidRequestError, MissingDependencyError
from attn_deploy.machine.state import GpuState, MachineState
from attn_deploy.report.profile import charts
from attn_deploy.report.profile import html as page_module
from attn_deploy.report.profile.html import profile_html
from attn_deploy.report.profile.tables import profile_csv, profile_json, profile_markdown
from attn_deploy.report.profile.terminal import profile_report
from attn_deploy.report.profile.text import known_text
from export_tests.bench.profile_records import CPU, GPU, accuracy, failed, full, layer_report, record, row
from export_tests.pages.with_script import with_script

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")
BLUE = (0x2F, 0x7F, 0xD6)  # of ort-cpu
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"


def runs_of(*records):
    return named_runs([(Path(f"{i}/record.json"), r, ()) for i, r in enumerate(records)])


@pytest.fixture(scope="module")
def one():
    return overview(named_runs([(Path("record.json"), full(), (layer_report(),))]))


@pytest.fixture(scope="module")
def many():
    made = [full(n, seed=i, scale=0.1 * (i + 1)) for i, n in enumerate(("se", "cbam", "psp"))]
    made.append(record(row("eager", 1.0), row("tensorrt", 0.2, precision="fp16"), name="se", environment=GPU))
    return overview(runs_of(*made))


def chromium(folder, page, *options, fragment="", size="1280,2400"):
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder}/profile",
        OFFLINE,
    ]
    flags += ["--virtual-time-budget=3000", f"--window-size={size}"]
    done = subprocess.run(
        [BROWSER, *flags, *options, path.as_uri() + fragment], capture_output=True, text=True, timeout=180, check=True
    )
    return done.stdout


# --- files -----------------------------------------------------------------------------------------------------------


def test_csv_holds_every_row_with_its_numbers_in_full(one):
    rows = list(csv.DictReader(io.StringIO(profile_csv(one))))
    assert len(rows) == len(one.entries) == 18
    for entry, found in zip(one.entries, rows, strict=True):
        made = entry.row
        assert (found["runtime"], found["precision"], int(found["batch"])) == (made.runtime, made.precision, made.batch)
        if made.latency:
            assert float(found["p50_ms"]) == made.latency.p50_ms
            assert float(found["top1"]) == made.accuracy.top1
            assert float(found["floor_multiple"]) == entry.limit.multiple
        else:
            assert found["p50_ms"] == ""
            assert found["reason"] == made.reason


def test_json_has_rows_means_and_machines(many):
    data = json.loads(profile_json(many))
    assert len(data["rows"]) == len(many.entries)
    assert set(data["environments"]) == {r.label for r in many.runs}
    mean = next(m for m in data["means"] if m["runtime"] == "ort-cpu" and m["precision"] == "int8" and m["batch"] == 8)
    speedups = [
        e.row.speedup.speedup
        for e in many.entries
        if (e.row.runtime, e.row.precision, e.row.batch) == ("ort-cpu", "int8", 8)
    ]
    assert mean["models"] == len(speedups) == 3
    assert mean["mean"] == pytest.approx(float(np.exp(np.mean(np.log(speedups)))))
    assert mean["interval"]["low"] <= mean["mean"] <= mean["interval"]["high"]


def test_two_models_are_too_few_for_an_interval():
    pair = [record(row("eager", 1.0), row("ort-cpu", 0.5, seed=i), name=f"net{i}") for i in range(2)]
    found = overview(runs_of(*pair))
    assert [m.interval for m in found.means] == [None]
    assert "(too few for an interval)" in profile_markdown(found)
    assert "<td>too few</td>" in profile_html(found)


def test_markdown_says_why_a_row_has_no_number(one):
    text = profile_markdown(one)
    assert "| ort-cpu | int8 | 1 | 32x32 |" in text
    assert "no C++ compiler: &lt;g++> is not installed" in text
    assert "ran on CPU & not where it was asked" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1, "every line of the table has its columns"


def test_cold_starts_and_conditions_are_in_every_form(tmp_path):
    state = MachineState(0.5, 2950.0, (GpuState("NVIDIA H100", 1980, 2619, 61, 300.0, 1 << 30, ("power cap",)),))
    before = replace(state, cpu_mhz=2400.0)
    timed = row("ort-cpu", 1.0, cold=ColdStart(0.25, 0.125, 1.5, 7.5), conditions=Conditions(before, state))
    made = record(timed, environment=GPU)
    found = overview(runs_of(made))
    line = next(csv.DictReader(io.StringIO(profile_csv(found))))
    assert [float(line[k]) for k in ("import_seconds", "build_seconds", "load_seconds")] == [1.5, 7.5, 0.25]
    assert [float(line[k]) for k in ("cpu_mhz", "gpu_mhz", "gpu_celsius", "gpu_watts")] == [2950, 1980, 61, 300]
    assert line["throttled"] == "power cap"
    assert json.loads(profile_json(found))["rows"][0]["build_seconds"] == 7.5
    clocks = "CPU 2400 to 2950 MHz; load 0.50; NVIDIA H100 1980 MHz, 61 °C, 300 W, held down by power cap."
    text, page = profile_markdown(found), profile_html(found)
    assert "ort-cpu import 1500 + build 7500 + 250 + 125." in text
    assert clocks in text
    assert clocks in page
    assert re.search(r'ort-cpu fp32</td><td data-v="1.5">1,500</td><td data-v="7.5">7,500</td>', page)
    assert "p95 ms" in page
    shown = io.StringIO()
    Console(file=shown, width=200).print(profile_report(made, 200))
    assert "p95 ms" in shown.getvalue()
    assert "p95 ms" in known_text(found)


# --- the front and the limits ----------------------------------------------------------------------------------------


def test_the_front_holds_what_nothing_beats():
    rows = (
        row("eager", 4.0, accuracy=accuracy(0.9, reference="")),
        row("ort-cpu", 2.0, accuracy=accuracy(0.9)),
        row("ort-cpu", 1.0, precision="int8", accuracy=accuracy(0.8)),
        row("compile", 1.5, accuracy=accuracy(0.75)),
    )
    found = overview(runs_of(record(*rows)))
    assert [e.on_front for e in found.entries] == [False, True, True, False]
    other = overview(runs_of(record(*rows), record(*rows, environment=GPU)))
    assert sum(e.on_front for e in other.entries) == 4, "each machine has its own front"


def test_rows_without_a_graph_take_the_limit_of_the_exported_one(one):
    limits = {e.row.key: e.limit for e in one.entries if e.limit}
    eager, exported = limits["eager fp32 b8 32x32"], limits["ort-cpu fp32 b8 32x32"]
    assert eager.floor_ms == exported.floor_ms > 0
    assert eager.device == "generic-x86"
    assert limits["ort-cpu int8 b8 32x32"].floor_ms < exported.floor_ms


def test_another_processor_has_no_floor_unless_a_device_is_named():
    from attn_deploy.machine.devices import load_device

    runs = runs_of(record(row("eager", 1.0), row("ort-cpu", 1.0), environment=replace(CPU, cpu="Another 9000")))
    assert not any(e.limit for e in overview(runs).entries)
    assert all(e.limit for e in overview(runs, load_device("generic-x86")).entries)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(one):
    page = profile_html(one)
    own = page.replace(page_module.plotly_script(), "")
    assert len(own) < 120_000
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import|https?://""", own)
    assert page.count("</script>") == 3, "no text can end a script"
    assert "&lt;g++&gt;" in own
    assert "<g++" not in own


READ = """<script>{
const read = [...document.querySelectorAll(".chart")].filter(c => c.data).map(c => [c.id, c.data.map(t => ({type: t.type,
  name: t.name, x: t.x && [...t.x], y: t.y && [...t.y], median: t.median && [...t.median], values: t.values && [...t.values]}))]);
const rows = [...document.querySelectorAll("#rows tbody tr")];
const cells = rows.map(r => [r.dataset.key, r.hidden, [...r.cells].map(c => c.dataset.v)]);
const heads = [...document.querySelectorAll("#rows th")].map(h => h.textContent);
document.body.append(Object.assign(document.createElement("pre"), {id: "read", textContent: JSON.stringify({read, cells, heads,
  wide: document.documentElement.scrollWidth - innerWidth})}));
}</script></body>"""


def read_page(folder, page, **settings):
    dom = chromium(folder, with_script(page, READ), "--dump-dom", **settings)
    return json.loads(html.unescape(re.search(r'<pre id="read">(.*?)</pre>', dom, re.DOTALL)[1]))


@in_a_browser
def test_the_numbers_of_the_page_are_those_of_the_record(tmp_path, one):
    found = read_page(tmp_path, profile_html(one), size="500,900")
    assert found["wide"] <= 0, "nothing stands over the edge of a narrow screen"
    timed = {e.row.key: e for e in one.entries if e.row.latency}
    cells = {key: dict(zip(found["heads"], values, strict=True)) for key, _, values in found["cells"]}
    assert set(cells) == set(timed)
    for key, entry in timed.items():
        assert float(cells[key]["p50 ms"]) == entry.row.latency.p50_ms
        assert float(cells[key]["p99 ms"]) == entry.row.latency.percentile_ms(99)
        assert float(cells[key]["top-1"]) == entry.row.accuracy.top1
        assert float(cells[key]["times the floor"]) == entry.limit.multiple
        if entry.row.speedup:
            assert float(cells[key]["speed-up"]) == entry.row.speedup.speedup
    drawn = dict(found["read"])
    boxes = [t for t in drawn["distribution-0-0"] if t["type"] == "box"]
    first = [e for e in timed.values() if (e.row.batch, e.row.size) == (1, (32, 32))]
    assert [t["median"][0] for t in boxes] == [e.row.latency.p50_ms for e in first]
    assert drawn["light-0"][0]["x"] == pytest.approx([100 / e.limit.multiple for e in timed.values()])
    dots = [(x, y) for t in drawn["accuracy"] if t["name"] != "front" for x, y in zip(t["x"], t["y"], strict=True)]
    assert sorted(dots) == sorted(
        (e.row.latency.p50_ms / e.row.batch, 100 * e.row.accuracy.top1) for e in timed.values()
    )
    assert drawn["layers-0-0"][0]["values"][0] == one.runs[0].layers[0].total_us
    assert {"batches-0", "sizes-0", "rounds-0"} <= set(drawn)


@in_a_browser
def test_the_page_shows_its_charts(tmp_path, one):
    page = profile_html(one)
    chromium(tmp_path, page, f"--screenshot={tmp_path}/page.png")
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert int((pixels == np.array(BLUE)).all(axis=2).sum()) > 2000, "the bars of ort-cpu are drawn"


@in_a_browser
def test_a_run_of_many_is_chosen_by_its_address(tmp_path, many):
    page = profile_html(many)
    index = next(i for i, r in enumerate(many.runs) if r.record.name == "psp")
    chosen = read_page(tmp_path, page, fragment=f"#run-{index}")
    assert not {c for c, _ in chosen["read"]} & {"accuracy", "speedups"}, "those of all models are out of the way"
    assert {c for c, _ in chosen["read"]} >= {f"light-{index}", f"rounds-{index}", f"batches-{index}"}
    assert sum(not hidden for _, hidden, _ in chosen["cells"]) == sum(e.row.latency is not None for e in many.of(index))


def test_rows_of_one_reason_share_a_line_and_noise_is_folded():
    rows = [row("eager", 1.0, noise="the median drifted")]
    rows += [failed("compile", "no compiler", batch=b) for b in (1, 2, 4)]
    text = profile_html(overview(runs_of(record(*rows))))
    assert text.count("no compiler") == 1
    assert "compile fp32 b1 32x32 and 2 more" in text
    assert re.search(r"<details><summary>1 row with a doubtful median</summary>.*the median drifted.*?</details>", text)


def test_lines_of_the_rounds_are_told_apart_by_legend_and_dash(one):
    lines = charts.rounds(one.entries)["data"]
    assert len(lines) > 8
    assert all(t.get("showlegend", True) for t in lines)
    looks = {(t["line"]["color"], t["line"]["dash"], t["marker"]["symbol"]) for t in lines}
    assert len(looks) == len(lines)


def test_without_plotly_the_page_names_the_extra(one, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingDependencyError, match=r"attn-deploy\[report\]"):
        profile_html(one)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_records_of_trainings_and_matrices_in_a_folder_are_no_profiles(tmp_path):
    for kind, fields in {"run": ("recipe", "history"), "matrix": ("cells", "counts")}.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "record.json").write_text(json.dumps({"schema_version": 1, **dict.fromkeys(fields, 0)}))
    (tmp_path / "zoo").mkdir()
    full("se").write(tmp_path / "zoo" / "se.json")
    assert [r.record.name for r in read_runs([tmp_path])] == ["se"]


def test_folders_are_read_with_what_stands_beside_the_record(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    full("se").write(tmp_path / "a" / "record.json")
    write_layers(tmp_path / "a" / "layers.json", [layer_report("se")])
    full("cbam").write(tmp_path / "b" / "record.json")
    runs = read_runs([tmp_path, tmp_path / "a" / "record.json"])
    assert [r.label for r in runs] == ["cbam", "se"], "a record that is named twice is there once"
    assert runs[1].layers == (layer_report("se"),)
    twice = read_runs([tmp_path / "a"]) + read_runs([tmp_path / "a"])
    labels = [r.label for r in named_runs([(r.path, r.record, ()) for r in twice])]
    assert labels[0].startswith("se · 2026-11-23")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no profile record"),
        ({"record.json": "{"}, r"record\.json.*is not JSON"),
        ({"record.json": '{"schema_version": 99}'}, r"record\.json.*schema version 99"),
        (
            {"record.json": '{"schema_version": 2, "name": "x"}'},
            r"record\.json cannot be read as a profile record: environment is missing",
        ),
        ({"other.json": '{"title": "another benchmark"}'}, "holds no profile record"),
        ({"half.json": '{"schema_version": 2, "na'}, r"half\.json is not JSON"),
    ],
)
def test_folders_that_cannot_be_read_say_so_with_the_file(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2
    assert re.search(message, done.stderr), done.stderr


def test_broken_layers_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match="does not exist"):
        read_runs([tmp_path / "nowhere"])
    full().write(tmp_path / "record.json")
    for text in (
        "{",
        '{"schema_version": 9, "reports": []}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "reports": [3]}',
    ):
        (tmp_path / "layers.json").write_text(text)
        with pytest.raises(InvalidRequestError, match=r"layers\.json"):
            read_runs([tmp_path])
    record().write(tmp_path / "record.json")
    with pytest.raises(InvalidRequestError, match="no rows"):
        read_runs([tmp_path])


def test_reports_are_written_in_the_form_of_their_suffix(tmp_path):
    full().write(tmp_path / "record.json")
    targets = [tmp_path / f"out{s}" for s in (".html", ".md", ".csv", ".json")]
    arguments = [a for t in targets for a in ("-o", str(t))]
    done = CliRunner().invoke(app, ["report", str(tmp_path / "record.json"), *arguments])
    assert done.exit_code == 0, done.output
    assert all(t.stat().st_size > 1000 for t in targets)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "record.json"), "-o", str(tmp_path / "out.pdf")])
    assert done.exit_code == 2
    assert ".html, .md, .csv, .json" in done.stderr
    done = CliRunner().invoke(app, ["report", str(tmp_path / "record.json")])
    assert "ort-cpu  int8" in done.stdout
    done = CliRunner().invoke(app, ["report", str(tmp_path / "record.json"), "--json"])
    assert json.loads(done.stdout) == json.loads((tmp_path / "out.json").read_text())
