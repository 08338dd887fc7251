"""How far a build is, computed from TensorRT's nested phases."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

_SHORT = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """One moment of a build.

    Attributes:
        phase: what is being done, the innermost phase.
        fraction: of the whole, 0 to 1; never falls.
    """

    phase: str
    fraction: float


@dataclass(slots=True)
class ProgressTree:
    """Folds the monitor's events into one fraction: a phase's share of its parent is one step of it."""

    _steps: dict[str, int] = field(default_factory=dict)
    _done: dict[str, int] = field(default_factory=dict)
    _stack: list[str] = field(default_factory=list)
    _highest: float = 0.0

    def update(self, event: Event) -> Progress:
        """Take in one event and say where the build is."""
        phase = str(event["phase"])
        if event["event"] == "start":
            self._steps[phase] = max(1, int(event["steps"]))
            self._done[phase] = 0
            self._stack.append(phase)
        elif event["event"] == "step":
            self._done[phase] = int(event["step"]) + 1
        elif phase in self._stack:
            del self._stack[self._stack.index(phase) :]
        fraction = 0.0 if self._stack else self._highest
        share = 1.0
        for name in self._stack:
            fraction += share * min(1.0, self._done[name] / self._steps[name])
            share /= self._steps[name]
        if event["event"] == "finish" and not self._stack:
            fraction = 1.0
        self._highest = max(self._highest, min(fraction, 1.0))
        return Progress(self._stack[-1] if self._stack else phase, self._highest)


def monitor_for(trt: Any, emit: Callable[[Event], bool], *, interval: float = 0.05) -> Any:
    """An ``IProgressMonitor`` that sends phases, every step of short ones, and others at most every ``interval`` seconds.

    ``emit`` says whether somebody listens; the build is cancelled when nobody does any more.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = 0.0
            self.short: set[str] = set()
            self.alive = True

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            (self.short.add if steps <= _SHORT else self.short.discard)(phase)
            self._send({"event": "start", "phase": phase, "parent": parent, "steps": steps})

        def step_complete(self, phase: str, step: int) -> bool:
            now = time.monotonic()
            if phase in self.short or now - self.last >= interval:
                self.last = now
                self._send({"event": "step", "phase": phase, "step": step})
            return self.alive

        def phase_finish(self, phase: str) -> None:
            self._send({"event": "finish", "phase": phase})

        def _send(self, event: Event) -> None:
            self.alive = emit(event) and self.alive

    return Monitor()
