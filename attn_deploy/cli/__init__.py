"""The command line: one file for each command, each thin over one public function.

Nothing heavy is imported until a command runs, so that ``--help`` and ``list`` answer at once.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from attn_deploy._version import __version__
from attn_deploy.cli.build import build
from attn_deploy.cli.compare import compare
from attn_deploy.cli.convert import convert
from attn_deploy.cli.diagnose import diagnose
from attn_deploy.cli.doctor import doctor
from attn_deploy.cli.evaluate import evaluate
from attn_deploy.cli.export import export
from attn_deploy.cli.info import info
from attn_deploy.cli.inspect import inspect
from attn_deploy.cli.lint import lint
from attn_deploy.cli.list import list_
from attn_deploy.cli.matrix import diff, matrix, merge
from attn_deploy.cli.profile import profile
from attn_deploy.cli.profiles import profiles
from attn_deploy.cli.quantize import quantize
from attn_deploy.cli.report import report
from attn_deploy.cli.run import run
from attn_deploy.cli.simplify import simplify
from attn_deploy.cli.streams import file_warnings
from attn_deploy.cli.train import train
from attn_deploy.cli.train_table import train_table
from attn_deploy.cli.verify import verify
from attn_deploy.errors import AttnDeployError, MissingDependencyError

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C
_NOT_ON_DEVICES = ("torch", "onnxscript", "onnx_ir", "safetensors")  # requirements that a device does without

_debug = False


def _guard(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors raised on purpose into one line on standard error and an exit code."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            with file_warnings():
                command(*args, **kwargs)
        except AttnDeployError as error:
            if _debug:
                raise
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except ModuleNotFoundError as error:
            if _debug or error.name not in _NOT_ON_DEVICES:
                raise
            typer.echo(
                f"error: this needs {error.name}, which is not installed: pip install attn-deploy. Without it, "
                ".onnx and .engine files can be built, inspected, profiled and evaluated.",
                err=True,
            )
            raise typer.Exit(MissingDependencyError.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted; nothing was left half-written.", err=True)
            raise typer.Exit(INTERRUPTED) from error

    return guarded


app = typer.Typer(
    name="attn-deploy",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"attn-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
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
    global _debug
    _debug = debug


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
    app.command(_name)(_guard(_command))

_matrix = typer.Typer(rich_markup_mode=None)
_matrix.callback(invoke_without_command=True)(_guard(matrix))
_matrix.command("merge")(_guard(merge))
_matrix.command("diff")(_guard(diff))
app.add_typer(_matrix, name="matrix")


def main() -> None:
    """Entry point of the console script; ``--debug`` may stand anywhere on the line."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments.remove("--debug")
        arguments.insert(0, "--debug")
    app(args=arguments)
