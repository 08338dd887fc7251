"""The training table: rows, shards, stopping, refusals, and the pages. A few steps of the smallest network."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.data import load_dataset
from attn_deploy.errors import CheckpointError, DatasetError, InvalidRequestError, UnknownModelError
from attn_deploy.report.train_chart import place_labels
from attn_deploy.report.train_table import table_html, table_markdown, write_pages
from attn_deploy.training import deployed, table
from attn_deploy.training.deployed import Deployed
from attn_deploy.training.recipe import recipe_for
from attn_deploy.training.summary import TableRow, TableSummary, pareto_front, summarise_table
from attn_deploy.training.table import choose_modules, plan_table, train_table

RECIPE = recipe_for("digits", epochs=1, batch=64)
IMAGES = {"train": 256, "test": 60}


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """The first images of the digits, for every part that loads them; and short measurements."""

    def few(name, split="test", **options):
        found = load_dataset(name, split, **options)
        return found.head(IMAGES[split]) if name == "digits" else found

    with pytest.MonkeyPatch.context() as patch:
        for module in ("training.run", "accuracy.evaluate", "training.deployed", "training.table"):
            patch.setattr(f"attn_deploy.{module}.load_dataset", few)
        patch.setattr(table, "measure_deployed", functools.partial(deployed.measure_deployed, seconds=0.05))
        # The exporter that needs a fifth of the time: which one is no matter of the table.
        patch.setattr(deployed, "export", functools.partial(deployed.export, exporter="torchscript"))
        yield


@pytest.fixture(scope="module")
def plan():
    return plan_table("resnet8", ("eca", "pyconv"), "digits", RECIPE, seeds=2)


@pytest.fixture(scope="module")
def made(plan, tmp_path_factory):
    """A table in two shards, and its summaries after each."""
    root = tmp_path_factory.mktemp("table")
    first = train_table(root, plan, shard=(1, 2), threads=1)
    second = train_table(root, plan, shard=(2, 2), resume=True)
    return root, first, second


def test_shards_fill_the_table(made):
    _, first, second = made
    assert [r.module for r in first.rows] == ["none", "eca", "pyconv"]
    assert [r.mean is not None for r in first.rows] == [True, False, False]
    assert [r.mean is not None for r in second.rows] == [True, True, False]
    row = second.rows[1]
    assert (row.model, len(row.top1), row.parameters) == ("resnet8+eca", 2, 75_299)
    assert row.mean == pytest.approx(sum(row.top1) / 2)
    assert row.spread == pytest.approx(abs(row.top1[0] - row.top1[1]) / 2**0.5)
    assert row.fp32.images == 60
    assert row.fp32.same == 60, "the exported file gives other answers than PyTorch"
    assert row.fp32.top1 == pytest.approx(row.top1[0])
    assert 0 < row.fp32.low_ms <= row.fp32.p50_ms <= row.fp32.high_ms
    assert row.int8.images == 60
    assert row.int8.same >= 58, "eight bits change few answers"
    assert row.int8.sha256 != row.fp32.sha256
    assert row.macs > second.rows[0].macs > 1e6
    assert "out_channels must be a multiple of groups" in second.rows[2].reason


def test_rows_are_held_against_the_plain_one(made):
    plain, eca, pyconv = made[2].rows
    assert plain.against_plain is None
    assert pyconv.against_plain is None
    assert eca.against_plain.difference == pytest.approx(eca.mean - plain.mean)
    assert eca.against_plain.freedom == 2
    assert eca.corrected_p == eca.against_plain.p_value, "one comparison needs no correction"
    assert plain.low < plain.mean < plain.high
    text = table_markdown(made[2])
    assert "Differences are held against how much seeds differ" in text
    assert "cannot rank modules that lie within that spread" in text
    assert "Recipe: 1 epochs at batch 64" in text
    assert made[2].arithmetics
    assert f"Trained in {made[2].arithmetics[0]}." in text
    assert "One seed each" not in text
    alone = replace(plain, top1=plain.top1[:1], spread=None)
    only = replace(
        eca, top1=eca.top1[:1], spread=None, against_plain=replace(eca.against_plain, p_value=None, low=None)
    )
    page = table_markdown(replace(made[2], rows=(alone, only)))
    assert "One seed each: another seed moves a row by about as much as most modules differ" in page
    assert "too few seeds" in page


def test_the_best_rows_and_the_plain_one_get_more_seeds(tmp_path, monkeypatch):
    """Chosen by their first seeds, once all of them are there."""
    trained = []

    def pretend(name, *, seed, output, **settings):
        trained.append((name, seed))
        (output / "done").parent.mkdir(parents=True, exist_ok=True)
        (output / "done").write_text("")

    def rows(root, plan):
        accuracy = {"none": 0.8, "se": 0.7, "eca": 0.9, "gc": 0.85}
        made = []
        for module in plan.modules:
            count = sum((plan.folder(root, module, s) / "done").exists() for s in range(plan.most_seeds))
            mean = accuracy[module] if count else None
            made.append(TableRow(module=module, model=plan.name(module), top1=(mean,) * count, mean=mean))
        return TableSummary(plan=plan.to_dict(), rows=tuple(made), environments=(), busy=None)

    monkeypatch.setattr(table, "train", pretend)
    monkeypatch.setattr(table, "summarise_table", rows)
    monkeypatch.setattr(table, "measure_deployed", lambda *a, **k: ())
    monkeypatch.setattr(table, "write_deployed", lambda *a, **k: None)
    asked = plan_table("resnet8", ("se", "eca", "gc"), "digits", RECIPE, 1, more_seeds=3, best=2)
    train_table(tmp_path, asked, shard=(1, 2))
    assert trained == [("resnet8", 0), ("resnet8", 1), ("resnet8", 2), ("resnet8+eca", 0)], (
        "half of the rows are not there"
    )
    trained.clear()
    train_table(tmp_path, asked, shard=(2, 2), resume=True)
    assert trained[:2] == [("resnet8+se", 0), ("resnet8+gc", 0)]
    assert set(trained[2:]) == {("resnet8+gc", s) for s in range(3)}, "the second shard's best row"
    trained.clear()
    train_table(tmp_path, asked, resume=True)
    assert {t for t in trained if t[1] > 0} == {
        (m, s) for m in ("resnet8", "resnet8+eca", "resnet8+gc") for s in (1, 2)
    }


def test_a_finished_table_runs_nothing(made, plan, monkeypatch):
    root, _, second = made

    def never(*args, **kwargs):
        raise AssertionError("a finished row was measured again")

    monkeypatch.setattr(table, "measure_deployed", never)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.safetensors")}
    assert train_table(root, plan, resume=True) == second
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.safetensors")} == before
    assert json.loads((root / "summary.json").read_text())["rows"][1]["module"] == "eca"


def test_a_table_that_is_stopped_goes_on(plan, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    def seen(at):
        if at.step == 3:
            raise Stopped

    small = replace(plan, modules=("none",), seeds=1)
    monkeypatch.setattr(table, "measure_deployed", lambda *a, **k: ())
    with pytest.raises(Stopped):
        train_table(tmp_path, small, on_step=seen)
    with pytest.raises(InvalidRequestError, match="already holds a table; continue it with --resume"):
        train_table(tmp_path, small)
    assert train_table(tmp_path, small, only_report=True).rows[0].mean is None
    assert train_table(tmp_path, small, resume=True).rows[0].mean is not None


def test_a_table_may_grow_and_changes_in_nothing_else(made, plan):
    root, _, _ = made
    grown = train_table(root, replace(plan, modules=("none", "se")), only_report=True)
    assert [r.module for r in grown.rows] == ["none", "eca", "pyconv", "se"]
    assert grown.rows[3].mean is None
    with pytest.raises(InvalidRequestError, match="holds a table with recipe"):
        train_table(root, replace(plan, recipe=recipe_for("digits", epochs=9)), resume=True)
    (root / "table.json").write_text(json.dumps(plan.to_dict()))


def test_measurements_are_kept(made, tmp_path):
    root, _, second = made
    found = deployed.read_deployed(root / "resnet8-s0" / "deployed.json")
    assert [f.precision for f in found] == ["fp32", "int8"]
    assert (found[0].correct, found[1].correct) == (second.rows[0].fp32.correct, second.rows[0].int8.correct)
    deployed.write_deployed(tmp_path / "d.json", found, {})
    assert deployed.read_deployed(tmp_path / "d.json") == found
    assert deployed.read_deployed(tmp_path / "none.json") == ()
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(CheckpointError, match="Remove it to measure again"):
        deployed.read_deployed(tmp_path / "d.json")


def test_pages(made, tmp_path):
    _, first, second = made
    text = table_markdown(second)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert "UCI handwritten digits" in text
    assert "2 of 3 rows have numbers" in text
    assert "| pyconv | does not fit | not measured |" in text
    assert "- `resnet8+pyconv`: " in text
    assert "60 of 60" in text
    assert lines[2].count("not measured") == 0
    assert "| eca | not measured | not measured |" in table_markdown(first)
    page = table_html(second)
    assert page.count("<circle") == 2
    assert "<polyline" in page
    assert "<script" not in page
    assert "<svg" not in table_html(first), "one point is no chart"
    write_pages(second, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.html", "table.md"]


def test_names_are_escaped(made):
    row = TableRow(module="<img src=x>", model="x+<img src=x>", reason="a < b & c")
    page = table_html(replace(made[2], rows=(row,)))
    assert "<img" not in page
    assert page.count("&lt;img src=x&gt;") == 2, "the name stands in the table, and with its reason"
    assert "a &lt; b &amp; c" in page


def test_load_is_told(made):
    busy = Deployed("fp32", 1, 2, 2, 1.0, 0.9, 1.1, 7.5, "0")
    summary = replace(made[2], rows=(replace(made[2].rows[0], fp32=busy),), busy=7.5)
    assert "load up to 7.5" in table_markdown(summary)
    assert "load up to" not in table_markdown(replace(summary, busy=None))


@given(st.lists(st.tuples(st.floats(64, 640), st.floats(16, 370)), max_size=20))
def test_labels_do_not_cover_each_other_or_a_dot(places):
    dots = {f"module{i}": (round(x, 1), round(y, 1)) for i, (x, y) in enumerate(places)}
    boxes = []
    for name, (x, y, anchor) in place_labels(dots).items():
        width = 6.2 * len(name)
        left = {"start": x, "end": x - width, "middle": x - width / 2}[anchor]
        assert left >= 60
        assert left + width <= 761
        boxes.append((left, y - 9, left + width, y + 1))
    for index, (a, top, b, bottom) in enumerate(boxes):
        assert not any(a < d and c < b and top < f and e < bottom for c, e, d, f in boxes[:index])
        assert not any(a < x < b and top < y < bottom for x, y in dots.values())


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 5), st.integers(0, 5))), max_size=12))
def test_the_front_holds_what_nothing_beats(points):
    front = pareto_front([None if p is None else (float(p[0]), float(p[1])) for p in points])
    for index, point in enumerate(points):
        if point is None:
            assert index not in front
            continue
        beaten = any(
            q is not None and q[0] <= point[0] and q[1] >= point[1] and (q[0] < point[0] or q[1] > point[1])
            for q in points
        )
        assert (index in front) == (not beaten)


def test_words():
    every = choose_modules(("all",))
    assert every[0] == "none"
    assert {"se", "ghostmodule", "psp"} <= set(every)
    assert not {"resnet18", "mish"} & set(every)
    assert choose_modules(("se", "SE", "sa", "none")) == ("none", "se", "shuffle_attention")
    assert choose_modules(("usual",)) == ("none", *table.USUAL)
    assert len(table.USUAL) >= 16
    assert choose_modules(("se:reduction=8",)) == ("none", "se:reduction=8")
    with pytest.raises(UnknownModelError):
        choose_modules(("sse2",))
    with pytest.raises(InvalidRequestError, match="'resnet18' is a backbone"):
        choose_modules(("resnet18",))


def test_plans_that_cannot_be(tmp_path):
    with pytest.raises(InvalidRequestError, match="'se' is not a backbone"):
        plan_table("se", ("eca",), "digits", RECIPE, 1)
    with pytest.raises(InvalidRequestError, match=r"'resnet8\+se' is not a backbone"):
        plan_table("resnet8+se", ("eca",), "digits", RECIPE, 1)
    with pytest.raises(InvalidRequestError, match=r"best is -1 and more_seeds is 0; neither can be negative"):
        plan_table("resnet8", ("eca",), "digits", RECIPE, 1, best=-1)
    with pytest.raises(InvalidRequestError, match="seeds is 0"):
        plan_table("resnet8", ("eca",), "digits", RECIPE, 0)
    with pytest.raises(DatasetError):
        plan_table("resnet8", ("eca",), "cifar10", RECIPE, 1, data_dir=tmp_path)
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(CheckpointError, match="is not the plan of a table"):
        table.TablePlan.read(tmp_path)


def test_a_damaged_refusal_is_told(plan, tmp_path):
    (tmp_path / "resnet8-s0").mkdir()
    (tmp_path / "resnet8-s0" / "refused.json").write_text("{")
    with pytest.raises(CheckpointError, match="Remove it to try the row again"):
        summarise_table(tmp_path, plan)


def test_the_command_line(made):
    root, _, _ = made
    words = ["train-table", "--backbone", "resnet8", "--models", "eca,pyconv", "--dataset", "digits", "-o", str(root)]
    other = CliRunner().invoke(app, [*words, "--only-report"])
    assert other.exit_code == 2
    assert "holds a table with recipe" in other.stderr
