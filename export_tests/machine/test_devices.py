"""Device profiles: complete, in the right units, and refused with a reason where they are not."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from attn_deploy.engine.options import parse_size, parse_targets
from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.devices import DEVICES, PRECISIONS, list_devices, load_device, read_device

GPUS = {
    "rtx3060", "rtx4090", "rtx5090", "a10", "a100", "h100", "h200", "l4", "l40s", "t4",
    "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-xavier-nx", "jetson-agx-thor",
    "l40", "b200", "rtx5070", "rtx5080", "rtx5070-laptop", "rtx5090-laptop", "rtx-pro-6000",
}  # fmt: skip
# Tensor cores in fp16 against plain ones in fp32, and operations for each byte from memory, by what is unlike the rest: the
# B200's and Thor's tensor cores are 30 times as fast as plain ones, Thor's memory is a processor's, and the L40's tensor
# cores are held to half.
RATIOS = {"b200": (28, 33), "jetson-agx-thor": (28, 33), "l40": (1.9, 2.1)}
RIDGES = {"jetson-agx-thor": (900, 1000)}
WHOLE = """
name = "mine"
title = "My card"
kind = "gpu"
compute_capability = "8.9"
memory_gib = 8
bandwidth_gbs = 200
precisions = ["fp32", "fp16"]
[peaks_tflops]
fp32 = 10
[build]
batch = [1, 2, 4]
"""


def gpus() -> list[str]:
    return [n for n in list_devices() if load_device(n).kind == "gpu"]


def test_the_devices_that_are_promised_are_there():
    assert set(list_devices()) >= GPUS


@pytest.mark.parametrize("name", gpus())
def test_a_gpu_is_described_completely(name):
    device = load_device(name)
    assert device.name == name
    assert device.title.startswith("NVIDIA")
    assert device.target == parse_targets(device.compute_capability)[0]
    assert set(device.peaks_tflops) == set(device.precisions) <= set(PRECISIONS)
    assert parse_size(device.build.workspace) <= device.memory_gib * 2**30 / 4
    assert "Source: NVIDIA" in (DEVICES / f"{name}.toml").read_text()
    json.dumps(device.to_dict())


@pytest.mark.parametrize("name", gpus())
def test_the_units_are_right(name):
    """A figure in another unit (TB/s, GFLOPS, sparse) leaves these bounds, which the architectures set."""
    device = load_device(name)
    peaks = device.peaks_tflops
    assert 2 <= device.memory_gib <= 256
    assert 25 <= device.bandwidth_gbs <= 10_000
    assert 0.5 <= peaks["fp32"] <= 150
    low, high = RATIOS.get(name, (3.9, 17))
    assert low <= peaks["fp16"] / peaks["fp32"] <= high  # sparse figures would double it
    assert 1.9 <= peaks["int8"] / peaks["fp16"] <= 2.1
    assert 1.0 <= peaks["fp16"] / peaks.get("bf16", peaks["fp16"]) <= 2.05
    assert peaks.get("fp8", peaks["int8"]) == peaks["int8"]
    # operations for each byte of memory traffic: the ridge of the roofline
    low, high = RIDGES.get(name, (90, 450))
    assert low <= peaks["fp16"] * 1000 / device.bandwidth_gbs <= high


def test_precisions_follow_the_architecture():
    for name in gpus():
        device = load_device(name)
        capability = float(device.compute_capability)
        assert ("bf16" in device.precisions) == ("tf32" in device.precisions) == (capability >= 8.0)
        assert ("fp8" in device.precisions) == (capability >= 8.9)


def test_names_are_taken_however_they_are_written():
    assert load_device("RTX 4090") == load_device("rtx-4090") == load_device("rtx4090")
    assert load_device("Jetson_Orin_Nano").target == "sm87"


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(InvalidRequestError, match=r"'rtx409' is unknown; did you mean 'rtx4090'\?.*h100.*own"):
        load_device("rtx409")


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE)
    device = load_device(str(path))
    assert (device.target, device.build.batch, device.peaks_tflops["fp32"]) == ("sm89", (1, 2, 4), 10.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        device.name = "other"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('title = "My card"', "", "lacks title"),
        ("memory_gib", "memory_gb", "unknown field 'memory_gb'"),
        ('"gpu"', '"npu"', "kind 'npu'"),
        ('"8.9"', '"89"', r'capability \'89\'; write it like "8\.9"'),
        ('"fp16"]', '"int4"]', "names a precision other than"),
        ("= 200", "= -200", "not above 0"),
        ("[1, 2, 4]", "[4, 2, 1]", r"batch sizes \[4, 2, 1\]"),
        ("batch =", "batches =", "unknown field in build"),
        ('name = "mine"', "name =", "is not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_with_its_fault(old, new, words, tmp_path):
    assert old in WHOLE
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE.replace(old, new))
    with pytest.raises(InvalidRequestError, match=f"{re.escape(str(path))} .*{words}"):
        read_device(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"gone\.toml cannot be read: No such file"):
        load_device(str(tmp_path / "gone.toml"))
