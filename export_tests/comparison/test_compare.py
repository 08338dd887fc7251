"""What changed between two profiles, beyond noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.comparison.collection import named_runs
from attn_deploy.comparison.compare import compare_runs, mcnemar_bound
from attn_deploy.report.profile.text import profile_diff_text
from export_tests.bench.profile_records import accuracy, failed, latency, record, row


def runs_of(*records):
    return named_runs([(Path(f"{i}/record.json"), r, ()) for i, r in enumerate(records)])


def test_the_same_again_is_no_change():
    before, after = (runs_of(record(row("eager", 5.0, seed=s), row("ort-cpu", 3.0, seed=s + 50))) for s in (0, 1))
    found = compare_runs(before, after)
    assert not found.changes
    assert found.same == 2
    assert not found.notes


@pytest.mark.parametrize(("factor", "kind"), [(1.1, "slower"), (1 / 1.1, "faster"), (1.02, None)])
def test_a_change_of_time_is_found_with_its_size(factor, kind):
    before = runs_of(record(row("ort-cpu", 3.0, seed=0)))
    found = compare_runs(before, runs_of(record(row("ort-cpu", 3.0 * factor, seed=1))))
    assert [c.kind for c in found.changes] == ([kind] if kind else [])
    if kind:
        assert found.changes[0].ratio == pytest.approx(factor, rel=0.02)
        assert found.changes[0].regression == (kind == "slower")
    assert compare_runs(before, runs_of(record(row("ort-cpu", 3.0 * factor, seed=1))), threshold=0.3).same == 1


def test_rows_that_break_and_repair_are_told_with_the_reason():
    good, bad = (
        record(row("eager", 1.0), row("ort-cpu", 1.0)),
        record(row("eager", 1.0), failed("ort-cpu", "no provider")),
    )
    found = compare_runs(runs_of(good), runs_of(bad))
    assert [(c.kind, c.detail) for c in found.regressions] == [("broken", "no provider")]
    found = compare_runs(runs_of(bad), runs_of(good))
    assert [c.kind for c in found.changes] == ["repaired"]
    assert not found.regressions


def test_a_row_that_vanished_is_a_regression_unless_it_may(tmp_path):
    whole = record(row("eager", 1.0), row("ort-cpu", 2.0, seed=1), failed("compile", "no compiler"))
    part = record(row("eager", 1.0))
    found = compare_runs(runs_of(whole), runs_of(part))
    assert [(c.kind, c.key, c.before) for c in found.regressions] == [("removed", "ort-cpu fp32 b1 32x32", "2.076 ms")]
    assert len(found.removed) == 2, "the row that failed before is told, and no regression"
    assert compare_runs(runs_of(whole), runs_of(part), allow_removed=True).passed
    assert compare_runs(runs_of(part), runs_of(whole)).passed
    for name, made in {"whole": whole, "part": part}.items():
        made.write(tmp_path / f"{name}.json")
    arguments = ["compare", str(tmp_path / "whole.json"), str(tmp_path / "part.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "regression  resnet18+se: ort-cpu fp32 b1 32x32: removed, 2.076 ms -> not there" in done.stdout
    assert CliRunner().invoke(app, [*arguments, "--allow-removed"]).exit_code == 0


def test_rows_without_a_number_on_both_sides_are_not_compared(tmp_path):
    bad = record(failed("eager", "broken"), failed("ort-cpu", "broken"), row("compile", 1.0))
    found = compare_runs(runs_of(bad), runs_of(bad))
    assert (found.same, found.unmeasured, found.passed) == (1, 2, True)
    assert "2 rows have no number in either." in profile_diff_text(found)
    none = record(failed("eager", "broken"))
    none.write(tmp_path / "r.json")
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "r.json"), str(tmp_path / "r.json")])
    assert done.exit_code == 1
    assert "1 row has no number in either.\nNothing was compared" in done.stdout


def test_the_confidence_of_a_comparison_is_chosen(tmp_path):
    before, after = runs_of(record(row("ort-cpu", 3.0))), runs_of(record(row("ort-cpu", 3.3, seed=1)))
    wide, narrow = (compare_runs(before, after, confidence=c).changes[0].detail for c in (0.99, 0.5))
    assert wide != narrow
    record(row("ort-cpu", 3.0)).write(tmp_path / "r.json")
    done = CliRunner().invoke(
        app, ["compare", str(tmp_path / "r.json"), str(tmp_path / "r.json"), "--confidence", "95"]
    )
    assert done.exit_code == 2
    assert "the confidence is 95" in done.stderr


def test_too_few_rounds_are_undecided():
    def short(ms):
        return runs_of(record(row("ort-cpu", ms, latency=latency(ms, rounds=4))))

    found = compare_runs(short(3.0), short(6.0))
    assert found.undecided == ("resnet18+se: ort-cpu fp32 b1 32x32",)
    assert not found.changes


def test_an_accuracy_that_fell_is_a_regression():
    def at(top1, **changes):
        return runs_of(record(row("ort-cpu", 1.0, accuracy=replace(accuracy(top1, images=1000), **changes))))

    assert [c.kind for c in compare_runs(at(0.95), at(0.80)).regressions] == ["less accurate"]
    assert not compare_runs(at(0.95), at(0.949)).changes
    other = compare_runs(at(0.95), at(0.80, sha256="e" * 64))
    assert not other.changes
    assert any("different images" in n for n in other.notes)


def test_the_bound_on_mcnemar_is_never_below_the_test_itself():
    """Draw answers of two models and a reference; the bound knows the counts alone, the test every answer."""
    from attn_deploy.accuracy.metrics import mcnemar

    rng = np.random.default_rng(0)
    closest = []
    for _ in range(200):
        reference = rng.random(400) < 0.9
        rights = [reference ^ (rng.random(400) < rate) for rate in rng.uniform(0, 0.1, 2)]
        rows = [
            replace(
                accuracy(0.5, images=400),
                correct=int(right.sum()),
                only_reference=int((reference & ~right).sum()),
                only_this=int((right & ~reference).sum()),
            )
            for right in rights
        ]
        bound, exact = mcnemar_bound(*rows), mcnemar(*rights).p_value
        assert bound >= exact * (1 - 1e-9)
        closest.append(bound - exact)
    assert min(closest) < 0.05, "the bound can decide"


def test_compare_exits_with_1_on_a_regression_and_2_without_common_rows(tmp_path):
    files = {
        "old": record(row("eager", 5.0), row("ort-cpu", 3.0, seed=1)),
        "new": record(row("eager", 5.0, seed=2), row("ort-cpu", 4.0, seed=3)),
        "other": record(row("eager", 5.0), name="cbam"),
    }
    for name, made in files.items():
        made.write(tmp_path / f"{name}.json")
    old, new, other = (str(tmp_path / f"{n}.json") for n in files)
    done = CliRunner().invoke(app, ["compare", old, new])
    assert done.exit_code == 1
    assert "regression  resnet18+se: ort-cpu fp32 b1 32x32: slower" in done.stdout
    assert json.loads(CliRunner().invoke(app, ["compare", old, new, "--json"]).stdout)["passed"] is False
    assert CliRunner().invoke(app, ["compare", old, old]).exit_code == 0
    assert CliRunner().invoke(app, ["compare", old, new, "--threshold", "0.5"]).exit_code == 0
    done = CliRunner().invoke(app, ["compare", old, other])
    assert done.exit_code == 2
    assert "nothing in common: the first has resnet18+se (eager" in done.stderr
    done = CliRunner().invoke(app, ["compare", old, new, "--threshold", "-1"])
    assert done.exit_code == 2
