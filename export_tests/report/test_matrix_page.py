"""The matrix page in a real browser: what a person sees of a red cell, and that it needs nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from attn_deploy.matrix.cell import CellId
from attn_deploy.report.matrix.html import matrix_html
from export_tests.matrix.matrix_records import green, mixed_record, record
from export_tests.pages.with_script import with_script

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")
RED = (0xD1, 0x34, 0x38)  # of the light theme
RED_SOFT = (0xFD, 0xE7, 0xE7)  # behind the reason of a red cell


def chromium(folder, page, *options, fragment=""):
    path = folder / "matrix.html"
    path.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
    command = [BROWSER, *flags, "--window-size=1280,1000", *options, f"{path.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def pixels(path):
    """The picture in a PNG file as (height, width, 3)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def count(picture, color):
    return int((picture == np.array(color)).all(axis=2).sum())


def test_the_page_needs_nothing_from_elsewhere():
    page = matrix_html(mixed_record())
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import|https?://""", page)
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    data = json.loads(text)
    assert len(data["cells"]) == 8
    assert len(data["texts"]) == len(set(data["texts"])), "a text that cells share stands there once"
    assert page.count("</script>") == 2, "a reason cannot end a script"


@in_a_browser
def test_the_reason_of_a_red_cell_shows(tmp_path):
    made = mixed_record()
    number = next(i for i, c in enumerate(made.cells) if c.kind == "ParityError")
    page, address = matrix_html(made), f"#cell-{number}"
    dom = chromium(tmp_path, page, "--dump-dom", fragment=address)
    detail = re.search(r'<aside id="detail"(?P<attributes>[^>]*)>(?P<inside>.*?)</aside>', dom, re.DOTALL)
    assert "hidden" not in detail["attributes"]
    assert made.cells[number].reason.replace("\x00", "�") in html.unescape(detail["inside"]).replace("\x00", "�")
    assert "rule R7" in detail["inside"]
    chromium(tmp_path, page, f"--screenshot={tmp_path}/open.png", fragment=address)
    chromium(tmp_path, page, f"--screenshot={tmp_path}/closed.png")
    opened, closed = pixels(tmp_path / "open.png"), pixels(tmp_path / "closed.png")
    assert count(closed, RED) > 500, "red cells are red"
    assert count(opened, RED_SOFT) > count(closed, RED_SOFT) + 5000, "the reason stands on its own ground"


USE = """<script>{
const seen = [], shown = () => seen.push(document.getElementById("shown").textContent), field = document.getElementById("search");
const type = text => { field.value = text; field.dispatchEvent(new Event("input")); shown(); };
const press = status => { document.querySelector(`#status [data-status="${status}"]`).click(); shown(); };
type("ec*"); type("e"); type("nothing"); type("");
press("failed"); press("skipped"); press("");
const red = document.querySelector("td .failed"), detail = document.getElementById("detail");
red.dispatchEvent(new MouseEvent("mouseover", {bubbles: true})); seen.push(detail.hidden ? "hidden" : detail.textContent);
red.dispatchEvent(new MouseEvent("mouseout", {bubbles: true})); seen.push(detail.hidden ? "hidden" : detail.textContent);
document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)}));
}</script></body>"""


@in_a_browser
def test_filters_and_hovering(tmp_path):
    dom = chromium(tmp_path, with_script(matrix_html(mixed_record()), USE), "--dump-dom")
    seen = json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)[1]))
    assert seen[:4] == ["1 of 2 models", "2 of 2 models", "0 of 2 models", "2 of 2 models"]
    assert seen[4:7] == ["2 of 2 models", "1 of 2 models", "2 of 2 models"], "both have red cells, one has a grey one"
    assert "crashed (SIGSEGV)" in seen[7]
    assert seen[8] == "hidden"


@in_a_browser
def test_a_green_matrix_shows_no_red(tmp_path):
    chromium(tmp_path, matrix_html(record(green("se", "dynamo", 13))), f"--screenshot={tmp_path}/green.png")
    picture = pixels(tmp_path / "green.png")
    assert count(picture, RED_SOFT) == 0
    assert count(picture, (0x2F, 0x9E, 0x62)) > 200, "green cells are green"


WIDTHS = """<script>{
const right = selector => Math.max(...[...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect().right));
document.body.append(Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(
  [right("#grid td button"), right("main")])}));
}</script></body>"""


@in_a_browser
@pytest.mark.parametrize(("opsets", "axes"), [(range(13, 15), ("all",)), (range(13, 26), ("none", "batch", "all"))])
def test_paper_shows_every_column(opsets, axes, tmp_path):
    """On paper nothing can be scrolled: columns beyond its edge would be lost."""
    name = "polarized_self_attention_sequential_paper"
    ids = [CellId(name, e, n, a) for e in ("dynamo", "torchscript") for n in opsets for a in axes]
    page = matrix_html(record(*(replace(green(i.model, i.exporter, i.opset), id=i) for i in ids)))
    page = with_script(page.replace("@media print", "@media all"), WIDTHS)
    dom = chromium(tmp_path, page, "--dump-dom", "--window-size=718,1000")
    last, edge = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', dom)[1])
    assert 0 < last <= edge <= 718
    assert "<wbr>" in page, "a long name breaks behind an underscore"
