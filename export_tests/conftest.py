from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    import torch
except ModuleNotFoundError:  # the tests of the device side run where it is not installed
    torch = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Count no lines while a test marked so runs.

    pytest-cov's own marker stops the upper one of the two counters that a worker of pytest-xdist has, and the other goes on.
    """
    stopped = []
    coverage = sys.modules.get("coverage")  # loaded where lines are counted
    marked = coverage is not None and item.get_closest_marker("uncounted")
    while marked and (counter := coverage.Coverage.current()) is not None:
        counter.stop()
        stopped.append(counter)
    try:
        return (yield)
    finally:
        for counter in reversed(stopped):
            counter.start()


with contextlib.suppress(ModuleNotFoundError):  # on a device that has what its own tests need and no more
    import hypothesis

    hypothesis.settings.register_profile("slow machine", suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("slow machine")  # its first draw reads all of the package's sources


def pytest_collection_finish() -> None:
    """What is imported and collected stays: no later search for garbage, of which timers ask, goes through it again."""
    gc.collect()
    gc.freeze()


ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# Two workers on two cores: more threads than cores makes every test slower, not faster.
if torch is not None:
    torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a user keeps in his own folder, as the peaks that `doctor --measure` found, is none of the tests' business.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="attn-deploy-tests-")

# A shell ignores Ctrl-C for what it starts in the background, and every command that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_initial_weights() -> None:
    """A module's random weights do not depend on which tests ran before: a rare, ill-conditioned draw cannot come and go."""
    if torch is not None:  # torch.manual_seed notes where it was called for a GPU that is not there: 2 ms of each test
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_simplifier() -> Iterator[None]:
    """One child simplifies for all exports of this process: to start one for each takes a second of every export.

    It is the product's own child, and as apart; commands that a test starts have theirs.
    """
    if torch is None:
        yield
        return
    from attn_deploy import isolate
    from attn_deploy.graph import simplify

    worker, alone, owner = isolate.IsolatedWorker(), threading.Lock(), os.getpid()
    once = simplify.run_isolated

    def kept(target: str, arguments: dict[str, Any], **options: Any) -> Any:
        if target in isolate._here or os.getpid() != owner:
            return once(target, arguments, **options)
        with alone:
            return worker.call(target, arguments, **options)

    simplify.run_isolated = kept
    yield
    simplify.run_isolated = once
    worker.close()


@pytest.fixture(autouse=True, scope="session")
def _one_command_line() -> Iterator[None]:
    """The commands are read from their functions once, in place of once for each call of the command line in this process."""
    try:
        import typer.testing as testing
    except ModuleNotFoundError:  # the tests of the device side run where it is not installed
        yield
        return
    once = testing._get_command
    testing._get_command = functools.cache(once)
    yield
    testing._get_command = once


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the vectors of the official implementations (../shared/reference) are not on this machine")
    return folder
