"""The profiles that come with the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from attn_deploy.cli import app
from attn_deploy.comparison import library
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
    monkeypatch.setattr(library, "RESULTS", tmp_path)
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
