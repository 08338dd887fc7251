"""`attn-deploy profile`: its options, its table, its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from attn_deploy.bench.record import ProfileRecord
from attn_deploy.cli.profile import profile as profile_command
from attn_deploy.comparison.collection import read_runs
from attn_deploy.comparison.overview import overview
from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.devices import DEVICES
from attn_deploy.report.profile.terminal import profile_report
from export_tests.bench.small_profiles import folder as folder
from export_tests.bench.small_profiles import net as net
from export_tests.bench.small_profiles import record as record
from export_tests.bench.small_profiles import text_of


def test_more_threads_than_cores_are_remarked_on(record):
    machine = replace(record.environment, usable_cores=1)
    options = replace(record.options, threads=4)
    shown = text_of(profile_report(replace(record, environment=machine, options=options)))
    assert "4 threads shared 1 core:" in shown


def test_the_table_keeps_what_matters_when_it_in_half_range(record):
    wide, narrow = text_of(profile_report(record, 160)), text_of(profile_report(record, 80), 80)
    for title in ("p50 ms", "p99 ms", "vs eager", "verdict"):
        assert title in narrow
        assert title in wide
    assert "provider" in wide
    assert "Left out for the width" in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_noise_is_named(record):
    rows = list(record.rows)
    restless = replace(
        rows[1].latency, rounds=tuple(tuple(s * (1 + i % 3) for s in r) for i, r in enumerate(rows[1].latency.rounds))
    )
    rows[1] = replace(rows[1], latency=restless, noise=restless.noise(0.1))
    shown = text_of(profile_report(replace(record, rows=tuple(rows))))
    assert "ort-cpu fp32 b1 16x16: noisy: the rounds' medians spread by" in shown
    assert ", noisy" in next(line for line in shown.splitlines() if "│ ort-cpu" in line)


@pytest.fixture(scope="module")
def app():
    made = typer.Typer()
    made.command()(profile_command)
    return made


def test_the_command_prints_the_record_and_nothing_else(app, folder, tmp_path):
    arguments = [str(folder / "right.onnx"), "--input", "1x3x16x16", "--seconds", "0.05", "--threads", "1"]
    done = CliRunner().invoke(app, [*arguments, "--json", "-o", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    assert ProfileRecord.from_dict(json.loads(done.stdout)) == ProfileRecord.read(tmp_path / "r.json")
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0
    assert "Max error is against ort-cpu" in " ".join(shown.stdout.split())  # the file without optimisations


def test_the_command_puts_rows_against_the_device_that_is_named(app, folder, tmp_path):
    arguments = [str(folder / "right.onnx"), "--input", "1x3x16x16", "--seconds", "0.01", "--threads", "1"]
    own = tmp_path / "mine.toml"
    own.write_text((DEVICES / "rtx4090.toml").read_text().replace('"rtx4090"', '"mine"'))
    for number, (device, name) in enumerate({"RTX 4090": "rtx4090", str(own): "mine"}.items()):
        save = tmp_path / f"{number}.json"
        done = CliRunner().invoke(app, [*arguments, "--device", device, "-o", str(save)])
        assert done.exit_code == 0, done.output
        assert f"The floor is the least time that {name} needs" in done.stdout
        (entry,) = overview(read_runs([save])).entries
        assert entry.limit.device == name
    done = CliRunner().invoke(app, [*arguments, "--device", "rtx409"])
    assert "did you mean 'rtx4090'" in str(done.exception)


@pytest.mark.slow
def test_the_command_joins_repeated_options_and_tells_each_shape(app, folder, tmp_path):
    arguments = [str(folder / "right.onnx"), "--input", "1x3x16x16", "--seconds", "0.01", "--threads", "1"]
    saved = tmp_path / "r.json"
    again = ["--batch", "1", "--batch", "2,3", "--confidence", "0.9", "-o", str(saved)]
    done = CliRunner().invoke(app, [*arguments, *again])
    assert done.exit_code == 0, done.output
    record = ProfileRecord.read(saved)
    assert [r.batch for r in record.rows] == [1, 2, 3]
    assert record.options.confidence == 0.9
    assert "90% interval" in done.stdout
    lines = done.stderr.splitlines()
    assert [line.split(",")[0].split()[:3] for line in lines] == [[str(n), "of", "3:"] for n in (1, 2, 3)]
    assert ["b1-default" in lines[0], "b3-default" in lines[2]] == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "foo"], "use inline, processes, or --executor ray"),
        (["--resume"], "give its folder: -o DIR"),
        (["--executor", "ray", "--layers", "-o", "x"], "leave one of them out"),
        (["--confidence", "95"], "confidence is 95"),
        (["--images", "5"], "--images belongs to --dataset"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(app, folder, options, message):
    done = CliRunner().invoke(app, [str(folder / "right.onnx"), *options])
    assert isinstance(done.exception, InvalidRequestError)
    assert message in str(done.exception)


def test_the_command_fails_with_an_invalid_row(app, folder, tmp_path):
    source = (
        "import numpy as np, torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.conv = nn.Conv2d(3, 4, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return torch.relu(self.conv(x))\n"
    )
    (tmp_path / "net.py").write_text(source)
    arguments = [f"{tmp_path / 'net.py'}:Net", "--input", "1x3x16x16", "--seconds", "0.05", "--threads", "1"]
    assert CliRunner().invoke(app, [*arguments, "--onnx", str(folder / "right.onnx")]).exit_code == 0
    done = CliRunner().invoke(app, [*arguments, "--onnx", str(folder / "wrong.onnx")])
    assert done.exit_code == 1
    assert "invalid" in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch", "1,x", "whole number"),
        ("--size", "12by3", "--size 224x224"),
        ("--runtime", ",", "separated by commas"),
        ("--output", "/nowhere/r.json", "does not exist"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(app, folder, option, value, message):
    done = CliRunner().invoke(app, [str(folder / "right.onnx"), option, value])
    assert isinstance(done.exception, InvalidRequestError)
    assert message in str(done.exception)
