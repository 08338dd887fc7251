"""A slice of the campaign of hostile inputs; the whole is `benchmarks/hostile.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_slice_of_the_campaign_finds_nothing(tmp_path):
    words = ["--seed", "18", "--count", "36"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "hostile.py"), *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.splitlines()[-2].split()
    assert table[0] == "all"
    assert int(table[1]) == 36
    assert 3 <= int(table[3]) <= 24, "inputs are refused one and all, or none is"
