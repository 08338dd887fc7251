"""Every place of the command line that a file may stand at, and a sound command line for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from attn_deploy.cli import app

DOOR = "{}"  # where the file stands in a command line


@dataclass(frozen=True)
class Door:
    """A parameter of a command that names what is read.

    Attributes:
        words: the command line, `DOOR` in the place of the file.
        ending: of the file's name; one that the command takes.
        folder: whether a folder is right there.
        slow: whether something beside it takes long to make.
    """

    words: tuple[str, ...]
    ending: str = ".onnx"
    folder: bool = False
    slow: bool = False


def _door(line: str, **settings: Any) -> Door:
    return Door(tuple(line.split()), **settings)


# (command, parameter) of whatever reads a file. A parameter that is in neither table fails the test of this file.
DOORS: dict[tuple[str, str], tuple[Door, ...]] = {
    ("export", "model"): (
        _door("export {} --input 1x3x8x8 -o out.onnx", ending=".py"),
        _door("export {}:Net --input 1x3x8x8 -o out.onnx", ending=".py"),
        _door("export {} --input 1x3x8x8 -o out.onnx", ending=".safetensors"),
        _door("export {} --trust --input 1x3x8x8 -o out.onnx", ending=".pt"),
        _door("export ./{} -o out.onnx", ending="", folder=True),
    ),
    ("export", "weights"): (
        _door("export resnet8 --weights {} -o out.onnx", ending=".safetensors"),
        _door("export resnet8 --weights {} -o out.onnx", ending=".pth"),
        _door("export resnet8 --weights {} -o out.onnx", ending=".pt"),
    ),
    ("export", "sample"): (
        _door("export resnet8 --sample {} -o out.onnx", ending=".npz"),
        _door("export resnet8 --sample {} -o out.onnx", ending=".npy"),
    ),
    ("lint", "model"): (_door("lint {}:Net --input 1x3x8x8", ending=".py"), _door("lint {}")),
    ("lint", "sample"): (_door("lint resnet8 --sample {}", ending=".npz"),),
    ("convert", "model"): (
        _door("convert {} --opset 17 -o out.onnx"),
        _door("convert {} --precision fp16 -o out.onnx"),
    ),
    ("convert", "calibration"): (
        _door("convert m.onnx --precision fp16 --calibration {} -o out.onnx", ending=".npz"),
        _door("convert m.onnx --precision fp16 --calibration ./{} -o out.onnx", ending="", folder=True),
    ),
    ("convert", "sample"): (_door("convert m.onnx --opset 17 --sample {} -o out.onnx", ending=".npz"),),
    ("quantize", "model"): (_door("quantize {} -o out.onnx"), _door("quantize {}:Net -o out.onnx", ending=".py")),
    ("quantize", "calibration"): (
        _door("quantize m.onnx --calibration {} -o out.onnx", ending=".npz"),
        _door("quantize m.onnx --calibration ./{} -o out.onnx", ending="", folder=True),
    ),
    ("quantize", "data_dir"): (
        _door("quantize m.onnx --calibration cifar10 --data-dir {} -o out.onnx", ending="", folder=True),
    ),
    ("quantize", "sample"): (_door("quantize m.onnx --sample {} -o out.onnx", ending=".npz"),),
    ("quantize", "weights"): (_door("quantize resnet8 --weights {} -o out.onnx", ending=".safetensors"),),
    ("simplify", "model"): (_door("simplify {} -o out.onnx"),),
    ("simplify", "sample"): (_door("simplify m.onnx --sample {} -o out.onnx", ending=".npz"),),
    ("verify", "reference"): (_door("verify {} m.onnx"), _door("verify {}", ending="", folder=True)),
    ("verify", "candidate"): (_door("verify m.onnx {}"), _door("verify m.onnx {}", ending=".engine")),
    ("verify", "data"): (_door("verify m.onnx m.onnx --data {}", ending=".npz"),),
    ("verify", "engine"): (_door("verify pkg --engine {}", ending=".engine"),),
    ("run", "model"): (
        _door("run {} --data in.npz -o out.npz"),
        _door("run {} --data in.npz -o out.npz", ending=".engine"),
    ),
    ("run", "data"): (
        _door("run m.onnx --data {} -o out.npz", ending=".npz"),
        _door("run m.onnx --data {} -o out.npz", ending=".npy"),
        _door("run m.onnx --data {} -o out.npz", ending=".png"),
        _door("run m.onnx --data ./{} -o out.npz", ending="", folder=True),
    ),
    ("build", "model"): (_door("build {} --target sm86 -o out.engine"),),
    ("build", "calibration"): (
        _door("build m.onnx --precision int8 --calibration {} --target sm86 -o out.engine", ending=".npz"),
    ),
    ("build", "sample"): (
        _door("build m.onnx --precision fp16 --sample {} --target sm86 -o out.engine", ending=".npz"),
    ),
    ("build", "device"): (_door("build m.onnx --device {} -o out.engine", ending=".toml"),),
    ("build", "timing_cache"): (),  # TensorRT's alone, which is not installed here: see export_tests/engine
    ("build", "weights"): (_door("build resnet8 --weights {} --target sm86 -o out.engine", ending=".safetensors"),),
    ("package", "model"): (_door("package {} -o out"), _door("package {}:Net --input 1x3x8x8 -o out", ending=".py")),
    ("package", "weights"): (_door("package resnet8 --weights {} -o out", ending=".safetensors"),),
    ("package", "labels"): (_door("package m.onnx --labels {} -o out", ending=".txt"),),
    ("package", "profile"): (_door("package m.onnx --profile {} -o out", ending="", folder=True),),
    ("package", "accuracy"): (_door("package m.onnx --accuracy {} -o out", ending=".json"),),
    ("package", "reference"): (_door("package m.onnx --reference {} -o out"),),
    ("package", "device"): (_door("package m.onnx --device {} -o out", ending=".toml"),),
    ("deploy", "file"): (_door("deploy {}", ending=".toml"), _door("deploy {} --plan", ending=".toml")),
    ("diagnose", "model"): (
        _door("diagnose {} --no-build -o part.onnx"),
        _door("diagnose {}:Net --input 1x3x8x8 --no-build -o part.onnx", ending=".py"),
    ),
    ("diagnose", "against"): (
        _door("diagnose m.onnx --against {} --no-build -o part.onnx"),
        _door("diagnose m.onnx --against {} -o part.onnx", ending=".engine"),
    ),
    ("diagnose", "calibration"): (
        _door("diagnose m.onnx --precision int8 --no-build --calibration {} -o part.onnx", ending=".npz"),
    ),
    ("diagnose", "sample"): (_door("diagnose m.onnx --no-build --sample {} -o part.onnx", ending=".npz"),),
    ("diagnose", "weights"): (_door("diagnose resnet8 --no-build --weights {} -o part.onnx", ending=".safetensors"),),
    ("inspect", "files"): (
        _door("inspect {}"),
        _door("inspect {} --check"),
        _door("inspect {} m.onnx --diff"),
        _door("inspect {}", ending=".engine"),
    ),
    ("inspect", "sample"): (_door("inspect m.onnx --sample {}", ending=".npz"),),
    ("profile", "model"): (
        _door("profile {} --runtime ort-cpu --size 16x16 --seconds 0.02 -o out"),
        _door("profile {} --seconds 0.02", ending=".engine"),
        _door("profile {}:Net --input 1x3x8x8 --runtime eager --seconds 0.02", ending=".py"),
    ),
    ("profile", "sample"): (_door("profile m.onnx --runtime ort-cpu --sample {} --seconds 0.02", ending=".npz"),),
    ("profile", "onnx"): (_door("profile resnet8 --onnx {} --runtime ort-cpu --seconds 0.02"),),
    ("profile", "weights"): (
        _door("profile resnet8 --weights {} --runtime ort-cpu --seconds 0.02", ending=".safetensors"),
    ),
    ("profile", "calibration"): (
        _door(
            "profile m.onnx --precision int8 --size 16x16 --calibration {} --runtime ort-cpu --seconds 0.02",
            ending=".npz",
        ),
    ),
    ("profile", "data_dir"): (
        _door(
            "profile m.onnx --runtime ort-cpu --dataset cifar10 --data-dir {} --seconds 0.02", ending="", folder=True
        ),
    ),
    ("profile", "device"): (_door("profile m.onnx --runtime ort-cpu --device {} --seconds 0.02", ending=".toml"),),
    ("report", "folders"): (
        _door("report {}", ending=".json"),
        _door("report {} -o out.html", ending="", folder=True),
    ),
    ("report", "device"): (_door("report profile --device {}", ending=".toml"),),
    ("compare", "before"): (
        _door("compare {} profile", ending=".json"),
        _door("compare {} profile", ending="", folder=True),
    ),
    ("compare", "after"): (
        _door("compare profile {}", ending=".json"),
        _door("compare profile {}", ending="", folder=True),
    ),
    ("profiles", "device"): (_door("profiles --device {}", ending=".toml"),),
    ("train", "model"): (_door("train {}:Net --dataset digits --epochs 1 -o out", ending=".py"),),
    ("train", "data_dir"): (
        _door("train resnet8 --dataset cifar10 --epochs 1 --data-dir {} -o out", ending="", folder=True),
        _door("train resnet8 --dataset folder --epochs 1 --data-dir {} -o out", ending="", folder=True),
    ),
    ("train", "output"): (),  # of a run to go on with: a folder that is not there begins one
    ("evaluate", "model"): (
        _door("evaluate {} --dataset digits --images 5"),
        _door("evaluate {} --dataset digits --images 5", ending=".engine"),
        _door("evaluate {} --dataset digits --images 5", ending=".safetensors"),
        _door("evaluate {} --images 5", ending="", folder=True),
    ),
    ("evaluate", "trained_as"): (_door("evaluate run --model {}:Net --images 5", ending=".py", slow=True),),
    ("evaluate", "reference"): (
        _door("evaluate m.onnx --dataset digits --images 5 --reference ./{}", ending=".json"),
        _door("evaluate m.onnx --dataset digits --images 5 --reference {}"),
    ),
    ("evaluate", "data_dir"): (
        _door("evaluate m.onnx --dataset cifar10 --images 5 --data-dir {}", ending="", folder=True),
        _door("evaluate m.onnx --dataset folder --images 5 --data-dir {}", ending="", folder=True),
    ),
    ("evaluate", "weights"): (
        _door("evaluate resnet8 --weights {} --dataset digits --images 5", ending=".safetensors"),
    ),
    ("train-table", "data_dir"): (
        _door("train-table --dataset cifar10 --epochs 1 --data-dir {} -o out", ending="", folder=True),
    ),
    ("train-table", "output"): (
        _door("train-table --dataset digits --epochs 1 --only-report -o {}", ending="", folder=True),
    ),
    ("matrix", "models"): (_door("matrix --models {}:Net --input 1x3x8x8 --jobs 1 --opsets 17 -o out", ending=".py"),),
    ("matrix", "output"): (_door("matrix --resume -o {} --jobs 1", ending="", folder=True),),
    ("matrix", "baseline"): (
        _door("matrix --models se --opsets 17 --jobs 1 --fail-on regressions --baseline {} -o out", ending=".json"),
    ),
    ("matrix merge", "records"): (
        _door("matrix merge {} -o out", ending=".json"),
        _door("matrix merge matrix {} -o out", ending="", folder=True),
    ),
    ("matrix diff", "old"): (_door("matrix diff {} matrix", ending=".json"),),
    ("matrix diff", "new"): (
        _door("matrix diff matrix {}", ending=".json"),
        _door("matrix diff matrix {}", ending="", folder=True),
    ),
}


# What names no file that is read: words, numbers, and where something is written.
WORDS = frozenset(
    """activations backbone batch color cuda_graph dataset dynamic engine_opset exclude executor exporter exporters fail_on
    family family_option fix flavor hardware_compat init input_names io keep layout mean method name only opsets output
    output_names page parts postprocess precision precisions preprocess preset rename resize runtime runtimes save scores search
    shape shard size split std target threads torch_device triton weights_key workspace written""".split()  # noqa: SIM905
) | {
    ("profiles", "model"),
    ("train", "device"),
    ("train-table", "device"),
    ("build", "profile"),
    ("diagnose", "profile"),
    ("train-table", "models"),
}


def parameters() -> Iterator[tuple[str, str]]:
    """Command and name of every parameter of the command line that takes a text or a path."""

    def of(group: Any, prefix: str) -> Iterator[tuple[str, str]]:
        for name, command in group.commands.items():
            for parameter in command.params:
                if parameter.type.name not in ("boolean", "bool", "integer", "int", "float", "integer range"):
                    yield prefix + name, parameter.name
            if hasattr(command, "commands"):
                yield from of(command, f"{prefix}{name} ")

    yield from of(typer.main.get_command(app), "")
