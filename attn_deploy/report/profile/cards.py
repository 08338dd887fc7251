"""The charts of one run of a profile, each with its title and what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from attn_deploy.comparison.overview import Entry
from attn_deploy.report.profile import charts

BOX = (
    "Latency: the box is the middle half of the runs with their median, the whiskers the 5th and 95th percentile, the "
    "stroke the 99th."
)
Drawn = tuple[str, charts.Figure | None, str, str]


def distributions(entries: Sequence[Entry]) -> list[Drawn]:
    """A box plot for each batch and size: name, figure, title, note."""
    shapes = dict.fromkeys((e.row.batch, e.row.size) for e in entries if e.row.latency is not None)
    return [
        (
            f"distribution-{n}",
            charts.distribution([e for e in entries if (e.row.batch, e.row.size) == (batch, size)]),
            f"Latency at batch {batch}" + (f", {size[0]}x{size[1]}" if size else ""),
            "",
        )
        for n, (batch, size) in enumerate(shapes)
    ]


def other_charts(entries: Sequence[Entry]) -> list[Drawn]:
    """What limits the rows, how they scale, and how they went through the measurement: name, figure, title, note."""
    devices = ", ".join(dict.fromkeys(e.limit.device for e in entries if e.limit is not None))
    return [
        (
            "light",
            charts.light(entries),
            "Speed of light",
            f"The least time that {devices or 'the device'} needs for the arithmetic and for moving inputs, outputs and "
            "weights once, over the measured median; and what limits it.",
        ),
        ("batches", charts.batches(entries), "Scaling with the batch", "Down means that a larger batch pays."),
        ("sizes", charts.sizes(entries), "Scaling with the size", ""),
        (
            "rounds",
            charts.rounds(entries),
            "Through the measurement",
            "Medians of the rounds, in which every row had its turn: level lines are a quiet machine.",
        ),
    ]
