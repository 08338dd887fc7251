"""The logger of TensorRT: what its lock has to do with garbage."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import contextlib, gc, sys
from attn_deploy.engine.flavors import flavor_spec, load_flavor
from attn_deploy.engine.logger import collection_paused, logger_for
trt = load_flavor(flavor_spec("tensorrt-rtx")).trt
logger = logger_for(trt)
gc.disable()
garbage = [trt.Builder(logger)]
garbage.append(garbage)
del garbage
other = logger_for.__wrapped__(trt)  # a second logger is what the library has a word on
logger.forward = other.forward = lambda level, text: gc.collect()
with collection_paused() if sys.argv[1] == "paused" else contextlib.nullcontext():
    trt.Builder(other)
print("made")
"""


def test_a_forgotten_builder_does_not_stop_the_next_one():
    pytest.importorskip("tensorrt_rtx")
    done = subprocess.run([sys.executable, "-c", CODE, "paused"], capture_output=True, text=True, timeout=120)
    assert done.stdout == "made\n", done.stderr


@pytest.mark.slow
def test_without_the_pause_it_waits_for_itself():
    """If this fails, the library has been mended and the pause can go."""
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", CODE, "plain"], capture_output=True, text=True, timeout=20)
