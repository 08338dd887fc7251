"""Where reports are printed: results on standard output, progress on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

WIDTH_OF_FILES = 160  # a pipe or a log has no width of its own


def print_result(render: Callable[[int], RenderableType]) -> None:
    """Print what ``render`` makes for the width of standard output."""
    console = Console()
    width = console.width if console.is_terminal else WIDTH_OF_FILES
    Console(width=width, highlight=False).print(render(width))


@contextlib.contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, on one line of a terminal; silent where there is none."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting") as shown:
        yield lambda text: shown.update(text)


@contextlib.contextmanager
def step_bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar of steps on standard error: call it with the step, how many there are, and a few words."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step, steps, text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None, words="")
        yield lambda step, steps, text: bar.update(task, completed=step, total=steps, words=text)
