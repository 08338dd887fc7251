"""Threads of the house begin, or say that they did not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attn_deploy.processes import threads


def test_a_thread_that_never_begins_is_no_hang(monkeypatch):
    """Where no memory is left for one, `threading.Thread.start` waits for ever."""
    monkeypatch.setattr(threads, "_PATIENCE", 0.1)
    thread = threads.HelperThread(list)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    monkeypatch.setattr(threads.HelperThread, "_bootstrap", lambda self: None)
    with pytest.raises(MemoryError, match="did not begin"):
        threads.HelperThread(list).start()


def test_every_thread_of_the_house_is_such_a_one():
    house = Path(threads.__file__).parents[1]
    texts = {p.name: p.read_text(encoding="utf-8") for p in house.rglob("*.py")}
    assert [n for n, text in texts.items() if re.search(r"threading\.(Thread|Timer)\(", text)] == []
