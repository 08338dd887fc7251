"""The profiles that come with the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.comparison import digest, library
from attn_deploy.comparison.library import RESULTS
from attn_deploy.errors import InvalidRequestError
from export_tests.bench.profile_records import GPU, full, record, row


def test_known_profiles_are_found_by_device_and_model(tmp_path):
    (tmp_path / "amd-epyc").mkdir()
    (tmp_path / "amd-epyc" / "notes.json").write_text('{"title": "another benchmark"}')
    full("se").write(tmp_path / "amd-epyc" / "se.json")
    full("cbam").write(tmp_path / "amd-epyc" / "cbam.json")
    assert [r.record.name for r in library.known_runs(folder=tmp_path)] == ["cbam", "se"]
    assert [r.record.name for r in library.known_runs(folder=tmp_path, device="AMD EPYC", model="s*")] == ["se"]
    with pytest.raises(InvalidRequestError, match="did you mean 'amd-epyc'"):
        library.known_runs(folder=tmp_path, device="amd-epic")
    with pytest.raises(InvalidRequestError, match="Measured: cbam, se"):
        library.known_runs(folder=tmp_path, model="resnet")
    assert library.known_runs(folder=tmp_path / "nowhere") == ()


def test_profiles_prints_what_is_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "in_checkout", lambda: True)
    monkeypatch.setattr(library.known_runs, "__kwdefaults__", {**library.known_runs.__kwdefaults__, "folder": tmp_path})
    done = CliRunner().invoke(app, ["profiles"])
    assert done.exit_code == 1
    assert "no measured profiles" in done.stderr
    done = CliRunner().invoke(app, ["profiles", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["rows"] == []
    (tmp_path / "h100").mkdir()
    made = record(row("eager", 1.0), row("tensorrt", 0.2, precision="fp16"), name="se", environment=GPU)
    made.write(tmp_path / "h100" / "se.json")
    done = CliRunner().invoke(app, ["profiles", "--device", "h100"])
    assert done.exit_code == 0, done.output
    assert "machine: H100 80GB HBM3" in done.stdout
    assert re.search(r"tensorrt\s+fp16", done.stdout)
    assert len(json.loads(CliRunner().invoke(app, ["profiles", "--json"]).stdout)["rows"]) == 2


def test_the_committed_profiles_can_be_read_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from attn_deploy.comparison.library import known_runs\n"
        "from attn_deploy.comparison.overview import overview\n"
        "from attn_deploy.report.profile.text import known_text\n"
        "print(known_text(overview(known_runs())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_digest_of_the_package_is_that_of_the_records():
    assert digest.DIGEST.read_text(encoding="utf-8") == digest.render_digest(digest.make_digest()), (
        "run python -m attn_deploy.comparison.digest"
    )
    assert digest.DIGEST.stat().st_size < 200_000
    records = [r for r in library.known_runs() if r.record.rows]
    assert len(digest.read_digest().rows) == sum(len(r.record.rows) for r in records)


def test_an_installed_package_prints_its_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "RESULTS", tmp_path / "nowhere")
    printed = CliRunner().invoke(app, ["profiles", "--device", "AMD EPYC", "--model", "se"])
    assert printed.exit_code == 0, printed.output
    from_records = next(r for r in library.known_runs(folder=RESULTS, model="se"))
    eager = next(r for r in from_records.record.rows if r.runtime == "eager" and r.batch == 1)
    line = next(x for x in printed.stdout.splitlines() if x.startswith("eager"))
    assert float(line.split()[4]) == pytest.approx(eager.latency.p50_ms, rel=1e-2)
    rows = json.loads(CliRunner().invoke(app, ["profiles", "--json"]).stdout)["rows"]
    assert {r["model"] for r in rows} == {r.record.name for r in library.known_runs(folder=RESULTS)}
    assert "over 114 models" in CliRunner().invoke(app, ["profiles"]).stdout
    for words, said in (
        (["--device", "amd-epic"], "did you mean 'amd-epyc'"),
        (["--model", "nothing"], "no measured profile of the model"),
        (["-o", str(tmp_path / "zoo.html")], "clone it"),
    ):
        refused = CliRunner().invoke(app, ["profiles", *words])
        assert refused.exit_code == 2, refused.output
        assert said in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{}", '{"schema_version": 9}', '{"schema_version": 1, "columns": ["a"]}', "half"])
def test_a_damaged_digest_is_refused_by_name(tmp_path, text):
    path = tmp_path / "digest.json"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=re.escape(str(path))):
        digest.read_digest(path)
    assert digest.read_digest(tmp_path / "none.json").rows == ()


def test_the_interval_of_every_speed_up_contains_the_ratio_of_the_medians_beside_it():
    rows = digest.read_digest().rows
    medians = {(r.model, r.machine, r.batch, r.size): r.p50_ms for r in rows if r.runtime == "eager"}
    compared = [r for r in rows if r.speedup is not None]
    assert len(compared) > 600
    for one in compared:
        ratio = medians[one.model, one.machine, one.batch, one.size] / one.p50_ms
        assert one.speedup_low <= ratio * 1.01, one
        assert one.speedup_high >= ratio * 0.99, one
