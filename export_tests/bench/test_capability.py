"""Measuring what this processor reaches: figures that make sense, and a file that reads back."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from attn_deploy.bench.capability import cache_levels, measure_cpu, profile_toml
from attn_deploy.cli import app
from attn_deploy.comparison import speed_of_light as roofline
from attn_deploy.machine.devices import load_device, read_device
from attn_deploy.machine.environment import describe_environment


@pytest.fixture(scope="module")
def measured():
    return measure_cpu(threads=(1,), seconds=0.02)


def test_a_measured_profile_makes_sense(measured):
    """Bounds that any processor of these decades keeps: between a phone's core and a hundred cores of a server."""
    assert 0.002 < measured.peaks_tflops["fp32"] < 20
    assert 0.001 < measured.peaks_tflops["int8"] < 200
    assert 1 < measured.bandwidth_gbs < 2000
    assert 0.05 < measured.launch_us < 100
    assert measured.cores == 1
    assert measured.processor == describe_environment().cpu
    bandwidths = [gbs for _, gbs in measured.caches]
    assert bandwidths == sorted(bandwidths, reverse=True)
    assert all(b > measured.bandwidth_gbs for b in bandwidths)


def test_a_measured_profile_survives_its_file(measured, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(profile_toml(measured, "Measured\nby a test."))
    found = read_device(path)
    assert found.name == measured.name
    assert found.title == measured.title
    assert found.processor == measured.processor
    assert found.peaks_tflops["fp32"] == pytest.approx(measured.peaks_tflops["fp32"], rel=0.01)
    assert found.limits(1).bandwidth(1 << 40) == pytest.approx(measured.bandwidth_gbs, rel=0.01)
    assert len(found.caches) == len(measured.caches)


def test_levels_are_told_apart_by_their_bandwidth():
    flat = [(0.5, 30.0), (2.0, 29.0), (8.0, 20.0), (32.0, 10.5)]
    assert cache_levels(flat, 10.0) == [(2.0, 29.0), (8.0, 20.0)], "0.5 is no faster than 2, 32 no faster than memory"
    assert cache_levels([(0.5, 20.0), (2.0, 60.0)], 10.0) == [(2.0, 60.0)], "what fits into 0.5 fits into 2"
    assert cache_levels([(0.5, 10.0)], 10.0) == []


def test_doctor_measures_into_the_users_settings(tmp_path, monkeypatch, measured):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("attn_deploy.bench.capability.measure_cpu", lambda **_: measured)
    roofline._cpus.cache_clear()
    try:
        done = CliRunner().invoke(app, ["doctor", "--measure"])
        assert done.exit_code == 0, done.output
        assert "GFLOP/s" in done.stdout
        path = tmp_path / "attn-deploy" / "this-machine.toml"
        assert str(path) in done.stderr
        text = path.read_text()
        assert text.startswith("# Measured by `attn-deploy doctor --measure`")
        assert roofline.match_device(describe_environment()) == read_device(path)
    finally:
        roofline._cpus.cache_clear()


def test_options_of_measuring_alone_are_refused():
    done = CliRunner().invoke(app, ["doctor", "--threads", "2"])
    assert done.exit_code == 2
    assert "belong to --measure" in done.stderr


def test_the_committed_profile_is_of_one_processor():
    device = load_device("generic-x86")
    assert device.kind == "cpu"
    assert device.processor
    assert device.limits(1).peaks_tflops["fp32"] > 0.01
