"""Where reports are printed: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from attn_deploy.report.printable import printable

WIDTH_OF_FILES = 160  # a pipe or a log has no width of its own
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    TaskProgressColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[words]}"),
)


class PlainConsole(Console):
    """A console on which text is text, whoever wrote it: see `printable`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of something, in which nothing but the console's own styles is obeyed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def print_result(render: Callable[[int], RenderableType]) -> None:
    """Print what ``render`` makes for the width of standard output."""
    console = PlainConsole()
    width = console.width if console.is_terminal or "COLUMNS" in os.environ else WIDTH_OF_FILES
    PlainConsole(width=width, highlight=False).print(render(width))


@contextlib.contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, on one line of a terminal; silent where there is none."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as shown:
        yield lambda text: shown.update(text)


@contextlib.contextmanager
def step_bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar of steps on standard error: call it with the step, how many there are, and a few words."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield lambda step, steps, text: None
        return
    with Progress(*_COLUMNS, console=console) as bar:
        task = bar.add_task(what, total=None, words="")
        yield lambda step, steps, text: bar.update(task, completed=step, total=steps, words=text)


class ProfileBar:
    """A progress bar of the shapes of a profile, with the time that remains and what is being done.

    Args:
        bar: where to show it; None for a line on standard error for each shape that is finished, as logs want it.
    """

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._running, self._since = "", time.monotonic()
        self._task = bar.add_task("profile", total=None, words="") if bar is not None else None

    def step(self, number: int, total: int, shape: str) -> None:
        """Shape ``number`` of ``total`` begins."""
        if self._bar is None:
            now = time.monotonic()
            if self._running:
                print(f"{number} of {total}: {self._running}, {now - self._since:.1f} s", file=sys.stderr, flush=True)
            self._running, self._since = shape, now
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=number, total=total, description=shape)

    def progress(self, words: str) -> None:
        """What is being done now."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, words=words)


@contextlib.contextmanager
def profile_bar() -> Iterator[ProfileBar]:
    """A `ProfileBar` on standard error; where that is no terminal, one line for each finished shape."""
    console = PlainConsole(stderr=True)
    if not console.is_terminal:
        yield ProfileBar(None)
        return
    with Progress(*_COLUMNS, console=console, transient=True, refresh_per_second=4) as bar:
        yield ProfileBar(bar)
