"""The command line: one file for each command, each thin over one public function.

Nothing heavy is imported until a command runs, so that ``--help`` and ``list`` answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
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
        str | None, typer.Option(help="Memory that a command may use, as 8GiB; 90 % of what is free by default.")
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


_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_,
    "info": info,
    "export": export,
    "lint": lint,
    "convert": convert,
    "quantize": quantize,
    "simplify": simplify,
    "verify": verify,
    "run": run,
    "build": build,
    "package": package,
    "deploy": deploy,
    "diagnose": diagnose,
    "inspect": inspect,
    "profile": profile,
    "report": report,
    "compare": compare,
    "profiles": profiles,
    "train": train,
    "evaluate": evaluate,
    "train-table": train_table,
    "doctor": doctor,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(guard.guarded(_command))

_matrix = typer.Typer(cls=MatrixGroup, rich_markup_mode=None)
_matrix.callback(invoke_without_command=True)(guard.guarded(matrix))
_matrix.command("merge")(guard.guarded(merge))
_matrix.command("diff")(guard.guarded(diff))
app.add_typer(_matrix, name="matrix")


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
