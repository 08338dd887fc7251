"""A report of a table is of a table that is there."""

from __future__ import annotations

from typer.testing import CliRunner

from attn_deploy.cli import app


def test_there_is_no_report_of_a_table_that_nobody_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("attn_deploy.data.datasets.load_dataset", None)  # the images are not needed for that
    (tmp_path / "empty").mkdir()
    for folder in ("none", "empty"):
        done = CliRunner().invoke(app, ["train-table", "--only-report", "-o", str(tmp_path / folder)])
        assert done.exit_code == 2, done.output
        assert "holds no table" in done.stderr
        assert "Leave out --only-report" in done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]
