"""Help in panels: related options under a heading of their own, and commands by what they are for.

Typer's own panels need rich, whose import would cost every ``--help`` more than the rest of it together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from typer.core import TyperCommand

# The headings that commands put their options under.
INTERFACE = "Inputs and outputs"
STEPS = "Steps of the export"
DATA = "Data"
IMAGES = "How images are prepared"
LAYERS = "Which layers"
FORM = "Form of the file"
GRAPH = "The graph, before it is built"
TENSORRT = "TensorRT"
EXPORT = "Export of a model by name"
EVIDENCE = "Evidence"
ENGINES = "Engines"
MODEL = "A model by name"
TIMED = "What is timed"
TIMING = "How it is timed"
SUBJECT = "The model"
ACCURACY = "Accuracy"
RECIPE = "Recipe (default: that of the data set)"
PLACE = "Where it runs"
RUNS = "Runs"
CELLS = "Cells"

_FIRST = "Options"  # of those without a heading


class PanelCommand(TyperCommand):
    """A command whose help shows each option under the heading that its ``rich_help_panel`` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options without a panel, then the panels in the order of their first options."""
        write_panels(self.get_params(ctx), ctx, formatter)


def write_panels(parameters: Iterable[Any], ctx: Any, formatter: Any) -> None:
    """Write the help of parameters by panel; what has none stands under "Options"."""
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], _FIRST: []}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            argument = parameter.param_type_name == "argument"
            title = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or _FIRST
            panels.setdefault(title, []).append(record)
    panels[_FIRST].sort(key=lambda row: "--output" not in row[0])  # what is written comes first
    for title, rows in panels.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def write_commands(commands: Mapping[str, Any], formatter: Any) -> None:
    """Write the names of commands and their short help, by panel."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for name, command in commands.items():
        title = getattr(command, "rich_help_panel", None) or "Commands"
        panels.setdefault(title, []).append((name, command.get_short_help_str(limit=formatter.width)))
    for title, rows in panels.items():
        with formatter.section(title):
            formatter.write_dl(rows)
