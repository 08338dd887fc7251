"""The command line: one file for each command, each thin over one public function.

Nothing heavy is imported until a command runs, so that ``--help`` and ``list`` answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from attn_deploy._version import __version__
from attn_deploy.cli import guard
from attn_deploy.cli.build import build
from attn_deploy.cli.compare import compare
from attn_deploy.cli.convert import convert
from attn_deploy.cli.deploy import deploy
from attn_deploy.cli.diagnose import diagnose
from attn_deploy.cli.doctor import doctor
from attn_deploy.cli.evaluate import evaluate
from attn_deploy.cli.export import export
from attn_deploy.cli.guesses import Guessing, MatrixGroup
from attn_deploy.cli.info import info
from attn_deploy.cli.inspect import inspect
from attn_deploy.cli.lint import lint
from attn_deploy.cli.list import list_
from attn_deploy.cli.matrix import diff, matrix, merge
from attn_deploy.cli.package import package
from attn_deploy.cli.panels import PanelCommand
from attn_deploy.cli.process import run_supervised
from attn_deploy.cli.profile import profile
from attn_deploy.cli.profiles import profiles
from attn_deploy.cli.quantize import quantize
from attn_deploy.cli.report import report
from attn_deploy.cli.run import run
from attn_deploy.cli.simplify import simplify
from attn_deploy.cli.streams import echo
from attn_deploy.cli.train import train
from attn_deploy.cli.train_table import train_table
from attn_deploy.cli.verify import verify

app = typer.Typer(
    name="attn-deploy",
    cls=Guessing,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        echo(f"attn-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    memory_limit: Annotated[
        str | None, typer.Option(help="Memory that a command may use, as 8GiB. Default: 90 % of what is free.")
    ] = None,
) -> None:
    """Attention modules out of PyTorch and onto real hardware, with evidence.

    \b
    Examples:
      attn-deploy list
      attn-deploy info ghostmodule
      attn-deploy export ghostmodule --opset 17
      attn-deploy export resnet18+cbam@layer3 -o resnet18-cbam.onnx
      attn-deploy export net.py:MyNet --input 1x3x224x224
      attn-deploy lint net.py:MyNet --opset 17 --target tensorrt-rtx
      attn-deploy quantize ghostmodule.onnx
      attn-deploy simplify ghostmodule.onnx
      attn-deploy verify ghostmodule.onnx ghostmodule-int8.onnx
      attn-deploy run ghostmodule.onnx --data inputs.npz -o outputs.npz
      attn-deploy build ghostmodule.onnx
      attn-deploy package model.onnx --for triton,python -o pkg
      attn-deploy deploy deploy.toml --plan
      attn-deploy diagnose net.py:MyNet --input 1x3x224x224 --precision fp16
      attn-deploy inspect ghostmodule.onnx
      attn-deploy profile ghostmodule
      attn-deploy report server/ jetson/ -o report.html
      attn-deploy compare main/ branch/
      attn-deploy matrix --models 'family:fusion' --opsets 13,17,20
      attn-deploy train resnet8+se --dataset digits
      attn-deploy evaluate runs/resnet8-se-digits-s0 --runtime eager,ort-cpu
      attn-deploy doctor
    """
    guard.settings = guard.Settings(debug=debug, memory_limit=memory_limit)


@dataclass(frozen=True, slots=True)
class _Command:
    """A command's function, the heading that it stands under, and what it does in a line of 80 columns."""

    function: Callable[..., None]
    panel: str
    summary: str


_FIND, _MAKE, _SHIP = "Find a model", "Make a file", "Ship it"
_CHECK, _MEASURE, _MACHINE = "Check a model or file", "Measure and train", "This machine"
_COMMANDS: dict[str, _Command] = {
    "list": _Command(list_, _FIND, "List the zoo and the backbones, by family."),
    "info": _Command(info, _FIND, "Show a model's paper, source, arguments, size and limits."),
    "export": _Command(export, _MAKE, "Export a model to ONNX, and prove the file."),
    "convert": _Command(convert, _MAKE, "Change the opset or the precision of an ONNX file."),
    "quantize": _Command(quantize, _MAKE, "Quantize a model to 8 bits, and judge the result."),
    "simplify": _Command(simplify, _MAKE, "Simplify an ONNX file, and compare both files."),
    "build": _Command(build, _MAKE, "Build a TensorRT engine, and describe it in a JSON file."),
    "package": _Command(package, _SHIP, "Make a folder that serves: model, clients, evidence."),
    "deploy": _Command(deploy, _SHIP, "Run a pipeline from one file, with gates."),
    "lint": _Command(lint, _CHECK, "Predict what an export will break, and say how to mend it."),
    "diagnose": _Command(diagnose, _CHECK, "Find the module that breaks the build or the numbers."),
    "inspect": _Command(inspect, _CHECK, "Show what an ONNX file or an engine holds."),
    "verify": _Command(verify, _CHECK, "Compare the outputs of two files, or check a package."),
    "run": _Command(run, _CHECK, "Run an ONNX file on data, and write its outputs."),
    "evaluate": _Command(evaluate, _CHECK, "Measure the accuracy of a trained classifier."),
    "profile": _Command(profile, _MEASURE, "Time a model in several runtimes with one clock."),
    "report": _Command(report, _MEASURE, "Combine saved profiles in a table or a page."),
    "compare": _Command(compare, _MEASURE, "Show what changed beyond noise between two profiles."),
    "profiles": _Command(profiles, _MEASURE, "Print the measured profiles that come with this version."),
    "train": _Command(train, _MEASURE, "Train a classifier, and test it once."),
    "train-table": _Command(train_table, _MEASURE, "Train one backbone with every module in turn."),
    "doctor": _Command(doctor, _MACHINE, "Show what is installed and works, and what is missing."),
}
for _name, _entry in _COMMANDS.items():
    app.command(_name, cls=PanelCommand, rich_help_panel=_entry.panel, short_help=_entry.summary)(
        guard.guarded(_entry.function)
    )

_matrix = typer.Typer(cls=MatrixGroup, rich_markup_mode=None)
_matrix.callback(invoke_without_command=True)(guard.guarded(matrix))
_matrix.command("merge", cls=PanelCommand, short_help="Merge the records of several shards.")(guard.guarded(merge))
_matrix.command("diff", cls=PanelCommand, short_help="Show what got worse between two records.")(guard.guarded(diff))
app.add_typer(
    _matrix, name="matrix", rich_help_panel=_CHECK, short_help="Export every model at every opset, and check it."
)


def main() -> None:
    """Entry point of the console script; the options of the program may stand anywhere on the line."""
    run_supervised(lambda: app(args=[*_options_first(sys.argv[1:])]))


def _options_first(arguments: Sequence[str]) -> Sequence[str]:
    """The words of the command line with the program's own options where typer wants them."""
    size = {"--debug": 1, "--memory-limit": 2}
    at = next((i for i, word in enumerate(arguments) if word.partition("=")[0] in size), None)
    if at is None:
        return arguments
    end = at + (1 if "=" in arguments[at] else size[arguments[at]])
    return (*arguments[at:end], *_options_first((*arguments[:at], *arguments[end:])))
